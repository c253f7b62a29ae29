"""The sample networks: small enough to train on one core in minutes, each standing for a family that people bring.

A plain stack of convolutions, a residual network and a network of depthwise convolutions on ``shapes``; a LeNet (LeCun
et al., 1998) and a multi-layer perceptron on ``digits``. Residual and depthwise networks are torchvision's own classes.
The weights lie in ``sample_models/``, where ``train.py`` makes them.
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


def _shapes(build: Callable[[], nn.Module], description: str) -> Sample:
    # Mean and standard deviation of the pixels of the training images, rounded; the same below for digits.
    return Sample(build, "shapes", (3, 64, 64), (0.56, 0.57, 0.56), (0.23, 0.22, 0.22), description)


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
"""What ``sample:NAME`` can be: name -> :class:`Sample`."""
