"""Pixels become data addresses: tiny images enlarged crisply, large ones shrunk until they all fit into one file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from .figures import shared_scale, to_webp_data_uri

# Longer side of the pictures in pixels, and the characters that all of them may then take, tried in this order. The page
# also holds 2.0 MB of plotly.js, and has to stay under 5 MB; half of that is what people like to mail.
SIZES = ((224, 500_000), (192, 800_000), (160, 2_800_000), (128, 2_800_000), (104, 2_800_000), (80, 2_800_000))
LITE_SIZES = ((128, 220_000), (112, 220_000), (96, 220_000), (80, 220_000), (64, 2_000_000))
_MIN_SIDE = 128  # smaller images are enlarged by whole factors up to this
_CRISP = 4  # from this factor on, lossless WebP is smaller than lossy and has no ringing
_MAGNIFY = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Repeat the pixels of a small image ``(H, W, 3)`` by a whole factor, so that 8 × 8 digits can be seen."""
    factor = _factor(pixels)
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _factor(pixels: np.ndarray) -> int:
    return max(1, _MIN_SIDE // max(pixels.shape[:2]))


def data_uri(pixels: np.ndarray, side: int) -> str:
    """Return the address of a WebP of uint8 ``(H, W, 3)``, its longer side at most ``side``."""
    if _factor(pixels) < _CRISP:
        return to_webp_data_uri(enlarged(pixels), side)
    file = BytesIO()
    Image.fromarray(enlarged(pixels)).save(file, "WEBP", lossless=True, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def encode(
    groups: Sequence[Sequence[np.ndarray]],
    sizes: Sequence[tuple[int, int]],
    tick: Callable[[int, int, str], None],
) -> list[list[str]]:
    """Encode groups of pictures at the largest side that fits.

    Args:
        groups: pictures uint8 ``(H, W, 3)`` that belong together.
        sizes: sides to try, each with the characters that all groups together may take at it.
        tick: progress.

    Returns:
        Addresses per group; where even the smallest pictures are too many, the groups that fit.
    """
    total = sum(map(len, groups))
    for side, budget in sizes:
        encoded: list[list[str]] = []
        done = size = 0
        for group in groups:
            addresses = [data_uri(picture, side) for picture in group]
            done, size = done + len(group), size + sum(map(len, addresses))
            if size > budget:
                break
            encoded.append(addresses)
            tick(done, total, "drawing pictures")
        if len(encoded) == len(groups):
            break
    return encoded


def magnification(differences: Sequence[np.ndarray]) -> int:
    """Return the largest round factor that keeps differences, in units of the pixel range, within ±½.

    Half a percent of the values of each may go beyond, so that one glaring pixel does not leave the others in the dark.
    """
    largest = max((shared_scale(d) for d in differences), default=0.0)
    fitting = [k for k in _MAGNIFY if k * largest <= 0.5]
    return fitting[-1] if fitting and largest > 0 else 1


def difference(clean: np.ndarray, changed: np.ndarray, factor: int) -> np.ndarray:
    """Return ``changed - clean`` ``(C, H, W)``, times ``factor``, around mid-grey: grey means untouched."""
    return (0.5 + factor * (changed - clean)).clip(0, 1)


def where(values: np.ndarray) -> str:
    """Return in words where a map ``(H, W)`` is strongest, for those who hear the page."""
    magnitude = np.abs(values)
    if not magnitude.any():
        return "empty"
    mass = [[float(part.sum()) for part in np.array_split(row, 3, axis=1)] for row in np.array_split(magnitude, 3)]
    row, column = divmod(int(np.argmax(mass)), 3)
    if row == column == 1:
        return "strongest in the centre"
    vertical, horizontal = ("upper", "middle", "lower")[row], ("left", "centre", "right")[column]
    return f"strongest in the {vertical} {horizontal}"
