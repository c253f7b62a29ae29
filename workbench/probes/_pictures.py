"""Where a probe's pixels come from: tensors in memory, or picture files that are decoded one by one when asked for.

A probe's picture is scaled as a whole and never cropped, whatever that does to its proportions: the label maps cover the
whole picture, and have to keep doing so. Only pictures with scores instead of maps go through a network's own crop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from explain.digest import feed_tensor
from explain.errors import ProbeError

from ..decode import FORMATS, MAX_PIXELS, decode
from ..errors import ImageError, OptionError
from ..images import ImageSet
from ..resize import fit, with_channels
from ._base import Pictures, feed_file

if TYPE_CHECKING:
    from hashlib import _Hash

    from ..models import VisionModel

Size = int | tuple[int, int] | None
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF 2.3: these orientations swap height and width
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow and torchvision


@dataclass(frozen=True)
class Recipe:
    """How a picture file becomes a tensor; its text is part of the digest.

    Attributes:
        crop: height and width of all images; ``None``: each has its own.
        channels: 1 or 3.
        resize: as in :func:`workbench.resize.fit`; ``None`` scales the whole picture to ``crop``.
        interpolation: a Pillow filter by name.
    """

    crop: tuple[int, int] | None
    channels: int = 3
    resize: int | Literal["cover"] | None = None
    interpolation: str = "bilinear"

    @classmethod
    def whole(cls, size: Size, channels: int) -> Recipe:
        """Scale the whole picture to ``size``."""
        return cls(pair(size), check_channels(channels))

    @classmethod
    def cropped(cls, model: VisionModel | None, size: Size, channels: int) -> Recipe:
        """Do as the model's preset says; or scale to cover ``size`` and crop."""
        if model is None:
            return cls(pair(size), check_channels(channels), "cover" if size is not None else None)
        if size is not None:
            raise OptionError("two sizes: model and size", size, "Pass one of them.")
        preset = model.preset
        return cls(preset.crop, check_channels(model.input_size[0]), preset.resize, preset.interpolation)


