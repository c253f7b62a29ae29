"""One pixel of a network from images to images: what it looks at, and what the pixel beneath it leaves behind.

The answer of such a network is an image, so a row of its linear system is a filter over the input (one per colour of the
pixel), a column the answer to an impulse; for super-resolution these are the interpolation kernels that the network made
up for this image at this place (Navarrete Michelini et al., ICCV 2019, section 4).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import explain

from ..errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

    from explain.linear import LinearInterpreter, Spectrum

    from ..images import ImageSet

Progress = Callable[[int, int, str], None]

_PATTERNS = 4
_STEPS = 1000


@dataclass(frozen=True, repr=False, eq=False)
class Look:
    """One output pixel of N images. All tensors are on the model's device.

    Attributes:
        lens: the linear systems.
        pixel: row and column in the answer.
        beneath: row and column of the input pixel at the same place.
        value: ``(N, C')``, the answer at the pixel: ``pixels + bias``.
        pixels: ``(N, C')``.
        bias: ``(N, C')``.
        filters: ``(N, C', C, H, W)``, how the pixel weighs the input: rows of A.
        impulses: ``(N, C, C', H', W')``, what one more in the pixel beneath adds to the answer: columns of A.
        spectrum: the patterns amplified most.
        provenance: of the linear systems, with the seconds of everything.
    """

    lens: LinearInterpreter
    pixel: tuple[int, int]
    beneath: tuple[int, int]
    value: torch.Tensor
    pixels: torch.Tensor
    bias: torch.Tensor
    filters: torch.Tensor
    impulses: torch.Tensor
    spectrum: Spectrum
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        return f"Look({len(self)} images at pixel {self.pixel}; {self.lens!r})"

    def frame(self) -> pd.DataFrame:
        """Return one row per image and channel: ``image, row, column, channel, value, pixels, bias, x``."""
        import pandas as pd

        channels = self.value.shape[1]
        return pd.DataFrame(
            {
                "image": [image for image in self.lens.ids for _ in range(channels)],
                "row": self.pixel[0],
                "column": self.pixel[1],
                "channel": list(range(channels)) * len(self),
                "value": self.value.flatten().tolist(),
                "pixels": self.pixels.flatten().tolist(),
                "bias": self.bias.flatten().tolist(),
                "x": self.lens.input_name,
            }
        )


def look_at(
    model: nn.Module,
    images: ImageSet,
    pixel: tuple[int, int] | None = None,
    *,
    space: str = "raw",
    mode: str = "secant",
    patterns: int = _PATTERNS,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Look:
    """Open one pixel of a network's answer up.

    Args:
        model: an ``ImageModel``, or any module from images in [0, 1] ``(N, C, H, W)`` to images ``(N, C', H', W')``.
        images: what goes in.
        pixel: row and column in the answer; the middle by default.
        space: what x is, "raw" or "normalised"; see ``explain.linear_interpreter``.
        mode: "secant" or "tangent"; see there.
        patterns: how many singular patterns to compute.
        batch_size: images per pass; bounds the memory, changes no result.
        progress: called with steps done, their total and what is going on; what it raises cancels the work.

    Raises:
        OptionError: the answer is no image, or the pixel is not in it.
        ExplainError: as ``explain.linear_interpreter``.
    """
    started = time.perf_counter()
    tick = progress or (lambda done, total, what: None)
    options: dict[str, Any] = {"space": space, "mode": mode, "batch_size": batch_size, "ids": images.ids}
    lens = explain.linear_interpreter(model, images.images, **options)
    if lens.outputs.ndim != 4:
        found = "×".join(map(str, lens.outputs.shape[1:]))
        raise OptionError(
            "The network returns no image, so it has no pixel to look at", found, "Use interpret instead."
        )
    _, out, height, width = lens.outputs.shape
    i, j = pixel or (height // 2, width // 2)
    if not (0 <= i < height and 0 <= j < width):
        raise OptionError(
            "There is no such pixel in the answer",
            f"{i},{j}",
            f"Rows go from 0 to {height - 1}, columns to {width - 1}.",
        )
    beneath = i * lens.inputs.shape[2] // height, j * lens.inputs.shape[3] // width
    tick(200, _STEPS, "filters")
    filters = lens.rows([(channel, i, j) for channel in range(out)])
    tick(300, _STEPS, "impulse responses")
    impulses = torch.stack([lens.column((channel, *beneath)) for channel in range(lens.inputs.shape[1])], 1)
    found_spectra = []
    for image in range(len(lens)):
        tick(400 + 600 * image // len(lens), _STEPS, "singular patterns")
        found_spectra.append(lens.pick(image).svd(patterns))
    values, left, right = (torch.cat([getattr(one, n) for one in found_spectra]) for n in ("values", "left", "right"))
    tick(_STEPS, _STEPS, "done")
    return Look(
        lens=lens,
        pixel=(i, j),
        beneath=beneath,
        value=lens.outputs[:, :, i, j],
        pixels=(filters * lens.inputs[:, None]).flatten(2).sum(2),
        bias=lens.bias[:, :, i, j],
        filters=filters,
        impulses=impulses,
        spectrum=explain.linear.Spectrum(values, left, right, found_spectra[0].complete, lens.ids),
        provenance={**lens.provenance, "seconds": time.perf_counter() - started},
    )
