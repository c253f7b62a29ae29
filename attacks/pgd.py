"""PGD: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", arXiv:1706.06083.

Start at a random point of the ball, then repeat ``x <- P(x + alpha d)``, where d is the sign of the gradient (linf) or
the l2-normalised gradient, and P projects onto the ball and the box [0, 1]. An image that is broken leaves the batch at
once and costs nothing more.

The paper's steps are all of one length. Here step t of T is ``alpha = epsilon (1 + cos(pi t / T))``, from the width of the
ball down to nothing: long steps break sooner what is easily broken, short ones end closer to the maximum. ``relative_step``
gives the constant step back; 2.5 / T is the paper's rule for its l2 attacks.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ._ball import Ball
from ._best import Best
from ._losses import is_broken, log_odds
from ._victim import Victim
from .errors import AttackError


def pgd(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
    *,
    norm: str = "linf",
    targeted: bool = False,
    steps: int = 20,
    relative_step: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    early_stop: bool = True,
) -> torch.Tensor:
    """Climb the loss within the ball.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Radius, one for all or ``(N,)``.
        norm: "linf" or "l2".
        targeted: Whether ``labels`` are to be reached.
        steps: Gradient steps per restart.
        relative_step: A constant ``alpha / epsilon``; ``None`` for steps that shrink from 2 to 0.
        restarts: How many random starts; images that are still standing take part in the next.
        random_start: Start inside the ball instead of at the image.
        early_stop: Images leave once broken. ``False`` climbs on to the strongest loss, for training and transfer.

    Returns:
        The best attempt per image ``(N, C, H, W)``: broken if any attempt was, then of the highest loss. At most
        ``restarts * (steps + 1)`` forwards and ``restarts * steps`` backwards each.

    Raises:
        AttackError: steps, restarts or the step size make no sense.
    """
    _check(steps, relative_step, restarts, random_start)
    victim = Victim.of(model, x)
    sign = -1 if targeted else 1
    everywhere = Ball.around(x, epsilon, norm)
    best = Best(x)
    for restart in range(restarts):
        rows = torch.arange(len(x), device=x.device)
        if early_stop:
            rows = rows[~best.broken]
        if len(rows) == 0:
            break
        ball, y = everywhere[rows], labels[rows]
        x_adv = ball.random(victim.seed, victim.keys(rows), "pgd", restart) if random_start else ball.centre
        for step in range(steps):
            if len(rows) == 0:
                break
            logits, loss, gradient = victim.gradient(x_adv, y, log_odds, rows)
            broken = is_broken(logits, y, targeted)
            best.offer(rows, x_adv, sign * loss, broken)
            if early_stop and broken.any():
                stay = ~broken
                rows, y, ball = rows[stay], y[stay], ball[stay]
                x_adv, gradient = x_adv[stay], gradient[stay]
            alpha = ball.epsilon * (relative_step or 1 + math.cos(math.pi * step / steps))
            x_adv = ball.project(x_adv + alpha * ball.steepest(sign * gradient))
        if len(rows):
            logits = victim.logits(x_adv, rows)
            best.offer(rows, x_adv, sign * log_odds(logits, y), is_broken(logits, y, targeted))
    return best.images


def _check(steps: int, relative_step: float | None, restarts: int, random_start: bool) -> None:
    for name, value in (("steps", steps), ("restarts", restarts)):
        if value < 1:
            raise AttackError(f"PGD needs at least one of {name}", value, f"Pass {name}=20, say.")
    if relative_step is not None and not 0 < relative_step < float("inf"):
        raise AttackError(
            "PGD's step relative to epsilon must be positive", relative_step, "Leave it out for steps that shrink."
        )
    if restarts > 1 and not random_start:
        raise AttackError("Restarts without a random start repeat themselves", restarts, "Pass random_start=True.")
