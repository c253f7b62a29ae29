"""MI-FGSM: Dong et al., "Boosting Adversarial Attacks with Momentum", arXiv:1710.06081.

Gradients of equal weight add up to a direction that outlives the bends of the loss: ``m <- mu m + g / |g|_1`` from
``m = 0``, then ``x <- x + alpha sign(m)`` for linf, ``x <- x + alpha m / |m|_2`` for l2, projected onto the ball and the
box. The walk starts at the image and ``alpha = epsilon / steps``, so that it can just reach the edge of the ball.
Adversarial images found so tend to fool other networks too. One that breaks leaves the batch at once.
"""

from __future__ import annotations

import torch
from torch import nn

from ._ball import Ball
from ._best import Best
from ._losses import is_broken, log_odds
from ._victim import Victim
from .errors import AttackError


def mifgsm(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
    *,
    norm: str = "linf",
    targeted: bool = False,
    steps: int = 10,
    mu: float = 1.0,
    early_stop: bool = True,
) -> torch.Tensor:
    """Climb the loss within the ball along accumulated gradients.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Radius, one for all or ``(N,)``.
        norm: "linf" or "l2".
        targeted: Whether ``labels`` are to be reached.
        steps: Gradient steps.
        mu: Share of the accumulated gradient that each step keeps; 0 is the iterative FGSM of arXiv:1607.02533.
        early_stop: Images leave once broken. ``False`` climbs on to the strongest loss, for training and transfer.

    Returns:
        The best attempt per image ``(N, C, H, W)``: broken if any attempt was, then of the highest loss. At most
        ``steps + 1`` forwards and ``steps`` backwards each.

    Raises:
        AttackError: steps or mu make no sense.
    """
    if steps < 1:
        raise AttackError("MI-FGSM needs at least one step", steps, "Pass steps=10, say.")
    if not 0 <= mu < float("inf"):
        raise AttackError("MI-FGSM's mu must be zero or positive", mu, "Pass mu=1.0, as the paper.")
    victim = Victim.of(model, x)
    sign = -1 if targeted else 1
    ball = Ball.around(x, epsilon, norm)
    best = Best(x)
    rows = torch.arange(len(x), device=x.device)
    x_adv, y, momentum = x, labels, torch.zeros_like(x)
    for _ in range(steps):
        if len(rows) == 0:
            break
        logits, loss, gradient = victim.gradient(x_adv, y, log_odds, rows)
        broken = is_broken(logits, y, targeted)
        best.offer(rows, x_adv, sign * loss, broken)
        if early_stop and broken.any():
            stay = ~broken
            rows, y, ball, x_adv = rows[stay], y[stay], ball[stay], x_adv[stay]
            momentum, gradient = momentum[stay], gradient[stay]
        momentum = mu * momentum + _of_length_one(sign * gradient)
        x_adv = ball.project(x_adv + ball.epsilon / steps * ball.steepest(momentum))
    if len(rows):
        logits = victim.logits(x_adv, rows)
        best.offer(rows, x_adv, sign * log_odds(logits, y), is_broken(logits, y, targeted))
    return best.images


def _of_length_one(gradient: torch.Tensor) -> torch.Tensor:
    """``g / |g|_1``, zero where the gradient is; dividing by the largest entry first keeps the sum from overflowing."""
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    scaled = gradient / torch.where(largest > 0, largest, 1)
    return scaled / scaled.abs().sum((1, 2, 3), keepdim=True).clamp(min=1)
