"""Measured centres of receptive fields against their composition in closed form, and what has none."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

import explain

Look = Callable[..., tuple[tuple[float, float], tuple[float, float], bool]]


@pytest.fixture
def centres(probe_of: Any) -> Look:
    """Function that tells rows, columns and whether they were measured."""

    def look(
        model: nn.Module, layer: str, size: tuple[int, int], channels: int = 3
    ) -> tuple[tuple[float, float], tuple[float, float], bool]:
        annotation = explain.Annotation(torch.ones(1, 4, 4, dtype=torch.int64))
        probe = probe_of([torch.full((channels, *size), 0.5)], [annotation], ["thing"], ["object"])
        field = explain.dissect(model, probe, layer, permutations=0, replicates=0)[layer].field
        return (field.rows.offset, field.rows.step), (field.columns.offset, field.columns.step), field.measured

    return look


def grid(image: tuple[int, int], size: tuple[int, int]) -> tuple[Any, Any, bool]:
    rows, columns = (((side / n - 1) / 2, side / n) for side, n in zip(image, size, strict=True))
    return rows, columns, False


class Window(nn.Module):
    """One window, as a module or as a function, of any kind that computes from a neighbourhood."""

    def __init__(self, kind: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups=4 if kind == 1 else 1)
        self.pool = nn.MaxPool2d(kernel, stride, padding, dilation)
        self.average = nn.AvgPool2d(kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind < 2:
            return F.relu(self.conv(x), inplace=self.kind == 1)
        return self.average(x) if self.kind == 2 else self.pool(x)


@pytest.mark.parametrize("seed", range(12))
def test_random_stacks(seed: int, centres: Look, reference: Any) -> None:
    """Rows and columns differ in everything; nothing but the windows counts."""
    draw = torch.Generator().manual_seed(seed)
    pick: Callable[..., int] = lambda *range_: int(torch.randint(*range_, (), generator=draw))  # noqa: E731
    net, sides = nn.Sequential(nn.Conv2d(1, 4, 1)), ([], [])
    for _ in range(pick(1, 5)):
        kind = pick(0, 4)
        both = []
        for windows in sides:
            kernel, stride, dilation = pick(1, 6), pick(1, 4), 1 if kind == 2 else pick(1, 3)
            # no more than half of what the window spans: centres stay on the image, and pooling refuses more than half its kernel
            padding = pick(0, (kernel if kind > 1 else dilation * (kernel - 1)) // 2 + 1)
            windows.append((kernel, stride, padding, dilation))
            both.append(windows[-1])
        net.append(Window(kind, *zip(*both, strict=True)))
    rows, columns, measured = centres(net, f"{len(net) - 1}", (211, 180), channels=1)
    assert measured
    assert rows == pytest.approx(reference.compose(*sides[0]), abs=1e-3)
    assert columns == pytest.approx(reference.compose(*sides[1]), abs=1e-3)


@pytest.mark.parametrize(
    "windows, size",
    [
        (((1, 3, 0, 1), (2, 3, 0, 1), (3, 3, 1, 1)), (40, 42)),
        (((4, 3, 1, 1), (3, 2, 1, 1), (3, 3, 1, 1)), (45, 40)),
        (((2, 2, 0, 1), (5, 2, 0, 2), (5, 2, 4, 2)), (33, 33)),
        (((3, 3, 1, 1), (3, 2, 0, 1), (5, 1, 3, 2)), (32, 48)),  # a negative step
    ],
)
def test_stacks_that_leave_border_pixels_out(windows: Any, size: Any, centres: Look, reference: Any) -> None:
    """A stride that does not come out even, or gaps between what is looked at: a cut field need not touch the border."""
    net = nn.Sequential(*(nn.Conv2d(3, 3, *one) for one in windows))
    expected = reference.compose(*windows)
    assert centres(net, "2", size) == (expected, expected, True)


def test_squeezenet_on_small_images(centres: Look) -> None:
    """One window less than a pixel off, because 128 - 3 is odd: (15.0453, 15.9849)."""
    model = torchvision.models.squeezenet1_1()
    assert centres(model, "features.9.expand3x3", (128, 160))[0] == (15, 16)
    assert centres(model, "features.9.expand3x3", (96, 96))[0] == (15, 16)


@pytest.mark.slow
def test_even_kernels_and_paddings_that_shift(centres: Look, reference: Any) -> None:
    for kernel, stride, padding in itertools.product((1, 2, 3, 4, 5), (1, 2, 3), (0, 1, 2)):
        rows, columns, measured = centres(nn.Sequential(nn.Conv2d(3, 2, kernel, stride, padding)), "0", (40, 56))
        if (kernel - 1) / 2 - padding >= -stride:
            assert rows == columns == reference.compose((kernel, stride, padding, 1)) and measured


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding: str, centres: Look, reference: Any) -> None:
    for kernel, dilation in itertools.product((2, 3, 4), (1, 2)):
        total = dilation * (kernel - 1) if padding == "same" else 0
        net = nn.Sequential(nn.Conv2d(3, 2, kernel, padding=padding, dilation=dilation))
        expected = reference.compose((kernel, 1, total // 2, dilation))  # an odd rest goes to the right and below
        assert centres(net, "0", (24, 32))[0] == expected


RESNET = [
    (7, 2, 3, 1),
    (3, 2, 1, 1),
    *((3, 1, 1, 1),) * 4,
    *((3, 2, 1, 1), (3, 1, 1, 1), (3, 1, 1, 1), (3, 1, 1, 1)) * 3,
]
ALEXNET = [(11, 4, 2, 1), (3, 2, 0, 1), (5, 1, 2, 1), (3, 2, 0, 1), *((3, 1, 1, 1),) * 3]
VGG = [window for n in (2, 2, 3, 3, 3) for window in [(3, 1, 1, 1)] * n + [(2, 2, 0, 1)]]


@pytest.mark.parametrize("size", [(96, 160), (224, 224)])
def test_resnet(size: tuple[int, int], centres: Look, reference: Any) -> None:
    model = torchvision.models.resnet18()
    assert reference.compose(*RESNET) == (0, 32)
    assert centres(model, "layer4", size) == ((0, 32), (0, 32), True)
    assert centres(model, "layer2.0.conv1", size) == ((0, 8), (0, 8), True)
    assert centres(model, "conv1", size) == ((0, 2), (0, 2), True)


def test_alexnet_and_vgg(centres: Look, reference: Any) -> None:
    """The unpadded AlexNet of Caffe looks at 31 + 32 i; torchvision's pads its first convolution by two."""
    caffe = nn.Sequential(
        nn.Conv2d(3, 4, 11, 4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 5, 1, 2), nn.MaxPool2d(3, 2),
        nn.LocalResponseNorm(5), nn.Conv2d(4, 4, 3, 1, 1), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(144, 5),
    )  # fmt: skip
    assert centres(caffe, "7", (227, 227)) == ((33, 32), (33, 32), True)
    assert centres(caffe, "6", (227, 227)) == ((17, 16), (17, 16), True)
    alexnet = nn.Sequential()
    with torch.device("meta"):  # filling in tens of millions of weights takes seconds
        alexnet.features = torchvision.models.alexnet().features
    alexnet.to_empty(device="cpu").requires_grad_(False).apply(lambda one: [p.zero_() for p in one.parameters()])
    expected = reference.compose(*ALEXNET, (3, 2, 0, 1))
    assert expected == (31, 32)  # two pixels of padding less than 33
    assert centres(alexnet, "features.12", (224, 224)) == (expected, expected, True)
    assert centres(alexnet, "features.10", (224, 300))[1] == reference.compose(*ALEXNET)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    vgg = nn.Sequential(layers, nn.Flatten(), nn.Linear(512 * 4, 2))
    assert reference.compose(*VGG) == (15.5, 32)
    assert centres(vgg, "0.30", (64, 64)) == ((15.5, 32), (15.5, 32), True)


