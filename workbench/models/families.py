"""Networks without a name: a ResNet of other depths or widths, a VGG of another configuration, a DenseNet of another growth.

Depths and widths are read off the shapes; what shapes cannot tell (strides, where pooling stands) follows the family's
convention in torchvision. A family's answer counts only if the network built from it has exactly the file's tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import UnknownArchitecture
from .checkpoint import Checkpoint
from .identification import Head, Identification
from .signatures import Shapes

_MAX_DEPTH = 400  # blocks per stage, layers of a VGG: building is cheap, but not free


@dataclass(frozen=True)
class _Reading:
    """A family's reading of the shapes: a description, builder options, the head's dotted name."""

    architecture: str
    options: dict[str, Any]
    head: str
    stem: str


def infer(checkpoint: Checkpoint, *, stem: str | None = None) -> Identification | None:
    """Return the parametric family member that has exactly the checkpoint's tensors, or ``None``.

    Args:
        checkpoint: an unwrapped checkpoint.
        stem: ``"cifar"`` (3×3, stride 1, no pooling) or ``"imagenet"`` (stride 2, pooling), needed for ResNets with a 3×3
            stem, whose strides the shapes leave open.

    Raises:
        UnknownArchitecture: the shapes leave a choice open that ``stem`` decides.
    """
    from .meta import EmptyOnMeta
    from .signatures import shapes_of

    shapes = checkpoint.shapes()
    for family, (read, build) in FAMILIES.items():
        try:
            reading = read(shapes)
            classes, width = shapes[f"{reading.head}.weight"]
            open_stem = family == "resnet" and reading.options["kernel"] != 7
            if open_stem:
                reading.options["stem"] = stem or "cifar"
            with EmptyOnMeta():
                fits = shapes_of(build(classes, **reading.options)) == shapes
        except (KeyError, IndexError, ValueError, ZeroDivisionError):  # the shapes are not of this family
            continue
        if not fits:
            continue
        if open_stem and stem not in ("cifar", "imagenet"):
            raise _open_stem(checkpoint, reading)
        return Identification(
            architecture=reading.architecture,
            num_classes=classes,
            in_channels=shapes[reading.stem][1],
            head=Head(reading.head, reading.head, ((None, classes, width, f"{reading.head}.bias" in shapes),)),
            matched=len(shapes),
            checkpoint=checkpoint,
            options=reading.options,
            family=family,
            notices=(
                *checkpoint.notices,
                f"Depths and widths were read off the shapes; strides and pooling follow torchvision's {family} convention.",
            ),
        )
    return None


def _open_stem(checkpoint: Checkpoint, reading: _Reading) -> UnknownArchitecture:
    return UnknownArchitecture(
        "This is a ResNet with a small stem (not 7×7); whether that strides and pools cannot be seen in the file",
        f"{checkpoint.name}: {reading.architecture}",
        'Pass stem="cifar" (stride 1, no pooling, as used for small images) or stem="imagenet" (stride 2 and max-pooling).',
    )


def _count(shapes: Shapes, pattern: str, *, start: int) -> int:
    """Count the numbered layers that match ``pattern``; a gap in the numbering is no network (or an attack on memory)."""
    found = sorted(int(m[1]) for key in shapes if (m := re.fullmatch(pattern, key)))
    if not found or found != list(range(start, start + len(found))) or len(found) > _MAX_DEPTH:
        raise ValueError("layers are not numbered without gaps, or there are more than any network has")
    return len(found)


def read_resnet(shapes: Shapes) -> _Reading:
    """Read block type, depths, widths and groups of a four-stage ResNet."""
    bottleneck = "layer1.0.conv3.weight" in shapes
    depths, planes, widths = [], [], []
    for stage in range(1, 5):
        depths.append(_count(shapes, rf"layer{stage}\.(\d+)\.conv1\.weight", start=0))
        widths.append(shapes[f"layer{stage}.0.conv1.weight"][0])
        last = shapes[f"layer{stage}.0.conv{3 if bottleneck else 2}.weight"][0]
        planes.append(last // 4 if bottleneck else last)
    second = shapes["layer1.0.conv2.weight"]
    kind = "bottleneck" if bottleneck else "basic"
    stem_width, in_channels, kernel, _ = shapes["conv1.weight"]
    options = {
        "bottleneck": bottleneck, "depths": tuple(depths), "planes": tuple(planes), "widths": tuple(widths),
        "groups": second[0] // second[1], "stem_width": stem_width, "in_channels": in_channels, "kernel": kernel,
        "downsampled": tuple(f"layer{stage}.0.downsample.0.weight" in shapes for stage in range(1, 5)),
    }  # fmt: skip
    standard = tuple(planes) == (64, 128, 256, 512)
    width = "" if standard else f", widths {'-'.join(map(str, planes))}"
    return _Reading(f"resnet ({kind}, {'-'.join(map(str, depths))}{width})", options, "fc", "conv1.weight")


def build_resnet(
    num_classes: int,
    *,
    bottleneck: bool,
    depths: tuple[int, ...],
    planes: tuple[int, ...],
    widths: tuple[int, ...],
    groups: int,
    stem_width: int,
    in_channels: int,
    kernel: int,
    downsampled: tuple[bool, ...],
    stem: str = "imagenet",
) -> Any:
    """Build a torchvision ``ResNet`` whose stages have the given depths and widths (``planes`` before expansion)."""
    from torch import nn
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    block: type[BasicBlock | Bottleneck] = Bottleneck if bottleneck else BasicBlock
    network = ResNet(block, [1, 1, 1, 1], num_classes=num_classes)
    stride = 1 if stem == "cifar" else 2
    network.conv1 = nn.Conv2d(in_channels, stem_width, kernel, stride, kernel // 2, bias=False)
    network.bn1 = nn.BatchNorm2d(stem_width)
    if stem == "cifar":
        network.maxpool = nn.Identity()
    channels = stem_width
    for stage, (depth, plane, width) in enumerate(zip(depths, planes, widths, strict=True)):
        blocks = []
        for index in range(depth):
            step = 2 if index == 0 and stage > 0 else 1
            shortcut = None
            if index == 0 and downsampled[stage]:
                out = plane * block.expansion
                shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, step, bias=False), nn.BatchNorm2d(out))
            if bottleneck:  # torchvision's width is int(planes * base_width / 64) * groups
                base = -(-width * 64 // (groups * plane))
                blocks.append(block(channels, plane, step, shortcut, groups, base))
            else:
                blocks.append(block(channels, plane, step, shortcut))
            channels = plane * block.expansion
        setattr(network, f"layer{stage + 1}", nn.Sequential(*blocks))
    network.fc = nn.Linear(channels, num_classes)
    return network


def read_vgg(shapes: Shapes) -> _Reading:
    """Read the convolutions of a VGG; a gap in the numbering where no layer has weights is a max-pool."""
    weights = {int(m[1]): s for key, s in shapes.items() if (m := re.fullmatch(r"features\.(\d+)\.weight", key))}
    convolutions = sorted(index for index, shape in weights.items() if len(shape) == 4)
    if (
        len(convolutions) > _MAX_DEPTH
        or any(weights[index][2:] != (3, 3) for index in convolutions)
        or convolutions[0] != 0
    ):
        raise ValueError("a VGG has 3×3 convolutions only")
    batch_norm = "features.1.running_mean" in shapes
    step = 3 if batch_norm else 2
    plan: list[int | str] = []
    for index, following in zip(convolutions, [*convolutions[1:], convolutions[-1] + step + 1], strict=True):
        if following - index - step not in (0, 1):
            raise ValueError("at most one layer without weights stands between two convolutions")
        plan.append(weights[index][0])
        plan.extend(["M"] * (following - index - step))
    linears = sorted(int(m[1]) for key in shapes if (m := re.fullmatch(r"classifier\.(\d+)\.weight", key)))
    side = int((shapes["classifier.0.weight"][1] / weights[convolutions[-1]][0]) ** 0.5)
    options = {
        "plan": tuple(plan), "batch_norm": batch_norm, "in_channels": weights[0][1], "side": side,
        "hidden": tuple(shapes[f"classifier.{index}.weight"][0] for index in linears[:-1]),
    }  # fmt: skip
    text = "-".join(map(str, plan))
    return _Reading(
        f"vgg ({text}{', batch norm' if batch_norm else ''})", options, f"classifier.{linears[-1]}", "features.0.weight"
    )


def build_vgg(
    num_classes: int,
    *,
    plan: tuple[int | str, ...],
    batch_norm: bool,
    in_channels: int,
    side: int,
    hidden: tuple[int, ...],
) -> Any:
    """Build a torchvision ``VGG`` from a plan of widths and ``"M"`` for max-pooling; the classifier has ReLU and dropout."""
    from torch import nn
    from torchvision.models.vgg import VGG, make_layers

    features = make_layers(list(plan), batch_norm=batch_norm)
    first = features[0]
    features[0] = nn.Conv2d(in_channels, first.out_channels, 3, padding=1)
    channels = [item for item in plan if isinstance(item, int)][-1]
    network = VGG(features, num_classes=num_classes, init_weights=False)
    network.avgpool = nn.AdaptiveAvgPool2d((side, side))
    layers: list[nn.Module] = []
    width = channels * side * side
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(True), nn.Dropout()]
        width = size
    network.classifier = nn.Sequential(*layers, nn.Linear(width, num_classes))
    return network


def read_densenet(shapes: Shapes) -> _Reading:
    """Read growth rate, depths and bottleneck size of a DenseNet."""
    first = "features.denseblock1.denselayer1"
    growth, middle = shapes[f"{first}.conv2.weight"][:2]
    depths: list[int] = []
    while f"features.denseblock{len(depths) + 1}.denselayer1.conv1.weight" in shapes and len(depths) < 16:
        depths.append(
            _count(shapes, rf"features\.denseblock{len(depths) + 1}\.denselayer(\d+)\.conv1\.weight", start=1)
        )
    width, in_channels = shapes["features.conv0.weight"][:2]
    options = {
        "growth": growth, "depths": tuple(depths), "width": width, "bottleneck": middle // growth, "in_channels": in_channels,
    }  # fmt: skip
    text = f"densenet ({'-'.join(map(str, depths))}, growth {growth})"
    return _Reading(text, options, "classifier", "features.conv0.weight")


def build_densenet(
    num_classes: int, *, growth: int, depths: tuple[int, ...], width: int, bottleneck: int, in_channels: int
) -> Any:
    """Build a torchvision ``DenseNet``."""
    from torch import nn
    from torchvision.models.densenet import DenseNet

    network = DenseNet(growth, depths, width, bottleneck, num_classes=num_classes)
    network.features.conv0 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
    return network


FAMILIES: dict[str, tuple[Callable[[Shapes], _Reading], Callable[..., Any]]] = {
    "resnet": (read_resnet, build_resnet),
    "vgg": (read_vgg, build_vgg),
    "densenet": (read_densenet, build_densenet),
}
