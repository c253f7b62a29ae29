"""Networks that answer an image with an image: super-resolution, denoising, translation.

The linear interpreter opens them like classifiers, with pixels in place of classes: a row of A is what one pixel of the
answer looks at, a column is what one pixel of the input leaves behind. :class:`ImageModel` is to them what
:class:`~workbench.models.vision.VisionModel` is to classifiers.
"""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ImageError, ModelError, OptionError
from .loading import check_size, in_channels, on_device, open_sample, private_copy
from .small import IMAGE_SAMPLES, SAMPLES, Sample
from .vision import FrozenModel, Preset, VisionModel

_SIDE = 64  # pixels; what a module is tried with unless told otherwise: it suits networks that halve up to six times


class ImageModel(FrozenModel):
    """A frozen network that maps images in [0, 1] to images.

    Args:
        network: maps normalised images ``(N, C, H, W)`` to images ``(N, C', H', W')`` of the usual [0, 1]: what it returns
            is passed on as it is, neither scaled nor clipped. It is kept as given: put in eval mode and frozen.
        name: what people call it.
        input_size: (C, H, W) that it is tried with. Most such networks take other heights and widths too.
        preset: its mean and std are applied inside; its crop says what photos are cropped to by
            ``read_images(…, preset=model.preset)``.
        notices: what a person should know about how the model was loaded.

    Attributes:
        output_size: (C', H', W') of the answer to an image of ``input_size``.
        scale: height of the answer as a multiple of the height of the image; the same for the width.

    Raises:
        ModelError: the network does not map ``input_size`` to an image.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        input_size: tuple[int, int, int],
        preset: Preset,
        notices: tuple[str, ...] = (),
    ) -> None:
        super().__init__(network, name, input_size, preset, notices)
        self.output_size = self._probe()
        self.scale = self.output_size[1] / input_size[1]

    def __repr__(self) -> str:
        return (
            f"ImageModel({self.name}: {_times(self.input_size)} to {_times(self.output_size)}, "
            f"scale {self.scale:g}, {self.digest[:12]})"
        )

    def _probe(self) -> tuple[int, int, int]:
        answer = self._answer_to_blank()
        if not isinstance(answer, torch.Tensor) or answer.ndim != 4 or len(answer) != 1:
            tensor = isinstance(answer, torch.Tensor)
            scores = tensor and answer.ndim == 2
            raise ModelError(
                "This network does not return images (N, C, H, W)",
                f"{self.name} returns {tuple(answer.shape) if tensor else type(answer).__name__}",
                "A classifier is for workbench.load." if scores else "Wrap it so that it does.",
            )
        _, channels, height, width = answer.shape
        if channels not in (1, 3, self.input_size[0]):
            raise ModelError(
                f"This network returns {channels} maps per image, which is neither grey, RGB, nor what goes in",
                self.name,
                "Wrap it so that it returns the channels of an image.",
            )
        if height * self.input_size[2] != width * self.input_size[1]:
            raise ModelError(
                "This network changes the proportions of an image",
                f"{self.name}: {_times(self.input_size)} to {_times((channels, height, width))}",
                "Pass an input_size whose height and width suit it, such as multiples of 64, or wrap it so that it does not.",
            )
        if not answer.isfinite().all():
            raise ModelError(
                "The network returns numbers that are not finite",
                self.name,
                "Its weights probably hold NaN or infinity: the training diverged, or the file is damaged.",
            )
        return channels, height, width


def load_image_model(
    source: str | nn.Module,
    *,
    device: str | torch.device = "cpu",
    name: str | None = None,
    input_size: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ImageModel:
    """Load a network that returns images.

    Args:
        source: an ``ImageModel`` (returned as it is), ``"sample:shapes-sr"``, or an ``nn.Module`` that returns images in
            [0, 1] (copied; the original is not touched).
        device: where the model goes.
        name: what to call it; the sample's name or the module's class otherwise.
        input_size: (C, H, W) to try it with; otherwise that of the sample, and 64 × 64 pixels for a module.
        mean: what the network wants subtracted from each channel of images in [0, 1]; for a module nothing by default.
        std: what it wants each channel divided by afterwards.

    Returns:
        A frozen model from images in [0, 1] to images.

    Raises:
        ModelError: the source cannot be found or used, or is a classifier.
        OptionError: an option does not fit.
    """
    if isinstance(source, ImageModel):
        return source
    if isinstance(source, VisionModel):
        raise ModelError("This is a classifier, which returns no images", source.name, "Use it as it is.")
    check_size(input_size)
    notices: tuple[str, ...] = ()
    if isinstance(source, nn.Module):
        network = private_copy(source)
        if isinstance(network, ImageModel):  # it was compiled or parallel
            return on_device(network, device)
        called = type(network).__name__
        channels, height, width = input_size or (in_channels(network), _SIDE, _SIDE)
        usual = Preset.plain((height, width), (0.0,) * channels, (1.0,) * channels, "none: pixels in [0, 1], assumed")
        if mean is None and std is None:
            notices = ("It was assumed to take pixels in [0, 1] as they are. Pass mean=… and std=… if it does not.",)
    elif isinstance(source, str) and source.startswith("sample:"):
        sample, network = _sample(source)
        called, (channels, height, width) = source, input_size or sample.input_size
        usual = Preset.plain((height, width), sample.mean, sample.std, f"that of {source}")
    else:
        raise ModelError(
            "An image model is a sample or a module",
            source if isinstance(source, str | os.PathLike) else type(source).__name__,
            f"Choose one of: {', '.join(f'sample:{key}' for key in IMAGE_SAMPLES)}; "
            "or build the network in Python, load its weights, and pass the module.",
        )
    preset = usual
    if mean is not None or std is not None:
        mean, std = (tuple(given or known) for given, known in ((mean, usual.mean), (std, usual.std)))
        preset = Preset.plain((height, width), mean, std, "chosen by the user")
    size = (channels, height, width)
    model = ImageModel(network, name=name or called, input_size=size, preset=preset, notices=notices)
    return on_device(model, device)


def shrink(images: torch.Tensor, factor: int = 2) -> torch.Tensor:
    """Return images whose pixels are averages of ``factor`` × ``factor`` pixels; what ``sample:shapes-sr`` undoes.

    Args:
        images: floating point, ``(N, C, H, W)``.
        factor: of height and width, both of which it must divide.

    Returns:
        ``(N, C, H / factor, W / factor)``.

    Raises:
        ImageError: not floating-point images of that shape, or of a size that ``factor`` does not divide.
        OptionError: ``factor`` is not a positive whole number.
    """
    if not isinstance(factor, int) or factor < 1:
        raise OptionError("Images shrink by a positive whole number", factor, "Pass factor=2, say.")
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or not images.is_floating_point():
        found = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, torch.Tensor) else type(images).__name__
        raise ImageError("Only floating-point images (N, C, H, W) can be averaged", found, "See workbench.ImageSet.")
    if images.shape[2] % factor or images.shape[3] % factor:
        raise ImageError(
            f"Height and width must be multiples of {factor}",
            f"{images.shape[2]} × {images.shape[3]}",
            "Crop the images first.",
        )
    return F.avg_pool2d(images, factor)


def _sample(source: str) -> tuple[Sample, nn.Module]:
    key = source.removeprefix("sample:")
    if key in SAMPLES:
        raise ModelError(
            "This sample is a classifier, which returns no images", source, f'Use workbench.load("{source}").'
        )
    return open_sample(key, IMAGE_SAMPLES)[:2]


def _times(size: tuple[int, int, int]) -> str:
    return "×".join(map(str, size))
