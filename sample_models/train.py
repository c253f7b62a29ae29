"""Train the sample networks, write weights and cards: ``python sample_models/train.py [NAME ...] [--out DIR]``.

Shapes are generated, so every epoch sees new images and nothing can be learnt by heart. Recipes were chosen on training
data kept aside: shapes of a training seed that no epoch uses, and every fifth training digit. The test split is looked
at once, with the weights as they are stored.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from workbench import sample_data
from workbench.models.small import SAMPLES, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workbench.images import ImageSet

SEED = 0
TEST_IMAGES = {"shapes": 2000, "digits": 450}
EPOCH_IMAGES = {"shapes": 8000, "digits": 1347}
DATA = {
    "shapes": "generated drawings whose class is the kind of object and the colour of one part: "
    '`sample_data("shapes", "train", {images}, seed=e)` with another `e` in every epoch, from 0 to {last}',
    "digits": "handwritten digits of scikit-learn: "
    '`sample_data("digits", "train")`, {images} images, seen {epochs} times',
}
NOT_GOOD_FOR = {
    "shapes": "photographs, since it has seen nothing but these drawings; and anything where somebody may want to fool "
    "it, since nothing was done to harden it.",
    "digits": "handwriting that was not prepared as this set was (8 × 8 pixels, centred, 17 grey levels); and anything "
    "where somebody may want to fool it, since nothing was done to harden it.",
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW with a one-cycle learning rate and cross-entropy.

    ``bf16`` halves the time of dense convolutions on processors with bfloat16, and slows depthwise ones down.
    """

    epochs: int
    rate: float
    weight_decay: float = 0.01
    batch: int = 64
    bf16: bool = False


RECIPES = {
    "shapes-vgg": Recipe(epochs=6, rate=3e-3, bf16=True),
    "shapes-resnet": Recipe(epochs=6, rate=3e-3, bf16=True),
    "shapes-mobilenet": Recipe(epochs=14, rate=4e-3),
    "digits-lenet": Recipe(epochs=40, rate=2e-3),
    "digits-mlp": Recipe(epochs=40, rate=2e-3),
}


def epochs(sample: Sample, recipe: Recipe) -> Iterator[ImageSet]:
    """Yield the training images of each epoch: new shapes, or the same digits in another order."""
    for epoch in range(recipe.epochs):
        yield sample_data(sample.data, "train", EPOCH_IMAGES[sample.data], seed=epoch)


def batches(sample: Sample, data: ImageSet, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield normalised images and labels."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (sample.mean, sample.std))
    for x, y in zip(torch.split(data.images, size), torch.split(torch.as_tensor(data.labels), size), strict=True):
        yield ((x - mean) / std).contiguous(memory_format=torch.channels_last), y


def steps(sample: Sample, recipe: Recipe) -> int:
    """Return the number of optimiser steps."""
    return recipe.epochs * -(-EPOCH_IMAGES[sample.data] // recipe.batch)


def train(sample: Sample, recipe: Recipe, advance: Callable[[float], None]) -> nn.Module:
    """Return a trained network; ``advance`` is called with the loss after each step."""
    torch.manual_seed(SEED)
    network = sample.build().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps(sample, recipe))
    for data in epochs(sample, recipe):
        for x, y in batches(sample, data, recipe.batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                loss = F.cross_entropy(network(x).float(), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            advance(loss.item())
    return network.eval()


@torch.inference_mode()
def accuracy(network: nn.Module, sample: Sample, data: ImageSet) -> float:
    """Return the share of ``data`` that a network in eval mode gets right."""
    hits = [network(x).argmax(1).eq(y) for x, y in batches(sample, data, 256)]
    return torch.cat(hits).double().mean().item()


def half(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict in plain memory order, with floating point tensors in half precision."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def publish(name: str, network: nn.Module, seconds: float, out: Path) -> float:
    """Write weights and card of a trained network to ``out``; return the test accuracy of the weights as stored."""
    sample, recipe = SAMPLES[name], RECIPES[name]
    file = out / f"{name}.safetensors"
    weights = half(network)
    stored = sample.build().eval()
    stored.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    test = sample_data(sample.data, "test", TEST_IMAGES[sample.data])
    score = accuracy(stored, sample, test)
    # Plain text for names, JSON for everything else: safetensors holds nothing but strings here.
    metadata = {
        "architecture": f"sample:{name}",
        "data": sample.data,
        "classes": json.dumps(test.classes),
        "input_size": json.dumps(sample.input_size),
        "mean": json.dumps(sample.mean),
        "std": json.dumps(sample.std),
        "accuracy": json.dumps(score),
        "test_images": json.dumps(len(test)),
    }
    save_file(weights, file, metadata)
    file.chmod(0o644)  # safetensors writes for the owner alone, and a package would pass that on
    (out / f"{name}.md").write_text(card(name, sample, recipe, test, score, seconds, file), encoding="utf-8")
    return score


def card(name: str, sample: Sample, recipe: Recipe, test: ImageSet, score: float, seconds: float, file: Path) -> str:
    """Return what a person should know before using the network, in Markdown."""
    parameters = sum(p.numel() for p in sample.build().parameters())
    optimiser = (
        f"AdamW, one-cycle learning rate {recipe.rate:g}, weight decay {recipe.weight_decay:g}, batch {recipe.batch}"
    )
    rows = {
        "data": DATA[sample.data].format(
            images=EPOCH_IMAGES[sample.data], epochs=recipe.epochs, last=recipe.epochs - 1
        ),
        "input": f"{' × '.join(map(str, sample.input_size))}, pixels in [0, 1]; "
        f"normalised with mean {sample.mean} and standard deviation {sample.std}",
        "classes": ", ".join(test.classes),
        "architecture": f"{sample.description}; {parameters:,} parameters",
        "accuracy": f"{score:.2%} on the first {len(test)} images of the `test` split, with the weights as stored",
        "training": f"{optimiser}, {recipe.epochs} epochs" + (", bfloat16 autocast" if recipe.bf16 else ""),
        "time": f"{seconds:.0f} s on one core ({torch.backends.cpu.get_cpu_capability()})",
        "seed": str(SEED),
        "command": f"`python sample_models/train.py {name}`",
        "made with": f"torch {torch.__version__.split('+')[0]}; other versions and processors give other weights",
        "file": f"`{file.name}`, {file.stat().st_size / 1000:,.0f} kB; half precision, cast to single on loading",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"# sample:{name}\n\n| | |\n|---|---|\n{table}\n\n**Not good for:** {NOT_GOOD_FOR[sample.data]}\n"


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(description="Train the sample networks and write their weights and cards.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(RECIPES)}; all by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, metavar="DIR")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in RECIPES]:
        parser.error(f"no sample network is called {unknown[0]}; there are {', '.join(RECIPES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    columns = (
        TextColumn("{task.description:<17}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        for name in arguments.names or RECIPES:
            task = progress.add_task(name, total=steps(SAMPLES[name], RECIPES[name]), note="")
            start = time.process_time()
            network = train(SAMPLES[name], RECIPES[name], partial(_advance, progress, task))
            score = publish(name, network, time.process_time() - start, arguments.out)
            progress.update(task, note=f"accuracy {score:.2%}")


def _advance(progress: Progress, task: TaskID, loss: float) -> None:
    progress.update(task, advance=1, note=f"loss {loss:.3f}")


if __name__ == "__main__":
    main()
