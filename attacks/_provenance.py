"""Names for content: digests of images and models, and what is needed to repeat a result."""

from __future__ import annotations

import hashlib
import platform
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def content_ids(images: torch.Tensor) -> tuple[str, ...]:
    """One id per image, 16 hex digits of the sha256 of its float32 pixels and shape; equal images share their id."""
    shape = repr(tuple(images.shape[1:])).encode()
    return tuple(hashlib.sha256(shape + _bytes(image.float()).tobytes()).hexdigest()[:16] for image in images)


def images_digest(images: torch.Tensor, ids: Sequence[str]) -> str:
    """sha256 over the ids and pixels, in order."""
    sha = hashlib.sha256(repr((tuple(images.shape), tuple(ids))).encode("utf-8", "surrogateescape"))
    sha.update(_bytes(images))
    return sha.hexdigest()


def model_digest(model: nn.Module) -> str:
    """The model's own ``digest`` when it has one, else sha256 over its class name, parameters and buffers."""
    digest = getattr(model, "digest", None)
    if isinstance(digest, str):
        return digest
    sha = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        sha.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        sha.update(_bytes(tensor))
    return sha.hexdigest()


def provenance(model: nn.Module, images: torch.Tensor, ids: Sequence[str], **asked: Any) -> dict[str, Any]:
    """What a result came from: digests, everything that was asked for, device and versions."""
    parameter = next(model.parameters(), images)
    return {
        "model": model_digest(model),
        "images": images_digest(images, ids),
        **asked,
        "device": str(parameter.device),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