def test_squeeze_and_excitation_does_not_see_everything(centres: Look) -> None:
    """Global pooling of a gate reaches every pixel; without it MobileNet v3 is strides of two around pixel 0."""
    model = torchvision.models.mobilenet_v3_small()
    assert centres(model, "features.12", (96, 128)) == ((0, 32), (0, 32), True)
    assert centres(model, "features.1.block.1.fc1", (96, 128)) == grid((96, 128), (1, 1))


def test_channels_last_inside_of_convnext(centres: Look) -> None:
    model = ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)], num_classes=2)
    size = (96, 64)
    # a stem of 4 x 4 patches, blocks of 7 x 7 that stay where they are, a 2 x 2 reduction
    for layer in ("features.1.0.block.3", "features.1.0.block.4", "features.1"):
        assert centres(model, layer, size) == ((1.5, 4), (1.5, 4), True)
    for layer in ("features.3.1.block.5", "features.3"):
        assert centres(model, layer, size) == ((3.5, 8), (3.5, 8), True)


def test_attention_has_no_field(centres: Look) -> None:
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
    assert centres(vit, "conv_proj", (32, 32))[:2] == ((3.5, 8), (3.5, 8))
    assert centres(vit, "encoder.layers.encoder_layer_1", (32, 32)) == grid((32, 32), (4, 4))
    swin = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=3)
    assert centres(swin, "features.0", (32, 48)) == ((1.5, 4), (1.5, 4), True)
    assert centres(swin, "features.3", (32, 48)) == grid((32, 48), (4, 6))

    class Own(nn.Module):
        """Attention by hand over the positions of a convolution."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            tokens = x.flatten(2)
            mixed = tokens @ (tokens.mT @ tokens).softmax(2)
            return self.out(mixed.view_as(x)).mean((2, 3))

    assert centres(Own(), "out", (32, 48)) == grid((32, 48), (8, 12))


class Functional(nn.Module):
    """Operators of every style between two strides: in place, skips, gates, several branches, a fixed-size head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.narrow = nn.Conv2d(3, 4, 4, 2), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 1)
        self.gate, self.norm, self.join = nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.Conv2d(8, 6, 2, 2)
        self.head = nn.Linear(6 * 7 * 11, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.stem(x.sub(0.5).div(0.25)))
        x = x + F.silu(self.norm(self.wide(x)))
        x *= torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        x = torch.cat([F.leaky_relu_(self.wide(x), 0.1), self.narrow(x).clamp_(min=0)], 1)
        x = self.join(F.pad(x, (1, 1, 1, 1), mode="reflect"))
        return self.head(F.gelu(x).flatten(1))


