"""Adversarial training on generated images, after "Once a MAN" (Han et al., ICCV 2019).

Two networks in turn: the generator takes a step towards fooling the classifier as it is now, then the classifier a step
towards the labels, on clean images and on the generator's. One adversarial image costs one pass of the generator, where PGD
costs a forward and a backward pass of the classifier per step. Batch norm and dropout stay as they are in eval mode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

    from attacks import MultiTargetGenerator

_LONGEST_GRADIENT = 5.0
_RECORDS = 50  # of the history, at most


@dataclass(frozen=True, eq=False, repr=False)
class Hardened:
    """What a training on generated images left.

    Attributes:
        model: the hardened copy, in eval mode, frozen.
        generator: which learnt along; it attacks the hardened model.
        history: records of step, clean_loss, adversarial_loss and fooled (share of the batch's images that reached the
            generator's target).
        options: what was asked for.
    """

    model: nn.Module
    generator: MultiTargetGenerator
    history: tuple[dict[str, float], ...]
    options: dict[str, Any]

    def frame(self) -> pd.DataFrame:
        """The history as a table."""
        import pandas as pd

        return pd.DataFrame(self.history, columns=["step", "clean_loss", "adversarial_loss", "fooled"])

    def __repr__(self) -> str:
        last = self.history[-1]
        return (
            f"<Hardened on generated images, {last['step']:.0f} steps: {last['fooled']:.0%} of the last ones fooled it>"
        )


def generator_training(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor | Sequence[int],
    *,
    epsilon: float = 8 / 255,
    steps: int = 1000,
    batch_size: int = 64,
    rate: float = 5e-4,
    share: float = 0.5,
    generator: MultiTargetGenerator | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], object] | None = None,
) -> Hardened:
    """Harden a copy of ``model`` against a generator that learns along with it.

    Args:
        model: images in [0, 1] to logits ``(N, K)``; left untouched.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``, the true classes.
        epsilon: budget of the generator, linf.
        steps: of either network.
        batch_size: images per step.
        rate: learning rate of the classifier (AdamW), falling to nothing on a cosine.
        share: weight of the generated images in the classifier's loss; 0 is plain fine-tuning.
        generator: where the generator starts from; from nothing when left out.
        seed: of the generator's first weights, the order and the targets.
        progress: called with ``(done, total, what)`` before every step; raising from it cancels.

    Raises:
        OptionError: an option makes no sense.
        attacks.AttackError: the model, images or labels cannot be used.
    """
    from attacks._frozen import frozen_view
    from attacks._inputs import check_classes, check_images
    from attacks.generator.network import MultiTargetGenerator, suited_to
    from attacks.generator.trainer import Recipe, Trainer, other_targets
    from attacks.generator.training import copied

    if not 0 <= share <= 1:
        raise OptionError("The share of generated images lies between 0 and 1", share, "Pass share=0.5, say.")
    if steps < 1 or batch_size < 1:
        raise OptionError("Training needs steps and images in each", (steps, batch_size), "Pass steps=1000, say.")
    x = check_images(images)
    hardened = frozen_view(copy.deepcopy(model))
    hardened.__dict__.pop("digest", None)  # a VisionModel remembers the one of its weights before
    device = next(hardened.parameters()).device
    with torch.no_grad():
        classes = hardened(x[:1].to(device)).shape[1]
    truth = check_classes(labels, "labels", x, classes)
    if generator is not None:
        fooling = copied(generator, x, classes, epsilon)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fooling = MultiTargetGenerator(x.shape[1], classes, epsilon, **suited_to(*x.shape[2:]))
    fooling = fooling.to(device)
    trainer = Trainer(fooling, [hardened], Recipe(steps, batch_size, 2e-3, "hinge", False, 1.0, None, seed))
    optimiser = torch.optim.AdamW(hardened.parameters(), rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    reach, random = torch.arange(classes), torch.Generator().manual_seed(seed)
    history: list[dict[str, float]] = []
    for step in range(steps):
        if progress is not None:
            progress(step, steps, f"{history[-1]['fooled']:.0%} fooled" if history else "first steps")
        rows = torch.randperm(len(x), generator=random)[:batch_size]
        batch, y = x[rows].to(device), truth[rows].to(device)
        targets = other_targets(truth[rows].cpu(), reach, random).to(device)
        hardened.requires_grad_(False)
        trainer.step(batch, targets, step, random)
        fooling.eval()
        with torch.no_grad():
            found = fooling.propose(batch, targets)
        clean, adversarial, answers = _learn(hardened, optimiser, batch, found, y, share)
        schedule.step()
        if (step + 1) % max(1, steps // _RECORDS) == 0 or step + 1 == steps:
            fooled = float((answers == targets).float().mean())
            history.append({"step": step + 1, "clean_loss": clean, "adversarial_loss": adversarial, "fooled": fooled})
    if progress is not None:
        progress(steps, steps, f"{history[-1]['fooled']:.0%} fooled")
    options = {"epsilon": epsilon, "steps": steps, "batch_size": batch_size, "rate": rate, "share": share, "seed": seed}
    optimiser.zero_grad()
    return Hardened(
        hardened.requires_grad_(False).eval(), fooling.requires_grad_(False).eval(), tuple(history), options
    )


def _learn(
    hardened: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: torch.Tensor,
    generated: torch.Tensor,
    labels: torch.Tensor,
    share: float,
) -> tuple[float, float, torch.Tensor]:
    """Take the classifier's step; return its losses on both kinds of images, and what it said to the generated ones."""
    hardened.requires_grad_(True)
    clean = F.cross_entropy(hardened(images), labels)
    logits = hardened(generated)
    adversarial = F.cross_entropy(logits, labels)
    optimiser.zero_grad()
    torch.autograd.backward((1 - share) * clean + share * adversarial)
    nn.utils.clip_grad_norm_(hardened.parameters(), _LONGEST_GRADIENT)
    optimiser.step()
    return clean.item(), adversarial.item(), logits.argmax(1)
