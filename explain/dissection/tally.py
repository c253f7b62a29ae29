"""Counting pixels: where a unit is active, where a concept is, and where both are.

IoU(k, c) = Σ |M_k ∩ L_c| / Σ |M_k ∪ L_c|, the sums over the images in which the *category* of c is annotated (Bau et al.,
CVPR 2017, section 3.1): an image without a colour annotation says nothing about colours. Labels of a whole image cover all of
it. Counts are kept apart by groups of images, whose resampling gives the intervals; a tally takes the memory of its counts,
however many images there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from explain.dissection.grid import Active
from explain.dissection.probe import Annotation
from explain.errors import ProbeError


@dataclass(frozen=True)
class Vocabulary:
    """The concepts of a probe as numbers.

    Attributes:
        concepts: C names.
        categories: C names.
        kinds: the different categories, in the order in which they first appear.
        kind: int64 ``(C,)``, the category of each concept as an index into ``kinds``.
    """

    concepts: tuple[str, ...]
    categories: tuple[str, ...]
    kinds: tuple[str, ...]
    kind: Tensor

    @classmethod
    def of(cls, concepts: Sequence[str], categories: Sequence[str]) -> Vocabulary:
        """Number the categories."""
        kinds = tuple(dict.fromkeys(categories))
        return cls(tuple(concepts), tuple(categories), kinds, torch.tensor([kinds.index(name) for name in categories]))


class Labels(NamedTuple):
    """The annotations of some images of one size, ready to be counted.

    Attributes:
        maps: int16 or int32 ``(N, P, L)``: the labels of each pixel, from 1 up; 0 is none. The labels of a pixel lie together,
            because they are looked up together.
        pixels: int64 ``(N, C)``: pixels of each concept.
        whole: ``(image, concept)``, int64: labels of whole images.
    """

    maps: Tensor
    pixels: Tensor
    whole: tuple[Tensor, Tensor]

    def take(self, rows: slice | Tensor) -> Labels:
        """Return the annotations of some images, a run of them or ``rows`` int64 ``(n,)``, each at most once."""
        image, concept = self.whole
        chosen = torch.arange(len(self.maps), device=image.device)[rows]
        place = torch.full((len(self.maps),), -1, device=image.device)
        place[chosen] = torch.arange(len(chosen), device=image.device)
        kept = place[image] >= 0
        return Labels(self.maps[rows], self.pixels[rows], (place[image[kept]], concept[kept]))


def read_labels(
    annotations: Sequence[Annotation], size: tuple[int, int], concepts: int, device: torch.device
) -> Labels:
    """Prepare the annotations of some images.

    Args:
        annotations: one per image; maps of another size are brought to ``size`` by their nearest pixel.
        size: (h, w) of the label maps.
        concepts: C.
        device: where to count.

    Raises:
        ProbeError: a label number that the probe does not have.
    """
    for one in annotations:
        _check_annotation(one)
    layers = max((len(one.maps) for one in annotations), default=0)
    small = torch.int16 if concepts < 2**15 else torch.int32
    maps = torch.zeros(len(annotations), size[0] * size[1], layers, dtype=small)
    for row, one in zip(maps, annotations, strict=True):
        if len(one.maps):
            resized = _resized(one.maps, size)
            _check_range(resized, concepts)
            row[:, : len(one.maps)] = resized.flatten(1).T
    maps = maps.to(device)
    counted = _counted(maps, concepts)
    if bool(((counted.sum(0) > 0).sum(0) > 1).any()):
        _forget_repeated(maps)
        counted = _counted(maps, concepts)
    pixels = counted.sum(1)
    pairs = [(i, label - 1) for i, one in enumerate(annotations) for label in sorted(set(one.whole))]
    image, concept = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    _check_range(concept + 1, concepts, lowest=1)
    for i, c in pairs:
        if bool(pixels[i, c]):  # what covers the image covers these pixels as well: they must not count twice
            maps[i][maps[i] == c + 1] = 0
    image, concept = image.to(device), concept.to(device)
    pixels[image, concept] = size[0] * size[1]
    return Labels(maps, pixels, (image, concept))


class Tally:
    """Counts per group of images.

    Args:
        groups: G.
        units: U.
        vocabulary: of C concepts in K categories.
        device: where to count.

    Attributes:
        both: int64 ``(G, U, C)``: pixels where the unit is active and the concept is.
        area: float64 ``(G, U, K)``: pixels where the unit is active, in images in which the category is annotated.
        labels: int64 ``(G, C)``: pixels of the concept.
        annotated: int64 ``(G, K)``: pixels of the images in which the category is annotated.
    """

    def __init__(self, groups: int, units: int, vocabulary: Vocabulary, device: torch.device) -> None:
        self.vocabulary = vocabulary
        real = _real(device)
        self.both = torch.zeros(groups, units, len(vocabulary.concepts), dtype=torch.int64, device=device)
        self.area = torch.zeros(groups, units, len(vocabulary.kinds), dtype=real, device=device)
        self.labels = torch.zeros(groups, len(vocabulary.concepts), dtype=torch.int64, device=device)
        self.annotated = torch.zeros(groups, len(vocabulary.kinds), dtype=torch.int64, device=device)

    @staticmethod
    def bytes_for(groups: int, units: int, concepts: int, kinds: int, device: torch.device) -> int:
        """Return what a tally takes."""
        return groups * (8 * (units * concepts + concepts + kinds) + _real(device).itemsize * units * kinds)

    def add(self, active: Active, labels: Labels, group: Tensor) -> None:
        """Count some images.

        Args:
            active: their active pixels.
            labels: their annotations.
            group: int64 ``(N,)``, the group of each image.
        """
        units, (images, size, layers) = self.both.shape[1], labels.maps.shape
        area = torch.bincount(active.unit * images + active.image, minlength=units * images).reshape(units, images)
        groups, member = torch.unique(group, return_inverse=True)
        present = labels.pixels.any(0).nonzero().flatten()
        if layers and len(present):
            seen = labels.maps.flatten(0, 1)[active.image * size + active.pixel]
            width = self.both.shape[2] + 1
            if width > 2 * len(present) + 2:  # few of many concepts: number those that are here
                position = torch.zeros(width, dtype=seen.dtype, device=group.device)
                position[present + 1] = torch.arange(1, len(present) + 1, dtype=seen.dtype, device=group.device)
                seen, width = position[seen.long()], len(present) + 1
            else:
                present = torch.arange(width - 1, device=group.device)
            bins = len(groups) * units * width
            key = torch.int32 if bins < 2**31 else torch.int64
            row = ((member[active.image] * units + active.unit) * width).to(key)
            counts = torch.bincount((row[:, None] + seen).flatten(), minlength=bins)
            both = counts.reshape(len(groups), units, width)[..., 1:]
            if len(present) == self.both.shape[2]:
                self.both[groups] += both
            else:
                self.both[groups[:, None], :, present] += both.transpose(1, 2)
        image, concept = labels.whole
        if len(image):
            every = torch.arange(units, device=group.device)
            self.both.index_put_((group[image][:, None], every, concept[:, None]), area.T[image], accumulate=True)
        self.labels.index_put_((group,), labels.pixels, accumulate=True)
        annotated = self._annotated(labels.pixels > 0)
        self.annotated.index_put_((group,), annotated.long() * size, accumulate=True)
        # Active pixels (U, N) summed over the images of each group that have a label of each category: a matrix product.
        kinds = annotated.shape[1]
        counts_in = torch.zeros(images, len(groups), kinds, dtype=self.area.dtype, device=group.device)
        counts_in[torch.arange(images, device=group.device), member] = annotated.to(counts_in)
        summed = (area.to(counts_in) @ counts_in.flatten(1)).reshape(units, len(groups), kinds)
        self.area[groups] += summed.transpose(0, 1)

    def _annotated(self, has: Tensor) -> Tensor:
        """Return which categories ``(N, K)`` are annotated in images that have these concepts ``(N, C)``."""
        kind = self.vocabulary.kind.to(has.device).expand(len(has), -1)
        found = torch.zeros(len(has), len(self.vocabulary.kinds), dtype=torch.int64, device=has.device)
        return found.scatter_add_(1, kind, has.long()) > 0


def _real(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def iou(both: Tensor, area: Tensor, labels: Tensor, kind: Tensor) -> Tensor:
    """Return intersection over union ``(..., U, C)`` from counts ``both (..., U, C)``, ``area (..., U, K)`` and ``labels
    (..., C)``; 0 where the union is empty."""
    union = area[..., kind] + labels[..., None, :] - both
    return torch.where(union > 0, both / union.clamp(min=1), torch.zeros_like(union))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[1:]) == size:
        return maps
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for new, old in zip(size, maps.shape[1:], strict=True)
    )
    return maps[:, rows][:, :, columns]


def _check_annotation(one: Annotation) -> None:
    if one.maps.ndim != 3 or not one.maps[:1].shape[1:].numel() or one.maps.is_floating_point():
        raise ProbeError(
            "Label maps must be integer (L, h, w), with at least one pixel",
            f"{one.maps.dtype} {tuple(one.maps.shape)}",
            "Add a dimension for the layer; for images without label maps pass (0, h, w).",
        )


def _check_range(labels: Tensor, concepts: int, lowest: int = 0) -> None:
    if not labels.numel():
        return
    low, high = (int(one) for one in labels.aminmax())
    if low < lowest or high > concepts:
        wrong = low if low < lowest else high
        raise ProbeError("The probe has no concept of that label number", wrong, f"Labels go from 1 to {concepts}.")


def _counted(maps: Tensor, concepts: int) -> Tensor:
    """Return the pixels ``(N, L, C)`` of each label in each layer."""
    # Image by image: one image's keys fit into the cache, those of a batch do not.
    layers = maps.shape[2]
    first = torch.arange(layers, device=maps.device) * (concepts + 1)
    counts = [torch.bincount((first + one).flatten(), minlength=layers * (concepts + 1)) for one in maps]
    return torch.stack(counts).reshape(len(maps), layers, concepts + 1)[..., 1:]


def _forget_repeated(maps: Tensor) -> None:
    """Drop a label that an earlier layer of ``(N, P, L)`` has at the same pixel: pixels are counted, not entries."""
    for later in range(1, maps.shape[2]):
        for earlier in range(later):
            one = maps[..., later]
            one[one == maps[..., earlier]] = 0
