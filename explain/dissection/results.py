"""What a dissection found: counts and thresholds per layer, and the tables that people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from explain.dissection.field import Field
from explain.dissection.tally import Vocabulary, iou
from explain.errors import LayerError

if TYPE_CHECKING:
    import pandas as pd


class Interval(NamedTuple):
    """A figure with its 95 % interval: percentiles of the bootstrap, widened to hold the figure itself where they do not."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, repr=False, eq=False)
class LayerDissection:
    """The units of one layer. U units, C concepts in K categories; all tensors on the CPU.

    Attributes:
        layer: dotted name.
        size: (h, w) of the maps, for the first image.
        field: where the maps' positions lie on the first image.
        vocabulary: the concepts.
        quantile, iou_threshold: the options.
        thresholds: float32 ``(U,)``, the activation that a share of at most ``quantile`` of all activations exceeds.
        peak, floor: ``(U,)``, greatest and smallest activation.
        both: int64 ``(U, C)``, pixels in which the unit is active and the concept is seen.
        area: int64 ``(U, K)``, pixels in which the unit is active, over images in which the category is annotated.
        labels: int64 ``(C,)``, pixels of the concept.
        annotated: int64 ``(K,)``, pixels of the images in which the category is annotated.
        low, high: ``(U, K)``, 95 % bootstrap interval of the IoU with the best concept of each category, over groups of images,
            the concept held fixed.
        replicates: ``(B, U)``, that bootstrap for the best concept of all.
        null: ``(R, U)``, best IoU of each unit when annotations are dealt out to other images, R times.
        top_values, top_images: ``(U, k)``: the greatest activations, one per image, and which images (indices into the
            probe).
    """

    layer: str
    size: tuple[int, int]
    field: Field
    vocabulary: Vocabulary
    quantile: float
    iou_threshold: float
    thresholds: Tensor
    peak: Tensor
    floor: Tensor
    both: Tensor
    area: Tensor
    labels: Tensor
    annotated: Tensor
    low: Tensor
    high: Tensor
    replicates: Tensor
    null: Tensor
    top_values: Tensor
    top_images: Tensor

    def __len__(self) -> int:
        return len(self.thresholds)

    def __repr__(self) -> str:
        return f"LayerDissection({self.layer!r}: {len(self)} units, {int(self.detectors.sum())} detectors)"

    @cached_property
    def iou(self) -> Tensor:
        """float64 ``(U, C)``: intersection over union of every unit with every concept."""
        return iou(self.both, self.area.double(), self.labels, self.vocabulary.kind)

    @cached_property
    def concept(self) -> Tensor:
        """int64 ``(U,)``: the concept with the greatest IoU; of equals the first."""
        return self.iou.argmax(1)

    @cached_property
    def best(self) -> Tensor:
        """float64 ``(U,)``: the greatest IoU."""
        return self.iou.gather(1, self.concept[:, None])[:, 0]

    @property
    def dead(self) -> Tensor:
        """bool ``(U,)``: nothing exceeds the threshold (the unit is constant, or more of it than the quantile sits at its
        maximum), so the unit is active nowhere."""
        return self.peak <= self.thresholds

    @property
    def detectors(self) -> Tensor:
        """bool ``(U,)``: the best IoU is above ``iou_threshold``."""
        return self.best > self.iou_threshold

    @cached_property
    def concept_by_category(self) -> Tensor:
        """int64 ``(U, K)``: the best concept of each category."""
        columns = []
        for number in range(len(self.vocabulary.kinds)):
            members = (self.vocabulary.kind == number).nonzero().flatten()
            columns.append(members[self.iou[:, members].argmax(1)])
        return torch.stack(columns, 1)

    @property
    def best_by_category(self) -> Tensor:
        """float64 ``(U, K)``: the best IoU of each category."""
        return self.iou.gather(1, self.concept_by_category)

    @property
    def unique_best(self) -> int:
        """How many different concepts are the best of some detector: one label per unit."""
        return _different(self.concept[self.detectors])

    @property
    def unique_by_category(self) -> int:
        """How many different concepts are detected if a unit may detect one of each category, as in the released plots of
        Bau et al. 2017; about a quarter more than :attr:`unique_best`."""
        return _different(self.concept_by_category[self.best_by_category > self.iou_threshold])

    @property
    def p_value(self) -> Tensor:
        """float64 ``(U,)``: how often a unit of this layer gets so good an IoU from annotations of other images; the null
        distribution is pooled over units. NaN without permutations."""
        if not self.null.numel():
            return torch.full_like(self.best, float("nan"))
        null = self.null.double().flatten().sort().values
        above = len(null) - torch.searchsorted(null, self.best.contiguous())
        return (1 + above).double() / (1 + len(null))

    @property
    def chance(self) -> float:
        """IoU that 95 % of the units stay below when annotations belong to other images; NaN without permutations."""
        return float(self.null.double().flatten().quantile(0.95)) if self.null.numel() else float("nan")

    @cached_property
    def share(self) -> Tensor:
        """float64 ``(C,)``: the concept's share of the pixels, in images in which its category is annotated."""
        return self.labels.double() / self.annotated[self.vocabulary.kind].clamp(min=1)

    @property
    def ceiling(self) -> Tensor:
        """float64 ``(C,)``: the IoU that a perfect unit could reach: active on a share q of the pixels, it cannot overlap a
        concept of share f by more than min(q, f) / max(q, f). Nominal: a unit's share of the label maps' pixels is about that
        of its own positions."""
        q = torch.full_like(self.share, self.quantile)
        return torch.minimum(q, self.share) / torch.maximum(q, self.share).clamp(min=1e-300)

    @property
    def attainable(self) -> Tensor:
        """float64 ``(U, C)``: the ceiling for each unit, by the pixels on which it really is active: the IoU if they lay in
        the best places."""
        area, pixels = self.area.double()[:, self.vocabulary.kind], self.labels.double()
        return torch.minimum(area, pixels) / torch.maximum(area, pixels).clamp(min=1)

    def count(self) -> Interval:
        """Return the number of detectors with its interval, every unit's concept held fixed."""
        return _interval(int(self.detectors.sum()), (self.replicates > self.iou_threshold).sum(1).double())

    def unique(self) -> Interval:
        """Return :attr:`unique_best` with its interval, every unit's concept held fixed."""
        counts = [_different(self.concept[one]) for one in self.replicates > self.iou_threshold]
        return _interval(self.unique_best, torch.tensor(counts, dtype=torch.float64))

    def mean_iou(self) -> Interval:
        """Return the mean of the best IoUs with its interval, every unit's concept held fixed."""
        return _interval(float(self.best.mean()), self.replicates.double().mean(1))

    def name(self, unit: int) -> str:
        """Return the best concept of a unit, or an empty name for one that is active nowhere."""
        return "" if bool(self.dead[unit]) else self.vocabulary.concepts[int(self.concept[unit])]


