"""Train the sample networks, write weights and cards: ``python sample_models/train.py [NAME ...] [--out DIR]``.

Shapes are generated, so every epoch sees new images and nothing can be learnt by heart. Recipes were chosen on training
data kept aside: shapes of a training seed that no epoch uses, and every fifth training digit. The test split is looked
at once, with the weights as they are stored. Classifiers learn labels; the super-resolution network learns what images
were before :func:`workbench.shrink` halved them, and is compared with bicubic interpolation.
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

from workbench import sample_data, shrink
from workbench.models.small import IMAGE_SAMPLES, SAMPLES, Sample

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
    "shapes-sr": 'generated drawings: `sample_data("shapes", "train", {images}, seed=e)` with another `e` in every epoch, '
    "from 0 to {last}, halved in height and width by `workbench.shrink`, the average of each 2 × 2 pixels",
}
NOT_GOOD_FOR = {
    "shapes": "photographs, since it has seen nothing but these drawings; and anything where somebody may want to fool "
    "it, since nothing was done to harden it.",
    "digits": "handwriting that was not prepared as this set was (8 × 8 pixels, centred, 17 grey levels); and anything "
    "where somebody may want to fool it, since nothing was done to harden it.",
    "shapes-sr": "photographs, since it has seen nothing but these drawings; pictures that became small in another way than "
    "by averaging 2 × 2 pixels; and as a witness: what it adds is what such drawings usually look like, not what was there.",
}

# Given a picture and all but its noise, 3/4 of the variance of the noise of 0.04 stays unknown: 10 log10(1 / 0.0012).
CEILING = "The noise in the drawings lets no method pass about 29 dB"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW with a one-cycle learning rate, on cross-entropy (labels) or L1 (images).

    ``bf16`` halves the time of dense convolutions on processors with bfloat16, and slows depthwise ones down. ``clip``
    is the greatest norm of a gradient: without batch norm, one bad step can undo an epoch.
    """

    epochs: int
    rate: float
    weight_decay: float = 0.01
    batch: int = 64
    bf16: bool = False
    clip: float | None = None


RECIPES = {
    "shapes-vgg": Recipe(epochs=6, rate=3e-3, bf16=True),
    "shapes-resnet": Recipe(epochs=6, rate=3e-3, bf16=True),
    "shapes-mobilenet": Recipe(epochs=14, rate=4e-3),
    "digits-lenet": Recipe(epochs=40, rate=2e-3),
    "digits-mlp": Recipe(epochs=40, rate=2e-3),
    "shapes-sr": Recipe(epochs=8, rate=2e-3, batch=8, bf16=True, clip=0.1),
}


@dataclass(frozen=True)
class Task:
    """What a network is trained for.

    Attributes:
        pairs: from images to what goes in, in [0, 1], and what should come out.
        loss: of what came out and what should.
        score: the same, one number per image; the mean over the test images is reported as ``named``.
        told: how a score is written.
    """

    pairs: Callable[[ImageSet], tuple[torch.Tensor, torch.Tensor]]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    named: str
    told: str


