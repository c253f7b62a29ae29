"""SuperDeepFool: Abdollahpoorrostam et al., "Revisiting DeepFool: generalization and improvement", arXiv:2303.12481.

DeepFool ends on the boundary, but not where it is nearest: there, the way from the image would be at right angles to it.
So alternate, from the image x_0 until x_i is broken (the paper's SDF(inf, 1)):

    x~ = DeepFool(x_i),    w = gradient of z_k - z_y at x~,    x_{i+1} = x_0 + <w, x~ - x_0> / |w|_2^2 w,

where k is the class that was reached, and at last search the segment from the image to what was found for the boundary.

Here the projection is the one within the box [0, 1]. On curved boundaries x_i comes to rest just before them, so every x~
counts too, the nearest of all is kept, and an image also leaves when a round brings it less than 0.1 % nearer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ._hyperplane import nearest_on_hyperplane
from ._losses import is_broken, lead, likeliest_others
from ._nearest import Nearest
from ._rows import Rows
from ._victim import Victim
from .deepfool import check, descend
from .errors import AttackError

_GAIN = 1e-3  # what a round must gain, relative
_SEARCH = 6  # most forwards on the segment


@dataclass
class _Search(Rows):
    rows: torch.Tensor
    labels: torch.Tensor
    image: torch.Tensor  # x_0
    x: torch.Tensor  # x_i
    rivals: torch.Tensor  # classes that DeepFool considers


def superdeepfool(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor | None = None,
    *,
    norm: str = "l2",
    targeted: bool = False,
    steps: int = 20,
    walk: int = 10,
    overshoot: float = 0.02,
    candidates: int = 10,
) -> torch.Tensor:
    """Alternate DeepFool and the projection onto the boundary that it found.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Adversarials within this distance, one for all or ``(N,)``, are near enough; ``None``: the nearest.
        norm: "l2".
        targeted: Whether ``labels`` are to be reached.
        steps: Most rounds per image.
        walk: Most steps of DeepFool in a round.
        overshoot: eta of DeepFool.
        candidates: The most likely classes that DeepFool considers, the label among them. Not when ``targeted``.

    Returns:
        The nearest adversarial found, ``(N, C, H, W)`` in [0, 1]; the clean image where there was none. At most
        ``steps * (2 * walk + 2) + 8`` forwards each.

    Raises:
        AttackError: another norm was asked for, or steps, walk, overshoot or candidates make no sense.
    """
    check(walk, overshoot, candidates)
    if steps < 1 or norm != "l2":
        raise AttackError("SuperDeepFool needs at least one round, in l2", (steps, norm), "Pass steps=20, say.")
    victim, nearest = Victim.of(model, x), Nearest(x, epsilon, norm)
    rows = torch.arange(len(x), device=x.device)
    logits = victim.logits(x, rows)
    clean = lead(logits, labels, targeted)
    nearest.offer(rows, x, clean, is_broken(logits, labels, targeted))
    at = _Search(rows, labels, x, x, likeliest_others(logits, labels, candidates - 1))
    at.keep(~nearest.near_enough(rows))
    for _ in range(steps):
        if len(at.rows) == 0:
            break
        _alternate(victim, at, nearest, norm, targeted, walk, overshoot)
    return nearest.search_segments(victim, clean, labels, targeted, _SEARCH)


def _alternate(
    victim: Victim, at: _Search, nearest: Nearest, norm: str, targeted: bool, walk: int, overshoot: float
) -> None:
    """One round, after which images that are done have left."""
    start, before = at.x, nearest.distance[at.rows]
    end = descend(victim, start, at.labels, at.rows, at.rivals, norm, targeted, walk, overshoot, least=1.0)
    nearest.offer(at.rows, end.x, end.lead, end.broken)
    at.x, at.rivals = end.x, end.rivals
    # Whoever stands still is done: broken from the start, or stuck. DeepFool that needs longer goes on from there.
    gained = nearest.distance[at.rows] < (1 - _GAIN) * before
    stay = (end.x != start).flatten(1).any(1) & (gained | ~end.broken) & ~nearest.near_enough(at.rows)
    at.keep(stay)
    there = end.broken[stay].nonzero().flatten()
    if len(there):
        x, image, rows = at.x[there], at.image[there], at.rows[there]
        _, _, w = victim.gradient(x, at.labels[there], partial(lead, targeted=targeted), rows)
        at.x[there] = nearest_on_hyperplane(image, w, (w * (x - image)).flatten(1).sum(1), norm)
