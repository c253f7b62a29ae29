"""``load``: anything that a person calls a model becomes a :class:`VisionModel`."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModelError, OptionError
from .build import build
from .checkpoint import open_checkpoint
from .identification import Identification, identify_checkpoint
from .presets import default_preset, preset_of, recognise, weights_enum, weights_file
from .small import SAMPLES
from .vision import Preset, VisionModel

_HASHED_FILE = 8  # digits of the sha256 in the names of torchvision's files


def load(
    source: str | os.PathLike[str] | nn.Module,
    *,
    weights: str | None = "DEFAULT",
    device: str | torch.device = "cpu",
    name: str | None = None,
    classes: tuple[str, ...] | list[str] | None = None,
    preset: Preset | dict[str, Any] | None = None,
    input_size: tuple[int, int, int] | None = None,
    stem: str | None = None,
    head_activation: str | None = None,
    transform_input: bool | None = None,
) -> VisionModel:
    """Load a classifier.

    Args:
        source: a torchvision name (``"resnet50"``), ``"sample:shapes-vgg"``, ``"timm:NAME"`` when timm is installed, the path
            of a checkpoint of unknown architecture, or an ``nn.Module`` (copied; the original is not touched).
        weights: for a torchvision name, a member of its weight enum, or ``None`` for random weights.
        device: where the model goes.
        name: what to call it; the file's or architecture's name otherwise.
        classes: class names, in the order of the logits, when the source does not have them.
        preset: preprocessing, whole or as a dict of the fields to change: ``preset={"resize": 232}``.
        input_size: (C, H, W), when the source does not determine it or another size is wanted.
        stem: ``"cifar"`` or ``"imagenet"``, for a ResNet checkpoint with a 3×3 stem.
        head_activation: what stands between the linear layers of a replaced head: ``"relu"``, ``"gelu"``, ``"tanh"``, ``"none"``.
        transform_input: for googlenet and inception_v3 checkpoints, whether they were trained from torchvision's weights.

    Returns:
        A frozen model from images in [0, 1] to logits; ``.notices`` says what was inferred or assumed.

    Raises:
        ModelError: the source cannot be found or used; :class:`RefusedFile` and :class:`UnknownArchitecture` among them.
        OptionError: an option does not fit.
    """
    options = _Options(name, tuple(classes) if classes is not None else None, preset, input_size)
    if isinstance(source, nn.Module):
        model = _from_module(source, options)
    elif str(source).startswith("sample:"):
        model = _from_sample(str(source), options)
    elif str(source).startswith("timm:"):
        model = _from_timm(str(source), weights, options)
    elif Path(source).exists() or Path(source).suffix or os.sep in str(source):
        found = identify_checkpoint(open_checkpoint(Path(source)), stem=stem)
        model = _from_checkpoint(found, options, head_activation, transform_input)
    else:
        model = _from_torchvision(str(source), weights, options)
    return model.to(device)


def identify(path: str | os.PathLike[str], *, stem: str | None = None) -> Identification:
    """Say which network a checkpoint file belongs to, without building it.

    Args:
        path: a checkpoint file.
        stem: see :func:`load`.

    Raises:
        RefusedFile: the file is not read.
        UnknownArchitecture: nothing fits; ``.candidates`` holds the nearest.
    """
    return identify_checkpoint(open_checkpoint(Path(path)), stem=stem)


@dataclasses.dataclass(frozen=True)
class _Options:
    """What the caller fixed; it wins over everything inferred."""

    name: str | None
    classes: tuple[str, ...] | None
    preset: Preset | dict[str, Any] | None
    input_size: tuple[int, int, int] | None

    def wrap(
        self,
        network: nn.Module,
        *,
        name: str,
        architecture: str,
        preset: Preset,
        classes: tuple[str, ...] = (),
        notices: tuple[str, ...] = (),
    ) -> VisionModel:
        """Return the finished model, the caller's options applied over what was inferred."""
        if self.input_size is not None and self.input_size[1:] != preset.crop:
            preset = Preset.plain(self.input_size[1:], preset.mean, preset.std, preset.source)
        if isinstance(self.preset, Preset):
            preset = self.preset
        elif self.preset is not None:
            unknown = set(self.preset) - {field.name for field in dataclasses.fields(Preset)}
            if unknown:
                raise OptionError("A preset has no such field", ", ".join(sorted(unknown)), "See workbench.Preset.")
            preset = dataclasses.replace(preset, **{"source": "chosen by the user", **self.preset})
        elif "assumed" in preset.source:
            notices = (
                *notices,
                f"Preprocessing is {preset.source}: {preset}. Pass preset=… if it was trained otherwise.",
            )
        return VisionModel(
            network,
            name=self.name or name,
            architecture=architecture,
            input_size=self.input_size or (len(preset.mean), *preset.crop),
            preset=preset,
            classes=self.classes if self.classes is not None else classes,
            notices=notices,
        )


