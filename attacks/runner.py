"""The two calls of this folder. They own what attacks should not know: batches, cascade, budgets, verification."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ._inputs import (
    check_batch_size,
    check_classes,
    check_epsilons,
    check_ids,
    check_images,
    check_norm,
    find_attack,
    find_attacks,
)
from ._ledger import Ledger
from ._losses import is_broken
from ._provenance import provenance
from ._session import Progress, ProgressCallback, Session
from .checks import Check, Verdicts, run_checks
from .results import AttackResult, Evaluation, curve_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from .registry import Attack


def attack(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor | Sequence[int],
    name: str = "pgd",
    *,
    norm: str = "linf",
    epsilon: float = 8 / 255,
    targets: torch.Tensor | Sequence[int] | None = None,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    batch_size: int = 64,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> AttackResult:
    """Attack every image once, with one budget.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``; left untouched, attacked in eval mode.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``, the true classes.
        name: One of :data:`attacks.ATTACKS`.
        norm: "linf" or "l2".
        epsilon: Budget: the largest change of a pixel (linf, at most 1) or the Euclidean length of the change (l2).
        targets: ``(N,)`` classes to reach; without them, the attack makes the model leave the label.
        seed: Seed of all randomness; the draws of an image depend on it and the image's id only.
        ids: One distinct name per image; a digest of the pixels when left out, so that equal images have equal results.
        batch_size: Images per forward pass; changes speed and memory, not results (beyond float rounding).
        progress: Called with ``(done, total, what)`` before every pass; raising from it cancels.
        **options: The attack's own, see ``ATTACKS[name].options``.

    Raises:
        AttackError: Something about the request makes no sense; says what to do.
    """
    begin = time.perf_counter()
    method = find_attack(name, options, targeted=targets is not None)
    check_norm(norm, [method])
    x = check_images(images)
    (budget,) = check_epsilons(epsilon, norm, x[0].numel())
    report = Progress(progress, total=len(x) * (2 + method.passes(method.options)))
    names = check_ids(ids, x)
    session = Session(model, x, names, norm=norm, seed=seed, batch_size=check_batch_size(batch_size), progress=report)
    classes = session.clean.shape[1]
    truth = check_classes(labels, "labels", x, classes)
    aim = None if targets is None else check_classes(targets, "targets", x, classes)
    goal, targeted = (truth, False) if aim is None else (aim, True)

    success = is_broken(session.clean, goal, targeted)
    predicted = session.clean.argmax(1)
    result = x.clone()
    distances = torch.zeros(len(x), device=x.device)
    fooled_as = predicted.clone()
    forwards, backwards = torch.ones_like(predicted), torch.zeros_like(predicted)
    report.what = f"{method.title} at {norm} {budget:.4g}"
    report.settle(int(success.sum()) * (1 + method.passes(method.options)))
    for strike in session.strike(method, (~success).nonzero().flatten(), goal, budget, targeted=targeted):
        rows = strike.rows
        result[rows], success[rows], distances[rows] = strike.images, strike.broken, strike.distance
        fooled_as[rows] = strike.fooled_as
        forwards[rows] += strike.forwards
        backwards[rows] += strike.backwards
        report.settle(len(rows) * (1 + method.passes(method.options)))
    report(0)

    asked = {"attack": name, "norm": norm, "epsilon": budget, "options": method.options, "seed": seed}
    return AttackResult(
        images=result,
        success=success,
        distance=distances,
        forwards=forwards,
        backwards=backwards,
        attack=name,
        norm=norm,
        epsilon=budget,
        ids=names,
        labels=truth,
        targets=aim,
        predicted=predicted,
        fooled_as=fooled_as,
        seconds=time.perf_counter() - begin,
        provenance=provenance(model, x, names, **asked, targeted=targeted, batch_size=batch_size),
    )


def evaluate(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor | Sequence[int] | None = None,
    *,
    norm: str = "linf",
    epsilons: Iterable[float] = (1 / 255, 2 / 255, 4 / 255, 8 / 255),
    attacks: str | Sequence[str] = "fast",
    seed: int = 0,
    ids: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    checks: bool = True,
    batch_size: int = 64,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Measure robust accuracy over several budgets.

    Budgets ascend, and at each one the attacks run in the order given: an image that an attack breaks is not attacked
    again, neither by the next attack nor at a larger budget.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``; left untouched, attacked in eval mode.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)`` true classes. Without them the model's own predictions stand in: the curve then starts at 100 %
            and gives the share of images whose predicted class survives.
        norm: "linf" or "l2".
        epsilons: Budgets, in any order.
        attacks: The preset "fast" (FGSM, then PGD with 20 steps and one random start: an upper bound on robustness that
            is usually within a few points on networks without gradient masking), or names from
            :data:`attacks.ATTACKS`, cheapest first.
        seed: Seed of all randomness; the draws of an image depend on it and the image's id only.
        ids: One distinct name per image; a digest of the pixels when left out.
        options: Own options per attack name, as ``{"pgd": {"steps": 40}}``.
        checks: Run the sanity checks; without them the result is not ``trustworthy``.
        batch_size: Images per forward pass; changes speed and memory, not results (beyond float rounding).
        progress: Called with ``(done, total, what)`` before every pass; raising from it cancels.

    Raises:
        AttackError: Something about the request makes no sense; says what to do.
    """
    begin = time.perf_counter()
    cascade = find_attacks(attacks, options or {})
    check_norm(norm, cascade)
    x = check_images(images)
    budgets = check_epsilons(epsilons, norm, x[0].numel())
    report = Progress(progress, total=len(x) * (1 + len(budgets) * sum(_costs(cascade))))
    names = check_ids(ids, x)
    session = Session(model, x, names, norm=norm, seed=seed, batch_size=check_batch_size(batch_size), progress=report)
    predicted = session.clean.argmax(1)
    truth = predicted if labels is None else check_classes(labels, "labels", x, session.clean.shape[1])

    ledger = Ledger.open(x, truth, predicted)
    _run_cascade(session, ledger, budgets, cascade)
    report.what = "sanity checks"
    verdicts = Verdicts(truth, ledger.broken_at, ledger.credit)
    rows = run_checks(session, verdicts, budgets, cascade) if checks else []
    report(0)

    asked = {
        "attacks": {method.name: method.options for method in cascade},
        "norm": norm,
        "epsilons": budgets,
        "labels": "model predictions" if labels is None else "given",
        "seed": seed,
        "batch_size": batch_size,
    }
    return Evaluation(
        curve=curve_frame(budgets, ledger.broken_at),
        samples=ledger.frame(names, [method.name for method in cascade]),
        checks=_checks_frame(rows),
        images=ledger.images,
        norm=norm,
        epsilons=budgets,
        seed=seed,
        seconds=time.perf_counter() - begin,
        provenance=provenance(model, x, names, **asked),
    )


def _run_cascade(session: Session, ledger: Ledger, budgets: Sequence[float], cascade: Sequence[Attack]) -> None:
    report, costs = session.progress, _costs(cascade)
    report.settle(int((ledger.broken_at == 0).sum()) * len(budgets) * sum(costs))
    for level, epsilon in enumerate(budgets):
        for place, method in enumerate(cascade):
            report.what = f"{method.title} at {session.norm} {epsilon:.4g}"
            # A broken image is settled for the attacks that follow and for all larger budgets.
            remaining = (len(budgets) - level) * sum(costs) - sum(costs[: place + 1])
            for strike in session.strike(method, ledger.standing(), ledger.labels, epsilon):
                ledger.record(strike, epsilon, place)
                report.settle(len(strike.rows) * costs[place] + int(strike.broken.sum()) * remaining)


def _costs(cascade: Sequence[Attack]) -> list[int]:
    """Most forward passes per image of each attack, with its verification."""
    return [method.passes(method.options) + 1 for method in cascade]


def _checks_frame(rows: Sequence[Check]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(Check._fields)).astype({"passed": bool, "value": float})
