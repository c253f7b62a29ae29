"""The sample networks: small enough to train on one core in minutes, each standing for a family that people bring.

A plain stack of convolutions, a residual network and a network of depthwise convolutions on ``shapes``; a LeNet (LeCun
et al., 1998) and a multi-layer perceptron on ``digits``. Residual and depthwise networks are torchvision's own classes.
One network, after EDSR (Lim et al., 2017), answers with an image: it doubles the size of small shapes. The weights lie
in ``sample_models/``, where ``train.py`` makes them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn
from torchvision.models import ResNet, mobilenet_v3_small
from torchvision.models.resnet import BasicBlock

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class ShapesVGG(nn.Sequential):
    """Network after VGG (Simonyan and Zisserman, 2015) for ``(N, 3, 64, 64)``: six convolutions, 0.24 M parameters.

    Children are named ``conv1, bn1, relu1, ..., relu6``; ``relu5`` gives ``(64, 16, 16)`` and ``relu6`` ``(64, 8, 8)``.
    """

    def __init__(self, num_classes: int = 10) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = (3, 16, 32, 32, 64, 64, 64)
        for i in range(1, 7):
            layers[f"conv{i}"] = nn.Conv2d(channels[i - 1], channels[i], 3, padding=1, bias=False)
            layers[f"bn{i}"] = nn.BatchNorm2d(channels[i])
            layers[f"relu{i}"] = nn.ReLU()
            if i in (1, 3, 5, 6):
                layers[f"pool{i}"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(64 * 4 * 4, 128)
        layers["fc1_relu"] = nn.ReLU()
        layers["fc2"] = nn.Linear(128, num_classes)
        super().__init__(layers)


class DigitsLeNet(nn.Sequential):
    """LeNet for ``(N, 1, 8, 8)`` digits: two convolutions of 20 and 50 channels, 200 hidden units, 68 k parameters."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(1, 20, 5, padding=2),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(20, 50, 5, padding=2),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(50 * 2 * 2, 200),
                relu3=nn.ReLU(),
                fc2=nn.Linear(200, num_classes),
            )
        )


class DigitsMLP(nn.Sequential):
    """Multi-layer perceptron 64-300-100-10 for ``(N, 1, 8, 8)`` digits: no layer has space, 51 k parameters."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                flatten=nn.Flatten(),
                fc1=nn.Linear(64, 300),
                relu1=nn.ReLU(),
                fc2=nn.Linear(300, 100),
                relu2=nn.ReLU(),
                fc3=nn.Linear(100, num_classes),
            )
        )


class ResidualBlock(nn.Module):
    """EDSR's block: convolution, ReLU, convolution, and what came in; no batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(N, width, H, W)``, as ``x``."""
        changed: torch.Tensor = x + self.conv2(self.relu(self.conv1(x)))
        return changed


class ShapesEDSR(nn.Module):
    """Super-resolution network after EDSR: normalised images ``(N, 3, H, W)`` to images ``(N, 3, 2H, 2W)``, 88 k parameters.

    Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution" (2017), with the twelve numbers of each
    2 × 2 pixels from one convolution. The network makes the whole image: no interpolated one is added to its output.
    """

    def __init__(self, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1))
        self.tail = nn.Conv2d(width, 3 * 2**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return images in [0, 1], but for what overshoots."""
        x = self.head(x)
        images: torch.Tensor = self.shuffle(self.tail(x + self.body(x)))
        return images


@dataclass(frozen=True)
class Sample:
    """A sample network: how to build it, and what its data looks like.

    Attributes:
        build: makes the network with random weights.
        data: name of its data, for ``workbench.sample_data``.
        input_size: ``(C, H, W)``.
        mean: what is subtracted from each channel of images in [0, 1].
        std: what each channel is divided by afterwards.
        description: one line for lists and cards.
    """

    build: Callable[[], nn.Module]
    data: str
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: str


# Mean and standard deviation of the pixels of the training images, rounded; the same below for digits.
_SHAPES = (0.56, 0.57, 0.56), (0.23, 0.22, 0.22)


def _shapes(build: Callable[[], nn.Module], description: str) -> Sample:
    return Sample(build, "shapes", (3, 64, 64), *_SHAPES, description)


def _digits(build: Callable[[], nn.Module], description: str) -> Sample:
    return Sample(build, "digits", (1, 8, 8), (0.31,), (0.38,), description)


SAMPLES: dict[str, Sample] = {
    "shapes-vgg": _shapes(ShapesVGG, "plain stack of six 3×3 convolutions with batch norm, two linear layers"),
    "shapes-resnet": _shapes(
        lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10), "torchvision ResNet with one basic block per stage"
    ),
    "shapes-mobilenet": _shapes(lambda: mobilenet_v3_small(num_classes=10), "torchvision mobilenet_v3_small"),
    "digits-lenet": _digits(DigitsLeNet, "LeNet with convolutions of 20 and 50 channels"),
    "digits-mlp": _digits(DigitsMLP, "multi-layer perceptron 64-300-100-10"),
}
"""The classifiers among what ``sample:NAME`` can be: name -> :class:`Sample`."""

IMAGE_SAMPLES: dict[str, Sample] = {
    "shapes-sr": Sample(
        ShapesEDSR,
        "shapes",
        (3, 32, 32),
        *_SHAPES,
        "super-resolution ×2 after EDSR: four residual blocks of 32 channels, no batch norm, pixel shuffle",
    ),
}
"""Those that return images, for ``workbench.load_image_model``."""
