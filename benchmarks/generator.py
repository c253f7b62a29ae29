"""The sample generators beside attacks that search: success, transfer, time; and beside one generator per class.

    python -m benchmarks.generator [--only success|time|single|training] [--repeats 5] [--threads 1] [--images 100]

``success``: every pair of a test image and a class other than its label, towards which PGD-40 and MI-FGSM-20 search as
well; the images are then shown to another architecture. Searches spend all steps, as published (their images transfer
better so).

``time``: one batch of 100 images towards one class each, in turn in one process; the median (and range) of the ratios
theirs / ours in CPU time. Ours is ``generator(images, targets)``, with all its checks; theirs ``attacks.attack``.

``single``: the paper's claim. A generator for all classes, and one per class, with equally many steps in all, the same
data, network and seed; success of each on its class, on average.

``training``: what each part of the recipe for shapes-vgg is worth, at a length that a benchmark can afford.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch

import attacks
import workbench as wb

# Name of the generator, of the model attacked and of another architecture; its data.
SUBJECTS = {
    "digits-lenet": ("digits-lenet", "digits-mlp", "digits"),
    "digits-lenet-0.15": ("digits-lenet", "digits-mlp", "digits"),
    "shapes-vgg": ("shapes-vgg", "shapes-mobilenet", "shapes"),
}
RIVALS: dict[str, dict[str, Any]] = {"pgd": {"steps": 40}, "mifgsm": {"steps": 20}}


def success(images: int) -> None:
    """Print success and transfer of each generator, and what it reaches of the searches'."""
    for name, (model, other, data) in SUBJECTS.items():
        generator, test = (
            wb.load_generator(f"sample:{name}"),
            wb.sample_data(data, n=450 if data == "digits" else images),
        )
        found = attacks.evaluate_generator(
            generator, wb.load(f"sample:{model}"), test.images, test.labels, name=model, rivals=RIVALS, ids=test.ids,
            others={other: wb.load(f"sample:{other}")},
        )  # fmt: skip
        table = found.summary().set_index(["attack", "model"])["success"].unstack()
        print(f"\n{name}, epsilon {generator.epsilon:.4g}, {len(test)} images x 9 classes")
        print(table.loc[list(found.attacks), [model, other]].map("{:.1%}".format).to_string())
        ours, theirs = table.loc["generator"], table.loc["pgd"]
        print(f"of PGD-40's: white box {ours[model] / theirs[model]:.3f}, {other} {ours[other] / theirs[other]:.2f}")
        print(f"of MI-FGSM-20's on {other}: {ours[other] / table.loc['mifgsm', other]:.2f}", flush=True)


def speed(repeats: int) -> None:
    """Print how many times longer PGD takes for a batch of 100."""
    searches = {
        "PGD-40": {"steps": 40, "early_stop": False},
        "PGD-20": {"steps": 20, "early_stop": False},
        "PGD-40, stopping early": {"steps": 40},
    }
    for name, (model_name, _, data) in SUBJECTS.items():
        generator, model = wb.load_generator(f"sample:{name}"), wb.load(f"sample:{model_name}")
        test = wb.sample_data(data, n=100)
        targets = (torch.as_tensor(test.labels) + 1 + torch.arange(100) % 9) % 10
        ours = partial(generator, test.images, targets, batch_size=100)
        theirs = partial(
            attacks.attack,
            model,
            test.images,
            test.labels,
            "pgd",
            epsilon=generator.epsilon,
            targets=targets,
            batch_size=100,
        )
        pairs: dict[str, list[tuple[float, float]]] = {search: [] for search in searches}
        for repetition in range(repeats + 1):
            for search, options in searches.items():
                pair = _cpu(partial(theirs, **options), 1), _cpu(ours, 10)
                if repetition:  # the first round warms up
                    pairs[search].append(pair)
        each = statistics.median(mine for found in pairs.values() for _, mine in found) / 100
        print(f"\n{name}: {1000 * each:.3f} ms per image")
        for search, found in pairs.items():
            ratios = [search_time / mine for search_time, mine in found]
            print(
                f"  {search:24} {statistics.median(ratios):6.1f} x  ({min(ratios):.1f} to {max(ratios):.1f})",
                flush=True,
            )


def _cpu(work: Callable[[], object], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def single(images: int) -> None:
    """Print the average success of one generator for all classes and of one per class with equal training in all."""
    for model_name, epsilon, data, steps, options in (
        ("digits-lenet", 0.3, "digits", 3000, {}),
        ("shapes-vgg", 16 / 255, "shapes", 1000, {"curriculum": 2.0}),
    ):
        model, train, test = wb.load(f"sample:{model_name}"), _train(data), wb.sample_data(data, n=images)
        learn = partial(attacks.train_generator, model, train.images, train.labels, epsilon=epsilon, **options)
        together = _reached(learn(steps=steps), model, test)
        alone = pd.concat(_reached(learn(steps=steps // 10, classes=[k]), model, test) for k in range(10))
        print(
            f"\n{model_name}, epsilon {epsilon:.4g}, {steps} steps in all: one for all {together.mean():.1%}, "
            f"one per class {alone.mean():.1%}; ahead on {int((together > alone).sum())} of 10 classes",
            flush=True,
        )


def _reached(generator: attacks.MultiTargetGenerator, model: torch.nn.Module, test: wb.ImageSet) -> pd.Series:
    """Return the success by target."""
    frame = attacks.evaluate_generator(generator, model, test.images, test.labels).frame()
    return frame.set_index("target")["success"]


VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "cross-entropy": {"loss": "ce"},
    "no curriculum": {"curriculum": 1.0},
    "concatenation instead of FiLM": {"conditioning": "concat"},
    "wider (36)": {"width": 36},
    "patches of 4, width 48": {"patch": 4, "width": 48},
}


def training(images: int) -> None:
    """Print the success on unseen shapes after 600 steps, changing one part of the recipe at a time."""
    model, train, test = wb.load("sample:shapes-vgg"), _train("shapes"), wb.sample_data("shapes", n=images)
    for name, options in VARIANTS.items():
        start = time.process_time()
        asked = {"epsilon": 16 / 255, "steps": 600, "curriculum": 2.0, **options}
        generator = attacks.train_generator(model, train.images, train.labels, **asked)
        spent = time.process_time() - start
        found = attacks.evaluate_generator(generator, model, test.images, test.labels).summary()["success"][0]
        print(f"{name:32} {found:.1%} after {spent:.0f} s", flush=True)


def _train(data: str) -> wb.ImageSet:
    return wb.sample_data(data, "train", 8000 if data == "shapes" else None)


def main() -> None:
    """Measure what the command line asks for; all but the trainings by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("success", "time", "single", "training"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only in (None, "success"):
        success(arguments.images)
    if arguments.only in (None, "time"):
        speed(arguments.repeats)
    if arguments.only == "single":
        single(arguments.images)
    if arguments.only == "training":
        training(arguments.images)


if __name__ == "__main__":
    main()
