"""APGD: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of...", arXiv:2003.01690, section 3.

Projected gradient ascent with momentum that sets its own step. With d the steepest direction of the norm, eta the step of
this image and P the projection onto ball and box,

    z  = P(x_k + eta d),        x_{k+1} = P(x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1})),        a = 0.75.

eta starts at 2 epsilon. At checkpoints, which come ever closer together, it is halved and the search returns to its best
point where fewer than a share rho of the steps since the last one raised the loss, or neither eta nor the best loss
changed since. An image that is broken leaves at once.

``apgd`` climbs the log-odds (cross-entropy's way without its saturation), ``apgd_dlr`` the difference of logits ratio,
``apgd_t`` one targeted ratio after the other. The form for l1 is in ``_apgd_l1.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ._apgd_l1 import climb_l1
from ._ball import Ball
from ._best import Best
from ._losses import dlr, dlr_targeted, is_broken, likeliest_others, log_odds
from ._rows import Rows
from ._victim import Victim
from .errors import AttackError

if TYPE_CHECKING:
    from ._victim import Loss

_MOMENTUM = 0.25  # 1 - a


def apgd(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
    *,
    norm: str = "linf",
    targeted: bool = False,
    steps: int = 100,
    restarts: int = 1,
    rho: float = 0.75,
) -> torch.Tensor:
    """Climb the log-odds against the label, or for the target.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Radius, one for all or ``(N,)``.
        norm: "linf", "l2" or "l1".
        targeted: Whether ``labels`` are to be reached.
        steps: Gradient steps per restart.
        restarts: Random starts; images that are still standing take part in the next.
        rho: Share of steps that must raise the loss for the step size to stay.

    Returns:
        The best attempt per image ``(N, C, H, W)``: broken if any attempt was, then of the highest loss. At most
        ``restarts * (steps + 1)`` forwards and ``restarts * steps`` backwards each.

    Raises:
        AttackError: steps, restarts or rho make no sense.
    """
    return _restarted(model, x, labels, epsilon, norm, targeted, log_odds, "apgd", steps, restarts, rho)


def apgd_dlr(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
    *,
    norm: str = "linf",
    targeted: bool = False,
    steps: int = 100,
    restarts: int = 1,
    rho: float = 0.75,
) -> torch.Tensor:
    """Climb the difference of logits ratio, which no rescaling of the logits can flatten; otherwise as :func:`apgd`."""
    return _restarted(model, x, labels, epsilon, norm, targeted, dlr, "apgd-dlr", steps, restarts, rho)


def apgd_t(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
    *,
    norm: str = "linf",
    targeted: bool = False,
    steps: int = 100,
    target_classes: int = 9,
    finalists: int = 0,
    scouting: int = 25,
    restarts: int = 1,
    rho: float = 0.75,
) -> torch.Tensor:
    """Climb the targeted ratio towards each of the likeliest other classes in turn, until the label is left.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave.
        epsilon: Radius, one for all or ``(N,)``.
        norm: "linf", "l2" or "l1".
        targeted: Must be false: the targets are chosen here.
        steps: Gradient steps per target.
        target_classes: How many classes to try, at most K - 1, likeliest first at the clean image.
        finalists: If positive, all targets get a short run first, and only so many, where it came nearest, a full one.
        scouting: Gradient steps of a short run.
        restarts: Random starts per target.
        rho: Share of steps that must raise the loss for the step size to stay.

    Returns:
        As :func:`apgd`, with ``1 + target_classes * restarts * (steps + 1)`` forwards at most; with finalists
        ``1 + target_classes * (scouting + 1) + finalists * restarts * (steps + 1)``.

    Raises:
        AttackError: an option makes no sense.
    """
    _check(steps=steps, restarts=restarts, target_classes=target_classes, scouting=scouting, rho=rho)
    if finalists < 0:
        raise AttackError("The number of finalists cannot be negative", finalists, "0 gives every target a full run.")
    if targeted:
        raise AttackError("APGD-T chooses its targets itself", None, "For a target of your own use 'apgd'.")
    victim = Victim.of(model, x)
    everywhere, best = Ball.around(x, epsilon, norm), Best(x)
    rows = torch.arange(len(x), device=x.device)
    classes = likeliest_others(victim.logits(x, rows), labels, target_classes)

    def run(place: int, into: Best, length: int, *stream: object) -> None:
        rows = (~best.broken).nonzero().flatten()
        pairs = torch.stack([labels[rows], classes[rows, place]], 1)
        _climb(victim, everywhere[rows], rows, pairs, dlr_targeted, _left, into, ("apgd-t", *stream), length, rho)

    if 0 < finalists < classes.shape[1]:
        nearness = torch.full(classes.shape, -torch.inf, device=x.device)
        for place in range(classes.shape[1]):
            scout = Best(x)
            run(place, scout, scouting, "scouting", place)
            nearness[:, place] = scout.loss
            best.offer(rows, scout.images, scout.loss, scout.broken)
        classes = classes.gather(1, nearness.topk(finalists, dim=1).indices)
    for restart in range(restarts):
        for place in range(classes.shape[1]):
            run(place, best, steps, place, restart)
    return best.images


def _left(logits: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    return is_broken(logits, pairs[:, 0], targeted=False)


def _restarted(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
    norm: str,
    targeted: bool,
    loss: Loss,
    name: str,
    steps: int,
    restarts: int,
    rho: float,
) -> torch.Tensor:
    _check(steps=steps, restarts=restarts, rho=rho)
    victim = Victim.of(model, x)
    everywhere, best = Ball.around(x, epsilon, norm), Best(x)
    sign = -1 if targeted else 1

    def climbed(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return sign * loss(logits, classes)

    def broken(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return is_broken(logits, classes, targeted)

    for restart in range(restarts):
        rows = (~best.broken).nonzero().flatten()
        _climb(victim, everywhere[rows], rows, labels[rows], climbed, broken, best, (name, restart), steps, rho)
    return best.images


@dataclass
class _Climber(Rows):
    """Where each image's search is; ``n`` images."""

    rows: torch.Tensor
    classes: torch.Tensor
    ball: Ball
    x: torch.Tensor
    before: torch.Tensor  # x_{k-1}
    eta: torch.Tensor  # (n, 1, 1, 1)
    loss: torch.Tensor  # (n,) at the last point
    rises: torch.Tensor  # (n,) steps since the last checkpoint that raised the loss
    top: torch.Tensor  # best point of this run
    top_loss: torch.Tensor
    top_gradient: torch.Tensor
    checked_loss: torch.Tensor  # best loss at the last checkpoint
    halved: torch.Tensor  # whether eta was halved there


