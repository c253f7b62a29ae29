"""Network dissection once more, slowly: every definition written out, nothing streamed, nothing skipped, float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Line = tuple[float, float]  # (offset, step) in pixels: position i of a map looks at pixel offset + step · i
Centres = Callable[[tuple[int, int], tuple[int, int]], tuple[Line, Line]]  # (image size, map size) → rows, columns


@dataclass(frozen=True)
class Expected:
    """What a dissection of one layer has to find: thresholds (U,), both (U, C), area (U, K), labels (C,), …"""

    thresholds: Floats
    both: Ints
    area: Ints
    labels: Ints
    annotated: Ints
    iou: Floats


def compose(*windows: tuple[int, int, int, int]) -> Line:
    """Centres after windows (kernel, stride, padding, dilation), first to last.

    Position i of a window layer covers positions i·s - p + d·(0 … k - 1) of its input, whose mean is i·s - p + d(k - 1)/2; these
    look at offset + step · position. So offset' = offset + step · (d(k - 1)/2 - p) and step' = step · s.
    """
    offset, step = 0.0, 1.0
    for kernel, stride, padding, dilation in windows:
        offset += step * (dilation * (kernel - 1) / 2 - padding)
        step *= stride
    return offset, step


def windows(*layers: tuple[int, int, int, int]) -> Centres:
    """Centres of a stack of square windows."""
    return lambda image, size: (compose(*layers), compose(*layers))


def cells(image: tuple[int, int], size: tuple[int, int]) -> tuple[Line, Line]:
    """Centres of a map that cuts the image into equal cells: the middle of the pixels (i·n … (i + 1)·n - 1), n = side / cells."""
    rows, columns = ((side / count / 2 - 0.5, side / count) for side, count in zip(image, size, strict=True))
    return rows, columns


def threshold(values: Floats, quantile: float) -> float:
    """The smallest of the values that at most a share q of all values exceeds."""
    allowed = math.floor(Fraction(str(quantile)) * len(values))  # of q as it is written: 0.29 of 100 is 29
    found = min(value for value in np.unique(values) if int((values > value).sum()) <= allowed)
    assert found == np.sort(values)[::-1][min(allowed, len(values) - 1)]
    return float(found)


def resize(maps: Floats, image: tuple[int, int], grid: tuple[int, int], centres: tuple[Line, Line]) -> Floats:
    """Maps (U, h, w), known at the centres, read at the centres of the grid's pixels: bilinear, border values go on."""
    height, width = maps.shape[1:]
    found = np.empty((len(maps), *grid))
    (row_offset, row_step), (column_offset, column_step) = centres
    for y in range(grid[0]):
        v = ((y + 0.5) * image[0] / grid[0] - 0.5 - row_offset) / row_step
        v = min(max(v, 0.0), height - 1.0)
        top = min(int(v), max(height - 2, 0))
        bottom, down = min(top + 1, height - 1), v - top
        for x in range(grid[1]):
            u = ((x + 0.5) * image[1] / grid[1] - 0.5 - column_offset) / column_step
            u = min(max(u, 0.0), width - 1.0)
            left = min(int(u), max(width - 2, 0))
            right, across = min(left + 1, width - 1), u - left
            above = maps[:, top, left] + across * (maps[:, top, right] - maps[:, top, left])
            below = maps[:, bottom, left] + across * (maps[:, bottom, right] - maps[:, bottom, left])
            found[:, y, x] = above + down * (below - above)
    return found


def covered(layers: Ints, whole: Sequence[int], concepts: int) -> NDArray[np.bool_]:
    """Pixels of each concept, (C, h, w): those that have its number in any layer, all of them if it is the whole image's."""
    found = np.zeros((concepts, *layers.shape[1:]), dtype=bool)
    for number in range(1, concepts + 1):
        found[number - 1] = True if number in whole else (layers == number).any(0)
    return found


def activations(
    model: nn.Module, layer: str, images: Sequence[Tensor], maps: Callable[[Tensor], Tensor]
) -> list[Floats]:
    """What a layer returns for each image, one at a time, as (U, h, w): the last time that it runs, before what follows."""
    model = copy.deepcopy(model).eval()
    if next(model.parameters()).dtype in (torch.float16, torch.bfloat16):
        model.float()
    kept: list[Tensor] = []
    hook: Callable[..., Any] = lambda module, given, output: kept.append(output.detach().clone())  # noqa: E731
    model.get_submodule(layer).register_forward_hook(hook)
    found = []
    for image in images:
        kept.clear()
        with torch.no_grad():
            model(image[None].to(next(model.parameters()).dtype))
        found.append(maps(kept[-1])[0].double().numpy())
    return found


def dissect(
    maps: Sequence[Floats],
    images: Sequence[tuple[int, int]],
    centres: Centres,
    layers: Sequence[Ints],
    whole: Sequence[Sequence[int]],
    categories: Sequence[str],
    quantile: float,
) -> Expected:
    """Dissect one layer: maps (U, h, w), image sizes, label maps (L, h, w) and whole-image labels, one each per image."""
    units, concepts, kinds = len(maps[0]), len(categories), list(dict.fromkeys(categories))
    everything = np.concatenate([one.reshape(units, -1) for one in maps], 1)
    thresholds = np.array([threshold(row, quantile) for row in everything])
    both = np.zeros((units, concepts), dtype=np.int64)
    area, labels = np.zeros_like(both), np.zeros(concepts, dtype=np.int64)
    annotated = np.zeros(len(kinds), dtype=np.int64)
    for one, image, layer, scene in zip(maps, images, layers, whole, strict=True):
        grid = (layer.shape[1], layer.shape[2])
        masks = resize(one, image, grid, centres(image, one.shape[1:])) > thresholds[:, None, None]
        seen = covered(layer, scene, concepts)
        known = {category for category, pixels in zip(categories, seen, strict=True) if pixels.any()}
        annotated += np.array([kind in known for kind in kinds]) * grid[0] * grid[1]
        for number, category in enumerate(categories):
            if category in known:
                labels[number] += seen[number].sum()
                both[:, number] += (masks & seen[number]).sum((1, 2))
                area[:, number] += masks.sum((1, 2))
    union = area + labels - both
    iou = np.where(union > 0, both / np.maximum(union, 1), 0.0)
    first = [list(categories).index(kind) for kind in kinds]
    return Expected(thresholds, both, area[:, first], labels, annotated, iou)
