"""The best attempt so far per image, so that an attack never returns less than it has seen."""

from __future__ import annotations

import torch


class Best:
    """Keeps one image per row: a broken one before an unbroken one, then the one with the higher loss.

    Attributes:
        images: best attempts ``(N, C, H, W)``; the clean image where nothing was offered.
        broken: bool ``(N,)``.
        loss: ``(N,)``, minus infinity where nothing was offered.
    """

    def __init__(self, x: torch.Tensor) -> None:
        self.images = x.clone()
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.loss = torch.full((len(x),), -torch.inf, device=x.device)

    def offer(self, rows: torch.Tensor, images: torch.Tensor, loss: torch.Tensor, broken: torch.Tensor) -> None:
        """Offer one attempt for each of ``rows`` ``(n,)``. A loss that is NaN is never better."""
        loss = loss.to(self.loss.dtype)
        level = self.broken[rows]
        better = (broken & ~level) | ((broken == level) & (loss > self.loss[rows]))
        chosen = rows[better]
        self.images[chosen] = images[better]
        self.broken[chosen] = broken[better]
        self.loss[chosen] = loss[better]
