"""``load``: anything that a person calls a model becomes a :class:`VisionModel`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import math
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import ModelError, OptionError, UnknownArchitecture
from .build import ACTIVATIONS, build
from .checkpoint import Checkpoint, open_checkpoint
from .identification import Identification, identify_checkpoint
from .presets import default_preset, preset_of, recognise, weights_enum, weights_file
from .small import IMAGE_SAMPLES, SAMPLES, Sample
from .vision import Preset, VisionModel

Module = TypeVar("Module", bound=nn.Module)

_LARGEST = 1024  # pixels; a file that asks for more is not believed
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
        source: a ``VisionModel`` (returned as it is), a torchvision name (``"resnet50"``), ``"sample:shapes-vgg"``,
            ``"timm:NAME"`` when timm is installed, the path of a checkpoint of unknown
            architecture, or an ``nn.Module`` (copied; the original is not touched).
        weights: for a torchvision name, a member of its weight enum, or ``None`` for random weights.
        device: where the model goes.
        name: what to call it; the file's or architecture's name otherwise.
        classes: class names, in the order of the logits, when the source does not have them; empty for none.
        preset: preprocessing, whole or as a dict of the fields to change: ``preset={"resize": 232}``.
        input_size: (C, H, W), when the source does not determine it or another size is wanted.
        stem: ``"cifar"`` or ``"imagenet"``, for a ResNet checkpoint with a 3×3 stem.
        head_activation: what stands between the linear layers of a replaced head: ``"relu"``, ``"gelu"``, ``"hardswish"``,
            ``"tanh"``, ``"none"``.
        transform_input: for googlenet and inception_v3 checkpoints, whether they were trained from torchvision's weights.

    Returns:
        A frozen model from images in [0, 1] to logits; ``.notices`` says what was inferred or assumed.

    Raises:
        ModelError: the source cannot be found or used; :class:`RefusedFile` and :class:`UnknownArchitecture` among them.
        OptionError: an option does not fit.
    """
    if isinstance(source, VisionModel):
        return source
    if not isinstance(source, str | os.PathLike | nn.Module):
        raise ModelError("This is not a model", type(source).__name__, "Pass a name, a path, or an nn.Module.")
    _check("stem", stem, ("cifar", "imagenet"))
    _check("head_activation", head_activation, tuple(ACTIVATIONS))
    check_size(input_size)
    weights = getattr(weights, "name", weights)  # a member of torchvision's enum is welcome too
    size = None if input_size is None else (input_size[0], input_size[1], input_size[2])
    options = _Options(name, tuple(classes) if classes is not None else None, preset, size)
    if isinstance(source, nn.Module):
        model = _from_module(source, options)
    elif str(source).startswith("sample:"):
        model = _from_sample(str(source), options)
    elif str(source).startswith("timm:"):
        model = _from_timm(str(source), weights, options)
    elif _is_path(str(source)):
        found = identify_checkpoint(open_checkpoint(Path(source)), stem=stem)
        model = _from_checkpoint(found, options, head_activation, transform_input)
    else:
        model = _from_torchvision(str(source), weights, options)
    return on_device(model, device)


def check_size(size: tuple[int, int, int] | None) -> None:
    """Refuse what is no input size (C, H, W).

    Raises:
        OptionError: it is not three positive numbers.
    """
    if size is not None and (not isinstance(size, tuple | list) or len(size) != 3 or not all(n >= 1 for n in size)):
        raise OptionError("An input size is three positive numbers", size, "Pass (channels, height, width).")


