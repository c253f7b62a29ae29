"""FMN: Pintor et al., "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints", arXiv:2102.12827.

Climb the lead f of the best wrong class within a ball whose radius follows the boundary, and keep the nearest success:

    epsilon <- |delta| + |f| / |g|_q        until the first success (q is the dual norm),
    epsilon <- (1 -+ gamma) epsilon         inwards where broken, outwards where not,
    delta   <- P(delta + alpha g / |g|_2)   onto ball and box.

alpha and gamma shrink as the search goes on. In l0 epsilon counts changed numbers and moves by at least one.

What differs from the paper was measured to find nearer adversarials:

- What in g points out of the box is left out. Otherwise g is long and delta barely moves in images full of black or white.
- The step is alpha times the l2 length of the longest move that ball and box allow, and counts the part of g that such a
  move can follow. The paper's fixed step is far across one image's ball and short of the edge of another's.
- alpha shrinks geometrically and by far, so that epsilon can still follow when steps are small: where two pieces of a
  network meet, long steps run to and fro between them.
- P is the nearest point of ball and box for l1 and l0 too: no budget goes to numbers that have no room to use it.
- The first radius in l0 is the number of changes that the linearised network asks for, instead of one; in the other norms
  it is larger by gamma, since a search that lands on the boundary itself never gets to the other side.
- In l0, at last, the smallest changes are taken back one at a time where that leaves the image broken.

Whether P rescales onto the sphere or projects into the ball makes no difference here: these steps reach beyond the edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ._ball import DUAL, Ball, distance, length
from ._losses import is_broken, lead, margin
from ._nearest import Nearest
from ._rows import Rows
from ._victim import Victim
from .errors import AttackError

_UNDONE = 5  # changes that l0 tries to take back


@dataclass
class _Search(Rows):
    """Images still searched: their rows, the clean ones, the attempts, the radii now and at most ``(n,)``."""

    rows: torch.Tensor
    x: torch.Tensor
    labels: torch.Tensor
    x_adv: torch.Tensor
    epsilon: torch.Tensor
    widest: torch.Tensor


def fmn(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor | None = None,
    *,
    norm: str = "l2",
    targeted: bool = False,
    steps: int = 100,
    alpha: float = 4.0,
    gamma: float = 0.1,
) -> torch.Tensor:
    """Look for the nearest adversarial image.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Near enough, one for all or ``(N,)``: an image with an adversarial within it leaves the search.
            ``None`` searches to the end.
        norm: "l0" (how many numbers change), "l1", "l2" or "linf".
        targeted: Whether ``labels`` are to be reached.
        steps: Gradient steps.
        alpha: First length of a step, relative to the longest move within the radius; the last is a thousandth.
        gamma: First relative change of the radius, at most 1; the last is a fiftieth.

    Returns:
        The nearest adversarial found per image ``(N, C, H, W)``, the clean image where there was none. At most
        ``steps + 1`` forwards and ``steps`` backwards each, in l0 five forwards more. An image without a gradient to
        follow leaves at once.

    Raises:
        AttackError: steps, alpha or gamma make no sense.
    """
    _check(steps, alpha, gamma)
    victim = Victim.of(model, x)
    if norm == "l0":  # fewer changes than one are none
        epsilon = torch.as_tensor(0.0 if epsilon is None else epsilon, device=x.device).clamp(min=1)
    nearest = Nearest(x, epsilon, norm)
    widest = length(torch.maximum(x, 1 - x), norm)
    search = _Search(torch.arange(len(x), device=x.device), x, labels, x, widest, widest)
    for step in range(steps):
        logits, ahead, gradient = victim.gradient(search.x_adv, search.labels, margin, search.rows)
        broken = _record(nearest, search, logits, targeted)
        gradient = _inwards(search, -gradient if targeted else gradient, norm)
        shortest = nearest.distance[search.rows].to(x)
        stay = ~nearest.near_enough(search.rows) & ((gradient != 0).flatten(1).any(1) | shortest.isfinite())
        if not stay.all():
            search.keep(stay)
            broken, ahead, gradient, shortest = broken[stay], ahead[stay], gradient[stay], shortest[stay]
        if len(search.rows) == 0:
            return nearest.images
        gradient, gap = _rescaled(gradient, ahead.abs().to(x))
        change = gamma * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        radius = _follow(search.epsilon, shortest, broken, change, norm)
        first = _linear_radius(search, gradient, gap, change, norm)
        radius = torch.where(shortest.isfinite(), radius, first)
        search.epsilon = torch.minimum(radius, search.widest)
        search.x_adv = _move(search, gradient, alpha * 0.001 ** (step / steps), norm)
    _record(nearest, search, victim.logits(search.x_adv, search.rows), targeted)
    if norm == "l0":
        _undo(victim, nearest, search, targeted)
    return nearest.images


def _record(nearest: Nearest, search: _Search, logits: torch.Tensor, targeted: bool) -> torch.Tensor:
    """Offer the attempts; which are broken, ``(n,)``."""
    broken = is_broken(logits, search.labels, targeted)
    nearest.offer(search.rows, search.x_adv, lead(logits, search.labels, targeted), broken)
    return broken


def _inwards(search: _Search, gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """The gradient without what points out of the box.

    The projections of l1 and l0 know the room of each number and rank numbers by their pull, so that one which has
    reached its face must keep pulling; those that never had room are left out there.
    """
    place = search.x if norm in ("l1", "l0") else search.x_adv
    outwards = ((place <= 0) & (gradient < 0)) | ((place >= 1) & (gradient > 0))
    return torch.where(outwards, 0, gradient)


def _rescaled(gradient: torch.Tensor, gap: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient and gap in units of the gradient's largest entry: squares of tiny gradients would underflow."""
    largest = gradient.flatten(1).abs().amax(1)
    largest = torch.where(largest > 0, largest, 1)
    return gradient / largest.view(-1, 1, 1, 1), (gap / largest).nan_to_num(torch.inf, torch.inf)


