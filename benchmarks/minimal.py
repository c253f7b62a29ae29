"""Attacks that look for the nearest adversarial beside foolbox and adv-lib: time, median distance, success.

    python -m benchmarks.minimal [--repeats 5] [--threads 1] [--images 128] [--only deepfool|ddn|superdeepfool|fab]

The networks are those of ``benchmarks/attacks.py``: a small CNN on digits (28x28), trained plainly and adversarially. All
get the same correctly classified images in batches of 64. Runs alternate in one process; the median (and range) of the
ratios theirs / ours in CPU time is shown, so above 1 we are faster. Our times include all that ``attacks.attack`` does:
digests, the private view of the model, the clean pass and the final verification.

foolbox runs as it comes and on a model with frozen parameters; adv-lib on frozen parameters, without which it is slower.
adv-lib is optional: name the place where it is installed in PYTHONPATH. It imports visdom for plots that nobody asks for
here, so a missing visdom is replaced by an empty module.

DeepFool is lazy about classes; the column "all classes" is itself asking about all of them at every step.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest import mock

import torch
from torch import nn

import attacks
from attacks._ball import distance
from benchmarks.attacks import BATCH, digits, train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox

Run = Callable[[], torch.Tensor]
Attack = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
DEEPFOOL_STEPS, DDN_STEPS, FAB_STEPS = 50, 100, 20


def adv_lib() -> Any:
    """``adv_lib.attacks``, or ``None`` where it is not installed."""
    try:
        importlib.import_module("visdom")
    except ImportError:
        sys.modules["visdom"] = types.ModuleType("visdom")
    with suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("adv_lib.attacks")
    return None


class Subject:
    """A network, and images that it classifies correctly."""

    def __init__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, images: int) -> None:
        keep = (model(x).argmax(1) == y).nonzero().flatten()[:images]
        self.model, self.x, self.y = model, x[keep], y[keep]

    def ours(self, name: str, norm: str, **options: Any) -> Run:
        def run() -> torch.Tensor:
            found = attacks.attack(self.model, self.x, self.y, name, norm=norm, batch_size=BATCH, **options)
            return found.images

        return run

    def theirs(self, attack: Attack, frozen: bool = True) -> Run:
        def run() -> torch.Tensor:
            for parameter in self.model.parameters():
                parameter.requires_grad_(not frozen)
                parameter.grad = None
            return torch.cat([attack(*batch) for batch in zip(self.x.split(BATCH), self.y.split(BATCH), strict=True)])

        return run

    def foolbox(self, name: str, attack: Any) -> dict[str, Run]:
        def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return attack(foolbox.PyTorchModel(self.model, bounds=(0, 1), device=x.device), x, y, epsilons=None)[1]

        return {f"foolbox {name}": self.theirs(run, False), f"foolbox {name}, frozen": self.theirs(run)}

    def adv_lib(self, name: str, norm: str = "", **options: Any) -> dict[str, Run]:
        library = adv_lib()
        if library is None:
            return {}
        if norm:
            options["norm"] = {"linf": float("inf"), "l2": 2, "l1": 1}[norm]
        attack = getattr(library, name)
        return {f"adv-lib {name}": self.theirs(lambda x, y: attack(self.model, x, y, **options))}

    def compare(self, title: str, norm: str, runs: dict[str, Run], repeats: int) -> None:
        """Alternate the runs, of which the first is ours, and print one line for each."""
        found = {name: run() for name, run in runs.items()}  # also warms up
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                begin = time.process_time()
                run()
                seconds[name].append(time.process_time() - begin)
        print(f"{title}, N={len(self.x)}")
        own = next(iter(seconds.values()))
        for name, images in found.items():
            ratios = [a / b for a, b in zip(seconds[name], own, strict=True)]
            spread = f"{statistics.median(ratios):6.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            lengths = distance(images, self.x, norm)
            success = (self.model(images).argmax(1) != self.y).float().mean()
            figures = f"median {lengths.median():.5f}, mean {lengths.mean():.5f}, success {success:.3f}"
            print(f"  {name:24} {statistics.median(seconds[name]):7.3f} s | {spread:20} | {figures}", flush=True)


def all_classes(run: Run) -> Run:
    """DeepFool without laziness."""

    def thorough() -> torch.Tensor:
        with mock.patch.multiple(sys.modules["attacks.deepfool"], _FIRST=9, _FOLLOWED=9):
            return run()

    return thorough


def compare_deepfool(subject: Subject, title: str, repeats: int) -> None:
    for norm, attack in (("l2", foolbox.attacks.L2DeepFoolAttack), ("linf", foolbox.attacks.LinfDeepFoolAttack)):
        own = subject.ours("deepfool", norm, steps=DEEPFOOL_STEPS)
        peer = attack(steps=DEEPFOOL_STEPS, candidates=10, overshoot=0.02)
        runs = {"ours": own, "ours, all classes": all_classes(own), **subject.foolbox("DeepFool", peer)}
        runs |= subject.adv_lib("df", norm, steps=DEEPFOOL_STEPS, overshoot=0.02)
        subject.compare(f"DeepFool {norm}, {title}", norm, runs, repeats)


def compare_ddn(subject: Subject, title: str, repeats: int) -> None:
    carlini_wagner = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=4, steps=100)
    runs = {"ours": subject.ours("ddn", "l2"), **subject.foolbox("C&W 4x100", carlini_wagner)}
    runs |= subject.foolbox("DDN 100", foolbox.attacks.DDNAttack(steps=DDN_STEPS))
    runs |= subject.adv_lib("ddn", steps=DDN_STEPS, levels=None)
    subject.compare(f"DDN, {title}", "l2", runs, repeats)


def compare_superdeepfool(subject: Subject, title: str, repeats: int) -> None:
    runs = {"ours": subject.ours("superdeepfool", "l2"), "our DDN": subject.ours("ddn", "l2")}
    runs |= subject.foolbox("DDN 100", foolbox.attacks.DDNAttack(steps=DDN_STEPS)) | subject.adv_lib("sdf")
    subject.compare(f"SuperDeepFool, {title}", "l2", runs, repeats)


def compare_fab(subject: Subject, title: str, repeats: int) -> None:
    """foolbox has no FAB: its DDN stands in for l2. adv-lib's, like ours, asks about all classes at every step."""
    for norm in ("linf", "l2", "l1"):
        runs = {name: subject.ours(name, norm, steps=FAB_STEPS) for name in ("fab", "fab-t")}
        runs |= subject.foolbox("DDN 100", foolbox.attacks.DDNAttack(steps=DDN_STEPS)) if norm == "l2" else {}
        runs |= subject.adv_lib("fab", norm, n_iter=FAB_STEPS)
        subject.compare(f"FAB, {FAB_STEPS} steps, {norm}, {title}", norm, runs, repeats)


CASES = {"deepfool": compare_deepfool, "ddn": compare_ddn, "superdeepfool": compare_superdeepfool, "fab": compare_fab}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--only", choices=CASES)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    x, y = digits()
    networks = {"plain": train(x[:1297], y[:1297], 0.0, 8), "hardened": train(x[:1297], y[:1297], 0.1, 12)}
    if adv_lib() is None:
        print("adv-lib cannot be imported: its lines are skipped")
    for name, case in CASES.items():
        if given.only in (None, name):
            for title, model in networks.items():
                case(Subject(model, x[1297:], y[1297:], given.images), title, given.repeats)


if __name__ == "__main__":
    main()