def on_device(model: Module, device: str | torch.device) -> Module:
    """Move a model, or say in a sentence why it cannot be moved.

    Raises:
        OptionError: torch does not know or have this device.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError("This device cannot be used", device, "See what there is with: workbench doctor.") from error


def _check(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise OptionError(f"There is no such {name}", value, f"Choose one of: {', '.join(known)}.")


def _is_path(source: str) -> bool:
    """Whether a person means a file: it is one, or is written like one."""
    try:
        return Path(source).is_file() or bool(Path(source).suffix) or os.sep in source
    except OSError:  # longer than the system allows
        return True


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
        model = VisionModel(
            network,
            name=self.name or name,
            architecture=architecture,
            input_size=self.input_size or (len(preset.mean), *preset.crop),
            preset=preset,
            classes=self.classes if self.classes is not None else classes,
            notices=notices,
        )
        if self.classes and len(self.classes) != model.num_classes:
            raise OptionError(
                f"The network has {model.num_classes} classes, and another number of names was given",
                len(self.classes),
                "Pass one name per logit, in order, or leave classes out.",
            )
        return model


def _from_checkpoint(
    found: Identification, options: _Options, head_activation: str | None, transform_input: bool | None
) -> VisionModel:
    checkpoint, notices = found.checkpoint, list(found.notices)
    known = recognise(checkpoint.digest, found.architecture)
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
        notices.append(f"Its sha256 begins like that of torchvision's own file {known}.")
    else:
        preset = _preset_of_checkpoint(found, notices)
    network = build(found, head_activation=head_activation, transform_input=bool(transform_input))
    return options.wrap(
        network,
        name=Path(checkpoint.name).stem,
        architecture=found.architecture,
        preset=preset,
        classes=classes,
        notices=tuple(notices),
    )


def _preset_of_checkpoint(found: Identification, notices: list[str]) -> Preset:
    checkpoint, channels = found.checkpoint, found.in_channels
    if found.architecture.startswith("sample:"):
        sample = SAMPLES[found.architecture.removeprefix("sample:")]
        return Preset.plain(sample.input_size[1:], sample.mean, sample.std, f"that of {found.architecture}")
    size = checkpoint.input_size
    if size is None or size[0] != channels or max(size) > _LARGEST:
        side = found.options.get("image_size") or (32 if found.options.get("stem") == "cifar" else None)
        size = (found.in_channels, side, side) if side else (found.in_channels, *_usual_size(found.architecture))
    preset = default_preset(found.architecture, size)
    statistics = _statistics(checkpoint, channels, notices)
    if statistics is None:
        return preset
    return dataclasses.replace(preset, mean=statistics[0], std=statistics[1], source="found in the file")


def _statistics(
    checkpoint: Checkpoint, channels: int, notices: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and std from the file, for pixels in [0, 1], if they make sense for this many channels."""
    mean, std = checkpoint.mean or (), checkpoint.std or ()
    if len(mean) == len(std) == 1:
        mean, std = mean * channels, std * channels
    if len(mean) != channels or len(std) != channels:
        return None
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        return None
    if max(std) > 2:
        mean, std = tuple(m / 255 for m in mean), tuple(s / 255 for s in std)
        notices.append("The normalisation in the file is for pixels from 0 to 255; it was divided by 255.")
    return mean, std


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
    key = source.removeprefix("sample:")
    if key in IMAGE_SAMPLES:
        raise ModelError(
            "This sample returns images and is no classifier", source, f'Use workbench.load_image_model("{source}").'
        )
    sample, network, checkpoint = open_sample(key, SAMPLES)
    preset = Preset.plain(sample.input_size[1:], sample.mean, sample.std, f"that of {source}")
    return options.wrap(network, name=source, architecture=source, preset=preset, classes=checkpoint.classes)


def open_sample(key: str, samples: dict[str, Sample]) -> tuple[Sample, nn.Module, Checkpoint]:
    """Return one of ``samples``, its network with the trained weights, and the file that they are from.

    Raises:
        ModelError: there is no sample ``key``, or its weights are not there.
    """
    from ..bundle import bundled

    source = f"sample:{key}"
    if key not in samples:
        raise ModelError(
            "There is no such sample model", source, f"Choose one of: {', '.join(f'sample:{k}' for k in samples)}."
        )
    sample, path = samples[key], bundled("sample_models") / f"{key}.safetensors"
    if not path.exists():
        raise ModelError(
            "The weights of this sample are missing from the installation", source, "Install the workbench again."
        )
    checkpoint = open_checkpoint(path)
    network = sample.build()
    network.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in checkpoint.tensors.items()})
    return sample, network, checkpoint


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


def private_copy(module: nn.Module) -> nn.Module:
    """Return what ``module`` computes with, free of wrappers, on the CPU in float32; the original is not touched.

    Raises:
        ModelError: it has no weights yet, or cannot be copied.
    """
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif "_orig_mod" in module._modules:  # torch.compile
            module = module.get_submodule("_orig_mod")
        else:
            break
    if any(is_lazy(parameter) or parameter.is_meta for parameter in module.parameters()):
        raise ModelError(
            "This module has no weights yet", type(module).__name__, "Run it once, or load its weights, first."
        )
    try:
        return copy.deepcopy(module).cpu().float()
    except Exception as error:
        raise ModelError(
            "This module cannot be copied, and the workbench does not touch the original",
            f"{type(module).__name__}: {error}",
            "Pass a fresh instance with the weights loaded, not one in the middle of a backward pass.",
        ) from error


def _from_module(module: nn.Module, options: _Options) -> VisionModel:
    network = private_copy(module)
    if isinstance(network, VisionModel):  # it was compiled or parallel
        return network
    name = type(network).__name__
    torchvisions = type(network).__module__.startswith("torchvision.models")
    size = options.input_size or (in_channels(network), 224, 224)
    architecture = name
    if torchvisions:
        with contextlib.suppress(UnknownArchitecture):
            architecture = identify_checkpoint(Checkpoint(network.state_dict(), name=name)).architecture
        size = options.input_size or (size[0], *_usual_size(architecture))
    preset = default_preset(architecture if torchvisions else "sample:", size)
    return options.wrap(network, name=name, architecture=architecture, preset=preset)


def in_channels(network: nn.Module) -> int:
    """Return the number of channels that the first convolution takes; 3 without one."""
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels
