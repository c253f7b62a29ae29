"""The nearest adversarial image: the smallest budget at which PGD fools the model, searched image by image.

An upper bound on the true distance, made for holding other radii against it; ``attacks.evaluate`` is for robustness.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import attacks as attack_engine

from ..models import VisionModel

if TYPE_CHECKING:
    from attacks import AttackResult

    from ..images import ImageSet

Progress = Callable[[int, int, str], None]

# Of the exponent between a budget that holds and one, twice as large, that breaks: within 2^(1/8) = 9 %.
_BISECTIONS = 3
_HALVINGS = 10  # of the line from the image to its adversarial: a thousandth of it
_SMALLEST = -20  # 2^-20 is far below a grey level of one pixel
_TOGETHER = 32  # images per forward pass that decides whether they still fool
_SEARCHED = 0.85  # of the work; what follows are two attacks to the end
_TICKS = 1000


@dataclass
class Near:
    """The nearest adversarial images found so far.

    Attributes:
        images: ``(N, C, H, W)``; where none was found, the strongest attempt.
        distance: ``(N,)``, l2; infinite where none was found.
        fooled_as: int64 ``(N,)``, what the model sees in them.
    """

    images: torch.Tensor
    distance: torch.Tensor
    fooled_as: torch.Tensor

    def offer(self, i: int, image: torch.Tensor, distance: torch.Tensor, fooled_as: torch.Tensor, fools: bool) -> None:
        """Keep an attempt at image ``i`` if it is nearer, or if there is none that fools."""
        if math.isinf(self.distance[i]) or (fools and distance < self.distance[i]):
            self.images[i], self.fooled_as[i] = image, fooled_as
            self.distance[i] = distance if fools else math.inf


def nearest(
    model: nn.Module,
    images: ImageSet,
    labels: torch.Tensor,
    guess: torch.Tensor,
    seed: int = 0,
    progress: Progress | None = None,
) -> Near:
    """Search the smallest l2 distance at which PGD makes the model leave ``labels``.

    Budgets are powers of two: from the one next to the guess up or down, until one holds and the next one breaks; then
    the exponent between them is halved three times. PGD stops where it first succeeds, beside the shortest way; so it runs
    to the strongest loss at the budget found, from the image itself and from a random start, and what it finds is drawn
    back along the line to the image for as long as it fools. All budgets lie on one grid and all randomness hangs on the
    image's id, so that no image's result depends on the others.

    Args:
        model: maps images in [0, 1] to logits.
        images: N of them.
        labels: int64 ``(N,)``, the classes to leave.
        guess: ``(N,)``, where to begin; what it is changes the time, and the result only where PGD is erratic.
        seed: of the attack.
        progress: called with steps done, their total and what is going on.
    """
    pixels = images.images
    n, widest = len(pixels), math.sqrt(pixels[0].numel())
    largest = math.log2(widest)
    at = (
        guess.double()
        .nan_to_num(1.0, 1.0, 1.0)
        .clamp(2.0**_SMALLEST, widest)
        .log2()
        .round()
        .clamp(max=largest)
        .tolist()
    )
    holds, breaks, done = [-math.inf] * n, [math.inf] * n, [0.0] * n
    near = Near(pixels.clone(), torch.full((n,), math.inf), labels.clone())

    def strike(rows: list[int], exponent: float, **options: Any) -> AttackResult:
        if progress is not None:
            progress(round(_TICKS * sum(done)), _TICKS * n, f"attack at l2 {2**exponent:.3g}")
        ids = [images.ids[i] for i in rows]
        budget = min(2**exponent, widest)
        return attack_engine.attack(
            model, pixels[rows], labels[rows], "pgd", norm="l2", epsilon=budget, seed=seed, ids=ids, **options
        )

    while open_ := [i for i in range(n) if done[i] < _SEARCHED]:
        exponent = at[open_[0]]
        rows = [i for i in open_ if at[i] == exponent]
        result = strike(rows, exponent)
        for place, i in enumerate(rows):
            broken = bool(result.success[place])
            near.offer(i, result.images[place], result.distance[place], result.fooled_as[place], broken)
            if broken:
                breaks[i] = min(breaks[i], exponent)
            else:
                holds[i] = max(holds[i], exponent)
            at[i], done[i] = _next(holds[i], breaks[i], largest)
    for exponent in sorted({one for one in breaks if math.isfinite(one)}):
        rows = [i for i in range(n) if breaks[i] == exponent]
        for random_start in (False, True):
            result = strike(rows, exponent, early_stop=False, random_start=random_start)
            drawn = _drawn_back(model, pixels[rows], labels[rows], result.images, result.fooled_as, result.success)
            for place, i in enumerate(rows):
                fools = bool(result.success[place])
                near.offer(i, drawn.images[place], drawn.distance[place], drawn.fooled_as[place], fools)
                done[i] += (1 - _SEARCHED) / 2
    return near


def _drawn_back(
    model: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    found: torch.Tensor,
    fooled_as: torch.Tensor,
    success: torch.Tensor,
) -> Near:
    """Halve the line from each image to its adversarial, keeping the end that fools."""
    view = model if isinstance(model, VisionModel) else copy.deepcopy(model).eval()
    device = next((tensor.device for tensor in (*view.parameters(), *view.buffers())), pixels.device)
    images, seen = found.clone(), fooled_as.clone()
    for part in torch.split(success.nonzero().flatten(), _TOGETHER):
        low, high = torch.zeros(len(part)), torch.ones(len(part))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            attempt = torch.lerp(pixels[part], found[part], middle.view(-1, 1, 1, 1))
            with torch.no_grad():
                answer = view(attempt.to(device)).argmax(1).cpu()
            fools = answer != labels[part]
            images[part[fools]], seen[part[fools]] = attempt[fools], answer[fools]
            low, high = torch.where(fools, low, middle), torch.where(fools, middle, high)
    return Near(images, (images - pixels).flatten(1).norm(dim=1), seen)


def _next(holds: float, breaks: float, largest: float) -> tuple[float, float]:
    """Return the exponent to try next, and how much of the work is done, from 0 to 1."""
    tries = (3 + _BISECTIONS) / _SEARCHED
    if math.isinf(breaks):
        return min(math.floor(holds) + 1.0, largest), 1.0 if holds >= largest else 1 / tries
    if math.isinf(holds):
        return math.ceil(breaks) - 1.0, _SEARCHED if breaks <= _SMALLEST else 1 / tries
    width = breaks - holds
    if width <= 2.0**-_BISECTIONS:
        return breaks, _SEARCHED
    return (holds + breaks) / 2, (3 + max(0.0, -math.log2(width))) / tries