def _linear_radius(search: _Search, gradient: torch.Tensor, gap: torch.Tensor, gamma: float, norm: str) -> torch.Tensor:
    """Radius before the first success: a little behind the boundary of the linearised network ``(n,)``."""
    away = distance(search.x_adv, search.x, norm)
    if norm == "l0":
        room = torch.where(gradient > 0, 1 - search.x_adv, search.x_adv)
        gains = (gradient.abs() * room).flatten(1).sort(1, descending=True).values.cumsum(1)
        return away + 1 + (gains < gap.unsqueeze(1)).sum(1)
    dual = torch.linalg.vector_norm(gradient.flatten(1), DUAL[norm], dim=1)
    return (1 + gamma) * (away + gap / dual)


def _follow(
    epsilon: torch.Tensor, nearest: torch.Tensor, broken: torch.Tensor, gamma: float, norm: str
) -> torch.Tensor:
    """Radius after the first success: inwards of what is broken, outwards of what is not."""
    inwards, outwards = epsilon * (1 - gamma), epsilon * (1 + gamma)
    if norm == "l0":
        inwards = torch.minimum(epsilon - 1, inwards.floor()).clamp(min=0)
        outwards = torch.maximum(epsilon + 1, outwards.floor())
    return torch.where(broken, torch.minimum(inwards, nearest), outwards)


def _move(search: _Search, gradient: torch.Tensor, alpha: float, norm: str) -> torch.Tensor:
    """Step along the gradient, then to the nearest point of ball and box."""
    epsilon = search.epsilon
    strengths = gradient.flatten(1).square()
    size = strengths.shape[1]
    if norm in ("l1", "l0"):  # such a move changes no more numbers than its budget
        count = epsilon.ceil().clamp(1, size).long().unsqueeze(1)
        strength = strengths.sort(1, descending=True).values.cumsum(1).gather(1, count - 1).squeeze(1)
    else:
        strength = strengths.sum(1)
    # Numbers change by at most one, so an l1 budget of 4 can move 4 of them, by 2 in l2.
    longest = {
        "linf": epsilon * size**0.5,
        "l2": epsilon,
        "l1": torch.minimum(epsilon, epsilon.sqrt()),
        "l0": epsilon.sqrt(),
    }[norm]
    pace = alpha * longest / strength.sqrt().clamp(min=1)
    moved = search.x_adv + pace.view(-1, 1, 1, 1) * gradient
    return Ball.around(search.x, epsilon, norm).project(moved)


def _undo(victim: Victim, nearest: Nearest, search: _Search, targeted: bool) -> None:
    """Try to take back the smallest changes of what was found, one at a time."""
    search.x_adv = nearest.images[search.rows]
    sizes = (search.x_adv - search.x).flatten(1).abs()
    sizes = torch.where(sizes > 0, sizes, torch.inf)
    for _ in range(_UNDONE):
        stay = sizes.isfinite().any(1) & ~nearest.near_enough(search.rows)
        search.keep(stay)
        sizes = sizes[stay]
        if len(search.rows) == 0:
            break
        place = sizes.argmin(1, keepdim=True)
        sizes = sizes.scatter(1, place, torch.inf)
        before = search.x_adv
        search.x_adv = before.flatten(1).scatter(1, place, search.x.flatten(1).gather(1, place)).view_as(before)
        broken = _record(nearest, search, victim.logits(search.x_adv, search.rows), targeted)
        search.x_adv = torch.where(broken.view(-1, 1, 1, 1), search.x_adv, before)


def _check(steps: int, alpha: float, gamma: float) -> None:
    if steps < 1:
        raise AttackError("FMN needs at least one step", steps, "Pass steps=100, say.")
    if not 0 < alpha < math.inf:
        raise AttackError("FMN's step alpha must be positive", alpha, "Pass alpha=4.0, say.")
    if not 0 < gamma <= 1:
        raise AttackError("FMN's gamma must be in (0, 1]", gamma, "Pass gamma=0.1, say.")
