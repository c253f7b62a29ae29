"""What the linear interpreter costs beside the passes that it replaces, as ratios in the same process.

    python -m benchmarks.linear [--repetitions 9] [--size 64] [--threads 1]

Every cell is the median over alternating runs, below 1 is cheaper than the network itself:

* record: ``lens.again(images)`` / forward pass without gradients; in brackets the whole ``explain.linear_interpreter(...)``,
  which also copies the network's structure and digests the images;
* replay: ``lens.replay(images)`` / forward pass without gradients;
* adjoint: ``lens.row(0)`` / forward pass + gradient of a logit with respect to the images;
* rows: ``lens.rows()`` of a 10-class head / 10 backward passes of the network;
* gates: memory of the frozen decisions, and as a share of what a forward pass keeps for its gradient.
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from torch import Tensor, nn

import explain
from benchmarks.timing import medians

NETWORKS = ("resnet18", "vgg16", "mobilenet_v3_small", "mobilenet_v3_large", "convnext_tiny", "vit_b_16")
CLASSES = 10


def forward(model: nn.Module, images: Tensor) -> None:
    """A forward pass without gradients."""
    with torch.no_grad():
        model(images)


def gradient(model: nn.Module, images: Tensor) -> None:
    """A forward pass and the gradient of a logit."""
    x = images.clone().requires_grad_()
    torch.autograd.grad(model(x)[:, 0].sum(), x)


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Memory that a forward pass keeps for the gradient with respect to its images, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(images.clone().requires_grad_())  # alive until here, so that no address is used twice
    del y
    return sum(kept.values())


def row(name: str, count: int, size: int, repetitions: int) -> str:
    """Measure one network."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES).eval().requires_grad_(False)
    images = torch.rand(count, 3, size, size)
    lens = explain.linear_interpreter(model, images, batch_size=count)
    x = images.clone().requires_grad_()
    y = model(x)[:, 0].sum()
    seconds = medians(
        {
            "forward": lambda: forward(model, images),
            "record": lambda: lens.again(images),
            "whole": lambda: explain.linear_interpreter(model, images, batch_size=count),
            "replay": lambda: lens.replay(images),
            "gradient": lambda: gradient(model, images),
            "adjoint": lambda: lens.row(0),
        },
        repetitions,
    )
    seconds |= medians(
        {
            "backward": lambda: torch.autograd.grad(y, x, retain_graph=True),
            "rows": lens.rows,
        },
        max(5, repetitions // 2),
    )
    cells = (
        f"{seconds['forward'] * 1e3:.0f} ms",
        f"{seconds['record'] / seconds['forward']:.2f} ({seconds['whole'] / seconds['forward']:.2f})",
        f"{seconds['replay'] / seconds['forward']:.2f}",
        f"{seconds['adjoint'] / seconds['gradient']:.2f}",
        f"{seconds['rows'] / (CLASSES * seconds['backward']):.2f}",
        f"{lens.gates_bytes / 1e6:.1f} MB ({lens.gates_bytes / kept_bytes(model, images):.0%})",
    )
    return f"| {name} {count}x{size} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--size", type=int, default=64, help="of the images; vit_b_16 always takes two of 224")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| network, images | forward | record | replay | adjoint | rows | gates |")
    print("|---|---|---|---|---|---|---|")
    for name in options.networks:
        count, size = (2, 224) if name.startswith("vit") else (8, options.size)
        print(row(name, count, size, options.repetitions), flush=True)


if __name__ == "__main__":
    main()
