"""What decides a dissection, and whether it makes sense: checked before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explain.dissection.quantile import rank_from_top
from explain.errors import InputError, ProbeError

_TOLERANCE = 1e-3  # of pixels beyond [0, 1], as elsewhere


@dataclass(frozen=True)
class Options:
    """What decides the result; see :func:`explain.dissect`.

    Raises:
        InputError: a value makes no sense.
    """

    quantile: float = 0.005
    iou_threshold: float = 0.04
    permutations: int = 3
    replicates: int = 1000
    top: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        rank_from_top(self.quantile, 1)
        if not _is_number(self.iou_threshold):
            raise InputError("The IoU threshold must be a number", repr(self.iou_threshold), "Pass 0.04, say.")
        for name, least in (("permutations", 0), ("replicates", 0), ("top", 1), ("seed", 0)):
            check_count(name, getattr(self, name), least)


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse anything but a whole number from ``least`` on.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63:
        raise InputError(f"{name} must be a whole number from {least}", repr(value), "Leave it out for the default.")


def check_probe(probe: Any) -> None:
    """Refuse what is no probe.

    Raises:
        InputError: it is something else, or has no images or no names.
    """
    # Not isinstance: that would ask for the digest, which reads every file of a large probe.
    if not all(hasattr(type(probe), name) for name in ("annotation", "image", "size", "__len__")):
        raise InputError(
            "This is no probe",
            type(probe).__name__,
            "Make one with workbench.probes: TensorProbe, or read_probe(folder).",
        )
    if not len(probe):
        raise InputError("The probe has no images", None, "Pass at least one image.")
    names, categories = len(probe.concepts), len(probe.categories)
    if not names or names != categories:
        raise InputError(
            "The probe needs one name and one category per concept",
            f"{names} names, {categories} categories",
            "Name every label number from 1 up, and its category.",
        )


def check_image(image: Any, name: str) -> Tensor:
    """Return an image of a probe if it is one.

    Raises:
        InputError: it is not floating point ``(C, H, W)`` in [0, 1].
    """
    fix = "A probe's images are float32 (C, H, W) in [0, 1], before normalisation."
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point() or not image.numel():
        found = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise InputError(f"Image {name!r} of the probe is no image", found, fix)
    low, high = (float(value) for value in torch.aminmax(image))
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # also false for NaN
        raise InputError(f"Image {name!r} of the probe has pixels outside [0, 1]", f"[{low:g}, {high:g}]", fix)
    return image


def nothing_read(reason: object) -> ProbeError:
    """Return the error for a probe of which nothing can be read."""
    return ProbeError("Nothing of the probe could be read", reason, "Repair or replace its files.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
