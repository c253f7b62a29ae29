"""FAB: Croce, Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack", arXiv:1907.02044.

At x_i, take the nearest linearised boundary (``|f_l| / |grad f_l|_q`` least, ``f_k = z_k - z_y``). Project both x_i and the
image x_0 onto it, within the box [0, 1], by moves d_1 and d_0; step a little beyond, and somewhat towards the image:

    alpha = min(|d_1|_p / (|d_1|_p + |d_0|_p), alpha_max),
    x_{i+1} = clip((1 - alpha) (x_i + eta d_1) + alpha (x_0 + eta d_0)).

If that is broken, keep it if it is the nearest so far, and go on from ``x_0 + beta (x_{i+1} - x_0)``. Restarts begin at a
random point within half the distance found so far. At last, three forwards search the segment from the image to what was
found for the boundary.

``fab`` asks for the gradients of all classes at every step. ``fab_t`` (FAB-T, arXiv:2003.01690) makes for one of the
likeliest classes after the other, at one gradient a step. An image within epsilon takes no further part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ._ball import Ball, length
from ._hyperplane import Boundary, nearest_boundary, nearest_on_hyperplane
from ._losses import is_broken, lead, likeliest_others
from ._nearest import Nearest
from ._rows import Rows
from ._victim import Victim
from .errors import AttackError

_SEARCH = 3  # most forwards on the segment


@dataclass
class _Search(Rows):
    rows: torch.Tensor
    labels: torch.Tensor
    rivals: torch.Tensor  # (n, m) classes to make for
    image: torch.Tensor  # x_0
    x: torch.Tensor  # x_i


@dataclass(frozen=True)
class _Settings:
    norm: str
    targeted: bool
    steps: int
    alpha_max: float
    eta: float
    beta: float
    restarts: int


def fab(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor | None = None,
    *,
    norm: str = "linf",
    targeted: bool = False,
    steps: int = 100,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    restarts: int = 1,
) -> torch.Tensor:
    """Track the boundary, always making for the nearest of all classes.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``.
        x: Images ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``; the classes to leave, or to reach when ``targeted``.
        epsilon: Adversarials within this distance, one for all or ``(N,)``, are near enough; ``None``: the nearest.
        norm: "linf", "l2" or "l1".
        targeted: Whether ``labels`` are to be reached. Then the boundary is the one between the target and whichever
            other class is the strongest by then.
        steps: Steps per start.
        alpha_max: Most weight of the image in a step.
        eta: How far beyond the boundary to step, relative to the way there.
        beta: What is left of the perturbation when a step was successful.
        restarts: Starts: the first at the image, the others at random.

    Returns:
        The nearest adversarial found, ``(N, C, H, W)`` in [0, 1]; the clean image where there was none. At most
        ``restarts * 2 * steps + 4`` forwards each, and ``restarts * steps * (K - 1)`` backwards.

    Raises:
        AttackError: an option makes no sense.
    """
    return _fab(model, x, labels, epsilon, _Settings(norm, targeted, steps, alpha_max, eta, beta, restarts), None)


def fab_t(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor | None = None,
    *,
    norm: str = "linf",
    targeted: bool = False,
    steps: int = 100,
    target_classes: int = 9,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    restarts: int = 1,
) -> torch.Tensor:
    """Track the boundary towards one class at a time; otherwise as :func:`fab`.

    Args:
        target_classes: How many classes to make for, likeliest first at the clean image; at most K - 1. Leaving the
            label for any class counts. When ``targeted``, ``labels`` are the only ones.

    Returns:
        As :func:`fab`; at most ``target_classes * restarts * 2 * steps + 4`` forwards and half as many backwards each.
    """
    if target_classes < 1:
        raise AttackError("FAB-T needs at least one target class", target_classes, "Leave it out for 9.")
    return _fab(
        model, x, labels, epsilon, _Settings(norm, targeted, steps, alpha_max, eta, beta, restarts), target_classes
    )


def _fab(
    model: nn.Module | Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor | None,
    settings: _Settings,
    targets: int | None,
) -> torch.Tensor:
    _check(settings)
    victim, nearest = Victim.of(model, x), Nearest(x, epsilon, settings.norm)
    rows = torch.arange(len(x), device=x.device)
    logits = victim.logits(x, rows)
    clean = lead(logits, labels, settings.targeted)
    nearest.offer(rows, x, clean, is_broken(logits, labels, settings.targeted))
    others = likeliest_others(logits, labels, targets or logits.shape[1])
    # One search for all classes at once, or one for each.
    one_by_one = targets is not None and not settings.targeted
    aims = others.T.unsqueeze(2) if one_by_one else others.unsqueeze(0)
    for restart in range(settings.restarts):
        for place, aim in enumerate(aims):
            left = (~nearest.near_enough(rows)).nonzero().flatten()
            if len(left) == 0:
                break
            start = x[left]
            if restart:
                radius = torch.minimum(nearest.distance, _reach(x, epsilon, settings.norm))[left] / 2
                ball = Ball.around(start, radius, settings.norm)
                start = ball.random(victim.seed, victim.keys(left), "fab", place, restart)
            at = _Search(left, labels[left], aim[left], x[left], start)
            _track(victim, at, nearest, settings)
    return nearest.search_segments(victim, clean, labels, settings.targeted, _SEARCH)


def _reach(x: torch.Tensor, epsilon: float | torch.Tensor | None, norm: str) -> torch.Tensor:
    """The largest distance of interest ``(N,)``: epsilon, or that of the farthest corner of the box."""
    if epsilon is None:
        return length(torch.maximum(x, 1 - x), norm)
    return torch.as_tensor(epsilon, device=x.device).expand(len(x))


def _track(victim: Victim, at: _Search, nearest: Nearest, settings: _Settings) -> None:
    """One run; what it finds is offered to ``nearest``."""
    norm, targeted = settings.norm, settings.targeted
    for _ in range(settings.steps):
        boundary = nearest_boundary(victim, at.x, at.labels, at.rivals, at.rows, norm, targeted)
        x = _combine(at, boundary, settings)
        logits = victim.logits(x, at.rows)
        broken = is_broken(logits, at.labels, targeted)
        nearest.offer(at.rows, x, lead(logits, at.labels, targeted), broken)
        at.x = torch.where(broken.view(-1, 1, 1, 1), torch.lerp(at.image, x, settings.beta), x)
        # Without a boundary there is nowhere to go.
        stay = boundary.away.amin(1).isfinite() & ~nearest.near_enough(at.rows)
        if not stay.all():
            at.keep(stay)
            if len(at.rows) == 0:
                return


def _combine(at: _Search, boundary: Boundary, settings: _Settings) -> torch.Tensor:
    """The weighted mean of steps from x_i and from the image, just beyond the boundary linearised at x_i."""
    w, gap = boundary.normal, -boundary.value
    gap_of_image = gap + (w * (at.x - at.image)).flatten(1).sum(1)
    origins = torch.cat([at.x, at.image])
    moves = (
        nearest_on_hyperplane(origins, w.repeat(2, 1, 1, 1), torch.cat([gap, gap_of_image]), settings.norm) - origins
    )
    lengths = length(moves, settings.norm).view(2, -1, 1, 1, 1)
    alpha = (lengths[0] / lengths.sum(0).clamp(min=1e-12)).clamp(max=settings.alpha_max)
    here, image = (origins + settings.eta * moves).chunk(2)
    return torch.lerp(here, image, alpha).clamp(0, 1)


def _check(settings: _Settings) -> None:
    for name in ("steps", "restarts"):
        if getattr(settings, name) < 1:
            raise AttackError(f"FAB needs at least one of {name}", getattr(settings, name), f"Leave {name} out.")
    for name, low, high in (("alpha_max", 0, 1), ("beta", 0, 1), ("eta", 0, float("inf"))):
        if not low <= getattr(settings, name) < high:
            raise AttackError(
                f"FAB's {name} must lie in [{low}, {high})", getattr(settings, name), f"Leave {name} out."
            )
