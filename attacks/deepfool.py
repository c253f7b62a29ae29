"""DeepFool: Moosavi-Dezfooli et al., "DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks", arXiv:1511.04599.

With ``f_k = z_k - z_y`` and its gradient ``w_k``, step a little beyond the nearest linearised boundary until the class
changes (q is the dual of the norm p):

    l = argmin_k |f_k| / |w_k|_q,    x <- x + r,    r = argmin {|r|_p: <w_l, r> = (1 + eta) |f_l|},

which is ``(1 + eta) |f_l| / |w_l|_2^2 w_l`` in l2 and ``(1 + eta) |f_l| / |w_l|_1 sign(w_l)`` in linf. The paper applies the
overshoot eta to the sum of all steps, and linearises there: the same thing. Without ``boxed`` that is all, and the result
may leave the box: the form for the mean relative length rho_2 and for DeepDefense.

``boxed`` keeps to the box [0, 1]. Clipping a step loses a part of what it should gain, and the next steps, with fresh
gradients, make up for it: on a linear network they lead to the projection onto the boundary within the box. Where
clipping would lose more than half, the step is that projection at once. (Projecting every time needs fewer steps, but
long blind ones: on trained networks the median distance grows by 1 to 3 %.)

Lazy: classes that are nearest at the image nearly always stay so. After the first step only two of them are followed,
and in the first, the gradients of classes that are surely far are not asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from ._ball import DUAL
from ._hyperplane import Boundary, nearest_boundary, nearest_on_hyperplane
from ._losses import is_broken, lead, likeliest_others
from ._victim import Victim
from .errors import AttackError

_FOLLOWED = 2  # classes after the first step: following all of them changes no median (benchmarks/minimal.py)
_FIRST, _LONGER = 4, 1.25  # at the image itself: see _survey
_HALF = 0.5  # of what a step should gain must be left by clipping

# Each step goes this much further, in the norm: close to the boundary the overshoot would drown in rounding.
_TINY = 1e-5


def deepfool(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor | None = None,
    *,
    norm: str = "l2",
    targeted: bool = False,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
    boxed: bool = True,
) -> torch.Tensor:
    """Step onto the nearest linearised boundary until the class changes.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Changes nothing: an image leaves the search with its first adversarial, however near.
        norm: "l2" or "linf".
        targeted: Whether ``labels`` are to be reached. Then the boundary to cross is the one between the target and
            whichever other class is the strongest by then.
        steps: Most steps per image.
        overshoot: eta, the share of its length by which a step goes beyond the boundary.
        candidates: Consider only the most likely classes at the image, this many with the label. Not when ``targeted``.
        boxed: Keep to the box [0, 1]; else the result may lie outside.

    Returns:
        Adversarials ``(N, C, H, W)``; the clean image where none was found. At most ``2 * steps + 2`` forwards each, and
        ``candidates + 2 * steps - 3`` backwards, or ``steps`` when ``targeted``.

    Raises:
        AttackError: steps, overshoot or candidates make no sense.
    """
    check(steps, overshoot, candidates)
    victim = Victim.of(model, x)
    rows = torch.arange(len(x), device=x.device)
    least = _HALF if boxed else None
    walk = descend(victim, x, labels, rows, candidates - 1, norm, targeted, steps, overshoot, least)
    return torch.where(walk.broken.view(-1, 1, 1, 1), walk.x, x)


class Walk(NamedTuple):
    """How far :func:`descend` took ``n`` images.

    Attributes:
        x: where they are, ``(n, C, H, W)``.
        lead: :func:`attacks._losses.lead` there, ``(n,)``.
        broken: bool ``(n,)``.
        rivals: the classes followed, ``(n, m)``.
    """

    x: torch.Tensor
    lead: torch.Tensor
    broken: torch.Tensor
    rivals: torch.Tensor


def descend(
    victim: Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    rows: torch.Tensor,
    rivals: torch.Tensor | int,
    norm: str,
    targeted: bool,
    steps: int,
    overshoot: float,
    least: float | None,
) -> Walk:
    """Step images ``(n, C, H, W)``, which are ``rows`` of the victim, until each is broken or cannot move.

    ``rivals`` are the classes to make for, ``(n, m)``, or how many of the likeliest; unused when ``targeted``. ``least`` is
    the share of what a step should gain that clipping must leave it; ``None`` lifts the box.
    """
    logits = victim.logits(x, rows)
    rivals = likeliest_others(logits, labels, rivals) if isinstance(rivals, int) else rivals
    leads, broken = lead(logits, labels, targeted), is_broken(logits, labels, targeted)
    walk = Walk(x.clone(), leads, broken, rivals[:, :_FOLLOWED].clone())
    place = (~walk.broken).nonzero().flatten()
    for step in range(steps if len(place) else 0):
        at, y, those = walk.x[place], labels[place], rows[place]
        if step or targeted or rivals.shape[1] <= _FOLLOWED:
            boundary = nearest_boundary(victim, at, y, walk.rivals[place], those, norm, targeted)
        else:
            boundary = _survey(victim, at, y, rivals[place], those, norm, logits[place])
            walk.rivals[place] = boundary.closest(_FOLLOWED)
        moved = _step(at, boundary, norm, overshoot, least)
        going = (moved != at).flatten(1).any(1)
        place, moved = place[going], moved[going]
        if len(place) == 0:
            break
        logits = victim.logits(moved, rows[place])
        walk.x[place], walk.lead[place] = moved, lead(logits, y[going], targeted)
        walk.broken[place] = is_broken(logits, y[going], targeted)
        place = place[~walk.broken[place]]
        if len(place) == 0:
            break
    return walk


def _survey(
    victim: Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    rivals: torch.Tensor,
    rows: torch.Tensor,
    norm: str,
    logits: torch.Tensor,
) -> Boundary:
    """:func:`nearest_boundary` of all ``rivals``, likeliest first, without asking about those that are surely far.

    Their ``f_k`` are known, and gradients of different classes are about equally long: after a few of them, only a class
    that a gradient a quarter longer than all of these would make the nearest is worth asking about.
    """
    first = nearest_boundary(victim, x, labels, rivals[:, :_FIRST], rows, norm, False)
    rest = rivals[:, _FIRST:]
    gaps = logits.gather(1, labels.unsqueeze(1)) - logits.gather(1, rest)
    near = gaps < _LONGER * first.lengths.amax(1, keepdim=True) * first.away.amin(1, keepdim=True)
    ask = near.any(1).nonzero().flatten()
    away = torch.cat([first.away, torch.full_like(rest, torch.inf, dtype=first.away.dtype)], 1)
    lengths = torch.cat([first.lengths, torch.zeros_like(rest, dtype=first.lengths.dtype)], 1)
    value, normal = first.value.clone(), first.normal.clone()
    if len(ask):
        second = nearest_boundary(victim, x[ask], labels[ask], rest[ask], rows[ask], norm, False)
        away[ask, _FIRST:], lengths[ask, _FIRST:] = second.away, second.lengths
        nearer = second.away.amin(1) < first.away[ask].amin(1)
        value[ask[nearer]], normal[ask[nearer]] = second.value[nearer], second.normal[nearer]
    return Boundary(rivals, away, lengths, value, normal)


def _step(x: torch.Tensor, boundary: Boundary, norm: str, overshoot: float, least: float | None) -> torch.Tensor:
    """Images a step further; unchanged where there is no boundary."""
    w = boundary.normal
    size = torch.linalg.vector_norm(w.flatten(1), DUAL[norm], dim=1)
    reach = (1 + overshoot) * boundary.away.amin(1).to(x) + _TINY
    reach = torch.where(reach.isfinite(), reach, 0)
    direction = w.sign() if norm == "linf" else w / torch.where(size > 0, size, 1).view(-1, 1, 1, 1)
    moved = x + reach.view(-1, 1, 1, 1) * direction
    if least is None:
        return moved
    moved = moved.clamp(0, 1)
    gap = reach * size
    short = (((moved - x) * w).flatten(1).sum(1) < least * gap).nonzero().flatten()
    if len(short):
        moved[short] = nearest_on_hyperplane(x[short], w[short], gap[short], norm)
    return moved


def check(steps: int, overshoot: float, candidates: int) -> None:
    """Refuse options that make no sense."""
    if steps < 1:
        raise AttackError("DeepFool needs at least one step", steps, "Pass steps=50, say.")
    if not 0 <= overshoot < float("inf"):
        raise AttackError("DeepFool's overshoot must not be negative", overshoot, "Leave it out for 0.02.")
    if candidates < 2:
        raise AttackError("DeepFool needs the label and one other candidate", candidates, "Pass candidates=10, say.")
