"""What makes a network harder to fool: one recipe per file, each a function from a model and labelled images to another model.

``generated``  adversarial training on the images of a generator that learns along
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generated import Hardened, generator_training

__all__ = ["Hardened", "generator_training"]

# Imported on first use, so that naming a recipe needs no torch.
_HOME = {"Hardened": "generated", "generator_training": "generated"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
