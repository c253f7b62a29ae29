"""Every torchvision classifier, unmodified, is exact in float64: replay, affinity, transpose, completeness.

Nobody's weights are needed for that, but none may be neutral: fresh biases are zero, fresh norms do nothing, and a head
that is zero makes every test pass. So all are drawn, scaled by fan-in, and batch norms are given the magnitudes that
their inputs have. Only the parts that a network has more of than memory are repeated: a random block, shifted.
"""

from __future__ import annotations

import gc
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

import explain
from workbench.models.meta import EmptyOnMeta, build_torchvision

NAMES = torchvision.models.list_models(module=torchvision.models)
# The smallest (H, W) at which every stage still has something to do; H ≠ W where the architecture allows.
SIZES = {
    "alexnet": (63, 71), "inception_v3": (75, 83), "maxvit_t": (224, 224), "swin": (64, 48),
    "vit_h_14": (28, 28), "vit_b_16": (32, 32), "vit_l_16": (32, 32), "vit_b_32": (64, 64), "vit_l_32": (64, 64),
}  # fmt: skip
CLASSES = 7
EXACT, SINGLE = 1e-12, 1e-4
_PERIOD = 1_000_003  # prime: no row of a weight matrix repeats another


class Weights:
    """Random numbers for a network of any size, in seconds and little memory.

    Args:
        dtype: of everything that is drawn.
        seed: of the generator.
    """

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        self.dtype, self.generator = dtype, torch.Generator().manual_seed(seed)
        self._block = torch.randn(_PERIOD, generator=self.generator, dtype=dtype)
        self._pools: dict[float, Tensor] = {}

    def normal(self, shape: tuple[int, ...], std: float) -> Tensor:
        """Return normal numbers; large tensors of one scale are windows of one pool, each at another place."""
        count = math.prod(shape)
        if count < 1 << 18:
            return std * torch.randn(shape, generator=self.generator, dtype=self.dtype)
        pool = self._pools.get(std)
        if pool is None or len(pool) < count + 4096:
            pool = self._pools[std] = self._block.repeat(-(-(count + 4096) // _PERIOD)).mul_(std)
        start = int(torch.randint(4096, (), generator=self.generator))
        return pool[start : start + count].view(shape)

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        """Return numbers between two bounds."""
        return torch.empty(shape, dtype=self.dtype).uniform_(low, high, generator=self.generator)

    def parameter(self, module: nn.Module, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a value for one parameter: signals neither vanish nor explode, and nothing is neutral."""
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            return self.uniform(shape, 0.5, 1.5) if name == "weight" else self.normal(shape, 0.2)
        if name == "logit_scale":  # Swin V2: the logarithm of a factor
            return self.uniform(shape, 1.5, 2.5)
        if name == "layer_scale":
            return self.uniform(shape, 0.3, 0.7)
        if name == "in_proj_weight" or (name == "weight" and isinstance(module, nn.Conv2d | nn.Linear)):
            return self.normal(shape, math.sqrt(2 / math.prod(shape[1:])))
        return self.normal(shape, 0.1 if len(shape) == 1 else 0.5)


def fill(model: nn.Module, images: Tensor, seed: int = 0) -> nn.Module:
    """Give a network without storage random weights, and batch norms the magnitudes that ``images`` cause."""
    weights = Weights(images.dtype, seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(weights.parameter(module, name, tuple(parameter.shape))))
        for name, buffer in module.named_buffers(recurse=False):
            real = torch.ones(buffer.shape, dtype=buffer.dtype) if buffer.is_meta else buffer
            setattr(module, name, real.to(images.dtype) if real.is_floating_point() else real)
    hooks = [
        module.register_forward_pre_hook(partial(_settle, weights))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return model


def _settle(weights: Weights, module: nn.Module, args: tuple[Tensor]) -> None:
    """Set statistics near those of the input. The mean stays small: else centring would amplify rounding without limit."""
    power = args[0].square().mean((0, 2, 3))
    power = (power + power.mean()) / 2
    module.running_mean = 0.2 * power.sqrt() * weights.normal(tuple(power.shape), 1)
    module.running_var = power * weights.uniform(tuple(power.shape), 0.5, 1.5)


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return random directions of either sign, far from any image."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """Return a torchvision classifier and two images of different colour."""
    height, width = next((size for prefix, size in SIZES.items() if name.startswith(prefix)), (32, 40))
    options: dict[str, object] = {"image_size": height} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        options["transform_input"] = True  # as with their published weights
    return ready(lambda: build_torchvision(name, num_classes=CLASSES, **options), (2, 3, height, width), dtype)


def ready(build: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """Return the filled network and its images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
    images = images * torch.rand((shape[0], 3, 1, 1), generator=generator, dtype=torch.float64).to(dtype)
    return fill(build(), images), images


def largest(values: Tensor) -> Tensor:
    """Return the largest absolute value of each image."""
    return values.detach().abs().flatten(1).amax(1)


def error(found: Tensor, expected: Tensor, *terms: Tensor) -> float:
    """Return the largest difference relative to the largest term of the sum, of the worst image."""
    assert found.shape == expected.shape
    return float((largest(found - expected) / sum(largest(part) for part in terms or (expected,))).max())


def measure(model: nn.Module, images: Tensor, mode: str = "secant") -> dict[str, float]:
    """Return every relative error; whether A vanishes is asserted here."""
    with torch.no_grad():
        expected = model(images)
    assert bool(expected.isfinite().all()) and float(expected.std(1).min()) > 1e-3
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3 * float(expected.abs().max()), (
        "the images do not matter"
    )
    lens = explain.linear_interpreter(model, images, mode=mode)
    b, k = lens.bias, int(expected[0].argmax())
    row, terms = lens.row(k), lens.bias_terms(k)
    assert bool((largest(row) > 0).all()), "A = 0: the map explains nothing"
    pixels = (row * images).flatten(1).sum(1)
    # Terms that cancel are not rounding of the engine: each figure is relative to the terms that it sums.
    size = (row * images).abs().flatten(1).sum(1) + terms.values.abs().sum(1)
    found = {
        "forward": error(lens.outputs, expected),
        "replay": error(lens.replay(images), expected),
        "complete": float(((pixels + terms.total - expected[:, k]).abs() / size).max()),
        "bias": float(((terms.total - b[:, k]).abs() / size).max()),
    }
    if images.dtype == torch.float64:
        u, v, w = draw(tuple(images.shape), 2), draw(tuple(images.shape), 3), draw(tuple(expected.shape), 4)
        at_u, at_v, forth, back = lens.replay(u), lens.replay(v), lens.apply(v), lens.adjoint(w)
        found["affine"] = error(lens.replay(1.7 * u - 0.7 * v), 1.7 * at_u - 0.7 * at_v, at_u, at_v)
        found["apply"] = error(forth + b, at_v, at_v, b)
        gap = (forth * w).flatten(1).sum(1) - (v * back).flatten(1).sum(1)
        norms = [part.flatten(1).norm(dim=1) for part in (forth, w, v, back)]
        found["adjoint"] = float((gap.abs() / (norms[0] * norms[1] + norms[2] * norms[3])).max())
    return found


def against_gradient(model: nn.Module, images: Tensor, mode: str) -> float:
    """Return how far the row of a class is from torch's gradient."""
    pixels, k = images.clone().requires_grad_(), int(model(images)[0].argmax())
    gradient = torch.autograd.grad(model(pixels)[:, k].sum(), pixels)[0]
    return error(explain.linear_interpreter(model, images, mode=mode).row(k), gradient)


def small_convnext() -> nn.Module:
    """ConvNeXt with two stages."""
    return ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 1)], num_classes=CLASSES)


