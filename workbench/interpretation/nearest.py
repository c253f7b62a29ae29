"""The nearest adversarial image: the nearer one of those that DDN and SuperDeepFool find.

Two attacks that minimise the distance and seldom miss in the same place. What they find is an upper bound on the true
distance, made for holding other radii against it; ``attacks.evaluate`` is for robustness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

import attacks as attack_engine

if TYPE_CHECKING:
    from ..images import ImageSet

Progress = Callable[[int, int, str], None]

ATTACKS = ("ddn", "superdeepfool")


@dataclass(frozen=True)
class Near:
    """The nearest adversarial images found.

    Attributes:
        images: ``(N, C, H, W)``; the image itself where none was found.
        distance: ``(N,)``, l2; infinite where none was found.
        fooled_as: int64 ``(N,)``, what the model sees in them.
    """

    images: torch.Tensor
    distance: torch.Tensor
    fooled_as: torch.Tensor


def nearest(
    model: nn.Module, images: ImageSet, labels: torch.Tensor, seed: int = 0, progress: Progress | None = None
) -> Near:
    """Search, for each image, the smallest l2 distance at which the model leaves its label.

    Args:
        model: maps images in [0, 1] to logits.
        images: N of them.
        labels: int64 ``(N,)``, the classes to leave.
        seed: of the attacks.
        progress: called with steps done, their total and what is going on.
    """
    near = Near(images.images.clone(), torch.full((len(images),), torch.inf), labels.clone())
    for place, name in enumerate(ATTACKS):

        def report(done: int, total: int, what: str, place: int = place) -> None:
            if progress is not None:
                progress(place * total + done, len(ATTACKS) * total, f"attack: {what}")

        found = attack_engine.attack(
            model, images.images, labels, name, norm="l2", seed=seed, ids=images.ids, progress=report
        )
        rows = found.success & (found.distance < near.distance)
        near.images[rows], near.distance[rows] = found.images[rows], found.distance[rows]
        near.fooled_as[rows] = found.fooled_as[rows]
    return near