def psnr(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio in dB ``(N,)``: -10 log10 of the mean squared error, clipped to [0, 1]."""
    return -10 * (images.clamp(0, 1) - truth).square().mean(dim=(1, 2, 3)).log10()


CLASSIFY = Task(
    lambda data: (data.images, torch.as_tensor(data.labels)),
    F.cross_entropy,
    lambda logits, labels: logits.argmax(1).eq(labels),
    "accuracy",
    "{:.2%}",
)
ENLARGE = Task(lambda data: (shrink(data.images), data.images), F.l1_loss, psnr, "PSNR", "{:.2f} dB")


def task_of(name: str) -> tuple[Sample, Task]:
    """Return what ``name`` is and what it is for."""
    return (SAMPLES[name], CLASSIFY) if name in SAMPLES else (IMAGE_SAMPLES[name], ENLARGE)


def epochs(sample: Sample, recipe: Recipe) -> Iterator[ImageSet]:
    """Yield the training images of each epoch: new shapes, or the same digits in another order."""
    for epoch in range(recipe.epochs):
        yield sample_data(sample.data, "train", EPOCH_IMAGES[sample.data], seed=epoch)


def batches(sample: Sample, task: Task, data: ImageSet, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield normalised images and what should become of them."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (sample.mean, sample.std))
    for x, y in zip(*(torch.split(part, size) for part in task.pairs(data)), strict=True):
        yield ((x - mean) / std).contiguous(memory_format=torch.channels_last), y


def steps(sample: Sample, recipe: Recipe) -> int:
    """Return the number of optimiser steps."""
    return recipe.epochs * -(-EPOCH_IMAGES[sample.data] // recipe.batch)


def train(sample: Sample, task: Task, recipe: Recipe, advance: Callable[[float], None]) -> nn.Module:
    """Return a trained network; ``advance`` is called with the loss after each step."""
    torch.manual_seed(SEED)
    network = sample.build().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps(sample, recipe))
    for data in epochs(sample, recipe):
        for x, y in batches(sample, task, data, recipe.batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                loss = task.loss(network(x).float(), y)
            optimiser.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
            optimiser.step()
            schedule.step()
            advance(loss.item())
    return network.eval()


@torch.inference_mode()
def measure(network: nn.Module, sample: Sample, task: Task, data: ImageSet) -> float:
    """Return the mean score of a network in eval mode: the share that it gets right, or its PSNR."""
    scores = [task.score(network(x), y) for x, y in batches(sample, task, data, 256)]
    return torch.cat(scores).double().mean().item()


def bicubic(data: ImageSet) -> float:
    """Return the mean PSNR of bicubic interpolation, which knows nothing of the images."""
    small, truth = ENLARGE.pairs(data)
    return psnr(F.interpolate(small, scale_factor=2, mode="bicubic"), truth).double().mean().item()


def half(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict in plain memory order, with floating point tensors in half precision."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def publish(name: str, network: nn.Module, seconds: float, out: Path) -> float:
    """Write weights and card of a trained network to ``out``; return the test score of the weights as stored."""
    (sample, task), recipe = task_of(name), RECIPES[name]
    file = out / f"{name}.safetensors"
    weights = half(network)
    stored = sample.build().eval()
    stored.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    test = sample_data(sample.data, "test", TEST_IMAGES[sample.data])
    score = measure(stored, sample, task, test)
    # Plain text for names, JSON for everything else: safetensors holds nothing but strings here.
    metadata = {
        "architecture": f"sample:{name}",
        "data": sample.data,
        "input_size": json.dumps(sample.input_size),
        "mean": json.dumps(sample.mean),
        "std": json.dumps(sample.std),
        task.named.lower(): json.dumps(score),
        "test_images": json.dumps(len(test)),
    }
    if task is CLASSIFY:
        rows = {"classes": ", ".join(test.classes)}
        metadata["classes"] = json.dumps(test.classes)
        judged = ""
    else:
        beaten = bicubic(test)
        rows = {
            "output": "3 × 64 × 64, pixels in [0, 1] but for what overshoots; other heights and widths are doubled too"
        }
        metadata["bicubic"] = json.dumps(beaten)
        judged = f"; {score - beaten:.2f} dB more than bicubic interpolation ({task.told.format(beaten)}). {CEILING}"
    save_file(weights, file, metadata)
    file.chmod(0o644)  # safetensors writes for the owner alone, and a package would pass that on
    rows |= {
        "architecture": f"{sample.description}; {sum(p.numel() for p in stored.parameters()):,} parameters",
        task.named: f"{task.told.format(score)} on the first {len(test)} images of the `test` split, "
        f"with the weights as stored{judged}",
    }
    (out / f"{name}.md").write_text(card(name, sample, recipe, rows, seconds, file), encoding="utf-8")
    return score


def card(name: str, sample: Sample, recipe: Recipe, rows: dict[str, str], seconds: float, file: Path) -> str:
    """Return what a person should know before using the network, in Markdown; ``rows`` go into the middle."""
    about = name if name in DATA else sample.data
    optimiser = (
        f"AdamW, one-cycle learning rate {recipe.rate:g}, weight decay {recipe.weight_decay:g}, batch {recipe.batch}"
    )
    rows = {
        "data": DATA[about].format(images=EPOCH_IMAGES[sample.data], epochs=recipe.epochs, last=recipe.epochs - 1),
        "input": f"{' × '.join(map(str, sample.input_size))}, pixels in [0, 1]; "
        f"normalised with mean {sample.mean} and standard deviation {sample.std}",
        **rows,
        "training": f"{optimiser}, {recipe.epochs} epochs"
        + (f", gradients clipped to norm {recipe.clip:g}" if recipe.clip else "")
        + (", bfloat16 autocast" if recipe.bf16 else ""),
        "time": f"{seconds:.0f} s on one core ({torch.backends.cpu.get_cpu_capability()})",
        "seed": str(SEED),
        "command": f"`python sample_models/train.py {name}`",
        "made with": f"torch {torch.__version__.split('+')[0]}; other versions and processors give other weights",
        "file": f"`{file.name}`, {file.stat().st_size / 1000:,.0f} kB; half precision, cast to single on loading",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"# sample:{name}\n\n| | |\n|---|---|\n{table}\n\n**Not good for:** {NOT_GOOD_FOR[about]}\n"


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
            sample, task = task_of(name)
            bar = progress.add_task(name, total=steps(sample, RECIPES[name]), note="")
            start = time.process_time()
            network = train(sample, task, RECIPES[name], partial(_advance, progress, bar))
            score = publish(name, network, time.process_time() - start, arguments.out)
            progress.update(bar, note=f"{task.named} {task.told.format(score)}")


def _advance(progress: Progress, bar: TaskID, loss: float) -> None:
    progress.update(bar, advance=1, note=f"loss {loss:.3f}")


if __name__ == "__main__":
    main()
