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
``image_to_image``  :class:`ImageModel`, for networks that return images, and a door of its own
``small``           the sample networks
==================  ============================================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .identification import Identification
    from .image_to_image import ImageModel, load_image_model, shrink
    from .loading import identify, load
    from .vision import Preset, VisionModel

__all__ = [
    "Identification",
    "ImageModel",
    "Preset",
    "VisionModel",
    "identify",
    "load",
    "load_image_model",
    "shrink",
]

# Imported on first use: listing architectures or sniffing a file needs no torch.
_HOME = {
    "Identification": "identification",
    "ImageModel": "image_to_image",
    "Preset": "vision",
    "VisionModel": "vision",
    "identify": "loading",
    "load": "loading",
    "load_image_model": "image_to_image",
    "shrink": "image_to_image",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
