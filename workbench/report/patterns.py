"""Pictures of linear maps (votes in red and blue; rows, columns and singular vectors around mid-grey), and of regions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import OptionError
from .figures import _LUMA, PALETTE, _array, _table, map_overlay, shared_scale, to_rgb

_OUTLINE = (255, 255, 255)  # seen against the dark outside, whatever is inside
_DIM, _LIFT = 0.4, 24  # outside a region: enough to see what surrounds it, too dark to be taken for it


def vote_overlay(image: Any, votes: Any, scale_max: float) -> np.ndarray:
    """Blend votes over the grey version of their image: red for the class, blue against it.

    Args:
        image: ``(C, H, W)`` in [0, 1].
        votes: ``(H, W)``, as ``lens.votes`` gives.
        scale_max: the magnitude shown as the strongest colour, see ``figures.shared_scale``.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    return map_overlay(image, votes, scale_max=scale_max, signed=True)


def vote_picture(votes: Any, scale_max: float) -> np.ndarray:
    """Return votes ``(H, W)`` without their image, uint8 ``(H, W, 3)``: red for, blue against, white for nothing."""
    values = _array(votes)
    share = (values / scale_max if scale_max > 0 else np.zeros_like(values)).clip(-1, 1)
    return _table(PALETTE.diverging)[((share + 1) * 127.5).round().astype(int)].round().astype(np.uint8)


def pattern(values: Any, scale_max: float | None = None) -> np.ndarray:
    """Return a row, a column or a singular vector as a picture: mid-grey is zero, and both signs have the same range.

    Args:
        values: ``(C, H, W)`` with C 1 or 3, or ``(H, W)``, of any range.
        scale_max: the magnitude shown as the brightest and the darkest; the pattern's own 99.5th percentile by default.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        OptionError: another number of channels.
    """
    array = _array(values)
    array = array[None] if array.ndim == 2 else array
    scale = shared_scale(array) if scale_max is None else scale_max
    return to_rgb((0.5 + array / (2 * scale) if scale > 0 else np.full_like(array, 0.5)).clip(0, 1))


def region(image: Any, mask: Any) -> np.ndarray:
    """Show where a unit is active: the image inside the mask, a dark grey version outside, and an outline between.

    Args:
        image: ``(C, H, W)`` in [0, 1], or uint8 ``(H, W, 3)``.
        mask: bool ``(H, W)``.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        OptionError: the mask has another size.
    """
    pixels, inside = to_rgb(image), _array(mask).astype(bool)
    if inside.shape != pixels.shape[:2]:
        found = f"{inside.shape} on {pixels.shape[:2]}"
        raise OptionError("the mask does not have the size of its image", found, "Resize the mask first.")
    grey = (pixels @ _LUMA)[..., None]
    shown = np.where(inside[..., None], pixels, _DIM * grey + _LIFT)
    shown[_around(inside)] = _OUTLINE
    return shown.round().clip(0, 255).astype(np.uint8)


def _around(inside: np.ndarray) -> np.ndarray:
    """Return the pixels outside that touch the inside by an edge."""
    padded = np.pad(inside, 1)
    near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return np.asarray(near & ~inside)
