"""Which units an attack moved, and whether they are the ones that matter.

After the adversarial experiments of Bau et al., PNAS 2020: the mean change of every unit's activation between an image and its
adversarial twin, beside the unit's importance for the class that the attack left and the one that it reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explain.dissection.ablation import Ablation
from explain.dissection.options import check_count
from explain.dissection.units import Units
from explain.errors import InputError
from explain.inputs import check_images, check_logits
from explain.view import private_view

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class MovedUnits:
    """How N images' activations changed, unit by unit.

    Attributes:
        layer: dotted name.
        change: ``(U, N)``, mean over positions of the activation's change.
        size: ``(U, N)``, mean over positions of its magnitude.
        scale: ``(U,)``, standard deviation of the unit's mean activation over the clean images; what changes compare with.
        labels, fooled_as: int64 ``(N,)``: what the network answered before and after.
    """

    layer: str
    change: Tensor
    size: Tensor
    scale: Tensor
    labels: Tensor
    fooled_as: Tensor

    def __repr__(self) -> str:
        units, images = self.change.shape
        return f"MovedUnits({self.layer!r}: {units} units on {images} images)"

    @property
    def moved(self) -> Tensor:
        """float64 ``(U,)``: mean magnitude of the change over images."""
        return self.size.double().mean(1)

    def frame(self) -> pd.DataFrame:
        """Return one row per unit, the most moved first: ``layer, unit, moved, change, relative``; ``relative`` is ``change`` in
        standard deviations of the unit, and NaN for one that is the same on all clean images."""
        import pandas as pd

        change = self.change.double().mean(1)
        frame = pd.DataFrame(
            {
                "layer": self.layer,
                "unit": range(len(change)),
                "moved": self.moved.tolist(),
                "change": change.tolist(),
                "relative": (change / self.scale.double().where(self.scale > 0, torch.nan)).tolist(),
            }
        )
        return frame.sort_values("moved", ascending=False, kind="stable", ignore_index=True)

    def relation(self, ablation: Ablation, top: int = 8) -> pd.DataFrame:
        """Relate the changes to the units' importance, one row per image that was fooled.

        Columns: ``image`` (its number), ``from``, ``to``, and for both classes, ``source`` and ``target``: ``*_top``, the mean
        magnitude of the change over the ``top`` units most important for the class; ``*_rest``, over all others; and
        ``*_rank``, Spearman's correlation of signed change and importance. An attack that works through the units that matter
        has ``top`` far above ``rest``, a negative ``source_rank`` and a positive ``target_rank``.

        Args:
            ablation: of the same layer and network.
            top: how many units count as important.

        Raises:
            InputError: the ablation is of another layer, or there are not so many units.
        """
        import pandas as pd
        from scipy.stats import spearmanr

        units = len(self.change)
        if ablation.layer != self.layer or len(ablation.margin) != units:
            raise InputError("The ablation is of another layer", ablation.layer, f"Ablate {self.layer!r}.")
        if not 1 <= top < units:
            raise InputError("There are not so many units", top, f"The layer has {units}.")
        rows = []
        for image, (source, target) in enumerate(zip(self.labels.tolist(), self.fooled_as.tolist(), strict=True)):
            if source == target:
                continue
            row: dict[str, Any] = {"image": image, "from": source, "to": target}
            for name, label in (("source", source), ("target", target)):
                if bool(ablation.base[label].isnan()):
                    continue
                order, size = ablation.order(label), self.size[:, image].double()
                row[f"{name}_top"], row[f"{name}_rest"] = (
                    float(size[order[:top]].mean()),
                    float(size[order[top:]].mean()),
                )
                importance, change = ablation.margin[:, label], self.change[:, image]
                varies = bool((importance != importance[0]).any()) and bool((change != change[0]).any())
                row[f"{name}_rank"] = float(spearmanr(change, importance).statistic) if varies else float("nan")
            rows.append(row)
        columns = ["image", "from", "to"]
        columns += [f"{name}_{part}" for name in ("source", "target") for part in ("top", "rest", "rank")]
        return pd.DataFrame(rows, columns=columns)


def moved_units(
    model: nn.Module, clean: Tensor, adversarial: Tensor, layer: str, *, batch_size: int = 32
) -> MovedUnits:
    """Compare a layer's activations on images and on their adversarial twins.

    Args:
        model: maps images in [0, 1] to logits.
        clean: ``(N, C, H, W)``.
        adversarial: the same shape, image by image.
        layer: dotted name.
        batch_size: images per pass; changes no result.

    Raises:
        InputError: the images make no sense, or do not belong together.
        LayerError, NotApplicable: there is no such layer, or it has no units.
    """
    check_images(clean, model)
    check_images(adversarial, model)
    if clean.shape != adversarial.shape:
        raise InputError(
            "Images and adversarial images differ in shape",
            f"{tuple(clean.shape)}, {tuple(adversarial.shape)}",
            "Pass one adversarial image per image, in the same order.",
        )
    check_count("batch_size", batch_size, 1)
    view = private_view(model)
    units = Units(view, [layer])
    step = 1 if view.notices else batch_size
    changes, sizes, levels, before, after = [], [], [], [], []
    for start in range(0, len(clean), step):
        pair = [images[start : start + step] for images in (clean, adversarial)]
        (name,) = units.sites(clean[0])
        one, other = (units.maps(images)[name].flatten(2).cpu() for images in pair)
        changes.append((other - one).mean(2))
        sizes.append((other - one).abs().mean(2))
        levels.append(one.mean(2))
        with units.quietly():
            seen = [check_logits(view(view.load(images)), len(images)).argmax(1).cpu() for images in pair]
        before.append(seen[0])
        after.append(seen[1])
    scale = torch.cat(levels, 1).std(1, correction=0)
    return MovedUnits(name, torch.cat(changes, 1), torch.cat(sizes, 1), scale, torch.cat(before), torch.cat(after))
