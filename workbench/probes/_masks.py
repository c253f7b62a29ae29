"""Label maps in PNG files, and from the numbers in files to the dense label numbers of a probe.

In a grey or palette PNG the pixel is the label number; in colour it is R + 256 G (Broden, Bau et al. 2017). Pillow
stretches grey of 2 and 4 bits to 0..255, which is right for pictures and wrong for numbers; that is undone here.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..decode import MAX_BYTES, MAX_PIXELS
from ..errors import ImageError

_BIT_DEPTH, _COLOUR_TYPE, _GREY = 24, 25, 0  # positions in a PNG file (IHDR), and the colour type of grey
_STRETCH = {2: 85, 4: 17}
_LARGEST = 65535  # 255 + 256 * 255, and 16-bit grey
_SAVE_AS = "Save label maps as PNG: grey or palette for numbers up to 255, or RGB with R + 256 G."


def read_mask(path: Path) -> np.ndarray:
    """Return the label numbers in a PNG file, int64 ``(h, w)``.

    Raises:
        ImageError: the file is missing, damaged, too large, or no PNG.
    """
    try:
        if not path.is_file():  # a pipe or a device would block for ever
            raise ImageError("no such file", None, "Check the path.")
        if path.stat().st_size > MAX_BYTES:
            raise ImageError("the label map is too large", f"{path.stat().st_size / 1e6:.0f} MB", "Make it smaller.")
        data = path.read_bytes()
    except OSError as error:
        raise ImageError("the file cannot be opened", error.strerror, "Check its permissions.") from None
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                found = f"{image.width} x {image.height} pixels"
                raise ImageError("the label map is too large", found, "Make it smaller.")
            image.load()
            mode, pixels = image.mode, np.asarray(image)
    except ImageError:
        raise
    except Exception:  # Pillow's decoders raise a dozen kinds of exception on damaged data
        raise ImageError("not a label map: no PNG, or a damaged one", None, _SAVE_AS) from None
    numbers = pixels.astype(np.int64)
    if mode in ("RGB", "RGBA"):
        return numbers[..., 0] + 256 * numbers[..., 1]
    if mode == "LA":
        return numbers[..., 0]
    if data[_COLOUR_TYPE] == _GREY:
        numbers //= _STRETCH.get(data[_BIT_DEPTH], 1)
    return numbers


class Numbering:
    """From the label numbers in files to those of a probe.

    Args:
        dense: probe's number by number in the files; 0 where a label is not asked for.
        table: the file that lists them, for messages.
    """

    def __init__(self, dense: Mapping[int, int], table: str) -> None:
        self.dense, self._name = dense, table
        # A table of all that a PNG can hold: its size must not hang on a number that a stranger wrote into a file.
        self._table = np.full(_LARGEST + 1, -1, np.int64)
        self._table[0] = 0
        for number, label in dense.items():
            if number <= _LARGEST:
                self._table[number] = label

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Return the probe's label numbers, int64 ``(h, w)``.

        Raises:
            ImageError: a number that is not in the table.
        """
        labels = self._table[numbers]
        if (labels < 0).any():
            unknown = np.unique(numbers[labels < 0])
            found = ", ".join(map(str, unknown[:3].tolist())) + (
                f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            )
            raise ImageError(f"label numbers that {self._name} does not have", found, _SAVE_AS)
        return labels


def resized(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return labels at ``size``: each position takes the label under its centre."""
    if labels.shape == size:
        return labels
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def stacked(layers: list[np.ndarray], size: tuple[int, int]) -> torch.Tensor:
    """Return layers as one int64 tensor ``(L, *size)``; L may be 0."""
    if not layers:
        return torch.zeros(0, *size, dtype=torch.int64)
    return torch.from_numpy(np.stack([resized(layer, size) for layer in layers]))
