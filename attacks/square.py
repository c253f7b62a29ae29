"""Square: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack", arXiv:1912.00049.

Random search that sees logits only. Every query repaints one square of the perturbation and keeps it where the loss does
not fall; the squares shrink on a schedule (a share p of the pixels, halved ever more rarely).

linf (algorithms 1 and 2): start from vertical stripes of ±epsilon; a square gets ±epsilon, one sign per channel.
l2 (algorithm 3): start from tiles of a pattern with two poles; a square W1 gets that pattern on top of what it holds,
scaled to the length freed by emptying a square W2 and by what the box had cut off, so that the budget is spent again.

Every image draws its own squares and signs, at every position including the last row and column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from . import _random
from ._ball import Ball
from ._best import Best
from ._losses import is_broken, margin
from ._rows import Rows
from ._victim import Victim
from .errors import AttackError

# Of 10,000 queries, where p is halved (section 3.1).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_CHUNK = 200  # queries whose random numbers are drawn at once


@dataclass
class _Search(Rows):
    rows: torch.Tensor
    labels: torch.Tensor
    ball: Ball
    x: torch.Tensor  # best attempt, which is also the best of this run
    loss: torch.Tensor
    draws: torch.Tensor  # (n, queries of a chunk, numbers per query) in [0, 1)


def square(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
    *,
    norm: str = "linf",
    targeted: bool = False,
    queries: int = 5000,
    p: float = 0.8,
) -> torch.Tensor:
    """Search without gradients.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Radius, one for all or ``(N,)``.
        norm: "linf" or "l2".
        targeted: Whether ``labels`` are to be reached.
        queries: Most forward passes per image; an image leaves once broken.
        p: Share of the pixels in the first square.

    Returns:
        The best attempt per image ``(N, C, H, W)``. At most ``queries`` forwards each, no backward.

    Raises:
        AttackError: queries or p make no sense.
    """
    if queries < 1:
        raise AttackError("Square needs at least one query", queries, "Pass queries=5000, say.")
    if not 0 < p <= 1:
        raise AttackError("Square's p is a share of the pixels", p, "Leave it out for 0.8.")
    victim = Victim.of(model, x)
    rows, sign = torch.arange(len(x), device=x.device), -1 if targeted else 1
    ball, best = Ball.around(x, epsilon, norm), Best(x)
    start = (_stripes if norm == "linf" else _tiles)(victim, ball, rows)
    at = _Search(
        rows, labels, ball, start, torch.full((len(x),), -torch.inf, device=x.device), _draw(victim, x, rows, 0)
    )
    attempt = at.x
    for query in range(queries):
        logits = victim.logits(attempt, at.rows)
        loss, hit = sign * margin(logits, at.labels), is_broken(logits, at.labels, targeted)
        best.offer(at.rows, attempt, loss, hit)
        better = (loss >= at.loss).view(-1, 1, 1, 1)
        at.x, at.loss = torch.where(better, attempt, at.x), torch.maximum(loss.nan_to_num(-torch.inf), at.loss)
        if hit.any():
            at.keep(~hit)
            if len(at.rows) == 0:
                break
        place = query % _CHUNK
        if place == 0 and query:
            at.draws = _draw(victim, at.x, at.rows, query // _CHUNK)
        side = _side(p, query, at.x)
        attempt = (_repaint_linf if norm == "linf" else _repaint_l2)(at, side, at.draws[:, place])
    return best.images


def _draw(victim: Victim, x: torch.Tensor, rows: torch.Tensor, chunk: int) -> torch.Tensor:
    shape = (_CHUNK, 5 + x.shape[1])
    return _random.uniform(victim.seed, victim.keys(rows), shape, "square", chunk).to(x.device)


def _side(p: float, query: int, x: torch.Tensor) -> int:
    halvings = sum(query > at for at in _HALVINGS)
    return max(1, round(math.sqrt(p * 0.5**halvings * x.shape[2] * x.shape[3])))


def _signs(draws: torch.Tensor) -> torch.Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0)


def _stripes(victim: Victim, ball: Ball, rows: torch.Tensor) -> torch.Tensor:
    _, channels, _, width = ball.centre.shape
    draws = _random.uniform(victim.seed, victim.keys(rows), (channels, 1, width), "square", "stripes")
    return ball.project(ball.centre + ball.epsilon * _signs(draws).to(ball.centre))


def _corners(draws: torch.Tensor, height: int, width: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Top and left ``(n,)`` of one window per image from draws ``(n, 2)``, uniform over all places where it fits."""
    room = torch.tensor([x.shape[2] - height + 1, x.shape[3] - width + 1], device=x.device)
    top, left = (draws * room).long().minimum(room - 1).unbind(1)
    return top, left