def _from_checkpoint(
    found: Identification, options: _Options, head_activation: str | None, transform_input: bool | None
) -> VisionModel:
    checkpoint, notices = found.checkpoint, list(found.notices)
    known = recognise(checkpoint.digest)
    if found.architecture in ("googlenet", "inception_v3") and transform_input is None:
        transform_input = known is not None
        if known is None:
            notices.append(
                "Networks trained from torchvision's own weights re-normalise their input; this file does not say. "
                "It was assumed not to; pass transform_input=True if it does."
            )
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in checkpoint.tensors.values()):
        notices.append("Its half-precision weights were cast to float32.")
    classes = checkpoint.classes
    if known is not None:
        preset = preset_of(known, f"torchvision's {known}")
        classes = tuple(known.meta.get("categories") or ()) or classes
        notices.append(f"This is torchvision's own file {known}.")
    else:
        preset = _preset_of_checkpoint(found)
    network = build(found, head_activation=head_activation, transform_input=bool(transform_input))
    return options.wrap(
        network,
        name=Path(checkpoint.name).stem,
        architecture=found.architecture,
        preset=preset,
        classes=classes,
        notices=tuple(notices),
    )


def _preset_of_checkpoint(found: Identification) -> Preset:
    checkpoint = found.checkpoint
    if found.architecture.startswith("sample:"):
        sample = SAMPLES[found.architecture.removeprefix("sample:")]
        return Preset.plain(sample.input_size[1:], sample.mean, sample.std, f"that of {found.architecture}")
    size = checkpoint.input_size
    if size is None:
        side = found.options.get("image_size") or (32 if found.options.get("stem") == "cifar" else None)
        size = (found.in_channels, side, side) if side else (found.in_channels, *_usual_size(found.architecture))
    preset = default_preset(found.architecture, size)
    if checkpoint.mean and checkpoint.std and len(checkpoint.mean) == len(checkpoint.std) == found.in_channels:
        preset = dataclasses.replace(preset, mean=checkpoint.mean, std=checkpoint.std, source="found in the file")
    return preset


def _usual_size(architecture: str) -> tuple[int, int]:
    try:
        return preset_of(weights_enum(architecture, "DEFAULT"), "").crop
    except (OptionError, ValueError):  # a family member without a name
        return (224, 224)


