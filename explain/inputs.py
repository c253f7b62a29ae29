"""What comes in is checked before anything runs: a plausible map of a wrong input is worse than a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from explain.errors import InputError, ModelError

Target = int | Sequence[int] | Tensor | None
_RANGE_TOLERANCE = 1e-3


def check_images(images: Any, model: nn.Module) -> None:
    """Refuse anything but finite floating-point images ``(N, C, H, W)`` in [0, 1].

    Raises:
        InputError: with the shape, dtype or range found.
    """
    if not isinstance(images, Tensor):
        raise InputError(
            "Images are not a tensor", type(images).__name__, "Pass a float tensor (N, C, H, W) in [0, 1]."
        )
    shape = tuple(images.shape)
    if images.ndim != 4:
        raise InputError("Images need four dimensions (N, C, H, W)", shape, "images[None] adds the batch dimension.")
    if images.numel() == 0:
        raise InputError("There is no image to explain", shape, "Pass at least one image with at least one pixel.")
    if not images.is_floating_point():
        raise InputError("Images are not floating point", images.dtype, "Divide 8-bit images by 255.")
    expected = getattr(model, "input_size", None)
    if isinstance(expected, tuple | list) and len(expected) == 3 and shape[1] != expected[0]:
        raise InputError(
            "The images have the wrong number of channels", shape[1], f"The network takes {expected[0]} channels."
        )
    low, high = (float(value) for value in torch.aminmax(images.detach()))
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):  # also false for NaN
        raise InputError(
            "Pixel values must lie in [0, 1]",
            f"[{low:g}, {high:g}]",
            "Pass images before normalisation, and put the normalisation inside the model.",
        )


def check_logits(output: Any, count: int) -> Tensor:
    """Return ``output`` if it is a batch of logits ``(N, K)`` with K ≥ 2.

    All methods are defined on the unnormalised score: the gradient of a probability also says how the *other* classes
    fall, and vanishes where the network is sure.

    Raises:
        ModelError: any other output, NaN, or probabilities.
    """
    if not isinstance(output, Tensor):
        raise ModelError(
            "The network does not return a tensor of logits",
            type(output).__name__,
            "Wrap it so that it returns (N, K) logits.",
        )
    shape = tuple(output.shape)
    if output.ndim != 2 or shape[0] != count or not output.is_floating_point():
        raise ModelError(
            f"The network does not return logits (N, K) for {count} images",
            f"{shape} of {output.dtype}",
            "Wrap the network so that it returns one row of class scores per image.",
        )
    if shape[1] < 2:
        raise ModelError(
            "The network returns a single score per image",
            shape,
            "Turn a binary score s into two logits in a wrapper: torch.cat([-s, s], dim=1).",
        )
    logits = output.detach()
    if not bool(logits.isfinite().all()):
        raise ModelError("The network returns NaN or infinite logits", None, "Check its weights and its normalisation.")
    if _sums_to_one(logits) or _sums_to_one(logits.exp()):
        raise ModelError(
            "The network returns probabilities, not logits",
            f"rows sum to 1, as after {'softmax' if _sums_to_one(logits) else 'log-softmax'}",
            "Pass the network without its last layer; explanations are defined on the unnormalised score.",
        )
    return output


def read_target(target: Target, count: int) -> Tensor | None:
    """Return the classes to explain, int64 ``(N,)``, or ``None`` for "the predicted ones".

    Raises:
        InputError: not integers, or neither one target nor one per image.
    """
    if target is None:
        return None
    fix = "Pass one class number, or one per image, or None for the predicted classes."
    try:
        chosen = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("Targets must be class numbers", repr(target), fix) from error
    if chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool:
        raise InputError("Targets must be class numbers", chosen.dtype, fix)
    if chosen.ndim > 1 or (chosen.ndim == 1 and len(chosen) != count):
        raise InputError(f"There are {count} images, and targets of shape", tuple(chosen.shape), fix)
    return chosen.long().expand(count)


def check_target(target: Tensor | None, logits: Tensor) -> Tensor:
    """Return ``target`` on the device of ``logits``, or the predicted classes.

    Raises:
        InputError: a class that the network does not have.
    """
    if target is None:
        return logits.argmax(dim=1)
    classes = logits.shape[1]
    wrong = target[(target < 0) | (target >= classes)]
    if len(wrong):
        raise InputError(
            "There is no such class", int(wrong[0]), f"The network has {classes} classes, 0 to {classes - 1}."
        )
    return target.to(logits.device, copy=True)  # a fresh tensor: the caller's may come from inference mode


def _sums_to_one(rows: Tensor) -> bool:
    in_range = bool((rows >= 0).all()) and bool((rows <= 1).all())
    return in_range and bool(((rows.sum(dim=1) - 1).abs() < 1e-4).all())
