"""Any segmentation dataset of torchvision as a probe: VOCSegmentation, SBDataset (segmentation), Cityscapes (semantic),
OxfordIIITPet (segmentation), or one's own that gives an image and a map of class numbers.

Two traps make wrong concepts without a trace, and are refused: random transforms, which move the image but not its map,
and ``ToTensor`` on the map, which divides class numbers by 255.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import PurePath
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from explain.digest import feed_tensor
from explain.dissection.probe import Annotation
from explain.errors import ProbeError

from ..decode import decode
from ..errors import ImageError, OptionError
from ..resize import with_channels
from ._base import BaseProbe, check_concepts, check_ids, evenly
from ._pictures import Size, TensorPictures, check_channels, fitted, pair, reading

if TYPE_CHECKING:
    from hashlib import _Hash

_GREY_MODES = ("1", "L", "P", "I", "I;16")
_TO_TENSOR = (
    "Leave ToTensor away from the maps (target_transform): it divides class numbers by 255. PILToTensor does not."
)
_PROPORTIONS = 1.25  # as in folder.py


class _Item(NamedTuple):
    image: Tensor
    labels: Tensor


class _Items:
    """The dataset's items, decoded, checked and numbered; the last one is kept, as image and labels are asked in turn."""

    def __init__(
        self,
        dataset: Any,
        rows: list[int],
        names: Sequence[str],
        size: tuple[int, int] | None,
        channels: int,
        ignore: frozenset[int],
        offset: int,
        concepts: int,
    ) -> None:
        self._dataset, self._rows, self._names = dataset, rows, names
        self._size, self._channels = size, channels
        self._ignore, self._offset, self._concepts = ignore, offset, concepts
        self._sizes: dict[int, tuple[int, int]] = {}
        self._last: tuple[int, _Item] | None = None
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def size(self, index: int) -> tuple[int, int]:
        if self._size is not None:
            return self._size
        if index not in self._sizes:  # a dataset does not tell without decoding
            height, width = self.item(index).image.shape[-2:]
            self._sizes[index] = height, width
        return self._sizes[index]

    def read(self, index: int) -> Tensor:
        return self.item(index).image

    def feed(self, state: _Hash) -> None:
        for index in range(len(self)):
            try:
                item = self._read(index)
            except ProbeError:
                state.update(b"unreadable")
                continue
            feed_tensor(state, item.image)
            feed_tensor(state, item.labels)

    def item(self, index: int) -> _Item:
        last = self._last
        if last is not None and last[0] == index:
            return last[1]
        item = self._read(index)
        self._last = index, item
        return item

    def _read(self, index: int) -> _Item:
        where = f"item {self._rows[index]} of the dataset ({self._names[index]})"
        try:
            with self._lock:  # datasets are rarely made for threads
                found = self._dataset[self._rows[index]]
        except Exception as error:  # whatever a dataset raises on a file that is damaged or gone
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise ProbeError(f"{where} cannot be read", reason, "Is the file there, and whole?") from None
        if not isinstance(found, tuple | list) or len(found) != 2:
            fix = "A segmentation dataset gives an image and a map of class numbers."
            raise ProbeError(f"{where} is not a pair", type(found).__name__, fix)
        with reading(where):
            image, classes = _image(found[0], self._channels), _classes(found[1])
            self._check(image, classes)
            labels = torch.where(_is_in(classes, self._ignore), 0, classes + self._offset)
            low, high = (int(labels.min()), int(labels.max())) if labels.numel() else (0, 0)
            if low < 0 or high > self._concepts:
                fix = "Name all classes in concepts, put others into ignore; offset=1 if class 0 is one of them."
                told = f"class numbers outside {-self._offset} to {self._concepts - self._offset}"
                raise ImageError(told, f"{low - self._offset} to {high - self._offset}", fix)
            return _Item(fitted(image, self._size, None), labels)

    @staticmethod
    def _check(image: Tensor, classes: Tensor) -> None:
        (height, width), (h, w) = image.shape[-2:], classes.shape[-2:]
        if not 1 / _PROPORTIONS <= (w * height) / (h * width) <= _PROPORTIONS and min(h, w) > 2:
            fix = "Both must cover the same picture: leave crops away, and scale with size= instead of a transform."
            raise ImageError("image and map differ in their proportions", f"{height} x {width} and {h} x {w}", fix)


