"""The model as the rest of the workbench sees it: images in [0, 1] go in, logits come out.

Normalisation lives inside, so that an attack's epsilon and a map's gradient mean pixels. The network is frozen and in
eval mode, and knows its own content by a digest.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from explain.digest import content_digest as content_digest

from ..errors import ModelError, OptionError

if TYPE_CHECKING:
    from typing import Self

    import explain


@dataclass(frozen=True)
class Preset:
    """How a photo becomes the network's input, in torchvision's sense.

    Attributes:
        resize: length in pixels to which the shorter side is scaled; ``None`` scales straight to ``crop``.
        crop: (height, width) of the centre crop, the network's input.
        mean, std: per-channel normalisation of pixels in [0, 1].
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        source: where these numbers come from, in words that a person can judge.
    """

    resize: int | None
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    source: str = "chosen by the user"

    @classmethod
    def plain(cls, crop: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...], source: str) -> Preset:
        """Return the least that makes any photo fit: scaled to a square input without distortion, then cropped."""
        return cls(crop[0] if crop[0] == crop[1] else None, crop, mean, std, source=source)

    def __post_init__(self) -> None:
        finite = all(math.isfinite(value) for value in (*self.mean, *self.std))
        if len(self.mean) != len(self.std) or not finite or any(value <= 0 for value in self.std):
            raise OptionError(
                "Mean and std need one number per channel, and std must be positive",
                f"{self.mean}, {self.std}",
                "Pass both per channel, as mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25).",
            )
        if min(self.crop) < 1 or (self.resize is not None and self.resize < 1):
            raise OptionError(
                "Resize and crop are in pixels and must be positive",
                f"{self.resize}, {self.crop}",
                "Pass crop=(224, 224), say.",
            )

    def __str__(self) -> str:
        size = "×".join(map(str, self.crop))
        resized = "" if self.resize is None else f"shorter side to {self.resize} px ({self.interpolation}), "
        return f"{resized}centre crop {size}, mean {_short(self.mean)}, std {_short(self.std)}"


class FrozenModel(nn.Module):
    """A network behind its normalisation, frozen and in eval mode; base of the models that people look at.

    Args:
        network: takes normalised images ``(N, C, H, W)``. It is kept as given: put in eval mode and frozen.
        name: what people call it.
        input_size: (C, H, W).
        preset: preprocessing; its mean and std are applied inside.
        notices: what a person should know about how the model was loaded.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, network: nn.Module, name: str, input_size: tuple[int, int, int], preset: Preset, notices: tuple[str, ...]
    ) -> None:
        super().__init__()
        if len(preset.mean) != input_size[0]:
            raise OptionError(
                "The normalisation does not fit the number of input channels",
                f"{len(preset.mean)} for {input_size[0]} channels",
                "Pass a preset with one mean and std per channel.",
            )
        self.network = network
        self.register_buffer("mean", torch.tensor(preset.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preset.std).view(1, -1, 1, 1), persistent=False)
        self.name = name
        self.input_size = input_size
        self.preset = preset
        self.notices = notices
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the network makes of ``images`` ``(N, C, H, W)`` in [0, 1]."""
        answer: torch.Tensor = self.network((images - self.mean) / self.std)
        return answer

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: this model is for looking, not for training."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.mean.device

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over weights, buffers, normalisation and the network's own settings, in hex."""
        return content_digest(self.network, f"{self.preset.mean}|{self.preset.std}")

    def _blank(self) -> torch.Tensor:
        return torch.full((1, *self.input_size), 0.5, device=self.device, dtype=self.mean.dtype)

    def _answer_to_blank(self) -> Any:
        """Return what comes back for a grey image.

        Raises:
            ModelError: nothing does.
        """
        try:
            with torch.no_grad():
                return self(self._blank())
        except Exception as error:
            raise ModelError(
                "The network cannot process an image of this size",
                f"{self.name}: {'×'.join(map(str, self.input_size))} ({type(error).__name__}: {str(error)[:200]})",
                "Pass the input size that it was built for: input_size=(channels, height, width).",
            ) from error


class VisionModel(FrozenModel):
    """A frozen classifier that maps images in [0, 1] to logits.

    Args:
        network: maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``. It is kept as given: put in eval mode and frozen.
        name: what people call it.
        architecture: torchvision's name, ``sample:NAME``, or a description.
        input_size: (C, H, W).
        preset: preprocessing; its mean and std are applied inside.
        classes: K class names, or empty when unknown.
        notices: what a person should know about how the model was loaded.

    Raises:
        ModelError: the network does not map ``input_size`` to one row of at least two logits.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        architecture: str,
        input_size: tuple[int, int, int],
        preset: Preset,
        classes: tuple[str, ...] = (),
        notices: tuple[str, ...] = (),
    ) -> None:
        super().__init__(network, name, input_size, preset, notices)
        self.architecture = architecture
        self.num_classes = self._probe()
        if classes and len(classes) != self.num_classes:
            notices = (
                *notices,
                f"The file names {len(classes)} classes but has {self.num_classes} logits; names left out.",
            )
            classes = ()
        self.classes = classes
        self.notices = notices

    @functools.cached_property
    def default_layer(self) -> str | None:
        """The layer that CAM methods look at unless told otherwise; ``None`` for a network without a spatial layer."""
        import explain

        try:
            return explain.default_layer(self, self._blank())
        except explain.NotApplicable:
            return None

    @property
    def parameters_count(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def layers(self) -> list[explain.Layer]:
        """Return all modules below the top, in the order of the network's definition, with their output shapes."""
        import explain

        by_name = {layer.name: layer for layer in explain.layers(self, self._blank())}
        return [by_name[name] for name, _ in self.network.named_modules() if name in by_name]

    def class_name(self, index: int) -> str:
        """Return the name of class ``index``, or ``class 7`` when the file had no names."""
        return self.classes[index] if self.classes else f"class {index}"

    def __repr__(self) -> str:
        return (
            f"VisionModel({self.name}: {self.architecture}, {self.num_classes} classes, "
            f"{'×'.join(map(str, self.input_size))}, {self.digest[:12]})"
        )

    def _probe(self) -> int:
        logits = self._answer_to_blank()
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ModelError(
                "This is not a classifier that returns logits (N, K)",
                f"{self.name} returns {shape}",
                "Wrap it so that it does; a network that returns images is for workbench.load_image_model.",
            )
        if not logits.isfinite().all():
            raise ModelError(
                "The network returns numbers that are not finite",
                self.name,
                "Its weights probably hold NaN or infinity: the training diverged, or the file is damaged.",
            )
        if logits.shape[1] < 2:
            raise ModelError(
                "A single logit has no classes to compare",
                self.name,
                "Return two logits: torch.cat([-z, z], dim=1) / 2.",
            )
        return logits.shape[1]


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
