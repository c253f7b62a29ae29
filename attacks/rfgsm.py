"""R+FGSM: Tramèr et al., "Ensemble Adversarial Training: Attacks and Defenses", arXiv:1705.07204, section 3.3.

A random step out of the sharp curvature around the image, which can hide where the loss grows, then one gradient step
with the rest of the budget: ``x' = x + alpha sign(n)`` with ``n`` normal, ``x'' = x' + (epsilon - alpha) sign(g(x'))``.
For l2 both signs become l2-normalised vectors. The paper takes ``alpha = epsilon / 2``.
"""

from __future__ import annotations

import torch
from torch import nn

from . import _random
from ._ball import Ball
from ._losses import is_broken, log_odds
from ._victim import Victim
from .errors import AttackError


def rfgsm(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
    *,
    norm: str = "linf",
    targeted: bool = False,
    alpha: float = 0.5,
) -> torch.Tensor:
    """Take a random step, then a gradient step with the rest of the budget.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Radius, one for all or ``(N,)``; linf in units of the pixel range, l2 in its Euclidean norm.
        norm: "linf" or "l2".
        targeted: Whether ``labels`` are to be reached.
        alpha: Length of the random step, as a share of epsilon in [0, 1); 0 is FGSM.

    Returns:
        Images ``(N, C, H, W)`` within the ball and the box: the start where that is seen to break the image, otherwise
        the end, not checked for success. One forward, one backward each.

    Raises:
        AttackError: ``alpha`` leaves no budget for the gradient.
    """
    if not 0 <= alpha < 1:
        raise AttackError("R+FGSM's random step must be a share of epsilon in [0, 1)", alpha, "Pass alpha=0.5, say.")
    victim = Victim.of(model, x)
    ball = Ball.around(x, epsilon, norm)
    rows = torch.arange(len(x), device=x.device)
    noise = _random.normal(victim.seed, victim.keys(rows), x.shape[1:], "rfgsm").to(x)
    start = ball.project(x + alpha * ball.epsilon * ball.steepest(noise))
    logits, _, gradient = victim.gradient(start, labels, log_odds, rows)
    step = (1 - alpha) * ball.epsilon * ball.steepest(-gradient if targeted else gradient)
    broken = is_broken(logits, labels, targeted).view(-1, 1, 1, 1)
    return torch.where(broken, start, ball.project(start + step))
