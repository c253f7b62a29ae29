"""Open up an image classifier and shake it.

``import workbench as wb`` costs nothing: every public name below is imported on first use, so that a command line answers
at once and a page paints before torch is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import harden as harden
    from . import probes as probes
    from .errors import ImageError, ModelError, OptionError, RefusedFile, UnknownArchitecture, WorkbenchError
    from .generators import load_generator
    from .images import ImageSet, read_images
    from .interpretation import interpret
    from .models import Identification, ImageModel, Preset, VisionModel, identify, load, load_image_model, shrink
    from .probes import TensorProbe, read_probe
    from .report import report as report
    from .samples import sample_data, sample_photos

__version__ = "0.1.0"

_HOME = {
    "Identification": "models",
    "ImageError": "errors",
    "ImageModel": "models",
    "ImageSet": "images",
    "ModelError": "errors",
    "OptionError": "errors",
    "Preset": "models",
    "RefusedFile": "errors",
    "TensorProbe": "probes",
    "UnknownArchitecture": "errors",
    "VisionModel": "models",
    "WorkbenchError": "errors",
    "identify": "models",
    "interpret": "interpretation",
    "load": "models",
    "load_generator": "generators",
    "load_image_model": "models",
    "read_images": "images",
    "read_probe": "probes",
    "sample_data": "samples",
    "sample_photos": "samples",
    "shrink": "models",
}
_MODULES = ("harden", "probes", "report")

__all__ = [
    "Identification",
    "ImageError",
    "ImageModel",
    "ImageSet",
    "ModelError",
    "OptionError",
    "Preset",
    "RefusedFile",
    "TensorProbe",
    "UnknownArchitecture",
    "VisionModel",
    "WorkbenchError",
    "harden",
    "identify",
    "interpret",
    "load",
    "load_generator",
    "load_image_model",
    "read_images",
    "read_probe",
    "report",
    "sample_data",
    "sample_photos",
    "shrink",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
