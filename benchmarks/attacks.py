"""FGSM, PGD-40, an 8-radius curve and the verdict of "standard" beside foolbox, torchattacks and AutoAttack.

    python -m benchmarks.attacks [--repeats 5] [--threads 1] [--only pgd|fgsm|curve|verdict]

A small CNN is trained here on scikit-learn's digits (28x28), once plainly and once adversarially. All libraries get the
same images in batches of 64, as many steps and the same kind of random start; the peers take steps of 2.5 epsilon / steps,
ours shrink, which is our default. Runs alternate in one process; the
median (and range) of the ratios theirs / ours in CPU time is shown, so above 1 we are faster. Our times include all that
``attacks.attack`` does: digests, the private view of the model, the clean pass and the final verification.

foolbox runs as it comes and on a model with frozen parameters. torchattacks and AutoAttack (``pyautoattack``, the official
code as a package) run if they can be imported: they are no dependencies, so install them elsewhere and name the place in
PYTHONPATH.

No attack can gain more from leaving broken images alone than 1 / (mean share of images still standing).
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import time
import warnings
from typing import TYPE_CHECKING, Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import attacks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox


def optional(name: str) -> Any:
    """The module called so, or ``None``."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


torchattacks, pyautoattack = optional("torchattacks"), optional("pyautoattack.autoattack")

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 40
RELATIVE_STEP = 2.5 / STEPS
BATCH = 64


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All 1797 digits, 28x28 in [0, 1], in a fixed random order."""
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    images = F.interpolate(images, size=28, mode="bilinear").clamp(0, 1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(data.target)[order]


def train(x: torch.Tensor, y: torch.Tensor, epsilon: float, epochs: int) -> nn.Module:
    """A CNN of four convolutions; with epsilon > 0 trained on PGD-5 examples."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, o, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        layers += [nn.Conv2d(i, o, 3, stride, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 49, 10))
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(128):
            inputs = x[batch]
            if epsilon:
                inputs = attacks.pgd(model, inputs, y[batch], epsilon, steps=5, early_stop=False)
            optimiser.zero_grad()
            F.cross_entropy(model(inputs), y[batch]).backward()
            optimiser.step()
    return model.eval()


