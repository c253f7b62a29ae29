"""FGSM, PGD-40 and an 8-radius curve beside foolbox, as foolbox comes and on a model with frozen parameters.

    python -m benchmarks.attacks [--repeats 5] [--threads 1]

A small CNN is trained here on scikit-learn's digits (28x28), once plainly and once adversarially. Both libraries get
the same images in batches of 64, the same steps, step size and kind of random start. Runs alternate in one process; the
median (and range) of the ratios theirs / ours in CPU time is shown, so above 1 we are faster. Our times include all that
``attacks.attack`` does: digests, the private view of the model, the clean pass and the final verification.

No attack can gain more from leaving broken images alone than 1 / (mean share of images still standing).
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import TYPE_CHECKING

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import attacks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox

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
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, name: str, norm: str, epsilon: float, repeats: int
) -> str:
    """One budget, one attack."""
    options = {} if name == "fgsm" else {"steps": STEPS, "relative_step": RELATIVE_STEP}

    def ours() -> float:
        found = attacks.attack(model, x, y, name, norm=norm, epsilon=epsilon, batch_size=BATCH, **options)
        return 1 - found.success.float().mean().item()

    return compare(ours, rivals(model, x, y, name, norm, [epsilon]), repeats)


def curve(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, norm: str, epsilons: list[float], repeats: int, cascade: str
) -> str:
    """Eight budgets; robust accuracies shown are those at the largest."""
    names = ("pgd",) if cascade == "pgd" else ("fgsm", "pgd")
    options = {"pgd": {"steps": STEPS, "relative_step": RELATIVE_STEP}}

    def ours() -> float:
        rob = attacks.evaluate(
            model, x, y, norm=norm, epsilons=epsilons, attacks=names, options=options, batch_size=BATCH
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

    return {"foolbox": lambda: run(False), "foolbox frozen": lambda: run(True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    x, y = digits()
    plain = train(x[:1297], y[:1297], 0.0, 8)
    hardened = train(x[:1297], y[:1297], 0.1, 12)
    x, y = x[1297:], y[1297:]

    print("case | ours, robust accuracy | foolbox / ours, robust | foolbox on frozen parameters / ours, robust")
    for title, model, norm, epsilon, n in (
        ("PGD-40 linf .10, hardened, N=256", hardened, "linf", 0.10, 256),
        ("PGD-40 linf .15, hardened, N=256", hardened, "linf", 0.15, 256),
        ("PGD-40 linf .05, plain, N=128", plain, "linf", 0.05, 128),
        ("PGD-40 l2 1.0, hardened, N=128", hardened, "l2", 1.0, 128),
        ("PGD-40 linf .002, hardened, N=128: almost nothing breaks", hardened, "linf", 0.002, 128),
    ):
        print(title, "|", single(model, x[:n], y[:n], "pgd", norm, epsilon, given.repeats), flush=True)
    for norm, epsilon in (("linf", 0.1), ("l2", 1.0)):
        print(f"FGSM {norm}, N=500 |", single(hardened, x, y, "fgsm", norm, epsilon, 3 * given.repeats), flush=True)
    radii = [0.02 * step for step in range(1, 9)]
    for cascade in ("pgd", "fgsm+pgd"):
        title = f"8 radii to .16 with checks, {cascade}, hardened, N=96"
        print(title, "|", curve(hardened, x[:96], y[:96], "linf", radii, given.repeats, cascade), flush=True)


if __name__ == "__main__":
    main()