def test_operators_of_every_style(centres: Look, look: Any) -> None:
    """A 4 x 4 stem of stride 2 looks at 1.5 + 2 i; one position of padding and a pair of positions: 1.5 + 2 (0.5 - 1), 4."""
    model = Functional()
    next(model.parameters()).grad = torch.ones_like(model.stem.weight)
    before = look(model)
    assert centres(model, "join", (28, 44)) == ((0.5, 4), (0.5, 4), True)
    assert centres(model, "stem", (28, 44)) == ((1.5, 2), (1.5, 2), True)
    assert look(model) == before


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_steps_of_well_known_networks(name: str, centres: Look) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, **options)
    layer, step = {
        "resnet18": ("layer3", 16),
        "googlenet": ("inception5b", 32),
        "densenet121": ("features.denseblock3", 16),
        "shufflenet_v2_x0_5": ("conv5", 32),
        "squeezenet1_1": ("features.12", 16),
    }[name]
    rows, columns, measured = centres(model, layer, (128, 96))
    assert measured and rows[1] == columns[1] == step and rows == columns
    assert -1 <= rows[0] <= step


EVERY = ((32, 48), (60, 64), (224, 224))


@pytest.mark.parametrize(
    "way, size",
    [(way, size) for way in ("nearest", "bilinear", "transposed", "shuffled") for size in EVERY],
)
def test_maps_that_grow(way: str, size: tuple[int, int], centres: Look) -> None:
    """Neighbours that repeat or share one position are half of its step apart on average: 2 i + 0.5."""

    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(1 if way == "shuffled" else 4, 4, 1)
            ways = {"transposed": nn.ConvTranspose2d(4, 4, 2, 2), "shuffled": nn.PixelShuffle(2)}
            self.grow = ways[way] if way in ways else nn.Upsample(scale_factor=2, mode=way)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.grow(self.stem(x))).mean((2, 3))

    assert centres(Grows(), "out", size)[:2] == ((0.5, 2), (0.5, 2))


def test_mirrored_maps(centres: Look) -> None:
    class Mirrored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.stem(x).flip(3)).mean((2, 3))

    rows, columns, measured = centres(Mirrored(), "out", (32, 48))
    assert rows == (1.5, 4)
    assert columns in ((45.5, -4), (1.5, 4)) and measured == (columns[1] < 0)


def test_one_position_is_the_whole_image(centres: Look) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert centres(model, "1", (24, 30)) == grid((24, 30), (1, 1))
    assert centres(model, "3", (24, 30)) == grid((24, 30), (1, 1))
