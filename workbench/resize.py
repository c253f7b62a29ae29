"""Resize and centre-crop as ``torchvision.transforms`` does on PIL images, to the pixel.

A network should see what it was trained on. Normalisation is the model's own business and does not happen here.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from .decode import MAX_PIXELS, Decoded
from .errors import OptionError

_FILTERS = {r.name.lower(): r for r in Image.Resampling} | {"nearest-exact": Image.Resampling.NEAREST}


def fit(
    pixels: np.ndarray,
    crop: tuple[int, int],
    *,
    resize: int | Literal["cover"] | None,
    interpolation: str = "bilinear",
) -> Decoded:
    """Resize and centre-crop, as ``torchvision.transforms`` does on PIL images (antialiased).

    Args:
        pixels: ``(H, W, C)``, uint8 or float32.
        crop: height and width to keep; a smaller picture gets a black border.
        resize: length of the shorter side before cropping; ``None`` scales straight to ``crop``, whatever that does to
            the proportions; ``"cover"`` keeps them and takes the smallest size that fills ``crop``.
        interpolation: a Pillow filter by name: nearest, bilinear, bicubic, lanczos, box, hamming.

    Returns:
        Pixels ``(crop[0], crop[1], C)`` of the same dtype, and notices where the network would see
        little of the picture, or more than the picture.
    """
    if interpolation not in _FILTERS:
        raise OptionError("unknown interpolation", interpolation, f"Use one of: {', '.join(sorted(_FILTERS))}.")
    height, width = pixels.shape[:2]
    new_height, new_width = _resized(height, width, crop, resize)
    crop_height, crop_width = min(crop[0], new_height), min(crop[1], new_width)
    top, left = round((new_height - crop_height) / 2.0), round((new_width - crop_width) / 2.0)
    image = _to_pil(pixels)
    if (new_height, new_width) != (height, width):
        if new_height * new_width <= MAX_PIXELS:
            image = image.resize((new_width, new_height), _FILTERS[interpolation])
        else:  # a picture of 1 x 5000 would grow to 256 x 1 280 000: resize only what the crop keeps
            y, x = height / new_height, width / new_width
            box = (left * x, top * y, min(width, (left + crop_width) * x), min(height, (top + crop_height) * y))
            image = image.resize((crop_width, crop_height), _FILTERS[interpolation], box=box)
            top = left = 0
    kept = np.asarray(image.crop((left, top, left + crop_width, top + crop_height)))
    kept = kept[..., None] if kept.ndim == 2 else kept
    if kept.dtype == np.float32:
        kept = kept.clip(0.0, 1.0)  # bicubic and lanczos overshoot; Pillow clips 8-bit pixels itself
    notices = []
    stretch = (new_width / width) / (new_height / height)
    if resize is None and not 0.8 <= stretch <= 1.25:
        notices.append("proportions changed, as the preset scales straight to its size")
    if crop_height * crop_width < new_height * new_width / 4:
        notices.append("the centre crop leaves out more than three quarters of the picture")
    if (crop_height, crop_width) != tuple(crop):
        notices.append("smaller than the crop, black border added")
        above, before = (crop[0] - crop_height) // 2, (crop[1] - crop_width) // 2
        full = np.zeros((*crop, kept.shape[2]), kept.dtype)
        full[above : above + crop_height, before : before + crop_width] = kept
        kept = full
    return Decoded(kept, tuple(notices))


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return ``pixels`` with 1 channel (ITU-R 601 luma, as in Pillow and torchvision) or 3 (grey repeated)."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 1:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return np.repeat(pixels, channels, axis=2)


def _resized(height: int, width: int, crop: tuple[int, int], resize: int | str | None) -> tuple[int, int]:
    if resize is None:
        return crop
    if isinstance(resize, int):
        short, long = min(height, width), max(height, width)
        grown = int(resize * long / short)  # torchvision truncates
        return (resize, grown) if height <= width else (grown, resize)
    scale = max(crop[0] / height, crop[1] / width)
    return max(crop[0], round(height * scale)), max(crop[1], round(width * scale))


def _to_pil(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
