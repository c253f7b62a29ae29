"""Build a network without paying for its weights: parameters on the meta device, everything computed stays real.

``torch.device("meta")`` as a context breaks the RegNets, whose constructors read tensor values back. Redirecting only the
factories that allocate storage keeps such arithmetic on the CPU; the mode is thread-local and patches nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_ALLOCATORS = (torch.empty, torch.zeros, torch.ones)


class EmptyOnMeta(TorchFunctionMode):
    """Inside this context new parameters and buffers have a shape but no storage."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ALLOCATORS and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def build_torchvision(name: str, **options: Any) -> nn.Module:
    """Return the torchvision classifier ``name`` with its parameters on the meta device."""
    from torchvision.models import get_model

    if name in ("googlenet", "inception_v3"):
        options.setdefault("init_weights", False)  # their initialisation draws from SciPy and takes seconds
    with EmptyOnMeta():
        return get_model(name, weights=None, **options)
