"""What a network, or a tensor, holds: as a digest."""

from __future__ import annotations

import functools
import hashlib
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from hashlib import _Hash


def feed_tensor(state: _Hash, tensor: Tensor) -> None:
    """Add type, shape and content of a tensor to a hash."""
    state.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    state.update(tensor.detach().cpu().contiguous().numpy().tobytes())


def own_values(layer: nn.Module) -> dict[str, Any]:
    """Return what a module holds, without what its cached properties happen to have worked out already."""
    kind = type(layer)
    return {
        key: value
        for key, value in vars(layer).items()
        if not isinstance(inspect.getattr_static(kind, key, None), functools.cached_property)
    }


def content_digest(module: nn.Module, salt: str = "") -> str:
    """Return a sha256 over what a module computes with, in hex: weights, buffers, and each layer's class and settings.

    Settings (strides, an activation's class, ``eps``) are part of the function: two ResNets with the same weights and
    another stem are not the same model.
    """
    digest = hashlib.sha256(salt.encode())
    for name, layer in module.named_modules():
        settings = {
            key: value for key, value in own_values(layer).items() if isinstance(value, int | float | str | tuple)
        }
        settings.pop("training", None)
        digest.update(f"{name}|{type(layer).__name__}|{sorted(settings.items())}".encode())
    for key, tensor in sorted((*module.named_parameters(), *module.named_buffers())):
        digest.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
