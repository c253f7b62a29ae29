"""Which preprocessing a network expects: torchvision's weight enums know, a bare checkpoint does not.

115 classification weights share 28 presets, and weights of *one* architecture differ (resnet50 V1 resizes to 256, V2 to 232).
So a checkpoint gets a preset that is certain only when its content is one of torchvision's own files (their names carry the
first eight digits of the sha256); otherwise the default is used, said so, and can be overridden.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from ..errors import ModelError, OptionError
from .vision import Preset

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def weights_enum(architecture: str, weights: str) -> Any:
    """Return torchvision's weight enum member, such as ``ResNet50_Weights.IMAGENET1K_V2`` for ("resnet50", "DEFAULT").

    Raises:
        OptionError: there are no such weights; lists those that exist.
    """
    from torchvision.models import get_model_weights

    members = get_model_weights(architecture)
    if weights in members.__members__:
        return members[weights]
    raise OptionError(
        f"torchvision has no such weights for {architecture}",
        weights,
        f"Choose one of: {', '.join(members.__members__)}.",
    )


def preset_of(weights: Any, source: str) -> Preset:
    """Return the preset that a torchvision weight enum member was evaluated with."""
    transforms = weights.transforms()
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    return Preset(
        resize=resize,
        crop=(crop, crop),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
        source=source,
    )


@functools.cache
def _known_files() -> dict[str, Any]:
    """Return torchvision's weight enum members by the first eight digits of their file's sha256."""
    import torchvision
    from torchvision.models import get_model_weights, list_models

    return {
        Path(urlparse(member.url).path).stem[-8:]: member
        for name in list_models(module=torchvision.models)
        for member in get_model_weights(name)
    }


def recognise(digest: str, architecture: str) -> Any | None:
    """Return the weight enum member of ``architecture`` whose published file has a sha256 that starts alike, or ``None``."""
    from torchvision.models import get_model_weights, list_models

    known = _known_files().get(digest[:8])
    if known is None or architecture not in list_models() or known not in get_model_weights(architecture):
        return None
    return known


def default_preset(architecture: str, input_size: tuple[int, int, int]) -> Preset:
    """Return the preset to assume for a checkpoint of ``architecture`` when nothing in the file settles it."""
    if input_size[0] == 3 and not architecture.startswith("sample:"):
        try:
            assumed = preset_of(
                weights_enum(architecture, "DEFAULT"), f"torchvision's default for {architecture}, assumed"
            )
        except (OptionError, ValueError):
            assumed = Preset(256, (224, 224), IMAGENET_MEAN, IMAGENET_STD, source="ImageNet's, assumed")
        if assumed.crop == input_size[1:]:
            return assumed
        return Preset.plain(input_size[1:], assumed.mean, assumed.std, assumed.source)
    channels = input_size[0]
    return Preset.plain(input_size[1:], (0.0,) * channels, (1.0,) * channels, "none: pixels in [0, 1], assumed")


def weights_file(architecture: str, weights: Any) -> Path:
    """Return torchvision's weight file from its cache, downloading it there first if it is missing.

    Raises:
        ModelError: it is not in the cache and cannot be downloaded.
    """
    name = Path(urlparse(weights.url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=name.rpartition("-")[2].split(".")[0])
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"The weights of {architecture} are not on this machine and could not be downloaded",
            f"{name} ({type(error).__name__})",
            f"Connect to the internet; or put {name} into {_short(path.parent)}; or pass the file itself: wb.load({name!r}).",
        ) from error
    return path


def _short(path: Path) -> str:
    """Write the home folder as ``~``: people know where it is, and others need not."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
