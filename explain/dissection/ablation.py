"""What breaks when units are removed: their importance for each class, and curves of removing or keeping the n most important.

D. Bau et al., "Understanding the role of individual units in a deep neural network", PNAS 2020: a unit is set to zero at the
layer's output, and the balanced accuracy of "class c against the rest", (recall + true negative rate) / 2 of the predicted
classes, falls by the unit's importance for c. Units are ranked on one set of images and removed on another. What a curve means
is told by its controls: as many units at random, and as many of the least important.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explain.dissection.options import check_count
from explain.dissection.tail import Tail, Way
from explain.errors import InputError
from explain.inputs import Target, check_images, read_target
from explain.results import provenance
from explain.view import private_view

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, repr=False, eq=False)
class Ablation:
    """What each of U units matters to each of K classes.

    Attributes:
        layer: dotted name.
        importance: float64 ``(U, K)``, the fall of the class's balanced accuracy without the unit; NaN for classes that no
            image has.
        margin: float64 ``(U, K)``, the mean fall, over the class's images, of the label's logit above all others: finer than
            accuracy, which most units of a good network do not move.
        base: float64 ``(K,)``, balanced accuracy of the whole network.
        way: how units were removed: "linear", "tail" or "full" (see ``explain.dissection.tail``).
        images: N.
        provenance: digests, options, versions, seconds.
    """

    layer: str
    importance: Tensor
    margin: Tensor
    base: Tensor
    way: Way
    images: int
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        units, classes = self.importance.shape
        return f"Ablation({self.layer!r}: {units} units × {classes} classes on {self.images} images, {self.way})"

    def order(self, label: int | None = None) -> Tensor:
        """Return the units, int64 ``(U,)``, the most important for a class first; ``None``: by the mean over classes.

        Of equally important units the one whose removal costs more margin comes first.

        Raises:
            InputError: no image has that class.
        """
        if label is None:
            return _descending(self.importance.nanmean(1), self.margin.nanmean(1))
        if not 0 <= label < len(self.base) or bool(self.base[label].isnan()):
            known = self.base.isfinite().nonzero().flatten().tolist()
            what = "This class cannot be told from others on these images: none of them has it, or all have"
            raise InputError(what, label, f"Classes that can: {known[:20]}.")
        return _descending(self.importance[:, label], self.margin[:, label])

    def frame(self) -> pd.DataFrame:
        """Return one row per unit and class: ``layer, unit, label, importance, margin, base``."""
        import pandas as pd

        units, classes = self.importance.shape
        return pd.DataFrame(
            {
                "layer": self.layer,
                "unit": torch.arange(units).repeat_interleave(classes).tolist(),
                "label": torch.arange(classes).repeat(units).tolist(),
                "importance": self.importance.flatten().tolist(),
                "margin": self.margin.flatten().tolist(),
                "base": self.base.repeat(units).tolist(),
            }
        )


@dataclass(frozen=True, repr=False, eq=False)
class AblationCurve:
    """Balanced accuracy of one class as units go.

    Attributes:
        layer: dotted name.
        label: the class; ``None``: the mean over classes.
        base: with all units.
        rows: (n, which, units removed or kept, mean, low, high); see :meth:`frame`.
        provenance: digests, options, versions, seconds.
    """

    layer: str
    label: int | None
    base: float
    rows: tuple[tuple[int, str, float, float, float], ...]
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        return f"AblationCurve({self.layer!r}, class {self.label}: {self.base:.1%} with all units)"

    def frame(self) -> pd.DataFrame:
        """Return one row per number of units and kind: ``n, kind, balanced_accuracy, low, high``.

        ``kind`` is "remove most", "remove random", "remove least" or "keep most", "keep random", "keep least" important;
        ``low`` and ``high`` are the extremes over the random draws, the value itself for the others.
        """
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=["n", "kind", "balanced_accuracy", "low", "high"])


def ablate(
    model: nn.Module,
    images: Tensor,
    labels: Target,
    layer: str,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Ablation:
    """Remove each unit of a layer in turn and measure what every class loses.

    Args:
        model: maps images in [0, 1] to logits; not changed.
        images: ``(N, C, H, W)`` in [0, 1]; those to rank units on, not those to report on.
        labels: class of each image.
        layer: dotted name.
        batch_size: images per pass; changes no result.
        progress: called as ``progress(done, total, what)``; an exception from it cancels.

    Raises:
        InputError: images or labels make no sense.
        ModelError: the network fails, or returns no logits.
        LayerError, NotApplicable: there is no such layer, or it has no units.
    """
    started = time.perf_counter()
    tail, truth = _opened(model, images, labels, layer, batch_size)
    whole, without = tail.answers(torch.eye(tail.site.units, dtype=torch.bool), progress)
    classes = tail.classes
    base = balanced_accuracy(whole.classes[None], truth, classes)[0]
    lost = base - balanced_accuracy(without.classes, truth, classes)
    member = torch.nn.functional.one_hot(truth, classes).double()
    margin = (whole.margins - without.margins).double() @ member / member.sum(0)
    about = provenance(model, tail.view, images, {"layer": tail.site.layer}, started)
    return Ablation(tail.site.layer, lost, margin, base, tail.way, len(images), about)


def ablation_curve(
    model: nn.Module,
    images: Tensor,
    labels: Target,
    ablation: Ablation,
    *,
    label: int | None = None,
    counts: Sequence[int] | None = None,
    draws: int = 10,
    keep: bool = True,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> AblationCurve:
    """Remove, and keep, the n units that are most important for a class, beside n random and the n least important ones.

    Args:
        model: the network.
        images: ``(N, C, H, W)``; other images than those of ``ablation``.
        labels: class of each image.
        ablation: says what is important.
        label: for which class; ``None``: for all on average.
        counts: how many units; ``None`` for 1, 2, 4, 8, ... and all but one.
        draws: random sets per count.
        keep: whether to measure keeping units too, which takes as long again.
        seed: of the random sets.
        batch_size: images per pass; changes no result.
        progress: as in :func:`ablate`.

    Raises:
        InputError: options make no sense, or no image has the class.
    """
    started = time.perf_counter()
    tail, truth = _opened(model, images, labels, ablation.layer, batch_size)
    if label is not None and not bool((truth == label).any()):
        raise InputError("No image has this class", label, f"There are: {sorted(set(truth.tolist()))[:20]}.")
    units = tail.site.units
    if units != len(ablation.importance):
        raise InputError(
            "The ablation is of another layer",
            f"{len(ablation.importance)} units, not {units}",
            "Repeat it on this model.",
        )
    order = ablation.order(label)
    if counts is None:
        counts = sorted({n for n in (*(1 << i for i in range(units.bit_length())), units - 1) if 0 < n < units} or {1})
    if not counts:
        raise InputError("No number of units was asked for", None, "Leave counts out for 1, 2, 4, ... and all but one.")
    if wrong := [n for n in counts if not 1 <= n <= units]:
        raise InputError("There are not so many units", wrong[0], f"The layer has {units}.")
    check_count("draws", draws, 1)
    generator = torch.Generator().manual_seed(seed)
    named: list[tuple[int, str]] = []
    masks: list[Tensor] = []
    for n in counts:
        most = _mask(order[:n], units)
        least = _mask(order[units - n :], units)
        random = [_mask(torch.randperm(units, generator=generator)[:n], units) for _ in range(draws)]
        for kind, some in (("most", [most]), ("random", random), ("least", [least])):
            for verb, removed in (("remove", some), ("keep", [~one for one in some] if keep else [])):
                masks += removed
                named += [(n, f"{verb} {kind}")] * len(removed)
    whole, without = tail.answers(torch.stack(masks), progress)
    values = _of_class(balanced_accuracy(without.classes, truth, tail.classes), label)
    rows = []
    for key in dict.fromkeys(named):
        some_values = values[[i for i, name in enumerate(named) if name == key]]
        rows.append((*key, float(some_values.mean()), float(some_values.min()), float(some_values.max())))
    options = {"layer": ablation.layer, "label": label, "counts": list(counts), "draws": draws, "seed": seed}
    about = provenance(model, tail.view, images, options, started)
    base = float(_of_class(balanced_accuracy(whole.classes[None], truth, tail.classes), label))
    return AblationCurve(ablation.layer, label, base, tuple(rows), about)


def balanced_accuracy(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return (recall + true negative rate) / 2 of every class against the rest, float64 ``(J, K)``.

    Args:
        predictions: int64 ``(J, N)``.
        labels: int64 ``(N,)``.
        classes: K. A class that no image has, or every image, is NaN.
    """
    count = len(predictions)
    row = torch.arange(count)[:, None] * classes
    right = predictions == labels

    def counted(chosen: Tensor) -> Tensor:
        return torch.bincount(chosen, minlength=count * classes).reshape(count, classes).double()

    answered = counted((row + predictions).flatten())
    hits = counted((row + predictions)[right])
    truth = torch.bincount(labels, minlength=classes).double()
    negatives = len(labels) - truth
    return (hits / truth + (negatives - (answered - hits)) / negatives) / 2


def _opened(model: nn.Module, images: Tensor, labels: Target, layer: str, batch_size: int) -> tuple[Tail, Tensor]:
    check_images(images, model)
    truth = read_target(labels, len(images))
    if truth is None:
        raise InputError("Labels are needed", None, "Pass the class of each image; accuracy is measured against it.")
    check_count("batch_size", batch_size, 1)
    if int(truth.min()) < 0:
        raise InputError("There is no such class", int(truth.min()), "Classes count from 0.")
    tail = Tail(private_view(model), layer, images, truth, batch_size)
    if int(truth.max()) >= tail.classes:
        raise InputError("There is no such class", int(truth.max()), f"The network has {tail.classes} classes.")
    return tail, truth.cpu()


def _descending(first: Tensor, second: Tensor) -> Tensor:
    """Sort by the first, and equals by the second, the greatest in front."""
    by_second = second.argsort(descending=True, stable=True)
    return by_second[first[by_second].argsort(descending=True, stable=True)]


def _mask(units: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.bool).index_fill_(0, units, True)


def _of_class(values: Tensor, label: int | None) -> Tensor:
    return values.nanmean(1) if label is None else values[:, label]