def _climb(
    victim: Victim,
    ball: Ball,
    rows: torch.Tensor,
    classes: torch.Tensor,
    loss: Loss,
    broken: Loss,
    best: Best,
    stream: tuple[object, ...],
    steps: int,
    rho: float,
) -> None:
    """One run from a random start; what it sees is offered to ``best``. ``loss`` and ``broken`` get the ``classes``."""
    if len(rows) == 0:
        return
    start = ball.random(victim.seed, victim.keys(rows), *stream)
    if ball.norm == "l1":
        climb_l1(victim, ball, rows, classes, loss, broken, best, start, steps)
        return
    none = torch.full((len(rows),), -torch.inf, device=start.device)
    at = _Climber(
        rows=rows,
        classes=classes,
        ball=ball,
        x=start,
        before=start,
        eta=2 * ball.epsilon,
        loss=none,
        rises=torch.zeros_like(rows),
        top=start,
        top_loss=none,
        top_gradient=torch.zeros_like(start),
        checked_loss=none,
        halved=torch.ones_like(rows, dtype=torch.bool),
    )
    checkpoints = _checkpoints(steps)
    for step in range(steps):
        logits, values, gradient = victim.gradient(at.x, at.classes, loss, at.rows)
        hit = broken(logits, at.classes)
        best.offer(at.rows, at.x, values, hit)
        _note(at, values, gradient)
        # Without a gradient at its start, a search has nowhere to go.
        stay = ~hit & gradient.flatten(1).any(1) if step == 0 else ~hit
        if not stay.all():
            at.keep(stay)
            gradient = gradient[stay]
            if len(at.rows) == 0:
                return
        if step in checkpoints:
            gradient = _check_progress(at, gradient, checkpoints[step], rho)
        _move(at, gradient, first=step == 0)
    logits = victim.logits(at.x, at.rows)
    best.offer(at.rows, at.x, loss(logits, at.classes), broken(logits, at.classes))


def _move(at: _Climber, gradient: torch.Tensor, first: bool) -> None:
    z = at.ball.project(at.x + at.eta * at.ball.steepest(gradient))
    if not first:
        z = at.ball.project(torch.lerp(z, 2 * at.x - at.before, _MOMENTUM))
    at.before, at.x = at.x, z


def _note(at: _Climber, values: torch.Tensor, gradient: torch.Tensor) -> None:
    """Count rises, and keep the best point."""
    at.rises = at.rises + (values > at.loss)
    at.loss = values
    better = values > at.top_loss
    where = better.view(-1, 1, 1, 1)
    at.top = torch.where(where, at.x, at.top)
    at.top_gradient = torch.where(where, gradient, at.top_gradient)
    at.top_loss = torch.where(better, values, at.top_loss)


def _check_progress(at: _Climber, gradient: torch.Tensor, interval: int, rho: float) -> torch.Tensor:
    """Halve eta where the search does not get on, and return to the best point there; return the gradient to follow."""
    halve = (at.rises <= rho * interval) | (~at.halved & (at.top_loss <= at.checked_loss))
    where = halve.view(-1, 1, 1, 1)
    at.eta = torch.where(where, at.eta / 2, at.eta)
    at.x, at.before = torch.where(where, at.top, at.x), torch.where(where, at.top, at.before)
    at.rises, at.halved, at.checked_loss = torch.zeros_like(at.rises), halve, at.top_loss
    return torch.where(where, at.top_gradient, gradient)


def _checkpoints(steps: int) -> dict[int, int]:
    """Steps at which to check, with the steps since the check before: 22 % of all, then 3 % fewer each, at least 6 %."""
    interval, least = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1)
    shorter, at, found = max(int(0.03 * steps), 1), 0, {}
    while (at := at + interval) < steps:
        found[at] = interval
        interval = max(interval - shorter, least)
    return found


def _check(rho: float, **counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise AttackError(f"APGD needs at least one of {name}", value, f"Leave {name} out for the default.")
    if not 0 < rho < 1:
        raise AttackError("APGD's rho is a share between 0 and 1", rho, "Leave it out for 0.75.")
