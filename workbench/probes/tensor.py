"""Images and label maps that are already in memory become a probe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explain.digest import feed_tensor
from explain.dissection.probe import Annotation

from ..errors import ImageError, OptionError
from ._base import BaseProbe, check_concepts, check_ids
from ._pictures import Size, fitted, pair, pictures_of

if TYPE_CHECKING:
    from hashlib import _Hash
    from typing import Self

    from ..images import ImageSet

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class TensorProbe(BaseProbe):
    """A probe of tensors. They are kept as given, not copied, and must not be changed afterwards.

    Args:
        images: floating point ``(N, C, H, W)`` in [0, 1], or a sequence of ``(C, H, W)`` of differing sizes.
        labels: integers ``(N, L, h, w)``, or a sequence of ``(L, h, w)``: L layers of label maps that cover the same
            picture, at a size of their own. 0 is unlabelled, number ``i`` is ``concepts[i - 1]``.
        concepts: one name per label number, from 1 up.
        categories: one per concept, or one for all.
        ids: unique names; ``image-0``, ``image-1``, ... by default.
        whole: for each image the label numbers that hold for all of it (a scene).

    Raises:
        ImageError: images or labels that cannot be.
        OptionError: concepts, categories or ids that do not fit them.
    """

    def __init__(
        self,
        images: Tensor | Sequence[Tensor],
        labels: Tensor | Sequence[Tensor],
        concepts: Sequence[str],
        categories: Sequence[str] | str,
        ids: Sequence[str] | None = None,
        whole: Sequence[Sequence[int]] | None = None,
    ) -> None:
        pictures, known = pictures_of(images)
        count = len(pictures)
        names, kinds = check_concepts(concepts, categories)
        super().__init__(pictures, check_ids(ids if ids is not None else known, count), names, kinds)
        self._labels = _checked_labels(labels, count, len(names))
        self._whole = _checked_whole(whole, count, len(names))

    @classmethod
    def of(cls, images: ImageSet, *, size: Size = None, channels: int | None = None) -> Self:
        """Make a probe of an image set that knows its concepts (``workbench.sample_data("shapes")`` does).

        Args:
            images: with ``.concepts``.
            size: height and width that the images are scaled to (bilinear, antialiased); label maps stay as they are.
            channels: 1 or 3: turn the images into grey or RGB.

        Raises:
            ImageError: it has no concepts.
            OptionError: a size or number of channels that cannot be had.
        """
        known = images.concepts
        if known is None:
            fix = 'Make a TensorProbe of images and label maps; workbench.sample_data("shapes") has both.'
            raise ImageError("this image set does not say where which concept is seen", images, fix)
        pixels = fitted(images.images, pair(size), channels)
        return cls(pixels, known.labels, known.names, known.categories, images.ids)

    def annotation(self, index: int) -> Annotation:
        """Return the label maps of image ``index``."""
        return Annotation(self._labels[index], self._whole[index])

    def _feed(self, state: _Hash) -> None:
        state.update(json.dumps(self._whole).encode())
        for maps in self._labels:
            feed_tensor(state, maps)


def _checked_labels(labels: Any, count: int, concepts: int) -> Tensor | Sequence[Tensor]:
    if isinstance(labels, Tensor) and labels.ndim != 4:
        fix = "One layer of maps needs a dimension for it: labels[:, None]."
        raise ImageError("labels must be (N, L, h, w)", tuple(labels.shape), fix)
    if not isinstance(labels, Tensor | Sequence) or len(labels) != count:
        found = f"{len(labels)} for {count} images" if isinstance(labels, Tensor | Sequence) else type(labels).__name__
        raise ImageError(
            "there must be labels for every image", found, "Pass a tensor (N, L, h, w), or a list of (L, h, w)."
        )
    for number, maps in enumerate(labels):
        if not isinstance(maps, Tensor) or maps.ndim != 3 or maps.dtype not in _INTEGERS or 0 in maps.shape[1:]:
            found = f"{tuple(maps.shape)}, {maps.dtype}" if isinstance(maps, Tensor) else type(maps).__name__
            raise ImageError(f"the labels of image {number} are no integers (L, h, w)", found, "Use labels.long().")
        low, high = (int(maps.min()), int(maps.max())) if maps.numel() else (0, 0)
        if low < 0 or high > concepts:
            fix = f"0 is unlabelled, 1 to {concepts} are the concepts."
            raise ImageError(f"the labels of image {number} are not in 0 to {concepts}", f"{low} to {high}", fix)
    return labels


def _checked_whole(whole: Any, count: int, concepts: int) -> list[tuple[int, ...]]:
    if whole is None:
        return [()] * count
    if len(whole) != count:
        raise OptionError("whole needs one entry per image", f"{len(whole)} for {count} images", "Use () for none.")
    checked = []
    for number, labels in enumerate(whole):
        if not isinstance(labels, Sequence) or not all(isinstance(n, int) and 1 <= n <= concepts for n in labels):
            fix = f"Pass a tuple of label numbers, 1 to {concepts}."
            raise OptionError(f"the labels of the whole image {number} are not in 1 to {concepts}", labels, fix)
        checked.append(tuple(int(n) for n in labels))
    return checked
