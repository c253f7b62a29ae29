"""What one layer has gathered in the course of a dissection, and how it is saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from explain.dissection.quantile import TopValues
from explain.dissection.tally import Tally

_MOST_GROUPS, _FEWEST_GROUPS = 64, 10
_GROUP_MEMORY = 1 << 28  # bytes per layer for counts that are kept apart by groups


def group_count(images: int, units: int, concepts: int) -> int:
    """Return into how many groups images are divided for the intervals."""
    return min(images, max(_FEWEST_GROUPS, min(_MOST_GROUPS, _GROUP_MEMORY // (8 * units * concepts))))


class Gathered:
    """What one layer has gathered so far.

    Args:
        values: takes the greatest activations.
        tally: counts by groups of images.
        null: counts by permutations.
        most: of how many images the peaks are remembered.

    Attributes:
        floor: ``(U,)``, smallest activation.
        top_values, top_images: ``(U, k)``: the greatest peaks, and of which images.
        thresholds: ``(U,)``, once they are fixed.
    """

    def __init__(self, values: TopValues, tally: Tally, null: Tally, most: int) -> None:
        self.values, self.tally, self.null, self._most = values, tally, null, most
        units, device = tally.both.shape[1], tally.both.device
        self.floor = torch.full((units,), torch.inf, device=device)
        self.top_values = torch.zeros(units, 0, device=device)
        self.top_images = torch.zeros(units, 0, dtype=torch.int64, device=device)
        self.thresholds: Tensor | None = None

    def fix(self, quantile: float) -> None:
        """Fix the thresholds, unless a saved state already had them, and let go of the activations."""
        if self.thresholds is None:
            self.thresholds = self.values.thresholds(quantile)
        del self.values

    def see(self, maps: Tensor, images: Tensor) -> None:
        """Take in the maps ``(U, N, h, w)`` of ``images`` ``(N,)``."""
        flat = maps.flatten(1)
        self.values.add(flat)
        peak, low = maps.amax((2, 3)), flat.amin(1)
        self.floor = torch.minimum(self.floor, low)
        values = torch.cat([self.top_values, peak], 1)
        places = torch.cat([self.top_images, images.to(peak.device).expand(len(peak), -1)], 1)
        # Sorted by image first, so that of equal peaks the image with the lowest number counts, in whatever order they come.
        order = places.argsort(1)
        values, places = values.gather(1, order), places.gather(1, order)
        order = values.argsort(dim=1, descending=True, stable=True)[:, : self._most]
        self.top_values, self.top_images = values.gather(1, order), places.gather(1, order)

    def state(self) -> dict[str, Any]:
        """Return what has to be saved to go on later."""
        found: dict[str, Any] = {"top_values": self.top_values, "top_images": self.top_images, "floor": self.floor}
        if self.thresholds is None:
            return {**found, **self.values.state()}
        tallies = {
            f"{name}.{part}": getattr(tally, part)
            for name, tally in (("tally", self.tally), ("null", self.null))
            for part in ("both", "area", "labels", "annotated")
        }
        return {**found, "thresholds": self.thresholds, **tallies}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        device = self.floor.device
        for name in ("top_values", "top_images", "floor"):
            setattr(self, name, state[name].to(device))
        if "thresholds" not in state:
            self.values.restore(state)
            return
        self.thresholds = state["thresholds"].to(device)
        for name, tally in (("tally", self.tally), ("null", self.null)):
            for part in ("both", "area", "labels", "annotated"):
                setattr(tally, part, state[f"{name}.{part}"].to(device))