class DatasetProbe(BaseProbe):
    """A segmentation dataset as a probe. Its items are read when asked for.

    Args:
        dataset: ``dataset[i]`` is an image (PIL, uint8 or float in [0, 1] ``(C, H, W)``) and a map of class numbers (PIL,
            or integers ``(h, w)`` or ``(L, h, w)``). No random transforms.
        concepts: one name per class, from class 1 up; from class 0 up with ``offset=1``.
        categories: one per concept, or one for all.
        size: height and width that the images are scaled to, as a whole; by default each has its own, which a dataset
            tells only by decoding it.
        ignore: class numbers that mean unlabelled (VOC's borders are 255).
        limit: at most so many items, spread evenly.
        offset: what is added to a class number to make a label number. Leave it at 0 where class 0 is the unlabelled
            background (VOC); 1 makes class 0 a concept.
        channels: 3, or 1 for grey.

    Raises:
        ImageError: the dataset is empty, or gives something else each time.
        OptionError: concepts, size, limit or offset that make no sense.
        ProbeError: its first items cannot be read.
    """

    def __init__(
        self,
        dataset: Any,
        concepts: Sequence[str],
        categories: Sequence[str] | str = "object",
        size: Size = None,
        ignore: Sequence[int] = (255,),
        limit: int | None = None,
        *,
        offset: int = 0,
        channels: int = 3,
    ) -> None:
        names, kinds = check_concepts(concepts, categories)
        if offset == 0 and names[0].strip("_ ").lower() in ("background", "unlabelled", "unlabeled"):
            fix = "Leave it out of concepts, as class 0 is unlabelled; or pass offset=1 to make it a concept."
            raise OptionError("the first concept is class 1, not the background", names[0], fix)
        if not len(dataset):
            raise ImageError("the dataset is empty", type(dataset).__name__, "Check its folder and split.")
        rows = evenly(len(dataset), limit)
        ids = check_ids([_names(dataset)[row] for row in rows], len(rows))
        wide = check_channels(channels)
        self._items = _Items(dataset, rows, ids, pair(size), wide, frozenset(ignore), offset, len(names))
        super().__init__(self._items, ids, names, kinds)
        self._refuse_random()

    def annotation(self, index: int) -> Annotation:
        """Return the label maps of image ``index``, int64 ``(L, h, w)``.

        Raises:
            ProbeError: the item cannot be read, or has a class number that is neither a concept nor ignored.
        """
        return Annotation(self._items.item(index).labels)

    def _refuse_random(self) -> None:
        """Read a few items twice. A flip of a coin that comes out alike each time is one in eight with three items."""
        for index in {0, len(self) // 2, len(self) - 1}:
            once, again = (hashlib.sha256() for _ in range(2))
            for state in (once, again):
                try:
                    item = self._items._read(index)
                except ProbeError:
                    if index == 0:
                        raise  # if the first one is refused, so are probably all: a wrong option
                    continue
                feed_tensor(state, item.image)
                feed_tensor(state, item.labels)
            if once.digest() != again.digest():
                fix = "Make the dataset without random transforms: they move the image, but not its map."
                raise ImageError("the dataset gives another item each time", self.ids[index], fix)


def _names(dataset: Any) -> list[str]:
    """Return the files' names where the dataset has them, as torchvision's do, else numbers."""
    for attribute in ("images", "_images"):
        paths = getattr(dataset, attribute, None)
        if (
            isinstance(paths, list)
            and len(paths) == len(dataset)
            and all(isinstance(p, str | os.PathLike) for p in paths)
        ):
            names = [PurePath(path).name for path in paths]
            if len(set(names)) == len(names):
                return names
    return [f"item-{i}" for i in range(len(dataset))]


def _image(image: Any, channels: int) -> Tensor:
    if isinstance(image, Image.Image | np.ndarray):
        pixels = decode(image).pixels
        found = torch.tensor(with_channels(pixels, channels)).permute(2, 0, 1)
        return found.float().div(255) if found.dtype == torch.uint8 else found.contiguous()
    if isinstance(image, Tensor):
        plain = image.as_subclass(Tensor)
        return fitted(TensorPictures([plain.div(255) if plain.dtype == torch.uint8 else plain]).read(0), None, channels)
    raise ImageError("its image is neither a PIL image nor a tensor", type(image).__name__, "Add a transform.")


def _classes(classes: Any) -> Tensor:
    if isinstance(classes, Image.Image):
        if classes.mode not in _GREY_MODES:
            raise ImageError("its map is in colour", classes.mode, "Class numbers come in grey or palette pictures.")
        classes = np.asarray(classes)
    if isinstance(classes, np.ndarray):
        classes = (
            torch.from_numpy(classes.astype(np.int64)) if classes.dtype.kind in "iub" else torch.from_numpy(classes)
        )
    if not isinstance(classes, Tensor):
        raise ImageError("its map is neither a PIL image nor a tensor", type(classes).__name__, _TO_TENSOR)
    if classes.is_floating_point() or classes.is_complex():
        raise ImageError("its map does not hold whole numbers", classes.dtype, _TO_TENSOR)
    if classes.ndim not in (2, 3) or 0 in classes.shape:
        raise ImageError("its map is not (h, w) or (L, h, w)", tuple(classes.shape), "Give one map of class numbers.")
    whole = classes.as_subclass(Tensor).long()
    return whole if whole.ndim == 3 else whole[None]


def _is_in(classes: Tensor, numbers: frozenset[int]) -> Tensor:
    return torch.isin(classes, torch.tensor(sorted(numbers), dtype=torch.int64))
