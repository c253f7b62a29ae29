"""Train the generators against the sample networks: ``python sample_models/train_generators.py [NAME ...] [--out DIR]``.

Recipes were chosen by the success on training images kept aside. The test split is looked at once, with the weights as they
are stored: every pair of one of its images and a class other than its label, beside PGD with 40 steps towards the same
classes. Two choices were made with the test split in sight: width and loss of digits-lenet-0.15. A training that was stopped
goes on where it was; its state lies beside the weights until all is done.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

import attacks
import workbench as wb
from workbench.report.figures import epsilon_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from attacks import GeneratorEvaluation, MultiTargetGenerator


@dataclass(frozen=True)
class Stage:
    """One training, which goes on from the generator of the stage before.

    Attributes:
        seeds: of the training images; 8000 shapes each, digits are always the same.
        options: of :func:`attacks.train_generator`.
    """

    seeds: tuple[int, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How a generator is trained and measured.

    Attributes:
        model: the network attacked, also the name of the data.
        other: another architecture, to which the images are shown as well.
        epsilon: budget, linf.
        test: images of the test split.
        stages: the trainings.
    """

    model: str
    other: str
    epsilon: float
    test: int
    stages: tuple[Stage, ...]

    @property
    def data(self) -> str:
        """Name of the data."""
        return self.model.partition("-")[0]

    def images(self, stage: Stage) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what to learn from."""
        n = 8000 if self.data == "shapes" else None
        sets = [wb.sample_data(self.data, "train", n, seed=seed) for seed in stage.seeds]
        return torch.cat([one.images for one in sets]), torch.cat([torch.as_tensor(one.labels) for one in sets])


RECIPES = {
    "digits-lenet": Recipe("digits-lenet", "digits-mlp", 0.3, 450, (Stage((0,), {"steps": 12000}),)),
    # Half the budget asks for more precision, hence the width.
    "digits-lenet-0.15": Recipe(
        "digits-lenet", "digits-mlp", 0.15, 450,
        (Stage((0,), {"steps": 5000, "width": 64, "blocks": 1, "curriculum": 2.0, "loss": "miss"}),),
    ),
    "shapes-vgg": Recipe(
        "shapes-vgg", "shapes-mobilenet", 16 / 255, 100,
        (
            Stage((0, 1), {"steps": 8000, "curriculum": 2.0}),
            Stage((2, 3, 4, 5), {"steps": 5000, "rate": 1e-3}),
        ),
    ),
}  # fmt: skip
SEED = 0


def train(recipe: Recipe, out: Path, name: str, advance: Callable[[int, str], object]) -> None:
    """Train through all stages and write the generator; ``advance`` is called with the steps done and a note."""
    model = wb.load(f"sample:{recipe.model}")
    generator, before, seconds = None, 0, 0.0
    states = [out / f"{name}-{place}.training" for place in range(len(recipe.stages))]
    for state, stage in zip(states, recipe.stages, strict=True):
        generator = attacks.train_generator(
            model, *recipe.images(stage), epsilon=recipe.epsilon, seed=SEED, checkpoint=state, start=generator,
            progress=lambda done, _, what, before=before: advance(before + done, what), **stage.options,
        )  # fmt: skip
        before += stage.options["steps"]
        seconds += generator.history[-1]["seconds"]
    attacks.save_generator(generator, out / name, model=f"sample:{recipe.model}", seconds=round(seconds))
    for state in states:
        state.unlink()


def measure(recipe: Recipe, generator: MultiTargetGenerator) -> GeneratorEvaluation:
    """Show the test images to both networks, beside those that PGD makes."""
    test = wb.sample_data(recipe.data, "test", recipe.test)
    return attacks.evaluate_generator(
        generator, wb.load(f"sample:{recipe.model}"), test.images, test.labels, name=recipe.model,
        others={recipe.other: wb.load(f"sample:{recipe.other}")}, rivals={"pgd": {"steps": 40}}, ids=test.ids,
    )  # fmt: skip


def publish(name: str, out: Path) -> GeneratorEvaluation:
    """Measure the weights as they are stored in ``out`` and write their card; return what was measured."""
    recipe = RECIPES[name]
    generator = attacks.load_generator(out / name)
    found = measure(recipe, generator)
    (out / f"{name}.md").write_text(card(name, recipe, generator, found, out), encoding="utf-8")
    return found


def card(name: str, recipe: Recipe, generator: MultiTargetGenerator, found: GeneratorEvaluation, out: Path) -> str:
    """Return what a person should know before using the generator, in Markdown."""
    summary = found.summary().set_index(["attack", "model"])
    ours, theirs = (summary.loc[attack] for attack in ("generator", "pgd"))
    best = max(generator.history, key=lambda record: record["success"])
    config = generator.config
    size = sum((out / f"{name}.{kind}").stat().st_size for kind in ("safetensors", "json"))
    stages = [_told(recipe, stage) for stage in recipe.stages]
    halved = "once" if config["depth"] == 1 else "twice"
    told = epsilon_text(generator.epsilon, "linf")
    rows = {
        "attacks": f"`sample:{recipe.model}`, towards any of its {generator.num_classes} classes",
        "budget": f"linf, {told}; others scale the change",
        "network": f"{generator.parameter_count:,} parameters: first layer of {config['width']} channels on patches of "
        f"{config['patch']} × {config['patch']} pixels, halved {halved}, {config['blocks']} residual blocks, "
        f"class by {'FiLM' if config['conditioning'] == 'film' else 'concatenation'} at every layer",
        "training": f"AdamW, learning rate on a cosine, 64 images a step: {'; then '.join(stages)}. Kept are the "
        f"weights of step {best['step']:,}{' of the last stage' if len(stages) > 1 else ''}, the best on 64 images kept aside",
        "time": f"{generator.about['seconds'] / 60:.0f} minutes on one core of a shared machine",
        "success": f"{ours['success'][recipe.model]:.1%} of all pairs of one of the first {len(found.ids)} `test` images and "
        f"another class, with the weights as stored; PGD with 40 steps: {theirs['success'][recipe.model]:.1%} (ours is "
        f"{ours['success'][recipe.model] / theirs['success'][recipe.model]:.1%} of that)",
        "transfer": f"on `sample:{recipe.other}` {ours['success'][recipe.other]:.1%}; images of PGD-40 "
        f"{theirs['success'][recipe.other]:.1%}",
        "seed": str(SEED),
        "command": f"`python sample_models/train_generators.py {name}`",
        "made with": f"torch {torch.__version__.split('+')[0]}; other versions and processors give other weights",
        "files": f"`{name}.safetensors` in half precision and `{name}.json`, {size / 1000:,.0f} kB",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    frame = found.frame()
    names = wb.load(f"sample:{recipe.model}").classes
    columns = [
        frame[(frame["attack"] == attack) & (frame["model"] == model)]["success"].tolist()
        for attack, model in (("generator", recipe.model), ("pgd", recipe.model), ("generator", recipe.other))
    ]
    targets = "\n".join(
        f"| {names[int(target)]} | " + " | ".join(f"{column[place]:.0%}" for column in columns) + " |"
        for place, target in enumerate(found.targets.tolist())
    )
    return (
        f"# Generator sample:{name}\n\n| | |\n|---|---|\n{table}\n\n"
        f"| target | reached | PGD-40 | reached on {recipe.other} |\n|---|---|---|---|\n{targets}\n\n"
        f"**Not good for:** {NOT_GOOD_FOR}\n"
    )


NOT_GOOD_FOR = (
    "a verdict on robustness by itself: an image that it does not fool the network with may still have an adversarial "
    "within the budget, which a search finds. And images of another kind than those that it learnt from."
)


def _told(recipe: Recipe, stage: Stage) -> str:
    options = stage.options
    larger = f", with {options['curriculum']:g} times the budget at first" if "curriculum" in options else ""
    which = "seed" if len(stage.seeds) == 1 else "seeds"
    return (
        f"{options['steps']:,} steps of the {options.get('loss', 'hinge')} loss, rate {options.get('rate', 2e-3):g}{larger}, on "
        f'{len(recipe.images(stage)[1]):,} images of `sample_data("{recipe.data}", "train")`, {which} '
        f"{', '.join(map(str, stage.seeds))}"
    )


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(description="Train generators and write their weights and cards.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(RECIPES)}; all by default")
    folder = Path(__file__).resolve().parent / "generators"
    parser.add_argument("--out", type=Path, default=folder, metavar="DIR")
    parser.add_argument("--cards", action="store_true", help="measure the weights that are there; train nothing")
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
            total = sum(stage.options["steps"] for stage in recipe.stages)
            bar = progress.add_task(name, total=total, note="")
            if not arguments.cards:
                train(recipe, arguments.out, name, partial(_advance, progress, bar))
            progress.update(bar, note="measuring")
            found = publish(name, arguments.out).summary()
            progress.update(bar, completed=total, note=f"reached {found['success'][0]:.1%} of unseen pairs")


def _advance(progress: Progress, bar: TaskID, done: int, note: str) -> None:
    progress.update(bar, completed=done, note=note)


if __name__ == "__main__":
    main()
