"""How far the linear system A of an image is from the Jacobian J, per architecture: |J − A|/|A| and their cosine.

    python -m benchmarks.jacobian_gap [--images N] [--seeds N]

Frozen masks and positions are the derivative of ReLU and max-pooling; secants, frozen gates and frozen attention are
not. Everything in float64. torchvision's architectures have random weights, drawn so that signals neither vanish nor
explode, and statistics of batch norms near those of their inputs; nothing that is found on them says anything about
trained ones. The trained sample networks run on their test images.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor, nn

import explain
import workbench as wb
from workbench.models.small import SAMPLES

#: Architecture → size of its images, options, and its units whose secant is not the tangent.
ARCHITECTURES: dict[str, tuple[int, dict[str, object], str]] = {
    "alexnet": (64, {}, ""),
    "vgg11_bn": (64, {}, ""),
    "resnet18": (64, {}, ""),
    "densenet121": (64, {}, ""),
    "googlenet": (64, {"aux_logits": False, "init_weights": False}, ""),
    "inception_v3": (96, {"aux_logits": False, "init_weights": False}, ""),
    "squeezenet1_1": (64, {}, ""),
    "shufflenet_v2_x1_0": (64, {}, ""),
    "mobilenet_v2": (64, {}, "ReLU6"),
    "mnasnet1_0": (64, {}, ""),
    "regnet_y_400mf": (64, {}, "channel gates"),
    "mobilenet_v3_small": (64, {}, "Hardswish, channel gates"),
    "efficientnet_b0": (64, {}, "SiLU, channel gates"),
    "efficientnet_v2_s": (64, {}, "SiLU, channel gates"),
    "convnext_tiny": (64, {}, "GELU, layer norm"),
    "swin_t": (64, {}, "GELU, layer norm, attention"),
    "swin_v2_t": (64, {}, "GELU, layer norm, cosine attention"),
    "vit_b_16": (64, {"image_size": 64}, "GELU, layer norm, attention"),
    "maxvit_t": (224, {}, "GELU, SiLU, Tanh, channel gates, layer norm, attention"),
}
TRAINED = ("shapes-vgg", "shapes-resnet", "shapes-mobilenet", "digits-lenet", "digits-mlp")
CLASSES = 10
_UNITS = {"shapes-mobilenet": "Hardswish, channel gates"}


def filled(model: nn.Module, images: Tensor, seed: int) -> nn.Module:
    """Return ``model`` in float64 with random weights, biases and normalisations, batch norms settled on ``images``."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval().requires_grad_(False)

    def normal(like: Tensor, std: float) -> Tensor:
        return std * torch.randn(like.shape, generator=generator, dtype=like.dtype)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=like.dtype)

    def settle(module: nn.Module, args: tuple[Tensor]) -> None:
        power = args[0].square().mean((0, 2, 3))
        power = (power + power.mean()) / 2  # a channel that is silent on these images is not amplified without limit
        module.running_mean.copy_(0.2 * power.sqrt() * normal(power, 1))  # type: ignore[union-attr, operator]
        module.running_var.copy_(power * uniform(power, 0.5, 1.5))  # type: ignore[union-attr, operator]

    for module in model.modules():
        norm = isinstance(module, nn.BatchNorm2d | nn.LayerNorm)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "logit_scale":  # Swin V2: the logarithm of a factor
                value = uniform(parameter, 1.5, 2.5)
            elif name == "layer_scale":
                value = uniform(parameter, 0.3, 0.7)
            elif norm:
                value = uniform(parameter, 0.5, 1.5) if name == "weight" else normal(parameter, 0.2)
            elif parameter.ndim > 1 and name.endswith("weight"):
                value = normal(parameter, math.sqrt(2 / math.prod(parameter.shape[1:])))
            else:  # biases, class token, position embedding
                value = normal(parameter, 0.1 if parameter.ndim == 1 else 0.5)
            parameter.copy_(value)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [module.register_forward_pre_hook(settle) for module in norms]
    model(images)
    for hook in hooks:
        hook.remove()
    return model


def cells(name: str, units: str, systems: Iterator[tuple[nn.Module, Tensor]]) -> str:
    """Return one row of the table: median and extremes over all images and seeds."""
    gaps = [explain.linear_interpreter(model, images, batch_size=2).jacobian_gap() for model, images in systems]
    ratio, cosine = (torch.cat([getattr(gap, one) for gap in gaps]) for one in ("ratio", "cosine"))
    assert all(gap.exact for gap in gaps)
    figures = [
        f"{float(values.quantile(0.5)):.{digits}g} ({float(values.min()):.{digits}g}–{float(values.max()):.{digits}g})"
        for values, digits in ((ratio, 2), (cosine, 3))
    ]
    return f"| {name} | {units or 'none'} | {' | '.join(figures)} |"


def untrained(name: str, count: int, seeds: int) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield a torchvision architecture with random weights, and drawn images, per seed."""
    size, options, _ = ARCHITECTURES[name]
    images = wb.sample_data("shapes", n=count).images.double()
    images = nn.functional.interpolate(images, size=(size, size), mode="bilinear")
    for seed in range(seeds):
        model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
        yield filled(model, images, seed), images


def trained(name: str, count: int) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield a sample network and its test images."""
    yield wb.load(f"sample:{name}").double(), wb.sample_data(SAMPLES[name].data, n=count).images.double()


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, default=4, help="per architecture; ten times as many for trained networks"
    )
    parser.add_argument("--seeds", type=int, default=3, help="random weights per architecture")
    parser.add_argument("--networks", nargs="*", default=[*ARCHITECTURES, *TRAINED])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| network | units whose secant is not the tangent | \\|J−A\\|/\\|A\\|: median (range) | cosine: median (range) |"
    )
    print("|---|---|---|---|")
    for name in options.networks:
        if name in ARCHITECTURES:
            row = cells(name, ARCHITECTURES[name][2], untrained(name, options.images, options.seeds))
        else:
            row = cells(f"**sample:{name}**", _UNITS.get(name, ""), trained(name, 10 * options.images))
        print(row, flush=True)


if __name__ == "__main__":
    main()