class FilePictures:
    """Picture files, read when asked for.

    Args:
        paths: the files.
        where: what a person calls each of them.
        recipe: how they become tensors.
        sizes: their sizes where ``recipe.crop`` is ``None``; pictures of another size are scaled to it.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        where: Sequence[str],
        recipe: Recipe,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self._paths, self._where, self._recipe = list(paths), list(where), recipe
        self._sizes = None if recipe.crop is not None else list(sizes or ())

    def __len__(self) -> int:
        return len(self._paths)

    def size(self, index: int) -> tuple[int, int]:
        return self._recipe.crop or (self._sizes or [])[index]

    def read(self, index: int) -> Tensor:
        with reading(self._where[index]):
            pixels = decode(self._paths[index]).pixels
        size = self.size(index)
        if self._recipe.channels == 1:
            pixels = with_channels(pixels, 1)
        if size != pixels.shape[:2] or self._recipe.resize is not None:
            pixels = fit(pixels, size, resize=self._recipe.resize, interpolation=self._recipe.interpolation).pixels
        image = torch.tensor(with_channels(pixels, self._recipe.channels)).permute(2, 0, 1).contiguous()
        return image.float().div(255) if image.dtype == torch.uint8 else image

    def feed(self, state: _Hash) -> None:
        state.update(f"{self._recipe}|{self._sizes}".encode())
        for path in self._paths:
            feed_file(state, path)


class TensorPictures:
    """Pixels in memory.

    Args:
        images: floating point ``(N, C, H, W)`` in [0, 1], or a sequence of ``(C, H, W)``.

    Raises:
        ImageError: a shape, type or range that images cannot have.
    """

    def __init__(self, images: Tensor | Sequence[Tensor]) -> None:
        if isinstance(images, Tensor) and images.ndim != 4:
            shape = tuple(images.shape)
            raise ImageError("images must be (N, C, H, W)", shape, "One image needs a batch dimension: image[None].")
        if not len(images):
            raise ImageError("there are no images", None, "Pass at least one.")
        for number, image in enumerate(images):
            _check_image(image, f"image {number}")
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def size(self, index: int) -> tuple[int, int]:
        height, width = self._images[index].shape[-2:]
        return int(height), int(width)

    def read(self, index: int) -> Tensor:
        return self._images[index].detach().float()

    def feed(self, state: _Hash) -> None:
        for index in range(len(self)):
            feed_tensor(state, self.read(index))


def pictures_of(images: Any) -> tuple[Pictures, tuple[str, ...] | None]:
    """Return the pictures of an image set, a tensor or a sequence of tensors, and their ids where they have some."""
    if isinstance(images, ImageSet):
        return TensorPictures(images.images), images.ids
    if isinstance(images, FilePictures):
        return images, None
    if isinstance(images, Tensor) or (isinstance(images, Sequence) and not isinstance(images, str)):
        return TensorPictures(images), None
    fix = "Pass an image set, a float tensor (N, C, H, W) or a list of (C, H, W); workbench.read_images reads files."
    raise ImageError("these are no images", type(images).__name__, fix)


def fitted(image: Tensor, size: tuple[int, int] | None, channels: int | None) -> Tensor:
    """Return image or images ``(..., C, H, W)`` with ``channels`` channels, scaled to ``size`` (bilinear, antialiased)."""
    found = image.shape[-3]
    if channels is not None and found != channels:
        if {found, channels} != {1, 3}:
            raise OptionError(f"images of {found} channels cannot become {channels}", None, "Give grey or RGB images.")
        if channels == 3:
            image = image.repeat_interleave(3, dim=-3)
        else:
            image = (image * image.new_tensor(_LUMA)[:, None, None]).sum(dim=-3, keepdim=True)
    if size is not None and size != tuple(image.shape[-2:]):
        batch = image if image.ndim == 4 else image[None]
        batch = F.interpolate(batch, size, mode="bilinear", antialias=True, align_corners=False)
        image = batch if image.ndim == 4 else batch[0]
    return image.clamp(0, 1)


def header_size(path: Path) -> tuple[int, int]:
    """Return height and width of a picture file as it will be decoded, upright, from its header alone.

    Raises:
        ImageError: the file is no picture that can be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
    except Exception:  # Pillow raises a dozen kinds of exception; decode() knows what to say about such a file
        height, width = decode(path).pixels.shape[:2]
        return height, width
    if width * height > MAX_PIXELS:
        raise ImageError("the picture is too large", f"{width} x {height} pixels", "Make it smaller first.")
    return (width, height) if sideways else (height, width)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Say which entry of a probe it is that cannot be read."""
    try:
        yield
    except ImageError as error:
        reason = error.what if error.value is None else f"{error.what}: {error.value}"
        raise ProbeError(f"{where} cannot be read", reason, error.fix) from None


def pair(size: Any) -> tuple[int, int] | None:
    """Return height and width; one number is the side of a square.

    Raises:
        OptionError: no size that images can have.
    """
    if size is None:
        return None
    both = (size, size) if isinstance(size, int) else tuple(size)
    whole = len(both) == 2 and all(isinstance(side, int) and side >= 1 for side in both)
    if not whole or both[0] * both[1] > MAX_PIXELS:
        raise OptionError("this is no image size", size, "Pass (height, width) in pixels, or the side of a square.")
    return both[0], both[1]


def check_channels(channels: int) -> int:
    """Return ``channels`` if pictures can have so many.

    Raises:
        OptionError: they cannot.
    """
    if channels not in (1, 3):
        raise OptionError("pictures have 1 or 3 channels, not", channels, "Make a TensorProbe of images that fit.")
    return channels


def _check_image(image: Any, which: str) -> None:
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point() or not image.numel():
        found = f"{tuple(image.shape)}, {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        fix = "Divide 8-bit pixels by 255, and put channels first."
        raise ImageError(f"{which} is not a floating-point tensor (C, H, W)", found, fix)
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        fix = "Divide 8-bit pixels by 255, and undo any normalisation."
        raise ImageError(f"{which} has pixels outside 0 to 1", f"{low:g} to {high:g}", fix)
