"""Photos and labelled folders become pixels: float32 ``(N, C, H, W)`` in [0, 1], the only space people and attacks see.

One bad file is reported and skipped; only when nothing is left is that an error. How a picture is decoded is told in
:mod:`workbench.decode`, what sub-folders say about classes in :mod:`workbench.folders`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from .decode import Decoded, decode
from .errors import ImageError, OptionError
from .folders import Picture, find, label_pictures, spread
from .resize import fit, with_channels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd

    from .models import Preset, VisionModel


@dataclass(frozen=True)
class ConceptMaps:
    """Pixel-exact concept annotation of an image set, in the form that ``TensorProbe`` takes.

    Attributes:
        labels: integer maps ``(N, L, H, W)``; 0 is unlabelled, number ``i`` is ``names[i - 1]``.
        names: one name per label number, from 1 up.
        categories: one category per label number, from 1 up.
    """

    labels: torch.Tensor
    names: tuple[str, ...]
    categories: tuple[str, ...]


@dataclass(frozen=True, repr=False, eq=False)
class ImageSet:
    """Images with what is known about them. Make one with :func:`read_images` or :meth:`of`.

    Attributes:
        images: float32 ``(N, C, H, W)`` in [0, 1].
        labels: int64 ``(N,)``, an index into ``classes``, or ``None`` when nobody knows the truth.
        ids: one stable name per image (a relative path, or ``shapes/test/0/17``): randomness and results hang on it.
        classes: class names that ``labels`` index; empty when unknown.
        digest: sha256 over pixels, labels and ids.
        notices: what a person should know about how the pixels were made ("photo.png: transparency put on white").
        skipped: ``(name, reason)`` of files that could not be read.
        evidence: bool ``(N, H, W)``: the pixels that decide the class, where the data set knows them.
        concepts: concept annotation, where the data set has it.
    """

    images: torch.Tensor
    labels: torch.Tensor | None
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    digest: str
    notices: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    evidence: torch.Tensor | None = None
    concepts: ConceptMaps | None = None

    @classmethod
    def of(
        cls,
        images: torch.Tensor,
        labels: torch.Tensor | Sequence[int] | None = None,
        ids: Iterable[str] | None = None,
        classes: Iterable[str] = (),
        **known: Any,
    ) -> ImageSet:
        """Make a set from pixels that are already a tensor, and compute its digest.

        Args:
            images: float32 ``(N, C, H, W)`` in [0, 1].
            labels: class indices ``(N,)``.
            ids: unique names; ``image-0``, ``image-1``, ... by default.
            classes: class names.
            **known: ``notices``, ``skipped``, ``evidence`` and ``concepts``, as in the class.

        Raises:
            ImageError: a shape, type or range that an image set cannot have.
        """
        if images.numel() and not (images.min() >= 0 and images.max() <= 1):
            found = f"{float(images.min()):g} to {float(images.max()):g}"
            raise ImageError("pixels outside 0 to 1", found, "Divide 8-bit pixels by 255, and undo any normalisation.")
        labels = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)
        names = tuple(f"image-{i}" for i in range(len(images))) if ids is None else tuple(ids)
        return cls(images, labels, names, tuple(classes), _digest(images, labels, names), **known)

    def __post_init__(self) -> None:
        n, *_ = shape = tuple(self.images.shape)
        grid = (n, *shape[2:])
        rules = {
            "images must be float32 (N, C, H, W)": self.images.ndim == 4 and self.images.dtype == torch.float32,
            "there must be one id per image, all different": len(self.ids) == n == len(set(self.ids)),
        }
        if self.labels is not None:
            index = self.labels
            rules["labels must be int64 (N,)"] = index.dtype == torch.int64 and tuple(index.shape) == (n,)
            rules["labels must be indices into classes"] = index.numel() == 0 or bool(
                index.min() >= 0 and (not self.classes or index.max() < len(self.classes))
            )
        if self.evidence is not None:
            mask = self.evidence
            rules["evidence must be bool (N, H, W)"] = mask.dtype == torch.bool and tuple(mask.shape) == grid
        if self.concepts is not None:
            maps = self.concepts.labels
            rules["concept maps must be (N, L, H, W)"] = maps.ndim == 4 and (len(maps), *maps.shape[2:]) == grid
        for rule, holds in rules.items():
            if not holds:
                raise ImageError(f"not an image set: {rule}", f"images {shape}", "ImageSet.of makes one from a tensor.")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        n, c, h, w = self.images.shape
        told = "unlabelled" if self.labels is None else f"labelled, {len(self.classes) or 'unnamed'} classes"
        lost = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"ImageSet({n} x {c} x {h} x {w}, {told}{lost}, digest {self.digest[:12]})"

    def subset(self, indices: Sequence[int] | torch.Tensor | slice) -> ImageSet:
        """Return the images at ``indices`` (numbers, a slice, or a bool tensor ``(N,)``), with their own digest."""
        chosen = indices if isinstance(indices, slice | torch.Tensor) else torch.tensor(indices, dtype=torch.int64)
        keep = torch.arange(len(self))[chosen]

        def rows(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[keep.to(tensor.device)]

        maps = self.concepts
        return ImageSet.of(
            rows(self.images),
            None if self.labels is None else rows(self.labels),
            (self.ids[i] for i in keep.tolist()),
            self.classes,
            notices=self.notices,
            skipped=self.skipped,
            evidence=None if self.evidence is None else rows(self.evidence),
            concepts=None if maps is None else ConceptMaps(rows(maps.labels), maps.names, maps.categories),
        )

    def frame(self) -> pd.DataFrame:
        """Return one row per image: ``id``, ``label`` and ``class`` (missing where unknown)."""
        import pandas as pd

        index = [None] * len(self) if self.labels is None else self.labels.tolist()
        names = [self.classes[i] if i is not None and self.classes else None for i in index]
        return pd.DataFrame({"id": list(self.ids), "label": pd.array(index, dtype="Int64"), "class": names})


def read_images(
    source: Any,
    model: VisionModel | None = None,
    *,
    preset: Preset | None = None,
    size: int | tuple[int, int] | None = None,
    labels: Literal["auto", "sorted"] | Mapping[str, int] | Sequence[int] | None = "auto",
    limit: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> ImageSet:
    """Read photos from files, folders or memory.

    Args:
        source: a file; a folder (read recursively, in sorted order, without hidden files and files that are no pictures
            by their extension); a list of files; or pictures in memory: bytes, PIL images, uint8 arrays ``(H, W, C)``,
            or pairs of a name and one of these.
        model: the network the images are for: its preset resizes and crops, its input decides between grey and RGB.
        preset: resizing and cropping to use instead of the model's.
        size: without a model or preset, the height and width (or the side of a square) that each picture is scaled to
            cover and cropped to. Without any of the three, all pictures must have one size; they stay grey if all are.
        labels: ``"auto"``: sub-folders with one class each give labels when they are names, or numbers, of the model's
            classes; or when they are as many as the classes of a model without class names (then in sorted order, with
            a notice); or when there is no model. ``"sorted"``: insist on the sorted order of the sub-folders. A mapping
            from sub-folder to class index, a list with one class index per picture, or ``None`` for no labels.
        limit: read at most so many, spread evenly over the sub-folders; the first ones in sorted order of each.
        progress: called with pictures read, their total, and the name of the last one. What it raises cancels the work.

    Returns:
        The images that could be read, with the others in ``skipped``. ``ids`` are paths relative to ``source``.

    Raises:
        ImageError: nothing could be read, or the pictures differ in size and nobody said which size to use.
        OptionError: an option makes no sense.
    """
    if size is not None and (model is not None or preset is not None):
        raise OptionError("two sizes given", size, "Leave size away: the model's preset says how to resize.")
    preset = preset if preset is not None or model is None else model.preset
    pictures, skipped = find(source)
    known = label_pictures(pictures, model, labels)
    pictures = spread(pictures, limit)
    channels = model.input_size[0] if model is not None else len(preset.mean) if preset is not None else None
    if channels not in (None, 1, 3):
        raise ImageError("pictures have 1 or 3 channels, the model takes", channels, "Use tensors with ImageSet.of.")

    def prepare(picture: Picture) -> Decoded:
        pixels, changed = decode(picture.data)
        if channels == 1:
            pixels = with_channels(pixels, 1)
        if preset is not None:
            pixels, cropped = fit(pixels, preset.crop, resize=preset.resize, interpolation=preset.interpolation)
        elif size is not None:
            pixels, cropped = fit(pixels, (size, size) if isinstance(size, int) else size, resize="cover")
        else:
            cropped = ()
        return Decoded(pixels, changed + cropped)

    read, failed = _decode_all(pictures, prepare, progress)
    skipped += failed
    if not read:
        raise _nothing(source, skipped)
    return ImageSet.of(
        _stack(read, channels),
        [known.labels[name] for name in read] if known.labels else None,
        read,
        known.classes,
        notices=(*known.notices, *_merged(read)),
        skipped=tuple((name, str(error)) for name, error in skipped),
    )


def _decode_all(
    pictures: list[Picture],
    prepare: Callable[[Picture], Decoded],
    progress: Callable[[int, int, str], None] | None,
) -> tuple[dict[str, Decoded], list[tuple[str, ImageError]]]:
    """Decode on a few threads (Pillow releases the interpreter), in order, keeping what failed apart."""

    def attempt(picture: Picture) -> Decoded | ImageError:
        try:
            return prepare(picture)
        except ImageError as error:
            return error

    read: dict[str, Decoded] = {}
    failed: list[tuple[str, ImageError]] = []
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        try:
            for done, (picture, result) in enumerate(zip(pictures, pool.map(attempt, pictures), strict=True), start=1):
                if isinstance(result, ImageError):
                    failed.append((picture.name, result))
                else:
                    read[picture.name] = result
                if progress is not None:
                    progress(done, len(pictures), picture.name)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return read, failed


def _stack(read: Mapping[str, Decoded], channels: int | None) -> torch.Tensor:
    arrays = [decoded.pixels for decoded in read.values()]
    channels = channels or max(a.shape[2] for a in arrays)
    sizes = Counter(a.shape[:2] for a in arrays)
    if len(sizes) > 1:
        found = ", ".join(f"{n} of {h} x {w}" for (h, w), n in sizes.most_common(3))
        raise ImageError("the pictures differ in size", found, "Give the model, or size=(height, width).")
    images = torch.empty(len(arrays), channels, *arrays[0].shape[:2])
    for image, pixels in zip(images, arrays, strict=True):
        whole = torch.tensor(with_channels(pixels, channels)).permute(2, 0, 1)
        image.copy_(whole.float().div(255) if whole.dtype == torch.uint8 else whole)
    return images


def _merged(read: Mapping[str, Decoded]) -> list[str]:
    """Say each notice once: "a.png and 11 more: transparency put on white"."""
    names: dict[str, list[str]] = {}
    for name, decoded in read.items():
        for notice in decoded.notices:
            names.setdefault(notice, []).append(name)
    return [f"{n[0]}{f' and {len(n) - 1} more' if len(n) > 1 else ''}: {notice}" for notice, n in names.items()]


def _nothing(source: Any, skipped: list[tuple[str, ImageError]]) -> ImageError:
    if not skipped:
        where = source if isinstance(source, str | os.PathLike) else None
        return ImageError(
            "no picture found", where, "Give PNG, JPEG, WebP, BMP, TIFF or GIF files, or a folder of them."
        )
    reasons = [(name, e.what if e.value is None else f"{e.what}, {e.value}") for name, e in skipped]
    name, reason = reasons[0]
    if len(skipped) == 1:
        return ImageError(f"{name} cannot be read", reason, skipped[0][1].fix)
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons[:3])
    return ImageError(f"none of the {len(skipped)} pictures can be read", told, skipped[0][1].fix)


def _digest(images: torch.Tensor, labels: torch.Tensor | None, ids: tuple[str, ...]) -> str:
    named = {"shape": list(images.shape), "labels": None if labels is None else labels.tolist(), "ids": ids}
    state = hashlib.sha256(json.dumps(named).encode())
    for image in images:
        state.update(image.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
