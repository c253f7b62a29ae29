"""Where an image meets the boundary of the linearised network within the box [0, 1].

Attacks that linearise a network at an image x ask for the shortest move r with ``<w, r> = gap`` that stays in the box. Every
number moves against or along its weight by ``t >= 0``, has some ``room`` to its face of the box, and gains ``|w| t``. The
optimum (Croce & Hein, arXiv:1907.02044, equation 4) is

- linf: ``t = min(s, room)``, with one ``s`` for all numbers;
- l2: ``t = min(s |w|, room)``;
- l1: numbers with the largest ``|w|`` use their whole room, one uses a part of it, the others stay.

The gain is piecewise linear in s (for l1 in the room used, largest weights first), with a kink where a number meets its
face. Sorting the kinks tells the piece on which the gain reaches the gap, and with it the solution.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ._ball import DUAL
from ._losses import lead
from ._victim import Victim

_HELD = 2**26  # numbers in the gradients held at once, 256 MB


def nearest_on_hyperplane(x: torch.Tensor, w: torch.Tensor, gap: torch.Tensor, norm: str) -> torch.Tensor:
    """Move images by the shortest way within the box to where ``<w, x' - x> = gap``.

    Args:
        x: Images ``(n, C, H, W)`` in [0, 1].
        w: Normals of the hyperplanes ``(n, C, H, W)``, finite. Numbers without weight stay where they are.
        gap: What the inner product must gain, ``(n,)``; NaN moves nothing.
        norm: "linf", "l2" or "l1": what is shortest.

    Returns:
        ``(n, C, H, W)`` in [0, 1]. Where the hyperplane misses the box, the face of the box nearest to it: every number
        with a weight has gone as far as it can.
    """
    flat, gap = x.flatten(1), gap.to(x).nan_to_num(0, torch.inf, -torch.inf).unsqueeze(1)
    w = w.flatten(1) * gap.sign()
    size, gap = w.abs(), gap.abs()
    # Only the ratio of gap and w counts. Without its scale, no square of a tiny gradient underflows.
    scale = size.amax(1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1)
    size, gap = size / scale, gap / scale
    room = torch.where(w > 0, 1 - flat, flat) * (size > 0)
    moved = _largest_first(size, room, gap) if norm == "l1" else _together(size, room, gap, norm)
    return (flat + moved * w.sign()).clamp(0, 1).view_as(x)


def _together(w: torch.Tensor, room: torch.Tensor, gap: torch.Tensor, norm: str) -> torch.Tensor:
    """Moves ``min(s pace, room)`` that gain ``gap``: ``w, room`` ``(n, D)`` at least 0, ``gap`` ``(n, 1)``."""
    pace = (w > 0).to(w) if norm == "linf" else w
    meets = torch.where(room > 0, room / pace, 0)
    kinks, order = meets.sort(1)
    most, slope = w * room, w * pace
    # At each kink: what those gain that have met their faces, and those still on their way.
    slopes = slope.gather(1, order)
    gains = most.gather(1, order).cumsum(1) + kinks * (slopes.sum(1, keepdim=True) - slopes.cumsum(1))
    place = (gains < gap).sum(1, keepdim=True)
    # Running sums round. Sums over the two groups, taken afresh, do so less.
    stopped = meets < kinks.gather(1, place.clamp(max=w.shape[1] - 1))
    rest = (slope * ~stopped).sum(1, keepdim=True)
    s = ((gap - (most * stopped).sum(1, keepdim=True)) / torch.where(rest > 0, rest, 1)).clamp(min=0)
    return torch.where(place < w.shape[1], torch.minimum(s * pace, room), room)


def _largest_first(w: torch.Tensor, room: torch.Tensor, gap: torch.Tensor) -> torch.Tensor:
    """Moves of the least sum that gain ``gap``; shapes as in :func:`_together`."""
    weights, order = w.sort(1, descending=True)
    room = room.gather(1, order)
    most = weights * room
    missing = gap - (most.cumsum(1) - most)
    moved = torch.minimum((missing / torch.where(weights > 0, weights, 1)).clamp(min=0), room)
    return torch.zeros_like(w).scatter(1, order, moved)


class Boundary(NamedTuple):
    """The nearest of m linearised boundaries ``f + <w, r> = 0`` of ``n`` images.

    Attributes:
        rivals: the classes beyond the boundaries, ``(n, m)``.
        away: distances of all m, were there no box, ``(n, m)``; infinite without gradient or where f is not finite.
        lengths: dual norms of all m gradients.
        value: f of the nearest, ``(n,)``: negative on the side of the label.
        normal: w of the nearest, ``(n, C, H, W)``.
    """

    rivals: torch.Tensor
    away: torch.Tensor
    lengths: torch.Tensor
    value: torch.Tensor
    normal: torch.Tensor

    def closest(self, count: int) -> torch.Tensor:
        """The ``count`` rivals with the nearest boundaries, ``(n, count)``."""
        return self.rivals.gather(1, self.away.topk(count, dim=1, largest=False).indices)


def nearest_boundary(
    victim: Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    rivals: torch.Tensor,
    rows: torch.Tensor,
    norm: str,
    targeted: bool,
) -> Boundary:
    """Linearise ``z_k - z_y`` at ``x`` for rivals k, ``(n, m)``: one backward for each.

    When ``targeted``, linearise the lead of the target over the strongest other class (m = 1), whatever the rivals.
    """

    def leads(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        if targeted:
            return lead(logits, classes[:, 0], targeted).unsqueeze(1)
        return logits.gather(1, classes[:, 1:]) - logits.gather(1, classes[:, :1])

    # All m gradients of an image are held at once: of few images, if they are large.
    size = max(1, _HELD // (x[0].numel() * rivals.shape[1]))
    pieces = [torch.split(tensor, size) for tensor in (x, torch.column_stack([labels, rivals]), rows)]
    parts = []
    for at, classes, those in zip(*pieces, strict=True):
        _, values, normals = victim.gradients(at, classes, leads, those)
        lengths = torch.linalg.vector_norm(normals.flatten(2), DUAL[norm], dim=2)
        away = torch.where(lengths > 0, values.abs() / lengths, torch.inf).nan_to_num(torch.inf, torch.inf)
        every, nearest = torch.arange(len(at), device=x.device), away.argmin(1)
        parts.append((away, lengths, values[every, nearest], normals[every, nearest]))
    return Boundary(rivals, *(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