def compare(ours: Callable[[], float], theirs: dict[str, Callable[[], float]], repeats: int) -> str:
    """Alternate, and return robust accuracies and median ratios as one table row."""
    runs = {"ours": ours, **theirs}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    robust = {name: run() for name, run in runs.items()}  # also warms up
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            seconds[name].append(time.process_time() - begin)
    cells = [f"{statistics.median(seconds['ours']):6.3f} s", f"{robust['ours']:.3f}"]
    for name in theirs:
        ratios = [a / b for a, b in zip(seconds[name], seconds["ours"], strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        cells.append(f"{statistics.median(ratios):5.2f} ({spread}) {robust[name]:.3f}")
    return " | ".join(cells)


def single(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    name: str,
    norm: str,
    epsilon: float,
    repeats: int,
) -> str:
    """One budget, one attack."""
    options = {} if name == "fgsm" else {"steps": STEPS}

    def ours() -> float:
        found = attacks.attack(model, x, y, name, norm=norm, epsilon=epsilon, batch_size=BATCH, **options)
        return 1 - found.success.float().mean().item()

    return compare(ours, rivals(model, x, y, name, norm, [epsilon]), repeats)


def curve(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, norm: str, epsilons: list[float], repeats: int, cascade: str
) -> str:
    """Eight budgets; robust accuracies shown are those at the largest."""
    names = ("pgd",) if cascade == "pgd" else ("fgsm", "pgd")
    options = {"pgd": {"steps": STEPS}}

    def ours() -> float:
        rob = attacks.evaluate(
            model, x, y, norm=norm, epsilons=epsilons, attacks=names, options=options, batch_size=BATCH, checks=False
        )
        return float(rob.curve.robust_accuracy.iloc[-1])

    return compare(ours, rivals(model, x, y, "pgd", norm, epsilons), repeats)


def rivals(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, name: str, norm: str, epsilons: list[float]
) -> dict[str, Callable[[], float]]:
    """foolbox with parameter gradients as it computes them, and spared them by frozen parameters."""
    pgd = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    fgm = {"linf": foolbox.attacks.FGSM, "l2": foolbox.attacks.FGM}[norm]
    method = fgm() if name == "fgsm" else pgd(steps=STEPS, rel_stepsize=RELATIVE_STEP)

    def run(freeze: bool) -> float:
        for parameter in model.parameters():
            parameter.requires_grad_(not freeze)
            parameter.grad = None
        subject = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        success = [
            method(subject, inputs, labels, epsilons=epsilons)[2][-1]
            for inputs, labels in zip(x.split(BATCH), y.split(BATCH), strict=True)
        ]
        return 1 - torch.cat(success).float().mean().item()

    def torchattack() -> float:
        tool = torchattacks.PGD(model, eps=epsilons[0], alpha=RELATIVE_STEP * epsilons[0], steps=STEPS)
        moved = [tool(inputs, labels) for inputs, labels in zip(x.split(BATCH), y.split(BATCH), strict=True)]
        return sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(moved, y.split(BATCH), strict=True)) / len(x)

    runs = {"foolbox": lambda: run(False), "foolbox frozen": lambda: run(True)}
    if torchattacks is not None and name == "pgd" and norm == "linf" and len(epsilons) == 1:
        runs["torchattacks"] = torchattack
    return runs


class Rounded(nn.Module):
    """A network behind an input of 16 levels: its gradient is zero everywhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network((15 * x).round() / 15)


def pruned(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """A copy without the smallest 80 % of each layer's weights, trained on PGD-5 examples for four epochs more."""
    model = copy.deepcopy(model)
    masks = {}
    for parameter in model.parameters():
        if parameter.ndim > 1:
            least = parameter.detach().abs().flatten().kthvalue(int(0.8 * parameter.numel())).values
            masks[parameter] = parameter.detach().abs() > least
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(4):
        for batch in torch.randperm(len(x)).split(128):
            with torch.no_grad():
                for parameter, mask in masks.items():
                    parameter.mul_(mask)
            inputs = attacks.pgd(model, x[batch], y[batch], 0.1, steps=5, early_stop=False)
            optimiser.zero_grad()
            F.cross_entropy(model(inputs), y[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        for parameter, mask in masks.items():
            parameter.mul_(mask)
    return model.eval()


def verdict(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epsilon: float, repeats: int) -> str:
    """ "standard" without its checks, which AutoAttack has not, beside AutoAttack's standard version."""

    def ours() -> float:
        rob = attacks.evaluate(model, x, y, epsilons=[epsilon], checks=False, batch_size=BATCH)
        return float(rob.curve.robust_accuracy.iloc[-1])

    def theirs() -> float:
        tool = pyautoattack.AutoAttack(model, norm="Linf", eps=epsilon, version="standard", device="cpu", seed=0)
        moved, _ = tool.run_standard_evaluation(x, y, batch_size=BATCH)
        with torch.no_grad():
            return float((model(moved).argmax(1) == y).float().mean())

    return compare(ours, {"AutoAttack": theirs}, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("pgd", "fgsm", "curve", "verdict"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    x, y = digits()
    plain = train(x[:1297], y[:1297], 0.0, 8)
    hardened = train(x[:1297], y[:1297], 0.1, 12)
    seen, x, y = (x[:1297], y[:1297]), x[1297:], y[1297:]

    only = given.only
    print("case | ours, robust accuracy | foolbox / ours, robust | on frozen parameters, robust | torchattacks, robust")
    for title, model, norm, epsilon, n in (
        ("PGD-40 linf .11, hardened, N=128", hardened, "linf", 0.11, 128),
        ("PGD-40 linf .13, hardened, N=128", hardened, "linf", 0.13, 128),
        ("PGD-40 linf .15, hardened, N=128", hardened, "linf", 0.15, 128),
        ("PGD-40 linf .07, plain, N=128", plain, "linf", 0.07, 128),
        ("PGD-40 l2 1.5, hardened, N=128", hardened, "l2", 1.5, 128),
        ("PGD-40 linf .002, hardened, N=128: almost nothing breaks", hardened, "linf", 0.002, 128),
    ):
        if only in (None, "pgd"):
            print(title, "|", single(model, x[:n], y[:n], "pgd", norm, epsilon, given.repeats), flush=True)
    for norm, epsilon in (("linf", 0.1), ("l2", 1.0)) if only in (None, "fgsm") else ():
        print(f"FGSM {norm}, N=500 |", single(hardened, x, y, "fgsm", norm, epsilon, 3 * given.repeats), flush=True)
    radii = [0.02 * step for step in range(1, 9)]
    for cascade_name in ("pgd", "fgsm+pgd") if only in (None, "curve") else ():
        title = f"8 radii to .16, {cascade_name}, hardened, N=96"
        print(title, "|", curve(hardened, x[:96], y[:96], "linf", radii, given.repeats, cascade_name), flush=True)
    if only not in (None, "verdict"):
        return
    if pyautoattack is None:
        print("AutoAttack was skipped: pyautoattack cannot be imported")
        return
    print("verdict | ours, robust accuracy | AutoAttack / ours, robust")
    for title, model, epsilon, n in (
        ("hardened, linf .15, N=100", hardened, 0.15, 100),
        ("pruned, linf .15, N=100", pruned(hardened, *seen), 0.15, 100),
        ("behind 16 levels, linf .1, N=60", Rounded(plain).eval(), 0.1, 60),
    ):
        print(title, "|", verdict(model, x[:n], y[:n], epsilon, given.repeats), flush=True)


if __name__ == "__main__":
    main()
