"""Models: from a name, a file of unknown architecture or a module to a frozen :class:`VisionModel`.

==================  ============================================================================
``sniff``           what a file is, by its bytes; refusals that need no parsing
``convert``         the isolated reader of pickle checkpoints (``_reader`` runs in the child)
``checkpoint``      containers unwrapped, masks folded, hints kept
``signatures``      generated table of torchvision's classifiers
``identification``  names and shapes → architecture; ``families`` for those without a name
``build``           architecture + tensors → network; ``meta`` builds without storage
``presets``         preprocessing and torchvision's weight files
``vision``          :class:`VisionModel`
``loading``         the front door
==================  ============================================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .identification import Identification
    from .loading import identify, load
    from .vision import Preset, VisionModel

__all__ = ["Identification", "Preset", "VisionModel", "identify", "load"]

# Imported on first use: listing architectures or sniffing a file needs no torch.
_HOME = {
    "Identification": "identification",
    "Preset": "vision",
    "VisionModel": "vision",
    "identify": "loading",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