@dataclass(frozen=True, repr=False, eq=False)
class Dissection(Mapping[str, LayerDissection]):
    """A mapping from layer to what its units detect.

    Attributes:
        results: by layer.
        ids: names of the probe's images.
        skipped: (image, reason) of what could not be read.
        notes: what a person should know before trusting the numbers.
        provenance: digests of model and probe, options, seed, versions, seconds.
    """

    results: dict[str, LayerDissection]
    ids: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> LayerDissection:
        if layer not in self.results:
            raise LayerError("This layer was not dissected", repr(layer), f"There are: {', '.join(self.results)}.")
        return self.results[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __contains__(self, layer: object) -> bool:
        return layer in self.results

    def __repr__(self) -> str:
        told = ", ".join(f"{one.layer} {int(one.detectors.sum())}/{len(one)}" for one in self.results.values())
        return f"Dissection({len(self.ids)} images; detectors: {told})"

    @property
    def vocabulary(self) -> Vocabulary:
        """The concepts."""
        return next(iter(self.results.values())).vocabulary

    def frame(self) -> pd.DataFrame:
        """Return one row per unit.

        Columns: ``layer, unit, threshold, category, concept, iou, low, high, ceiling, p_value, detector, dead``. ``low`` and
        ``high`` are the 95 % interval of ``iou``, ``ceiling`` what the unit would reach if its active pixels lay in the best
        places. Units that are active nowhere have no concept.
        """
        import pandas as pd

        return pd.concat([_units(one) for one in self.results.values()], ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """Return one row per layer.

        Columns: ``layer, units, detectors, detectors_low, detectors_high, unique_best, unique_by_category, mean_iou,
        mean_iou_low, mean_iou_high, max_iou, chance, above_chance, dead``. ``chance`` is the IoU that 95 % of the units stay
        below when annotations are dealt out to other images, ``above_chance`` how many units exceed it.
        """
        import pandas as pd

        rows = []
        for one in self.results.values():
            count, mean = one.count(), one.mean_iou()
            rows.append(
                {
                    "layer": one.layer, "units": len(one),
                    "detectors": int(count.value), "detectors_low": count.low, "detectors_high": count.high,
                    "unique_best": one.unique_best, "unique_by_category": one.unique_by_category,
                    "mean_iou": mean.value, "mean_iou_low": mean.low, "mean_iou_high": mean.high,
                    "max_iou": float(one.best.max()), "chance": one.chance,
                    "above_chance": int((one.best > one.chance).sum()), "dead": int(one.dead.sum()),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def categories(self) -> pd.DataFrame:
        """Return one row per layer and category: ``layer, category, detectors, unique``, by each unit's best concept."""
        import pandas as pd

        rows = []
        for one in self.results.values():
            kinds = one.vocabulary.kind[one.concept]
            for number, name in enumerate(one.vocabulary.kinds):
                chosen = one.detectors & (kinds == number)
                rows.append((one.layer, name, int(chosen.sum()), _different(one.concept[chosen])))
        return pd.DataFrame(rows, columns=["layer", "category", "detectors", "unique"])

    def concepts(self) -> pd.DataFrame:
        """Return one row per concept: ``concept, category, pixels, share, ceiling, best_iou, best_layer, best_unit,
        detectors``.

        ``share`` is the concept's share of the pixels where its category is annotated, ``ceiling`` the greatest IoU that any
        unit could reach at this quantile, ``detectors`` how many units have it as their best.
        """
        import pandas as pd

        first = next(iter(self.results.values()))
        rows = []
        for number, (concept, category) in enumerate(
            zip(first.vocabulary.concepts, first.vocabulary.categories, strict=True)
        ):
            layer = max(self.results.values(), key=lambda one, number=number: float(one.iou[:, number].max()))  # type: ignore[misc]
            unit = int(layer.iou[:, number].argmax())
            detectors = sum(int((one.detectors & (one.concept == number)).sum()) for one in self.results.values())
            rows.append(
                (
                    concept, category, int(first.labels[number]), float(first.share[number]), float(first.ceiling[number]),
                    float(layer.iou[unit, number]), layer.layer, unit, detectors,
                )
            )  # fmt: skip
        columns = [
            "concept", "category", "pixels", "share", "ceiling", "best_iou", "best_layer", "best_unit", "detectors",
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)


def _units(one: LayerDissection) -> pd.DataFrame:
    import pandas as pd

    concept, dead = one.concept, one.dead.tolist()
    kind = one.vocabulary.kind[concept][:, None]
    return pd.DataFrame(
        {
            "layer": one.layer,
            "unit": range(len(one)),
            "threshold": one.thresholds.tolist(),
            "category": _names(one.vocabulary.categories, concept, dead),
            "concept": _names(one.vocabulary.concepts, concept, dead),
            "iou": one.best.tolist(),
            "low": one.low.gather(1, kind)[:, 0].tolist(),
            "high": one.high.gather(1, kind)[:, 0].tolist(),
            "ceiling": one.attainable.gather(1, concept[:, None])[:, 0].tolist(),
            "p_value": one.p_value.tolist(),
            "detector": one.detectors.tolist(),
            "dead": dead,
        }
    )


def _names(names: tuple[str, ...], concept: Tensor, dead: list[bool]) -> list[str | None]:
    return [None if gone else names[number] for number, gone in zip(concept.tolist(), dead, strict=True)]


def _different(numbers: Tensor) -> int:
    return len(set(numbers.tolist()))


def _interval(value: float, replicates: Tensor) -> Interval:
    if not len(replicates):
        return Interval(value, float("nan"), float("nan"))
    low, high = replicates.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    # Where many units sit just below the threshold, resampling lifts more of them over it than it takes away.
    return Interval(value, min(low, value), max(high, value))
