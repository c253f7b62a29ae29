"""NetDissect-Lite's way of dissecting, restated for today's Python to be measured beside ours: a fixture, not a tool.

Written from a description of the algorithm, nothing copied: keep every activation in a float64 memmap (``store``), sketch
the quantiles of each unit from it, 64 images at a time (``thresholds``), then take images and units one by one, enlarge
the map, list the pixels above the threshold and count the labels there (``tally``, ``iou``). Where it deviates:

* counts are right where Lite's are not: what one image adds for its categories never carries over to the next. A category
  is annotated in an image that has a label of it anywhere, on a pixel or as a whole;
* the sketch has no sampling stage for very long streams: its lowest levels stay at ``buffer`` values instead;
* a single level is sorted without carrying weights along, and labels of the image are counted once, not per unit: both
  make this baseline faster, if anything;
* enlarging is Pillow's bilinear ``resize`` in float32, where Lite calls ``scipy.misc.imresize``, long gone from SciPy;
* no pool of threads, and no reading of images and labels from disk: arrays come in.

Numbers are as in ``explain.dissection``: label ``i`` is column ``i - 1`` of every count, 0 is unlabelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BATCH = 64  # images per step through the stored activations
STEPS = 1000  # of the quantile table that a threshold is looked up in
SHRINK = 2 / 3  # from a level of the sketch to the one below

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Upsample = Callable[[Floats, tuple[int, int]], Floats]


class QuantileSketch:
    """A streaming sketch of the quantiles of ``depth`` units at once (Karnin, Lang and Liberty 2016).

    A value on level ``i`` stands for ``2 ** i`` values. Values enter on level 0; a full level is sorted, and every other
    value of it, starting with the first or the second at random, moves up. The top level holds ``resolution`` values, each
    one below it two thirds, but at least ``buffer``. Up to ``resolution`` values per unit nothing is lost. Units see
    equally many values, so they share the bookkeeping and the coin.
    """

    def __init__(self, depth: int, resolution: int = 24 * 1024, buffer: int = 128, seed: int = 1) -> None:
        self.depth, self.resolution, self.buffer = depth, resolution, buffer
        self._random = np.random.default_rng(seed)
        self._levels = [np.zeros((depth, resolution))]
        self._sizes = [0]
        self._least, self._most = np.full(depth, np.inf), np.full(depth, -np.inf)

    @property
    def nbytes(self) -> int:
        """Memory that the levels take."""
        return sum(level.nbytes for level in self._levels)

    def add(self, values: Floats) -> None:
        """Take in ``(n, depth)`` values."""
        if values.ndim != 2 or values.shape[1] != self.depth:
            raise ValueError(f"values of {self.depth} units are (n, {self.depth}), not {values.shape}")
        taken = 0
        while taken < len(values):
            if self._sizes[0] == self._levels[0].shape[1]:
                self._make_room()
            start = self._sizes[0]
            count = min(self._levels[0].shape[1] - start, len(values) - taken)
            self._levels[0][:, start : start + count] = values[taken : taken + count].T
            self._sizes[0] += count
            taken += count

    def readout(self, count: int) -> NDArray[np.float64]:
        """Return ``(depth, count)`` quantiles, evenly spaced from the minimum to the maximum of each unit."""
        if not any(self._sizes):
            raise ValueError("the sketch is empty")
        filled = [level[:, :size] for level, size in zip(self._levels, self._sizes, strict=True)]
        least = np.minimum(self._least, filled[0].min(axis=1, initial=np.inf))
        most = np.maximum(self._most, filled[0].max(axis=1, initial=-np.inf))
        values = np.concatenate(filled, axis=1)
        weights = np.repeat(2.0 ** np.arange(len(filled)), self._sizes)
        shares, total = np.linspace(0.0, 1.0, count), weights.sum()
        found = np.empty((self.depth, count))
        for unit in range(self.depth):
            if len(filled) == 1:
                row, own = np.sort(values[unit]), weights
            else:
                order = np.argsort(values[unit])
                row, own = values[unit, order], weights[order]
            middles = (np.cumsum(own) - own / 2) / total  # a value sits in the middle of the stretch it stands for
            at = np.concatenate(([0.0], middles, [1.0]))
            found[unit] = np.interp(shares, at, np.concatenate(([least[unit]], row, [most[unit]])))
        return found

    def _make_room(self) -> None:
        """Empty level 0: into the levels above while they have room, otherwise below all of them."""
        for level, size in enumerate(self._sizes[:-1]):
            if self._levels[level + 1].shape[1] - self._sizes[level + 1] >= (size + 1) // 2:
                for lower in range(level, -1, -1):
                    half = self._halved(lower)
                    start = self._sizes[lower + 1]
                    self._sizes[lower + 1] += half.shape[1]
                    self._levels[lower + 1][:, start : self._sizes[lower + 1]] = half
                    self._sizes[lower] = 0
                return
        for level in range(len(self._levels)):  # each moves up by one, and a new one comes in at the bottom
            half = self._halved(level)
            self._sizes[level] = half.shape[1]
            self._levels[level][:, : half.shape[1]] = half
        capacity = max(self.buffer, round(self.resolution * SHRINK ** len(self._levels)))
        self._levels.insert(0, np.zeros((self.depth, capacity)))
        self._sizes.insert(0, 0)

    def _halved(self, level: int) -> NDArray[np.float64]:
        """Sort a level and return every other value of it, as a view."""
        held = self._levels[level][:, : self._sizes[level]]
        held.sort(axis=1)
        if level == 0:  # the extremes may be dropped from here on
            self._least, self._most = np.minimum(self._least, held[:, 0]), np.maximum(self._most, held[:, -1])
        return held[:, self._random.integers(2) :: 2]


def threshold(sketch: QuantileSketch, quantile: float = 0.005) -> NDArray[np.float64]:
    """Return for each unit the value that a share ``quantile`` of its activations exceeds; 0.005 reads entry 994 of 1000."""
    return sketch.readout(STEPS)[:, round(STEPS * (1 - quantile)) - 1]


def store(activations: Floats, path: Path) -> np.memmap[Any, np.dtype[np.float64]]:
    """Write the whole ``(N, U, h, w)`` to a float64 memmap, batch by batch; its ``nbytes`` are what Lite takes on disk."""
    kept = np.memmap(path, dtype=np.float64, mode="w+", shape=activations.shape)
    for start in range(0, len(activations), BATCH):
        kept[start : start + BATCH] = activations[start : start + BATCH]
    kept.flush()
    return kept


def thresholds(activations: Floats, quantile: float = 0.005) -> NDArray[np.float64]:
    """Return the threshold of each unit, over all images and positions of stored activations ``(N, U, h, w)``."""
    units = activations.shape[1]
    sketch = QuantileSketch(units)
    for start in range(0, len(activations), BATCH):
        sketch.add(np.moveaxis(activations[start : start + BATCH], 1, -1).reshape(-1, units))
    return threshold(sketch, quantile)


def pillow(values: Floats, size: tuple[int, int]) -> Floats:
    """Enlarge one map bilinearly to ``(height, width)``: half-pixel centres, edges held."""
    image = Image.fromarray(np.asarray(values, dtype=np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


class Tally(NamedTuple):
    """Counted pixels.

    Attributes:
        both: ``(U, C)``, where the unit is active and the label holds.
        units_cat: ``(U, categories)``, where the unit is active, over the images annotated with the category.
        labels: ``(C,)``, where the label holds.
    """

    both: NDArray[np.int64]
    units_cat: NDArray[np.int64]
    labels: NDArray[np.int64]


def tally(
    features: Floats,
    limits: Floats,
    label_maps: Sequence[Integers],
    whole: Sequence[tuple[int, ...]],
    categories: Integers,
    upsample: Upsample = pillow,
) -> Tally:
    """Count as Lite does, image by image and unit by unit.

    Args:
        features: activations ``(N, U, h, w)``.
        limits: thresholds ``(U,)``; compared as numpy does, so give them in the precision of what ``upsample`` returns
            if both sides of a comparison must round alike.
        label_maps: N arrays ``(L, sh, sw)`` of labels, 0 = unlabelled, ``i`` = column ``i - 1``; L and sizes may differ. A
            label that a pixel has on two layers counts twice.
        whole: N tuples of labels that hold for the whole image.
        categories: ``(C,)``, the number of the category of each label, from 0.
        upsample: ``(map, (sh, sw))`` to a map of that size. A unit whose maximum does not exceed its threshold is skipped
            before, so rounding in here cannot make one active that is nowhere above.
    """
    units, count = features.shape[1], len(categories)
    both = np.zeros((units, count + 1), dtype=np.int64)  # column 0 counts the unlabelled, and goes in the end
    units_cat = np.zeros((units, int(categories.max()) + 1), dtype=np.int64)
    labels = np.zeros(count + 1, dtype=np.int64)
    for activations, maps, scalars in zip(features, label_maps, whole, strict=True):
        height, width = maps.shape[1:]
        here = np.bincount(maps.ravel(), minlength=count + 1)
        for label in scalars:
            here[label] += height * width
        labels += here
        annotated = np.unique(categories[here[1:] > 0])
        for unit in range(units):
            limit = limits[unit]
            if not activations[unit].max() > limit:
                continue
            pixels = np.argwhere(upsample(activations[unit], (height, width)) > limit)
            for layer in maps:
                both[unit] += np.bincount(layer[pixels[:, 0], pixels[:, 1]], minlength=count + 1)
            for label in scalars:
                both[unit, label] += len(pixels)
            units_cat[unit, annotated] += len(pixels)
    return Tally(both[:, 1:], units_cat, labels[1:])


def iou(counts: Tally, categories: Integers) -> NDArray[np.float64]:
    """Return ``(U, C)`` intersection over union, over the images in which the category of the label is annotated."""
    return counts.both / (counts.units_cat[:, categories] + counts.labels - counts.both + 1e-10)
