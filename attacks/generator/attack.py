"""A generator as one attack among others: one image per image, towards a target or away from the label.

Away from the label it tries the other classes, the likeliest first, for the answer of the network to the clean image. An
image that is broken leaves at once, so most of them cost a pass or two.
"""

from __future__ import annotations

import torch
from torch import nn

from .._ball import Ball
from .._best import Best
from .._losses import is_broken, lead, likeliest_others
from .._victim import Victim
from ..errors import AttackError
from ..registry import Attack
from .network import MultiTargetGenerator


@torch.no_grad()
def generated(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
    *,
    generator: MultiTargetGenerator,
    norm: str = "linf",
    targeted: bool = False,
    target_classes: int = 9,
) -> torch.Tensor:
    """Show the model what the generator makes.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Budget, one for all or ``(N,)``; the generator's change is scaled to it.
        generator: Trained against this model or one like it.
        norm: "linf", which is what generators know.
        targeted: Whether ``labels`` are to be reached.
        target_classes: How many of the likeliest other classes to try per image, when not targeted.

    Returns:
        The best attempt per image ``(N, C, H, W)``: broken if any attempt was. At most ``target_classes + 1`` forwards.
    """
    if target_classes < 1:
        raise AttackError("The generator needs a class to try", target_classes, "Pass target_classes=9, say.")
    victim = Victim.of(model, x)
    everywhere = Ball.around(x, epsilon, norm)
    rows = torch.arange(len(x), device=x.device)
    best = Best(x)
    aims = labels[:, None] if targeted else likeliest_others(victim.logits(x, rows), labels, target_classes)
    home = generator.head.weight.device
    for column in aims.T:
        rows = rows[~best.broken[rows]]
        if len(rows) == 0:
            break
        ball, y = everywhere[rows], labels[rows]
        made = [
            generator.propose(part.to(home), aim.to(home), radius.to(home)).to(x.device)
            for part, aim, radius in zip(
                *(torch.split(one, 64) for one in (ball.centre, column[rows], ball.epsilon.flatten())), strict=True
            )
        ]
        found = torch.cat(made)
        logits = victim.logits(found, rows)
        best.offer(rows, found, lead(logits, y, targeted), is_broken(logits, y, targeted))
    return best.images


GENERATOR = Attack(
    "generator",
    "Generator",
    ("linf",),
    "arXiv:1908.05185",
    generated,
    targeted=True,
    description="Images made in one pass each by a network that was trained to fool this one.",
    passes=lambda options: options["target_classes"] + 1,
    kind="transfer",
    early=True,
)


def as_attack(generator: MultiTargetGenerator, images: torch.Tensor) -> Attack:
    """The generator as an attack on ``images`` with options of its own, for a cascade.

    Raises:
        AttackError: It is none, or was made for images of another number of channels.
    """
    if not isinstance(generator, MultiTargetGenerator):
        fix = "Read it with attacks.load_generator(path), or train one with attacks.train_generator(model, ...)."
        raise AttackError("This is no generator", type(generator).__name__, fix)
    generator.check_channels(images)
    return GENERATOR.configured({"generator": generator})


def check_same_classes(generator: MultiTargetGenerator, num_classes: int) -> None:
    """Refuse a generator for a network of another number of classes.

    Raises:
        AttackError: the numbers differ.
    """
    if generator.num_classes != num_classes:
        fix = f"It was made for a model of {generator.num_classes}; train one with attacks.train_generator(model, ...)."
        raise AttackError("The generator does not fit a model of so many classes", num_classes, fix)
