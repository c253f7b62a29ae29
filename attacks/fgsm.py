"""FGSM: Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", arXiv:1412.6572, section 4.

One step from the image to the edge of the ball, along the direction in which a linear model's loss grows fastest:
``x' = clip(x + epsilon sign(g))`` for linf, ``x' = clip(x + epsilon g / |g|_2)`` for l2 (there called FGM). On a linear
model with the box out of reach no attack does better.
"""

from __future__ import annotations

import torch
from torch import nn

from ._ball import Ball
from ._losses import log_odds
from ._victim import Victim


def fgsm(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
    *,
    norm: str = "linf",
    targeted: bool = False,
) -> torch.Tensor:
    """Take one gradient step of length epsilon.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Radius, one for all or ``(N,)``; linf in units of the pixel range, l2 in its Euclidean norm.
        norm: "linf" or "l2".
        targeted: Whether ``labels`` are to be reached.

    Returns:
        Images ``(N, C, H, W)`` within the ball and the box, not checked for success. One forward, one backward each.
    """
    victim = Victim.of(model, x)
    ball = Ball.around(x, epsilon, norm)
    rows = torch.arange(len(x), device=x.device)
    _, _, gradient = victim.gradient(x, labels, log_odds, rows)
    delta = ball.epsilon * ball.steepest(-gradient if targeted else gradient)
    return ball.project(x + delta)