def _repaint_linf(at: _Search, side: int, draws: torch.Tensor) -> torch.Tensor:
    """Set one window of ``x`` to the clean image ± epsilon, clipped to the box."""
    height, width = min(side, at.x.shape[2]), min(side, at.x.shape[3])
    inside = _inside(*_corners(draws[:, :2], height, width, at.x), height, width, at.x)
    painted = at.ball.centre + at.ball.epsilon * _signs(draws[:, 5:])[:, :, None, None]
    return torch.where(inside, painted.clamp(0, 1), at.x)


def _inside(top: torch.Tensor, left: torch.Tensor, height: int, width: int, x: torch.Tensor) -> torch.Tensor:
    """Bool ``(n, 1, H, W)``: the pixels of each image's window."""
    row, column = (torch.arange(size, device=x.device) for size in x.shape[2:])
    down = (row >= top[:, None]) & (row < top[:, None] + height)
    across = (column >= left[:, None]) & (column < left[:, None] + width)
    return down[:, None, :, None] & across[:, None, None, :]


def _tiles(victim: Victim, ball: Ball, rows: torch.Tensor) -> torch.Tensor:
    _, channels, height, width = ball.centre.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    draws = _random.uniform(victim.seed, victim.keys(rows), (channels, down, across), "square", "tiles")
    signs = _signs(draws).to(ball.centre).repeat_interleave(side, 2).repeat_interleave(side, 3)
    delta = torch.zeros_like(ball.centre)
    delta[:, :, : down * side, : across * side] = signs * _poles(side, ball.centre).tile(down, across)
    return _spend(ball, delta)


def _spend(ball: Ball, delta: torch.Tensor) -> torch.Tensor:
    """Scale to length epsilon, then clip to the box."""
    length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp(min=1e-12)
    return ball.project(ball.centre + delta * (ball.epsilon / length))


def _repaint_l2(at: _Search, side: int, draws: torch.Tensor) -> torch.Tensor:
    """Empty W2, and put what it frees into W1, along the pattern and what W1 held (algorithm 3, lines 4 to 11)."""
    channels, height, width = at.x.shape[1:]
    side = min(side + 1 - side % 2, height, width)
    delta = at.x - at.ball.centre
    first = _inside(*_corners(draws[:, :2], side, side, at.x), side, side, at.x)
    second = _inside(*_corners(draws[:, 2:4], side, side, at.x), side, side, at.x)
    pattern = _poles(side, at.x)
    turned = torch.where((draws[:, 4] < 0.5)[:, None, None], pattern, pattern.T)
    target = turned[:, None] * _signs(draws[:, 5:])[:, :, None, None]
    # The pattern moves to its window: first holds side² pixels per image, in reading order.
    placed = torch.zeros_like(delta).masked_scatter(first.expand_as(delta), target.to(delta))
    held = delta * first
    mixed = placed + held / _norm(held)
    unused = (at.ball.epsilon**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0)
    freed = (delta * (first | second)).square().sum((2, 3), keepdim=True)
    mixed = mixed / _norm(mixed) * (freed + unused / channels).sqrt()
    return _spend(at.ball, torch.where(first, mixed, torch.where(second, 0, delta)))


def _norm(delta: torch.Tensor) -> torch.Tensor:
    """Euclidean length per image and channel ``(n, C, 1, 1)``."""
    return delta.square().sum((2, 3), keepdim=True).sqrt().clamp(min=1e-12)


def _poles(side: int, like: torch.Tensor) -> torch.Tensor:
    """The pattern eta ``(side, side)`` of length 1: concentric rectangles of one sign above, of the other below."""
    upper = side // 2
    parts = [_rectangles(upper, side, like), -_rectangles(side - upper, side, like)]
    pattern = torch.cat([part / part.norm().clamp(min=1e-12) for part in parts])
    return pattern / pattern.norm()


def _rectangles(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Sum over k of 1 / k² on the rectangles that lie less than k from the middle (equation 2)."""
    row = (torch.arange(height, device=like.device) - height // 2).abs()
    column = (torch.arange(width, device=like.device) - width // 2).abs()
    far = torch.maximum(row[:, None], column[None, :])
    weights = 1 / torch.arange(1, max(height, width, 1) + 1, device=like.device, dtype=like.dtype).square()
    # A pixel at distance d lies on the rectangles k = d + 1, d + 2, ...
    return weights.flip(0).cumsum(0).flip(0)[far.clamp(max=len(weights) - 1)]
