"""Train the generators against the sample networks: ``python sample_models/train_generators.py [NAME ...] [--out DIR]``.

Recipes were chosen by the success on training images kept aside. The test split is looked at once, with the weights as they
are stored: every pair of one of its images and a class other than its label, beside PGD with 40 steps towards the same
classes. A training that was stopped goes on where it was; its state lies beside the weights until it is done.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

import attacks
import workbench as wb

if TYPE_CHECKING:
    from attacks import GeneratorEvaluation, MultiTargetGenerator


@dataclass(frozen=True)
class Recipe:
    """How a generator is trained and measured.

    Attributes:
        model: the network attacked, also the name of the data.
        other: another architecture, to which the images are shown as well.
        epsilon: budget, linf.
        train: images to learn from, per seed of the training split.
        test: images of the test split.
        options: of :func:`attacks.train_generator`.
    """

    model: str
    other: str
    epsilon: float
    train: tuple[tuple[int | None, int], ...]
    test: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """Name of the data."""
        return self.model.partition("-")[0]

    def images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what to learn from."""
        sets = [wb.sample_data(self.data, "train", n, seed=seed) for n, seed in self.train]
        return torch.cat([one.images for one in sets]), torch.cat([torch.as_tensor(one.labels) for one in sets])


RECIPES = {
    "digits-lenet": Recipe(
        "digits-lenet", "digits-mlp", 0.3, ((None, 0),), 450, {"steps": 12000, "width": 24, "blocks": 2}
    ),
    "digits-lenet-0.15": Recipe(
        "digits-lenet", "digits-mlp", 0.15, ((None, 0),), 450, {"steps": 12000, "width": 24, "blocks": 2}
    ),
    "shapes-vgg": Recipe(
        "shapes-vgg", "shapes-mobilenet", 16 / 255, ((8000, 0), (8000, 1)), 100, {"steps": 8000, "curriculum": 2.0}
    ),
}
SEED = 0


def train(recipe: Recipe, checkpoint: Path, progress: Progress, bar: TaskID) -> MultiTargetGenerator:
    """Return a trained generator."""
    images, labels = recipe.images()
    return attacks.train_generator(
        wb.load(f"sample:{recipe.model}"), images, labels, epsilon=recipe.epsilon, seed=SEED, checkpoint=checkpoint,
        progress=lambda done, _, what: progress.update(bar, completed=done, note=what), **recipe.options,
    )  # fmt: skip


def measure(recipe: Recipe, generator: MultiTargetGenerator) -> GeneratorEvaluation:
    """Show the test images to both networks, beside those that PGD makes."""
    test = wb.sample_data(recipe.data, "test", recipe.test)
    return attacks.evaluate_generator(
        generator, wb.load(f"sample:{recipe.model}"), test.images, test.labels, name=recipe.model,
        others={recipe.other: wb.load(f"sample:{recipe.other}")}, rivals={"pgd": {"steps": 40}}, ids=test.ids,
    )  # fmt: skip


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(description="Train generators and write their weights and cards.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(RECIPES)}; all by default")
    folder = Path(__file__).resolve().parent / "generators"
    parser.add_argument("--out", type=Path, default=folder, metavar="DIR")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in RECIPES]:
        parser.error(f"no generator is called {unknown[0]}; there are {', '.join(RECIPES)}")
    torch.set_num_threads(1)
    columns = (
        TextColumn("{task.description:<17}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns) as progress:
        for name in arguments.names or RECIPES:
            recipe = RECIPES[name]
            bar = progress.add_task(name, total=recipe.options["steps"], note="")
            state = arguments.out / f"{name}.training"
            generator = train(recipe, state, progress, bar)
            attacks.save_generator(generator, arguments.out / name, model=f"sample:{recipe.model}")
            state.unlink()
            progress.update(bar, note=f"held-out success {generator.history[-1]['success']:.0%}")


if __name__ == "__main__":
    main()
