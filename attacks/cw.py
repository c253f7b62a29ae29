"""C&W-l2: Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", arXiv:1608.04644, section VI.

The box is built in by ``x' = (tanh(w) + 1) / 2``. For a constant c per image, Adam minimises over w

    |x' - x|_2^2 + c max(kappa - f(x'), 0),    f = max_{k != y} z_k - z_y    (targeted: z_t - max_{k != t} z_k),

and the smallest c that breaks the image is found by bisection; every broken image on the way counts, the nearest is kept.
The reference of the literature: newer attacks reach the same distances sooner.

Every image has its own c and its own state of Adam. One whose loss has stopped falling waits for the next c at no cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ._ball import distance
from ._losses import is_broken, lead, margin
from ._nearest import Nearest
from ._rows import Rows
from ._victim import Victim
from .errors import AttackError

_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8  # Adam's usual ones
_INSIDE = 0.999999  # keeps the faces of the box at a finite w
_LOOKS = 10  # per descent, at whether the loss still falls,
_PATIENCE = 10  # but no more often than every so many steps: numbers on faces of the box take time to come back
_FALL = 0.9999  # what the lowest loss must have fallen to since the last look


@dataclass
class _Descent(Rows):
    """Images on their way down for one constant each, with Adam's moments and the lowest loss now and at the last look."""

    rows: torch.Tensor
    x: torch.Tensor
    labels: torch.Tensor
    const: torch.Tensor
    w: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor
    lowest: torch.Tensor
    level: torch.Tensor


def cw(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor | None = None,
    *,
    norm: str = "l2",
    targeted: bool = False,
    searches: int = 9,
    steps: int = 300,
    learning_rate: float = 0.01,
    confidence: float = 0.0,
    initial_const: float = 1e-3,
) -> torch.Tensor:
    """Look for the nearest adversarial image.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Near enough, one for all or ``(N,)``: an image with an adversarial within it leaves the search.
            ``None`` searches to the end.
        norm: "l2".
        targeted: Whether ``labels`` are to be reached.
        searches: Constants tried per image: ten times larger until one breaks it, then bisection.
        steps: Most steps of Adam per constant.
        learning_rate: Adam's step in w. A number on a face of the box starts far out in w, and takes some 150 steps of
            0.01 to come back; 0.05 with 100 steps finds the same distances sooner.
        confidence: kappa, the lead in logits that a wrong class must have to count; 0 is the boundary.
        initial_const: The first c.

    Returns:
        The nearest adversarial found per image ``(N, C, H, W)``, the clean image where there was none or it is broken as
        it is. At most ``searches * steps + 1`` forwards and ``searches * steps`` backwards each.

    Raises:
        AttackError: An option makes no sense.
    """
    _check(searches, steps, learning_rate, confidence, initial_const)
    victim = Victim.of(model, x)
    nearest = Nearest(x, epsilon, norm)
    rows = torch.arange(len(x), device=x.device)
    logits = victim.logits(x, rows)
    nearest.offer(rows, x, lead(logits, labels, targeted), is_broken(logits, labels, targeted))
    low = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    high, const = torch.full_like(low, torch.inf), torch.full_like(low, initial_const)
    for _ in range(searches):
        rows = rows[~nearest.near_enough(rows)]
        descent = _start(rows, x[rows], labels[rows], const[rows])
        broken = _descend(victim, nearest, descent, targeted, steps, learning_rate, confidence)
        low, high = torch.where(broken, low, const), torch.where(broken, const, high)
        const = torch.where(high.isinf(), const * 10, (low + high) / 2)
    return nearest.images


def _start(rows: torch.Tensor, x: torch.Tensor, labels: torch.Tensor, const: torch.Tensor) -> _Descent:
    w = (_INSIDE * (2 * x - 1)).atanh()
    still, never = torch.zeros_like(x), torch.full_like(const, torch.inf)
    return _Descent(rows, x, labels, const, w, still, still, never, never)


def _descend(
    victim: Victim,
    nearest: Nearest,
    descent: _Descent,
    targeted: bool,
    steps: int,
    learning_rate: float,
    confidence: float,
) -> torch.Tensor:
    """Minimise for the constants given, and offer what breaks; for which of all N images it did, bool ``(N,)``."""
    found = torch.zeros_like(nearest.distance, dtype=torch.bool)
    for step in range(steps):
        rows = descent.rows
        if len(rows) == 0:
            break
        x_adv = (descent.w.tanh() + 1) / 2
        logits, ahead, gradient = victim.gradient(x_adv, descent.labels, margin, rows)
        ahead, gradient = (-ahead, -gradient) if targeted else (ahead, gradient)
        broken = is_broken(logits, descent.labels, targeted) & (ahead >= confidence)
        away = distance(x_adv, descent.x, "l2")
        nearest.offer(rows, x_adv, ahead, broken)
        found[rows[broken]] = True
        lack = (confidence - ahead).clamp(min=0).to(away)
        loss = away.square() + descent.const * lack
        descent.lowest = torch.where(loss < descent.lowest, loss, descent.lowest)
        stay = ~nearest.near_enough(rows)
        if step % max(_PATIENCE, math.ceil(steps / _LOOKS)) == 0:
            stay &= descent.lowest < _FALL * descent.level
            descent.level = descent.lowest
        pull = torch.where(lack > 0, descent.const, 0).view(-1, 1, 1, 1) * gradient
        slope = (1 - (2 * x_adv - 1).square()) / 2  # of x' in w
        _adam(descent, slope * (2 * (x_adv - descent.x) - pull), step + 1, learning_rate)
        if not stay.all():
            descent.keep(stay)
    return found


def _adam(descent: _Descent, gradient: torch.Tensor, step: int, learning_rate: float) -> None:
    """Step number ``step`` of Adam (arXiv:1412.6980) in w, against the gradient."""
    descent.mean = descent.mean.lerp(gradient, 1 - _BETA1)
    descent.square = descent.square.lerp(gradient.square(), 1 - _BETA2)
    mean, square = descent.mean / (1 - _BETA1**step), descent.square / (1 - _BETA2**step)
    descent.w = descent.w - learning_rate * mean / (square.sqrt() + _TINY)


def _check(searches: int, steps: int, learning_rate: float, confidence: float, initial_const: float) -> None:
    for count, number in (("searches", searches), ("steps", steps)):
        if number < 1:
            raise AttackError(f"C&W needs at least one of {count}", number, "Pass searches=9, steps=300, say.")
    for name, value in (("learning_rate", learning_rate), ("initial_const", initial_const)):
        if not 0 < value < math.inf:
            raise AttackError(f"C&W's {name} must be positive", value, "Leave it out for the usual value.")
    if not 0 <= confidence < math.inf:
        raise AttackError(
            "C&W's confidence must be zero or positive", confidence, "Pass confidence=0.0 for the boundary."
        )
