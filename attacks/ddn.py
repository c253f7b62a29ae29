"""DDN: Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks...", arXiv:1811.09600.

Direction and norm of the perturbation delta are two questions. The gradient g of the loss answers the first, the verdict
on the image the second:

    delta <- delta + alpha g / |g|_2,      epsilon <- epsilon (1 - gamma) if broken, epsilon (1 + gamma) otherwise,
    delta <- epsilon delta / |delta|_2,    clipped so that the image stays in [0, 1],

and the nearest broken image is kept. The paper takes 100 to 1000 steps from epsilon = 1 with gamma = 0.05. Here a few dozen
reach the same distances, thanks to these departures:

- epsilon starts just beyond the linearised boundary, and alpha is relative to epsilon;
- gamma falls with alpha on the paper's cosine: the norm is found roughly first, then exactly;
- an image leaves when it has converged: just beyond the boundary, with delta parallel to the gradient, so that no
  direction is nearer;
- at last, the segment from the image to what was found is searched for the boundary;
- the loss is a margin that lets close rivals share at first, and becomes the margin itself: early on it matters not to
  settle for the rival that happens to lead, at last the boundary must not be blurred. It is relative to the spread of the
  logits, so that their scale, which cross-entropy depends on, does not matter;
- nothing is quantised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ._ball import Ball, length
from ._losses import is_broken, lead, smooth_margin
from ._nearest import Nearest
from ._rows import Rows
from ._victim import Victim
from .errors import AttackError

_ALPHA = (2.0, 0.01)  # first and last, relative to epsilon
_LAST_GAMMA = 0.01
_SHARPNESS = (3.0, 48.0)  # of the smooth margin, first and last
_BEYOND = 1.02  # epsilon at first, relative to the distance of the linearised boundary
_SEARCH = 3  # most forwards on the segment

# An image has converged when its delta is broken, the linearised boundary is within this share of epsilon, and the sine of
# the angle between delta and gradient is at most that. On a flat boundary the distance then exceeds the smallest one by
# half the square of the sine, once the segment has been searched.
_CLOSE, _PARALLEL = 0.05, 0.04


@dataclass
class _Search(Rows):
    rows: torch.Tensor
    labels: torch.Tensor
    ball: Ball  # of radius epsilon, around the clean image
    farthest: torch.Tensor  # (n, 1, 1, 1) distance of the farthest corner of the box
    x: torch.Tensor


def ddn(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor | None = None,
    *,
    norm: str = "l2",
    targeted: bool = False,
    steps: int = 30,
    gamma: float = 0.2,
) -> torch.Tensor:
    """Follow gradients, on a sphere that shrinks while the image is broken and grows while it is not.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Adversarials within this distance, one for all or ``(N,)``, are near enough; ``None``: the nearest.
        norm: "l2".
        targeted: Whether ``labels`` are to be reached.
        steps: Most gradient steps per image.
        gamma: Share by which the norm changes in the first step; falls to 0.01 in the last.

    Returns:
        The nearest adversarial found, ``(N, C, H, W)`` in [0, 1]; the clean image where there was none. At most
        ``steps + 4`` forwards and ``steps + 1`` backwards each.

    Raises:
        AttackError: another norm was asked for, or steps or gamma make no sense.
    """
    if norm != "l2":
        raise AttackError("DDN is an attack in l2", norm, "Choose another attack for this norm.")
    if steps < 1 or not 0 < gamma < 1:
        raise AttackError("DDN needs at least one step and gamma in (0, 1)", (steps, gamma), "Leave them out.")
    victim, nearest = Victim.of(model, x), Nearest(x, epsilon, norm)
    rows = torch.arange(len(x), device=x.device)
    farthest = length(torch.maximum(x, 1 - x), norm)

    def climbed(logits: torch.Tensor, classes: torch.Tensor, sharpness: float) -> torch.Tensor:
        return smooth_margin(logits, classes, sharpness) * (-1 if targeted else 1)

    def climbed_and_lead(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return torch.stack([climbed(logits, classes, _SHARPNESS[0]), lead(logits, classes, targeted)], 1)

    # The clean image tells both where to go and how far the boundary may be.
    logits, values, gradients = victim.gradients(x, labels, climbed_and_lead, rows)
    value, clean, gradient = values[:, 0], values[:, 1], gradients[:, 0]
    boundary = (_BEYOND * clean.abs() / length(gradients[:, 1], norm)).nan_to_num(torch.inf)
    ball = Ball.around(x, torch.minimum(boundary, farthest), norm)
    at = _Search(rows, labels, ball, farthest.view(-1, 1, 1, 1), x)
    for step in range(steps):
        if step:
            sharpness = _SHARPNESS[0] * (_SHARPNESS[1] / _SHARPNESS[0]) ** (step / steps)
            logits, value, gradient = victim.gradient(at.x, at.labels, partial(climbed, sharpness=sharpness), at.rows)
        broken = is_broken(logits, at.labels, targeted)
        nearest.offer(at.rows, at.x, lead(logits, at.labels, targeted), broken)
        share = (1 + math.cos(math.pi * step / steps)) / 2
        alpha, change = (last + (first - last) * share for first, last in (_ALPHA, (gamma, _LAST_GAMMA)))
        close = value < _CLOSE * length(gradient, norm) * at.ball.epsilon.flatten()
        parallel = _move(at, gradient, broken, alpha, change if step else 0.0)
        done = nearest.near_enough(at.rows) | (broken & close & parallel if step else ~gradient.flatten(1).any(1))
        if done.any():
            at.keep(~done)
            if len(at.rows) == 0:
                break
    if len(at.rows):
        logits = victim.logits(at.x, at.rows)
        broken = is_broken(logits, at.labels, targeted)
        nearest.offer(at.rows, at.x, lead(logits, at.labels, targeted), broken)
    return nearest.search_segments(victim, clean, labels, targeted, _SEARCH)


def _move(at: _Search, gradient: torch.Tensor, broken: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """Step and rescale; return where delta was parallel to the gradient (as far as the box lets it be), ``(n,)``."""
    ball, before = at.ball, at.x - at.ball.centre
    delta = before + alpha * ball.epsilon * ball.steepest(gradient)
    factor = torch.where(broken, 1 - gamma, 1 + gamma).view(-1, 1, 1, 1)
    at.ball = Ball(ball.centre, torch.minimum(ball.epsilon * factor, at.farthest), ball.norm)
    at.x = (ball.centre + at.ball.epsilon * ball.steepest(delta)).clamp(0, 1)
    # A step of alpha epsilon turns delta by alpha / (1 + alpha) of its angle with the gradient.
    turn = length(ball.steepest(at.x - ball.centre) - ball.steepest(before), ball.norm)
    return turn * (1 + alpha) < _PARALLEL * alpha