def _from_torchvision(name: str, weights: str | None, options: _Options) -> VisionModel:
    import torchvision
    from torchvision.models import get_model, list_models

    names = list_models(module=torchvision.models)
    if name not in names:
        close = difflib.get_close_matches(name, [*names, *(f"sample:{key}" for key in SAMPLES)], n=3, cutoff=0.4)
        hint = f"Did you mean {', '.join(close)}? " if close else ""
        raise ModelError(
            "There is no file and no torchvision classifier of this name",
            name,
            f"{hint}See them all: workbench models.",
        )
    if weights is None:
        network = get_model(name, weights=None)
        preset = preset_of(weights_enum(name, "DEFAULT"), f"torchvision's default for {name}")
        return options.wrap(
            network,
            name=name,
            architecture=name,
            preset=preset,
            notices=("Its weights are random: it has learnt nothing.",),
        )
    member = weights_enum(name, weights)
    found = identify_checkpoint(open_checkpoint(weights_file(name, member)))
    notices = list(found.notices)
    if found.architecture != name:
        raise ModelError(
            f"torchvision's cached file for {name} holds another network", found.architecture, "Delete it and retry."
        )
    if not found.checkpoint.digest.startswith(Path(member.url).stem[-_HASHED_FILE:]):
        notices.append("The file in torchvision's cache is not the published one: its sha256 differs.")
    return options.wrap(
        build(found, transform_input=name in ("googlenet", "inception_v3")),
        name=name,
        architecture=name,
        preset=preset_of(member, f"torchvision's {member}"),
        classes=tuple(member.meta.get("categories") or ()),
        notices=tuple(notices),
    )


def _from_sample(source: str, options: _Options) -> VisionModel:
    from ..bundle import bundled

    key = source.removeprefix("sample:")
    if key not in SAMPLES:
        raise ModelError(
            "There is no such sample model", source, f"Choose one of: {', '.join(f'sample:{k}' for k in SAMPLES)}."
        )
    sample, path = SAMPLES[key], bundled("sample_models") / f"{key}.safetensors"
    if not path.exists():
        raise ModelError(
            "The weights of this sample are missing from the installation", source, "Install the workbench again."
        )
    checkpoint = open_checkpoint(path)
    network = sample.build()
    network.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in checkpoint.tensors.items()})
    preset = Preset.plain(sample.input_size[1:], sample.mean, sample.std, f"that of {source}")
    return options.wrap(network, name=source, architecture=source, preset=preset, classes=checkpoint.classes)


def _from_timm(source: str, weights: str | None, options: _Options) -> VisionModel:
    try:
        import timm
        from timm.data import resolve_data_config
    except ImportError as error:
        raise ModelError(
            "timm is not installed", source, "Install it: pip install 'classifier-workbench[timm]'."
        ) from error
    key = source.removeprefix("timm:")
    if key not in timm.list_models():
        close = difflib.get_close_matches(key, timm.list_models(), n=3, cutoff=0.4)
        raise ModelError(
            "timm has no such model", key, f"Did you mean {', '.join(close)}?" if close else "See timm.list_models()."
        )
    try:
        network = timm.create_model(key, pretrained=weights is not None)
    except Exception as error:  # timm and its hub raise many kinds when there is no network
        raise ModelError(
            f"timm could not get the weights of {key}",
            type(error).__name__,
            "Connect to the internet, or pass weights=None for random weights.",
        ) from error
    config = resolve_data_config(model=network)
    crop = tuple(config["input_size"][1:])
    preset = Preset(
        round(min(crop) / config["crop_pct"]),
        crop,
        config["mean"],
        config["std"],
        config["interpolation"],
        f"timm's for {key}",
    )
    notices = () if weights is not None else ("Its weights are random: it has learnt nothing.",)
    return options.wrap(network, name=source, architecture=source, preset=preset, notices=notices)


def _from_module(module: nn.Module, options: _Options) -> VisionModel:
    if isinstance(module, VisionModel):
        return module
    module = getattr(module, "_orig_mod", module)  # torch.compile
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    try:
        network = copy.deepcopy(module)
    except Exception as error:
        raise ModelError(
            "This module cannot be copied, and the workbench does not touch the original",
            f"{type(module).__name__}: {error}",
            "Pass a fresh instance with the weights loaded, not one in the middle of a backward pass.",
        ) from error
    name = type(module).__name__
    torchvisions = type(module).__module__.startswith("torchvision.models")
    size = options.input_size or (_in_channels(network), 224, 224)
    preset = default_preset(name if torchvisions else "sample:", size)
    return options.wrap(network.float(), name=name, architecture=name, preset=preset)


def _in_channels(network: nn.Module) -> int:
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels
