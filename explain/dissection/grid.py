"""Which pixels of a label map a unit is active on, without ever making a full-size activation map.

A map is interpolated bilinearly between the centres of receptive fields and compared with the unit's threshold. Inside a
cell of four neighbouring positions the interpolation is a convex combination of the corners, so only a cell with a corner
above the threshold can hold an active pixel: with the top half percent, few cells in a hundred. Only those are computed, all
units and images of a batch at once. Beyond the outermost centres a map keeps its border value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from explain.dissection.field import Axis, Field

_CHUNK = 1 << 18  # interpolated values at a time: 2 MB


class Active(NamedTuple):
    """Active pixels as a list: one entry each in ``unit``, ``image`` and ``pixel`` (row · width + column), int64."""

    unit: Tensor
    image: Tensor
    pixel: Tensor


@dataclass(frozen=True)
class _Cells:
    """Cells along one side: cell i lies between positions i - 1 and i of the map, the first and last one beside its border.

    Attributes:
        lines: int64 ``(cells, most)``: rows (or columns) of the label map in each cell.
        share: ``(cells, most)``: how far each lies on the way from the lower to the upper corner, in [0, 1); NaN where a
            cell has fewer lines than the fullest one, because nothing compares greater with NaN.
    """

    lines: Tensor
    share: Tensor

    @classmethod
    def along(cls, axis: Axis, positions: int, pixels: int, lines: int) -> _Cells:
        """Lay the ``lines`` of a label map over an image side of ``pixels`` and find each line's cell."""
        centres = (torch.arange(lines, dtype=torch.float64) + 0.5) * pixels / lines - 0.5
        place = ((centres - axis.offset) / axis.step).clamp(-1, positions - 1 + 0.5)
        lower = place.floor().long()
        share = place - lower
        cell = lower + 1
        count = torch.bincount(cell, minlength=positions + 1)
        most = int(count.max())
        index = torch.zeros(positions + 1, most, dtype=torch.int64)
        filled = torch.full((positions + 1, most), math.nan, dtype=torch.float64)
        slot = torch.arange(lines) - (count.cumsum(0) - count)[cell]  # lines come in order
        index[cell, slot] = torch.arange(lines)
        filled[cell, slot] = share
        return cls(index, filled)

    def to(self, device: torch.device, dtype: torch.dtype) -> _Cells:
        return _Cells(self.lines.to(device), self.share.to(device, dtype))


class Grid:
    """A label map of one size over maps of one size.

    Args:
        field: where the positions of the maps lie on the image.
        maps: (h, w) of the maps.
        image: (H, W) of the image, in whose pixels ``field`` counts.
        labels: (h, w) of the label map, which covers the same picture.
        device: where to compute.
    """

    def __init__(
        self, field: Field, maps: tuple[int, int], image: tuple[int, int], labels: tuple[int, int], device: torch.device
    ) -> None:
        # Activations are float32: in float64 their interpolation is exact wherever it meets a threshold by design.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.labels = labels
        self._rows = _Cells.along(field.rows, maps[0], image[0], labels[0]).to(device, dtype)
        self._columns = _Cells.along(field.columns, maps[1], image[1], labels[1]).to(device, dtype)
        filled = [~cells.share[:, 0].isnan() for cells in (self._rows, self._columns)]
        self._filled = filled[0][:, None] & filled[1]
        self._dtype = dtype

    def active(self, maps: Tensor, thresholds: Tensor) -> Active:
        """List the pixels where a map is above its unit's threshold.

        Args:
            maps: ``(U, N, h, w)``.
            thresholds: ``(U,)``.
        """
        padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
        above = padded > thresholds[:, None, None, None]
        hot = above[..., 1:, :] | above[..., :-1, :]
        hot = (hot[..., 1:] | hot[..., :-1]) & self._filled
        unit, image, row, column = hot.nonzero(as_tuple=True)
        step = max(1, _CHUNK // (self._rows.lines.shape[1] * self._columns.lines.shape[1]))
        found = []
        for start in range(0, len(unit), step):
            part = slice(start, start + step)
            found.append(self._inside(padded, thresholds, unit[part], image[part], row[part], column[part]))
        if not found:
            empty = torch.empty(0, dtype=torch.int64, device=maps.device)
            return Active(empty, empty, empty)
        return Active(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def masks(self, maps: Tensor, thresholds: Tensor) -> Tensor:
        """Return the active pixels as bool ``(U, N, h, w)`` at the size of the label map."""
        units, count = maps.shape[:2]
        active = self.active(maps, thresholds)
        masks = torch.zeros(units, count, self.labels[0] * self.labels[1], dtype=torch.bool, device=maps.device)
        masks[active.unit, active.image, active.pixel] = True
        return masks.reshape(units, count, *self.labels)

    def _inside(
        self, padded: Tensor, thresholds: Tensor, unit: Tensor, image: Tensor, row: Tensor, column: Tensor
    ) -> Active:
        """Interpolate some cells and list their active pixels."""
        _, count, height, width = padded.shape
        corner = ((unit * count + image) * height + row) * width + column
        values = padded.reshape(-1)
        a, b, c, d = (values[corner + shift].to(self._dtype)[:, None] for shift in (0, 1, width, width + 1))
        across = self._columns.share[column]
        upper, lower = a + across * (b - a), c + across * (d - c)
        height_share = self._rows.share[row][:, :, None]
        inside = upper[:, None] + height_share * (lower - upper)[:, None]
        cell, y, x = (inside > thresholds[unit].to(self._dtype)[:, None, None]).nonzero(as_tuple=True)
        pixel = self._rows.lines[row[cell], y] * self.labels[1] + self._columns.lines[column[cell], x]
        return Active(unit[cell], image[cell], pixel)
