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
        maps: int64 ``(N, L, P)``: the labels of each pixel, as numbers in ``present`` from 1 up; 0 is none.
        present: int64 ``(l,)``: the labels that occur, concept numbers from 0.
        pixels: int64 ``(N, C)``: pixels of each concept.
        whole: ``(image, concept)``, int64: labels of whole images.
        size: P, pixels of a label map.
    """

    maps: Tensor
    present: Tensor
    pixels: Tensor
    whole: tuple[Tensor, Tensor]
    size: int

    def take(self, rows: Tensor) -> Labels:
        """Return the annotations of some images, ``rows`` int64 ``(n,)``, each at most once."""
        image, concept = self.whole
        place = torch.full((len(self.maps),), -1, device=rows.device).index_put(
            (rows,), torch.arange(len(rows), device=rows.device)
        )
        kept = place[image] >= 0
        return Labels(self.maps[rows], self.present, self.pixels[rows], (place[image[kept]], concept[kept]), self.size)


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
    layers = max((len(one.maps) for one in annotations), default=0)
    stacked = torch.zeros(len(annotations), layers, size[0] * size[1], dtype=torch.int64)
    for row, one in zip(stacked, annotations, strict=True):
        if len(one.maps):
            row[: len(one.maps)] = _resized(one.maps, size).flatten(1)
    stacked = stacked.to(device)
    used = torch.bincount(_checked(stacked, concepts).flatten(), minlength=concepts + 1)
    _forget_repeated(stacked)
    present = used[1:].nonzero().flatten()
    position = torch.zeros(concepts + 1, dtype=torch.int64, device=device)
    position[present + 1] = torch.arange(1, len(present) + 1, device=device)
    maps = position[stacked]
    rows = torch.arange(len(annotations), device=device)[:, None, None] * (len(present) + 1)
    counted = torch.bincount((rows + maps).flatten(), minlength=len(annotations) * (len(present) + 1))
    pixels = torch.zeros(len(annotations), concepts, dtype=torch.int64, device=device)
    pixels[:, present] = counted.reshape(len(annotations), -1)[:, 1:]
    pairs = [(i, label - 1) for i, one in enumerate(annotations) for label in set(one.whole)]
    image, concept = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).to(device).T
    _checked(concept + 1, concepts)
    # A label of the whole image covers its pixels as well: they must not count twice.
    for i, c in pairs:
        if bool(pixels[i, c]):
            maps[i][maps[i] == position[c + 1]] = 0
    pixels[image, concept] = size[0] * size[1]
    return Labels(maps, present, pixels, (image, concept), size[0] * size[1])


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
        self.both = torch.zeros(groups, units, len(vocabulary.concepts), dtype=torch.int64, device=device)
        real = torch.float32 if device.type == "mps" else torch.float64
        self.area = torch.zeros(groups, units, len(vocabulary.kinds), dtype=real, device=device)
        self.labels = torch.zeros(groups, len(vocabulary.concepts), dtype=torch.int64, device=device)
        self.annotated = torch.zeros(groups, len(vocabulary.kinds), dtype=torch.int64, device=device)

    @property
    def counts(self) -> tuple[Tensor, ...]:
        """All counts."""
        return self.both, self.area, self.labels, self.annotated

    def add(self, active: Active, labels: Labels, group: Tensor) -> None:
        """Count some images.

        Args:
            active: their active pixels.
            labels: their annotations.
            group: int64 ``(N,)``, the group of each image.
        """
        units, images = self.both.shape[1], len(labels.maps)
        every = torch.arange(units, device=group.device)
        pair = active.unit * images + active.image
        area = torch.bincount(pair, minlength=units * images).reshape(units, images)
        if labels.maps.shape[1] and len(labels.present):
            width = len(labels.present) + 1
            seen = labels.maps[active.image, :, active.pixel]
            counts = torch.bincount((pair[:, None] * width + seen).flatten(), minlength=units * images * width)
            both = counts.reshape(units, images, width)[..., 1:].transpose(0, 1)
            self.both.index_put_((group[:, None, None], every[:, None], labels.present), both, accumulate=True)
        image, concept = labels.whole
        if len(image):
            self.both.index_put_((group[image][:, None], every, concept[:, None]), area.T[image], accumulate=True)
        self.labels.index_put_((group,), labels.pixels, accumulate=True)
        annotated = self._annotated(labels.pixels > 0)
        self.annotated.index_put_((group,), annotated.long() * labels.size, accumulate=True)
        # Active pixels (U, N) summed over the images of each group that have a label of each category: a matrix product.
        groups, _, kinds = self.area.shape
        member = torch.zeros(images, groups, kinds, dtype=self.area.dtype, device=group.device)
        member[torch.arange(images, device=group.device), group] = annotated.to(member)
        self.area += (area.to(member) @ member.flatten(1)).reshape(units, groups, kinds).transpose(0, 1)

    def _annotated(self, has: Tensor) -> Tensor:
        """Return which categories ``(N, K)`` are annotated in images that have these concepts ``(N, C)``."""
        kind = self.vocabulary.kind.to(has.device).expand(len(has), -1)
        found = torch.zeros(len(has), len(self.vocabulary.kinds), dtype=torch.int64, device=has.device)
        return found.scatter_add_(1, kind, has.long()) > 0


def iou(both: Tensor, area: Tensor, labels: Tensor, kind: Tensor) -> Tensor:
    """Return intersection over union ``(..., U, C)`` from counts ``both (..., U, C)``, ``area (..., U, K)`` and ``labels
    (..., C)``; 0 where the union is empty."""
    union = area[..., kind] + labels[..., None, :] - both
    return torch.where(union > 0, both / union.clamp(min=1), torch.zeros_like(union))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[1:]) == size:
        return maps.long()
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for new, old in zip(size, maps.shape[1:], strict=True)
    )
    return maps.long()[:, rows][:, :, columns]


def _checked(labels: Tensor, concepts: int) -> Tensor:
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) > concepts):
        wrong = labels[(labels < 0) | (labels > concepts)][0]
        raise ProbeError(
            "The probe has no concept of that label number", int(wrong), f"Labels go from 1 to {concepts}."
        )
    return labels


def _forget_repeated(maps: Tensor) -> None:
    """Drop a label that an earlier layer of ``(N, L, P)`` has at the same pixel: pixels are counted, not entries."""
    layers = maps.shape[1]
    ranges = [(int(one[one > 0].min()), int(one.max())) if bool(one.any()) else None for one in maps.unbind(1)]
    for later in range(1, layers):
        for earlier in range(later):
            a, b = ranges[earlier], ranges[later]
            if a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1]:
                maps[:, later][maps[:, later] == maps[:, earlier]] = 0
