"""The nearest adversarial so far of each image, and the boundary of the network on the segment that leads to it."""

from __future__ import annotations

import torch

from ._ball import distance
from ._losses import is_broken, lead
from ._victim import Victim

_PRECISION = 1e-3  # relative, of the last search on the segment from a clean image


class Nearest:
    """The nearest adversarial so far of each of N images, and which of them are near enough.

    Args:
        x: Clean images ``(N, C, H, W)``.
        epsilon: What is near enough, one for all or ``(N,)``; ``None``: only the image itself.
        norm: Norm of the distances.

    Attributes:
        images: ``(N, C, H, W)``; the clean image where none was offered.
        distance: ``(N,)``; infinite where none was offered.
    """

    def __init__(self, x: torch.Tensor, epsilon: float | torch.Tensor | None, norm: str) -> None:
        self.images = x.clone()
        self.distance = torch.full((len(x),), torch.inf, device=x.device)
        self._x, self._norm = x, norm
        self._epsilon = torch.as_tensor(0.0 if epsilon is None else epsilon, device=x.device).expand(len(x))
        self._lead = torch.zeros_like(self.distance)

    def offer(self, rows: torch.Tensor, images: torch.Tensor, leads: torch.Tensor, broken: torch.Tensor) -> None:
        """Offer one attempt for each of ``rows`` ``(n,)``, with its lead; what is not broken is ignored."""
        length = distance(images, self._x[rows], self._norm)
        better = broken & (length < self.distance[rows])
        chosen = rows[better]
        self.images[chosen] = images[better]
        self.distance[chosen] = length[better].to(self.distance)
        self._lead[chosen] = leads[better].to(self._lead)

    def near_enough(self, rows: torch.Tensor) -> torch.Tensor:
        """Bool ``(n,)``: which of ``rows`` need no search any more."""
        return self.distance[rows] <= self._epsilon[rows]

    def search_segments(
        self, victim: Victim, clean_leads: torch.Tensor, labels: torch.Tensor, targeted: bool, rounds: int
    ) -> torch.Tensor:
        """Images after a last search between clean image and adversarial, where that is not yet near enough.

        ``clean_leads`` ``(N,)`` are those of the clean images; ``rounds`` is the most forwards per image.
        """
        rows = (self.distance.isfinite() & (self.distance > self._epsilon)).nonzero().flatten()
        if len(rows):
            leads = (clean_leads[rows].to(self._lead), self._lead[rows])
            ends = (self._x[rows], self.images[rows])
            self.images[rows] = shorten(victim, *ends, leads, labels[rows], rows, targeted, _PRECISION, rounds)
        return self.images


def shorten(
    victim: Victim,
    start: torch.Tensor,
    end: torch.Tensor,
    leads: tuple[torch.Tensor, torch.Tensor],
    labels: torch.Tensor,
    rows: torch.Tensor,
    targeted: bool,
    overshoot: float,
    rounds: int,
) -> torch.Tensor:
    """Look for the boundary between unbroken and broken images by false position; return points just beyond it.

    Args:
        victim: Whom to ask.
        start: Unbroken images ``(n, C, H, W)`` in [0, 1].
        end: Broken images.
        leads: :func:`attacks._losses.lead` of both, ``(n,)`` each.
        labels: ``(n,)``.
        rows: Which images of the victim, ``(n,)``.
        targeted: Whether ``labels`` are to be reached.
        overshoot: Aim this share of the way from ``start`` beyond where the lead would cross zero. What would shorten
            the way by less is not tried.
        rounds: Most forwards per image.

    Returns:
        Images between ``start`` and ``end`` that were seen broken; ``end`` where nothing nearer was.
    """
    found = end.clone()
    (low_lead, high_lead), low, high = leads, torch.zeros_like(leads[0]), torch.ones_like(leads[0])
    before = torch.zeros_like(low)  # outcome of the last round: 1 broken, -1 not
    for _ in range(rounds):
        aim = (low + (high - low) * low_lead / (low_lead - high_lead)) * (1 + overshoot)
        live = (aim < high * (1 - overshoot)).nonzero().flatten()
        if len(live) == 0:
            break
        share = aim[live]
        images = torch.lerp(start[live], end[live], share.view(-1, 1, 1, 1).to(start)).clamp(0, 1)
        logits = victim.logits(images, rows[live])
        value, broken = lead(logits, labels[live], targeted).to(low), is_broken(logits, labels[live], targeted)
        found[live[broken]] = images[broken]
        # Where the boundary is curved, one end may never move; so what is kept twice counts half (the Illinois rule).
        outcome = torch.where(broken, 1.0, -1.0).to(low)
        half = torch.where(outcome == before[live], 0.5, 1.0).to(low)
        low[live], high[live] = torch.where(broken, low[live], share), torch.where(broken, share, high[live])
        low_lead = low_lead.index_copy(0, live, torch.where(broken, half * low_lead[live], value))
        high_lead = high_lead.index_copy(0, live, torch.where(broken, value, half * high_lead[live]))
        before[live] = outcome
    return found
