"""One step of training a generator: what it lowers, how fast it moves, which classes it aims at.

Each step draws, for each image, a target uniformly from the classes other than its label, and lowers the loss
``L(f(clip(x + epsilon tanh G(x, t))), t)``, the mean over all classifiers given (after C-GSP: Yang et al., ECCV 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .._inputs import check_count
from .._losses import margin
from ..errors import AttackError
from .network import MultiTargetGenerator
from .views import view

_WARM_UP = 0.15  # share of the steps in which the rate rises
_LONGEST_GRADIENT = 5.0


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the targets, ``(n,)``."""
    return F.cross_entropy(logits, targets, reduction="none")


def hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """How much the target lacks to lead by a tenth of what separates the logits, ``(n,)``: zero where it leads by more.

    Pairs that are won ask for nothing more, and all others for equally much.
    """
    spread = (logits.amax(1) - logits.amin(1)).detach()
    return F.relu(margin(logits, targets) + 0.1 * spread)


def miss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Probability of all classes but the target, ``(n,)``: what cannot be won at this budget hardly pulls any more."""
    return 1 - logits.softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "hinge": hinge, "ce": cross_entropy, "miss": miss,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How to train: what changes the weights that come out."""

    steps: int
    batch_size: int
    rate: float
    loss: str
    augment: bool
    curriculum: float
    patience: int | None
    seed: int

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            AttackError: says what to do.
        """
        check_count(self.steps, "number of steps", "Pass steps=2000, say.")
        check_count(self.batch_size, "batch size", "64 suits most machines.")
        if self.patience is not None:
            check_count(self.patience, "patience", "Leave it out to train to the end.")
        if self.loss not in LOSSES:
            raise AttackError("Unknown loss", repr(self.loss), f"Choose one of {', '.join(LOSSES)}.")
        if not 0 < self.rate < 1:
            raise AttackError("The learning rate must lie between 0 and 1", self.rate, "Pass rate=2e-3, say.")
        if not 0 < self.curriculum <= 10:
            raise AttackError(
                "The curriculum starts at 0 to 10 times the budget", self.curriculum, "Pass curriculum=2.0, say."
            )


class Trainer:
    """One generator in training against frozen classifiers: a step at a time, for :func:`train_generator` and hardening.

    Args:
        network: the generator, on the device of the victims.
        victims: frozen classifiers (:func:`attacks._frozen.frozen_view`).
        recipe: how to train.
    """

    def __init__(self, network: MultiTargetGenerator, victims: Sequence[nn.Module], recipe: Recipe) -> None:
        # Convolutions on processors are faster in this layout, on GPUs not slower.
        self.network = network.to(memory_format=torch.channels_last)
        self.victims = [victim.to(memory_format=torch.channels_last) for victim in victims]
        self.recipe = recipe
        self.optimiser = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=1e-4)
        self._loss = LOSSES[recipe.loss]

    def step(self, images: torch.Tensor, targets: torch.Tensor, number: int, random: torch.Generator) -> float:
        """Lower the loss on images ``(n, C, H, W)`` and targets ``(n,)`` once; return it. ``number`` counts from 0."""
        recipe, network = self.recipe, self.network
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate * _share_of_rate(number, recipe.steps)
        network.train()
        epsilon = network.epsilon * _share_of_budget(number, recipe.steps, recipe.curriculum)
        found = network.propose(images, targets, epsilon)
        shown = view(found, random) if recipe.augment else found
        loss = torch.stack([self._loss(victim(shown).float(), targets).mean() for victim in self.victims]).mean()
        if not loss.isfinite():
            fix = "Lower the rate; and check that the models answer with finite logits."
            raise AttackError("The training has fallen apart: the loss is no number any more", f"step {number}", fix)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), _LONGEST_GRADIENT)
        self.optimiser.step()
        return float(loss.detach())


def _share_of_rate(step: int, steps: int) -> float:
    """Rises in a straight line for the first steps, then falls to nothing on a cosine."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _share_of_budget(step: int, steps: int, start: float) -> float:
    """From ``start`` times the budget to the budget itself, after 70 % of the steps."""
    return start + (1 - start) * min(1.0, step / (0.7 * steps))


def other_targets(labels: torch.Tensor, reach: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """For each label ``(n,)`` one of ``reach`` ``(m,)`` that differs from it, uniformly, ``(n,)``; there must be one."""
    allowed = reach[None, :] != labels[:, None]
    scores = torch.rand(allowed.shape, generator=random).masked_fill(~allowed, -1)
    return reach[scores.argmax(1)]