def small_vit() -> nn.Module:
    """ViT with two layers and four patches."""
    return torchvision.models.VisionTransformer(16, 8, 2, 2, 12, 20, num_classes=CLASSES)


def small_swin() -> nn.Module:
    """Swin V2 with a padded, shifted window."""
    return SwinTransformer(
        [2, 2],
        8,
        [2, 1],
        [2, 4],
        [3, 3],
        num_classes=CLASSES,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )


def small_maxvit() -> nn.Module:
    """MaxViT with one block and windows of two."""
    return MaxVit((16, 16), 8, 2, [8, 12], [1, 1], 4, 0.0, num_classes=CLASSES)


SMALL = {
    "resnet18": ("resnet18", (2, 3, 32, 40)),
    "mobilenet_v3_small": ("mobilenet_v3_small", (2, 3, 32, 40)),
    "efficientnet_b0": ("efficientnet_b0", (2, 3, 32, 40)),
    "small ConvNeXt": (small_convnext, (2, 3, 24, 16)),
    "small ViT": (small_vit, (2, 3, 16, 16)),
    "small Swin V2": (small_swin, (2, 3, 20, 28)),
    "small MaxViT": (small_maxvit, (2, 3, 16, 16)),
}


def meta(build: str | Callable[[], nn.Module]) -> nn.Module:
    """Build without storage."""
    if isinstance(build, str):
        return build_torchvision(build, num_classes=CLASSES)
    with EmptyOnMeta():
        return build()


@pytest.mark.parametrize("mode", ["secant", "tangent"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "efficientnet_b0" else name for name in SMALL]
)
def test_small(name: str, mode: str) -> None:
    build, shape = SMALL[name]
    model, images = ready(partial(meta, build), shape, torch.float64)
    found = measure(model, images, mode)
    assert max(found.values()) <= EXACT, found
    if mode == "tangent" or name == "resnet18":
        assert against_gradient(model, images, mode) <= EXACT


FAMILIES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_large", "regnet_y_400mf", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_tangent_of_each_family_is_its_gradient(name: str) -> None:
    model, images = make(name, torch.float64)
    found = measure(model, images, "tangent")
    assert max(found.values()) <= EXACT, found
    assert against_gradient(model, images, "tangent") <= EXACT


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, dict[str, float]]]:
    """Collect the figures, and print them at the end."""
    figures: dict[str, dict[str, float]] = {}
    yield figures
    plugins = request.config.pluginmanager
    reporter, capture = plugins.getplugin("terminalreporter"), plugins.getplugin("capturemanager")
    if reporter is None or capture is None or not figures:  # a worker of a parallel run has no terminal
        return
    columns = list(dict.fromkeys(key for row in figures.values() for key in row))
    with capture.global_and_fixture_disabled():
        reporter.write_line("\n" + " " * 28 + "".join(f"{key:>10}" for key in columns))
        for name, row in figures.items():
            reporter.write_line(
                f"{name:28}" + "".join(f"{row[key]:10.1e}" if key in row else " " * 10 for key in columns)
            )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_every_classifier(name: str, dtype: torch.dtype, table: dict[str, dict[str, float]]) -> None:
    start = time.perf_counter()
    found = measure(*make(name, dtype))
    worst = max(found.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    seconds = time.perf_counter() - start
    table[f"{name} {str(dtype)[-2:]}"] = {"worst": worst, **found, "seconds": seconds, "peak GB": peak}
    gc.collect()  # one giant at a time
    assert worst <= (EXACT if dtype == torch.float64 else SINGLE), found
