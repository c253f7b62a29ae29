"""The exact top quantile of every unit, from values that come in batches and are not kept.

T is the smallest activation that at most a share q of all n activations exceeds: P(a > T) ≤ q. That is the value of rank
⌊q·n⌋ + 1 from the top, so the ⌊q·n⌋ + 1 greatest values of each unit are all that has to be remembered, half a percent. No
sketch is needed, and ties cannot make the mask larger than asked for. Where even that share exceeds the memory that may be
used (maps of early layers over tens of thousands of images), it lies in a file that is mapped into memory.
"""

from __future__ import annotations

import math
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explain.errors import InputError

_ROOM = 4096  # values per unit that are gathered before the greatest are kept
_ROWS = 1 << 24  # values that are sorted at a time


def rank_from_top(quantile: float, count: int) -> int:
    """Return how many values may exceed the threshold: ⌊q·n⌋, of q as it is written (0.29 of 100 is 29).

    Raises:
        InputError: ``quantile`` is no share.
    """
    if not isinstance(quantile, int | float) or not 0 <= quantile < 1:
        raise InputError(
            "The quantile is the share of activations above the threshold", repr(quantile), "Pass 0.005, say."
        )
    return math.floor(Fraction(repr(float(quantile))) * count)


class TopValues:
    """The greatest values of each unit.

    Args:
        units: U.
        keep: how many per unit.
        device: where they are compared.
        memory: bytes that may be used; beyond, they lie in a file without a name in ``folder``.
        folder: for that file; the system's folder for temporary files otherwise.

    Attributes:
        seen: how many values per unit have come.
        spilled: whether they lie in a file.
    """

    def __init__(
        self, units: int, keep: int, device: torch.device, memory: int = 1 << 30, folder: Path | None = None
    ) -> None:
        self.keep = keep
        self.seen = 0
        self.filled = 0
        width = keep + max(_ROOM, keep)
        self.spilled = self.bytes_for(units, keep) > memory
        if self.spilled:
            with tempfile.NamedTemporaryFile(dir=folder, prefix="activations-") as file:
                file.truncate(4 * units * width)
                self.values = torch.from_file(file.name, shared=True, size=units * width).view(units, width)
        else:
            self.values = torch.empty(units, width, device=device)
        self._device = device
        self._bound: Tensor | None = None  # per unit: what does not exceed it cannot be among the greatest

    @staticmethod
    def bytes_for(units: int, keep: int) -> int:
        """Return what the values take."""
        return 4 * units * (keep + max(_ROOM, keep))

    def add(self, values: Tensor) -> None:
        """Take in finite ``(U, n)`` values."""
        self.seen += values.shape[1]
        for part in torch.split(values, self.values.shape[1] - self.keep, dim=1):
            fresh = self._promising(part)
            if self.filled + fresh.shape[1] > self.values.shape[1]:
                self._shrink()
            self.values[:, self.filled : self.filled + fresh.shape[1]] = fresh.to(self.values.device)
            self.filled += fresh.shape[1]
            if self.filled > 2 * self.keep:
                self._shrink()

    def _promising(self, values: Tensor) -> Tensor:
        """Return those that can be among the greatest, in as few columns as hold them; −∞ fills up."""
        if self._bound is None:
            return values if values.shape[1] <= self.keep else values.topk(self.keep, dim=1, sorted=False).values
        unit, place = (values > self._bound[:, None]).nonzero(as_tuple=True)
        count = torch.bincount(unit, minlength=len(values))
        slot = torch.arange(len(unit), device=unit.device) - (count.cumsum(0) - count)[unit]
        fresh = values.new_full((len(values), int(count.max())), -math.inf)
        fresh[unit, slot] = values[unit, place]
        return fresh

    def thresholds(self, quantile: float) -> Tensor:
        """Return T per unit, ``(U,)``, over what has come."""
        rank = rank_from_top(quantile, self.seen) + 1
        self._shrink()
        found = [rows[:, : self.filled].topk(rank, dim=1).values[:, -1] for rows in self._chunks()]
        return torch.cat(found).to(self._device)

    def state(self) -> dict[str, Any]:
        """Return what has to be saved to go on later."""
        self._shrink()
        return {"seen": self.seen, "values": self.values[:, : self.filled].cpu()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.seen, self.filled = int(state["seen"]), state["values"].shape[1]
        self.values[:, : self.filled] = state["values"].to(self.values.device)

    def _shrink(self) -> None:
        """Keep the greatest."""
        if self.filled <= self.keep:
            return
        for rows in self._chunks():
            rows[:, : self.keep] = rows[:, : self.filled].topk(self.keep, dim=1, sorted=False).values
        self.filled = self.keep
        lowest = [rows[:, : self.keep].amin(1) for rows in self._chunks()]
        self._bound = torch.cat(lowest).to(self._device)

    def _chunks(self) -> tuple[Tensor, ...]:
        return torch.split(self.values, max(1, _ROWS // self.values.shape[1]))
