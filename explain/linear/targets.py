"""Which output is meant: a class, one class per image, a place in an output image, or the largest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from explain.errors import InputError
from explain.inputs import check_target, read_target

Which = int | tuple[int, ...] | Sequence[int] | Tensor | None


def read_which(k: Which, outputs: Tensor) -> Tensor:
    """Return int64 ``(N,)``: the chosen output of each image, counted in the flattened output.

    Args:
        k: class number; an index tuple into one output; one class per image (list or tensor); ``None`` for the largest.
        outputs: ``(N, *out)``.

    Raises:
        InputError: there is no such output.
    """
    shape = tuple(outputs.shape[1:])
    if isinstance(k, tuple):
        return torch.full((len(outputs),), flat_index(k, outputs, "output"), device=outputs.device)
    if len(shape) != 1 and k is not None:
        raise InputError("An output needs one index per dimension", k, f"Pass a tuple into the shape {shape}.")
    return check_target(read_target(k, len(outputs)), outputs.reshape(len(outputs), math.prod(shape)))


def flat_index(index: tuple[int, ...], values: Tensor, what: str) -> int:
    """Return where ``index`` into one of ``values`` ``(N, ...)`` is when that is flattened.

    Raises:
        InputError: there is no such place.
    """
    shape = tuple(values.shape[1:])
    whole = isinstance(index, tuple) and all(isinstance(i, int) for i in index)
    if (
        not whole
        or len(index) != len(shape)
        or any(not -size <= i < size for i, size in zip(index, shape, strict=True))
    ):
        raise InputError(f"There is no such {what}", index, f"One {what} has the shape {shape}.")
    flat = 0
    for i, size in zip(index, shape, strict=True):
        flat = flat * size + i % size
    return flat
