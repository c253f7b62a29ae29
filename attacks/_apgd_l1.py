"""APGD for l1: Croce, Hein, "Mind the box: l1-APGD for sparse adversarial attacks", arXiv:2103.01208.

Steps go along the signs of the k largest gradient entries, each of length alpha / k, and are projected onto the
intersection of l1 ball and box, exactly. At checkpoints k becomes the number of changes of the best point over 1.5; where
that hardly shrank (by less than 5 %), alpha shrinks by 1.5 (down to epsilon / 10), elsewhere it is epsilon again and the
search returns to its best point.

The first 30 % of the steps climb in the ball of radius 3 epsilon, the next 30 % in that of 2 epsilon, the rest in the
ball itself, each from the projection of the best point so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ._ball import Ball, distance, within
from ._best import Best
from ._rows import Rows

if TYPE_CHECKING:
    from ._victim import Loss, Victim

_WIDER = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # multiples of epsilon, and their shares of the steps
_SPARSITY = 0.2  # k at the start, as a share of all numbers
_SHRINK = 1.5
_SMALLEST = 0.1  # alpha / epsilon
_INTERVAL = 0.04  # of the steps, between checkpoints


@dataclass
class _Climber(Rows):
    rows: torch.Tensor
    classes: torch.Tensor
    ball: Ball
    goal: Ball  # the ball asked for; an attempt outside counts for nothing
    x: torch.Tensor
    k: torch.Tensor  # (n,), entries that move
    alpha: torch.Tensor  # (n, 1, 1, 1)
    top: torch.Tensor
    top_loss: torch.Tensor
    top_gradient: torch.Tensor
    changes: torch.Tensor  # (n,), of the best point at the last checkpoint


def climb_l1(
    victim: Victim,
    ball: Ball,
    rows: torch.Tensor,
    classes: torch.Tensor,
    loss: Loss,
    broken: Loss,
    best: Best,
    start: torch.Tensor,
    steps: int,
) -> None:
    """One run from ``start``; arguments as in :func:`attacks.apgd._climb`."""
    size = start[0].numel()
    for multiple, share in _WIDER:
        wide = Ball(ball.centre, ball.epsilon * multiple, "l1")
        none = torch.full((len(rows),), -torch.inf, device=start.device)
        at = _Climber(
            rows=rows,
            classes=classes,
            ball=wide,
            goal=ball,
            x=wide.project(start),
            k=torch.full_like(none, max(_SPARSITY * size, 1)),
            alpha=wide.epsilon,
            top=start,
            top_loss=none,
            top_gradient=torch.zeros_like(start),
            changes=torch.full_like(none, size),
        )
        _climb_one(victim, at, loss, broken, best, max(round(share * steps), 1), inside=multiple == 1)
        if len(at.rows) == 0:
            return
        rows, classes, ball, start = at.rows, at.classes, at.goal, at.top


def _climb_one(victim: Victim, at: _Climber, loss: Loss, broken: Loss, best: Best, steps: int, inside: bool) -> None:
    interval = max(int(_INTERVAL * steps), 1)
    for step in range(steps):
        logits, values, gradient = victim.gradient(at.x, at.classes, loss, at.rows)
        better = values > at.top_loss
        where = better.view(-1, 1, 1, 1)
        at.top, at.top_loss = torch.where(where, at.x, at.top), torch.where(better, values, at.top_loss)
        at.top_gradient = torch.where(where, gradient, at.top_gradient)
        hit = broken(logits, at.classes)
        if inside:
            best.offer(at.rows, at.x, values, hit)
        # In a wider ball a broken image may still lie within the budget.
        hit &= within(distance(at.x, at.goal.centre, "l1"), at.goal.epsilon.flatten())
        if not inside and hit.any():
            best.offer(at.rows[hit], at.x[hit], values[hit], hit[hit])
        stay = ~hit & gradient.flatten(1).any(1) if step == 0 else ~hit
        if not stay.all():
            at.keep(stay)
            gradient = gradient[stay]
            if len(at.rows) == 0:
                return
        if step and step % interval == 0:
            gradient = _check_progress(at, gradient)
        at.x = at.ball.project(at.x + at.alpha * _sparse_sign(gradient, at.k))
    if inside:
        logits = victim.logits(at.x, at.rows)
        best.offer(at.rows, at.x, loss(logits, at.classes), broken(logits, at.classes))


def _check_progress(at: _Climber, gradient: torch.Tensor) -> torch.Tensor:
    changes = distance(at.top, at.goal.centre, "l0").clamp(min=1)
    sparser = (changes < 0.95 * at.changes).view(-1, 1, 1, 1)
    at.k, at.changes = (changes / _SHRINK).clamp(min=1), changes
    smaller = torch.maximum(at.alpha / _SHRINK, _SMALLEST * at.ball.epsilon)
    at.alpha = torch.where(sparser, at.ball.epsilon, smaller)
    at.x = torch.where(sparser, at.top, at.x)
    return torch.where(sparser, at.top_gradient, gradient)


def _sparse_sign(gradient: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Signs of the ``k`` ``(n,)`` largest entries over their number: length 1 in l1."""
    flat = gradient.flatten(1)
    size = flat.abs()
    place = k.long().clamp(1, size.shape[1]).unsqueeze(1) - 1
    least = size.sort(1, descending=True).values.gather(1, place)
    signs = torch.where(size >= least, flat.sign(), 0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)
