"""The catalogue: small networks that a linear interpreter must read, none of them built for it.

``piecewise`` marks networks whose non-linearities are pieces of lines through the origin: their frozen map is the
Jacobian, whichever way it is frozen. Building blocks lie in ``blocks.py``, networks with a data flow of their own in
``whole.py``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import DenseNet


@dataclass(frozen=True)
class Network:
    """One network and what it takes.

    Attributes:
        name: what it is.
        build: makes it, with fresh parameters.
        shape: (C, H, W) of an image.
        count: images in a batch; 1 where the network is not defined image by image.
        piecewise: A is the Jacobian that torch computes, in both modes.
        gate: an operator through which everything goes and which stays frozen in secant mode, so that the network is
            refused unless the operator is given a rule.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, int, int] = (3, 6, 5)
    count: int = 2
    piecewise: bool = False
    gate: str = ""

    def rules(self, mode: str) -> dict[str, str] | None:
        """Return what makes the network readable in that mode."""
        return {self.gate: "secant"} if self.gate and mode == "secant" else None

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Return the network in evaluation mode, all parameters and statistics random and none neutral."""
        return scramble(self.build()).to(dtype).eval()

    def images(self, dtype: torch.dtype = torch.float64, seed: int = 3) -> Tensor:
        """Return images in [0, 1] of different brightness."""
        generator = torch.Generator().manual_seed(seed)
        light = torch.linspace(1, 0.6, self.count)[:, None, None, None]
        return (torch.rand(self.count, *self.shape, generator=generator) * light).to(dtype)


def scramble(model: nn.Module, seed: int = 5) -> nn.Module:
    """Draw every parameter and every statistic: fresh biases are zero and fresh norms neutral, and hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else 4
            parameter.normal_(0, math.sqrt(2 / fan), generator=generator)
            if name.endswith(("gamma", "norm.weight")):
                parameter.uniform_(0.5, 1.5, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
    return model


class Around(nn.Module):
    """Convolution, the block under test, convolution, the block again (shared), two means, linear head."""

    def __init__(self, block: nn.Module | Callable[[Tensor], Tensor], channels: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, padding=1)
        self.block = block
        with torch.no_grad():
            middle = block(torch.rand(1, 6, 6, 5)).shape[1]
            self.conv = nn.Conv2d(middle, 6, 3, padding=1)
            self.head = nn.Linear(2 * middle, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.block(self.stem(x)))
        return self.head(F.adaptive_avg_pool2d(self.block(x), (2, 1)).flatten(1))


def catalogue(blocks: ModuleType, whole: ModuleType) -> dict[str, Network]:
    """Return every network by name."""
    every = [*whole_networks(whole), *attention(blocks), *gates(blocks), *norms(blocks), *activations(), *maxima()]
    found = {network.name: network for network in every}
    assert len(found) == len(every)
    return found


def around(name: str, block: Callable[[], nn.Module | Callable[[Tensor], Tensor]], **options: Any) -> Network:
    """Return the network with two convolutions around ``block()``."""
    return Network(name, lambda: Around(block()), **options)


def whole_networks(whole: ModuleType) -> Iterator[Network]:
    """Views, branches, images as output, odd sizes."""
    for name, build in {
        "shared modules": whole.Shared,
        "in place on slices": whole.InPlace,
        "index assignment": whole.Written,
        "masks by comparison": whole.Masked,
        "u-net": whole.UNet,
        "linear operators": whole.Movers,
        "Fourier filter": whole.GlobalFilter,
        "standardised weights": whole.Standardised,
        "EDSR": whole.SuperResolution,
        "another path without gradients": whole.AskingTorch,
        "DenseNet that saves memory": lambda: DenseNet(4, (2, 2), 6, 2, num_classes=4, memory_efficient=True),
    }.items():
        yield Network(name, build, piecewise=True)
    yield Network("one image at a time", whole.OneImage, count=1, piecewise=True)
    yield Network("max-unpooling", whole.Unpooled, shape=(3, 6, 4), piecewise=True)
    yield Network("data-dependent branch", whole.Branching, count=1, piecewise=True)
    yield Network("one channel, two classes", lambda: whole.Shared(1, 2), shape=(1, 9, 4), piecewise=True)
    yield Network("one row", lambda: whole.Shared(3, 2), shape=(3, 1, 11), count=3, piecewise=True)
    yield Network("written over constants", whole.OverConstants)
    yield Network("NAFNet", whole.SimpleGates)
    yield Network("cosine head", whole.Cosine)
    yield Network("bilinear pooling", whole.Bilinear)


def attention(blocks: ModuleType) -> Iterator[Network]:
    """Attention in every spelling, and mixtures of kernels."""
    for how in ("matmul", "einsum", "exp", "fused", "linear", "cosine"):
        yield around(f"attention, {how}", partial(blocks.Attention, how))
    for first, weights in ((True, False), (True, True), (False, False)):
        name = f"nn.MultiheadAttention, batch first {first}, weights {weights}"
        yield around(name, partial(blocks.Heads, first, weights))
    yield around("nn.TransformerEncoderLayer", partial(blocks.Encoder, False))
    yield around("nn.TransformerEncoderLayer, norm first", partial(blocks.Encoder, True))
    yield around("dynamic convolution", partial(blocks.MixedKernels, lambda score: (score / 30).softmax(1)))
    yield around("CondConv", partial(blocks.MixedKernels, torch.sigmoid))
    yield around("selective kernel", blocks.SelectiveKernel)
    yield around("spatial transformer", blocks.SpatialTransformer)


def gates(blocks: ModuleType) -> Iterator[Network]:
    """Features that multiply features."""
    yield around("dynamic ReLU", blocks.DynamicReLU)
    yield around("squeeze-excite", blocks.SqueezeExcite)
    yield around("squeeze-excite, hard", partial(blocks.SqueezeExcite, F.hardsigmoid))
    yield around("squeeze-excite, tanh", partial(blocks.SqueezeExcite, lambda x: 1 + torch.tanh(x)))
    yield around("squeeze-excite without gradient", partial(blocks.SqueezeExcite, torch.sigmoid, True), piecewise=True)
    yield around("detached gate", lambda: lambda x: x * x.roll(1, 1).detach(), piecewise=True)
    yield around("CBAM", blocks.CBAM)
    for name, gate in {
        "GLU": lambda x: F.glu(torch.cat([x, x.roll(2, 1)], 1), 1),
        "SwiGLU": lambda x: F.silu(x[:, :3]) * x[:, 3:],
        "simple gate": lambda x: x[:, ::2] * x[:, 1::2],
        "interpolating gate": lambda x: torch.lerp(x, x.roll(1, 1), torch.sigmoid(x)),
        "gate by magnitude": lambda x: x * x.abs().mean((2, 3), keepdim=True),
        "gate by length": lambda x: x / (1 + torch.linalg.vector_norm(x, dim=1, keepdim=True)),
        "softpool": lambda x: F.avg_pool2d(x.exp() * x, 2) / F.avg_pool2d(x.exp(), 2),
    }.items():
        yield around(name, lambda gate=gate: gate)


def norms(blocks: ModuleType) -> Iterator[Network]:
    """Normalisations, torch's and written out."""
    for how in ("pow", "var", "var_mean", "std", "rms", "in place"):
        yield around(f"layer norm, {how}", partial(blocks.ChannelNorm, how))
    yield around("GRN", blocks.GRN)
    yield around("nn.BatchNorm2d", partial(nn.BatchNorm2d, 6), piecewise=True)
    yield around("torch.batch_norm", partial(blocks.DirectNorm, True), piecewise=True)
    yield around("torch.instance_norm", partial(blocks.DirectNorm, False))
    yield around("nn.InstanceNorm2d", partial(nn.InstanceNorm2d, 6))
    yield around("nn.GroupNorm", partial(nn.GroupNorm, 2, 6))
    yield around("nn.LocalResponseNorm", partial(nn.LocalResponseNorm, 3, alpha=1.0))
    yield around("F.layer_norm", lambda: lambda x: F.layer_norm(x, x.shape[1:]))
    yield around("F.normalize", lambda: lambda x: 3 * F.normalize(x, dim=1))


def activations() -> Iterator[Network]:
    """Everything that torch calls an activation, and several written by hand."""
    for module in (
        nn.ReLU(),
        nn.LeakyReLU(0.1, inplace=True),
        nn.PReLU(6),
        nn.RReLU(),
        nn.Hardshrink(0.1),
        nn.Threshold(0.1, 0.3),
    ):
        yield around(f"nn.{type(module).__name__}", partial(copy.deepcopy, module), piecewise=True)
    for module in (
        nn.ELU(inplace=True), nn.CELU(0.7), nn.SELU(), nn.GELU(), nn.SiLU(inplace=True), nn.Mish(), nn.Hardswish(),
        nn.Hardtanh(-0.2, 0.4), nn.Tanh(), nn.Softplus(2), nn.Softsign(), nn.Softshrink(0.1),
        nn.Tanhshrink(), nn.LogSigmoid(),
    ):  # fmt: skip
        yield around(f"nn.{type(module).__name__}", partial(copy.deepcopy, module))
    yield around("nn.GELU, tanh", partial(nn.GELU, "tanh"))
    yield around("nn.Sigmoid", nn.Sigmoid, gate="sigmoid")
    yield around("nn.Hardsigmoid", nn.Hardsigmoid, gate="hardsigmoid")
    yield around("exponential", lambda: lambda x: torch.exp(-x) - 1, gate="exp")
    yield around("square root", lambda: lambda x: (x.relu() + 1e-3).sqrt(), gate="sqrt")
    for name, piece in {
        "torch.where": lambda x: torch.where(x > 0, x, 0.1 * x),
        "torch.where with numbers": lambda x: torch.where(x > 0.1, x, -0.3) + torch.where(x < 0, 0.2, x),
        "clamp from 0": lambda x: x.clamp(min=0),
        "abs": lambda x: x.abs(),
        "abs by sign": lambda x: x * x.sign(),
        "CReLU": lambda x: torch.cat([x.relu(), (-x).relu()], 1),
        "maxout": lambda x: x.unflatten(1, (3, 2)).max(2).values,
        "maxout, indexed": lambda x: torch.max(x.view(x.shape[0], 2, 3, *x.shape[2:]), dim=1)[0],
        "torch.maximum": lambda x: torch.maximum(x[:, :3], x[:, 3:]),
        "torch.max of two": lambda x: torch.max(x, 0.3 * x),
        "torch.minimum": lambda x: torch.minimum(x, -0.5 * x),
        "amin": lambda x: x.view(x.shape[0], 3, 2, *x.shape[2:]).amin(2),
        "sorted channels": lambda x: x.sort(dim=1).values,
        "top 3 channels": lambda x: x.topk(3, dim=1)[0],
    }.items():
        yield around(name, lambda piece=piece: piece, piecewise=True)
    for name, curve in {
        "swish": lambda x: x * torch.sigmoid(x),
        "clamp": lambda x: x.clamp(0, 1),
        "GELU by erf": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        "GELU by tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "mish by parts": lambda x: x * torch.tanh(F.softplus(x)),
        "hardswish by parts": lambda x: x * F.relu6(x + 3) / 6,
        "square": lambda x: x.square() - 0.1 * torch.pow(x, 3),
        "squared ReLU": lambda x: F.relu(x) ** 2,
        "logarithm": lambda x: torch.log1p(x.abs()),
        "sine": lambda x: torch.sin(2 * x) + x.cos(),
        "arctangent": lambda x: torch.atan(x),
        "reciprocal": lambda x: x + 1 / (1 + x.abs()),
        "logsumexp": lambda x: x[:, ::2] + torch.logsumexp(x.unflatten(1, (3, 2)), 2),
        "ReLU6, scaled": lambda x: F.relu6(12 * x) / 12,
    }.items():
        yield around(name, lambda curve=curve: curve)


def maxima() -> Iterator[Network]:
    """Max-pooling with every option."""
    for name, pool in {
        "max_pool2d, padded": nn.MaxPool2d(3, stride=2, padding=1),
        "max_pool2d, dilated": nn.MaxPool2d(2, stride=1, dilation=2, padding=1),
        "max_pool2d, ceiling": nn.MaxPool2d((2, 1), ceil_mode=True),
        "adaptive_max_pool2d": nn.AdaptiveMaxPool2d((4, 3)),
        "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 3, 2, padding=1).unsqueeze(2),
        "max_pool3d": lambda x: F.max_pool3d(x.unsqueeze(1), (2, 3, 3), stride=(2, 1, 1), padding=(0, 1, 1)).squeeze(1),
    }.items():
        yield around(name, lambda pool=pool: pool, piecewise=True)
