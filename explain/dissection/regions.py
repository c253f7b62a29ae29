"""Where units are active on given images: which detectors fired, and what the most activating images show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from explain.digest import content_digest
from explain.dissection.field import fields
from explain.dissection.grid import Grid
from explain.dissection.options import check_count
from explain.dissection.probe import Probe
from explain.dissection.results import Dissection, LayerDissection
from explain.dissection.units import Units
from explain.errors import InputError
from explain.inputs import check_images
from explain.results import image_names
from explain.view import private_view

if TYPE_CHECKING:
    import pandas as pd

_AT_ONCE = 16  # images whose masks of all units are in memory together


@dataclass(frozen=True, repr=False, eq=False)
class Fired:
    """Which units of one layer are active on N images, and where; n units in ascending order.

    Attributes:
        layer: the layer's dissection.
        units: int64 ``(n,)``.
        masks: bool ``(n, N, H, W)``: the pixels above the unit's threshold.
        peaks: ``(n, N)``: the greatest activation on each image.
        ids: N names.
    """

    layer: LayerDissection
    units: Tensor
    masks: Tensor
    peaks: Tensor
    ids: tuple[str, ...]

    def __repr__(self) -> str:
        active = int(self.masks.flatten(2).any(2).sum())
        return f"Fired({self.layer.layer!r}: {active} of {self.peaks.numel()} pairs of unit and image)"

    @property
    def area(self) -> Tensor:
        """float64 ``(n, N)``: share of the image on which the unit is active."""
        return self.masks.double().mean((2, 3))

    def frame(self) -> pd.DataFrame:
        """Return one row per image and active unit, the largest area first.

        Columns: ``image, layer, unit, category, concept, iou, area, strength``; ``strength`` is how far the peak is on the way
        from the threshold to the unit's greatest activation on the probe.
        """
        import pandas as pd

        names = self.layer.vocabulary
        concept = self.layer.concept[self.units]
        threshold, peak = (one[self.units][:, None] for one in (self.layer.thresholds, self.layer.peak))
        strength = (self.peaks - threshold) / (peak - threshold).where(peak > threshold, torch.nan)
        area = self.area
        rows = []
        for image, name in enumerate(self.ids):
            for row in area[:, image].argsort(descending=True).tolist():
                if area[row, image] > 0:
                    number = int(concept[row])
                    unit = int(self.units[row])
                    rows.append(
                        (
                            name, self.layer.layer, unit, names.categories[number], names.concepts[number],
                            float(self.layer.best[unit]), float(area[row, image]), float(strength[row, image]),
                        )
                    )  # fmt: skip
        columns = ["image", "layer", "unit", "category", "concept", "iou", "area", "strength"]
        return pd.DataFrame(rows, columns=columns)


def fired(
    model: nn.Module,
    images: Tensor,
    dissection: Dissection,
    layer: str | None = None,
    *,
    units: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
    batch_size: int = 32,
) -> Fired:
    """Tell which units are active on ``images``, and where, with the thresholds of a dissection.

    Args:
        model: the network that was dissected.
        images: ``(N, C, H, W)`` in [0, 1], of any size that the network takes.
        dissection: of ``model``, without a basis.
        layer: which of its layers; ``None`` for its last one.
        units: which units; ``None`` for the detectors.
        ids: one name per image.
        batch_size: images per forward pass; changes no result.

    Raises:
        InputError: images or units make no sense, or the dissection is of another network or of a rotated basis.
        LayerError: the layer was not dissected.
    """
    check_images(images, model)
    one = dissection[layer if layer is not None else next(reversed(dissection.results))]
    check_count("batch_size", batch_size, 1)
    view = private_view(model)
    if content_digest(view.forward) != dissection.provenance.get("model_digest"):
        raise InputError("The dissection does not belong to this network", one.layer, "Dissect this one.")
    reader = Units(view, [one.layer])
    size = (images.shape[2], images.shape[3])
    site = reader.sites(images[0])[one.layer]
    if one.layer in dissection.provenance.get("basis", {}) or site.units != len(one):
        raise InputError(
            f"The dissection is of another basis of layer {one.layer!r}", None, "Dissect the network without a basis."
        )
    chosen = one.detectors.nonzero().flatten() if units is None else torch.tensor(list(units), dtype=torch.int64)
    if bool(((chosen < 0) | (chosen >= len(one))).any()):
        raise InputError(
            "There is no such unit", chosen.tolist(), f"Layer {one.layer!r} has units 0 to {len(one) - 1}."
        )
    grid = Grid(fields(view, {one.layer: site}, images[0])[one.layer], site.size, size, size, view.device)
    thresholds = one.thresholds[chosen].to(view.device)
    masks, peaks = [], []
    for part in torch.split(images, 1 if view.notices else batch_size):
        maps = reader.maps(part)[one.layer][chosen.to(view.device)]
        masks.append(grid.masks(maps, thresholds).cpu())
        peaks.append(maps.amax((2, 3)).cpu())
    return Fired(one, chosen, torch.cat(masks, 1), torch.cat(peaks, 1), image_names(ids, len(images)))


@dataclass(frozen=True, repr=False, eq=False)
class TopImages:
    """The images on which one unit is most active.

    Attributes:
        unit: the unit.
        indices: k indices into the probe, the strongest first.
        ids: their names.
        images: k tensors ``(C, H, W)``.
        masks: k bool tensors ``(H, W)``: the pixels above the unit's threshold.
        peaks: k activations.
    """

    unit: int
    indices: tuple[int, ...]
    ids: tuple[str, ...]
    images: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    peaks: tuple[float, ...]


def top_images(
    model: nn.Module, probe: Probe, dissection: Dissection, layer: str, units: Sequence[int], count: int = 9
) -> list[TopImages]:
    """Return the probe's most activating images of some units, with the region above the threshold.

    Args:
        model: the network that was dissected.
        probe: the probe that it was dissected with.
        dissection: the result.
        layer: which layer.
        units: which units.
        count: at most so many per unit; the dissection remembers ``top`` of them.

    Raises:
        InputError: the probe is another one, or there is no such unit.
        LayerError: the layer was not dissected.
        ProbeError: an image cannot be read any more.
    """
    if dissection.provenance.get("probe_digest", probe.digest) != probe.digest:
        raise InputError(
            "This is not the probe of the dissection", probe.digest[:12], "Pass the probe it was made with."
        )
    one = dissection[layer]
    if wrong := [unit for unit in units if not 0 <= unit < len(one)]:
        raise InputError("There is no such unit", wrong[0], f"Layer {layer!r} has units 0 to {len(one) - 1}.")
    wanted = {unit: tuple(one.top_images[unit, :count].tolist()) for unit in units}
    images = {index: probe.image(index) for index in sorted({i for indices in wanted.values() for i in indices})}
    masks: dict[tuple[int, int], Tensor] = {}
    for shape in dict.fromkeys(tuple(image.shape) for image in images.values()):
        same = [index for index, image in images.items() if tuple(image.shape) == shape]
        for start in range(0, len(same), _AT_ONCE):
            part = same[start : start + _AT_ONCE]
            seen = fired(model, torch.stack([images[index] for index in part]), dissection, layer, units=units)
            for unit, rows in zip(units, seen.masks, strict=True):
                masks |= {(unit, i): mask.clone() for i, mask in zip(part, rows, strict=True) if i in wanted[unit]}
    return [
        TopImages(
            unit,
            indices,
            tuple(probe.ids[index] for index in indices),
            tuple(images[index] for index in indices),
            tuple(masks[unit, index] for index in indices),
            tuple(one.top_values[unit, :count].tolist()),
        )
        for unit, indices in ((unit, wanted[unit]) for unit in units)
    ]
