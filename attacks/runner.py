"""The two calls of this folder. They own what attacks should not know: batches, cascade, budgets, verification."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ._ball import within
from ._cascade import run_cascade
from ._inputs import (
    check_batch_size,
    check_classes,
    check_eot,
    check_epsilon,
    check_epsilons,
    check_ids,
    check_images,
    check_norm,
    check_replay,
    find_attack,
    find_attacks,
)
from ._journal import Journal
from ._ledger import Ledger
from ._losses import is_broken
from ._provenance import model_digest, provenance
from ._session import Progress, ProgressCallback, Session
from .checks import Check, run_checks
from .generator.attack import as_attack, check_same_classes
from .results import AttackResult, Evaluation, curve_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from .generator.network import MultiTargetGenerator


def attack(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor | Sequence[int],
    name: str = "pgd",
    *,
    norm: str | None = None,
    epsilon: float | None = None,
    targets: torch.Tensor | Sequence[int] | None = None,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    eight_bit: bool = False,
    eot: int = 1,
    batch_size: int = 64,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> AttackResult:
    """Attack every image once, with one budget.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``; left untouched, attacked in eval mode.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``, the true classes.
        name: One of :data:`attacks.ATTACKS`, or of foolbox's as ``"foolbox:BoundaryAttack"``.
        norm: "linf", "l2", "l1" or "l0"; the attack's first when left out, linf where it has it.
        epsilon: Budget: the largest change of a number (linf, at most 1), the Euclidean length of the change (l2), its sum
            of absolute values (l1), or how many numbers change (l0). A minimal attack without one returns the nearest
            adversarials it can find; with one, it stops where an adversarial is near enough. Others use 8/255 for linf.
        targets: ``(N,)`` classes to reach; without them, the attack makes the model leave the label.
        seed: Seed of all randomness; the draws of an image depend on it and the image's id only.
        ids: One distinct name per image; a digest of the pixels when left out, so that equal images have equal results.
        eight_bit: Round the images found to multiples of 1/255, as a saved file does, before they are judged.
        eot: Passes over which a random model is averaged, everywhere.
        batch_size: Images per forward pass; changes speed and memory, not results (beyond float rounding).
        progress: Called with ``(done, total, what)`` before every pass; raising from it cancels.
        **options: The attack's own, see ``ATTACKS[name].options``.

    Raises:
        AttackError: Something about the request makes no sense; says what to do.
    """
    begin = time.perf_counter()
    method = find_attack(name, options, targeted=targets is not None)
    norm = check_norm(norm or ("linf" if "linf" in method.norms else method.norms[0]), [method])
    x = check_images(images)
    budget = check_epsilon(epsilon, method, norm, x[0].numel())
    report = Progress(progress, total=len(x) * (2 + method.passes(method.options)))
    names = check_ids(ids, x)
    session = Session(
        model, x, names, norm=norm, seed=seed, eight_bit=eight_bit, eot=check_eot(eot), progress=report,
        batch_size=check_batch_size(batch_size),
    )  # fmt: skip
    classes = session.clean.shape[1]
    truth = check_classes(labels, "labels", x, classes)
    aim = None if targets is None else check_classes(targets, "targets", x, classes)
    goal, targeted = (truth, False) if aim is None else (aim, True)

    success = is_broken(session.clean, goal, targeted)
    predicted = session.clean.argmax(1)
    result = x.clone()
    distances = torch.zeros(len(x), device=x.device)
    fooled_as = predicted.clone()
    forwards, backwards = torch.full_like(predicted, eot), torch.zeros_like(predicted)
    report.what = method.title if budget is None else f"{method.title} at {norm} {budget:.4g}"
    report.settle(int(success.sum()) * (1 + method.passes(method.options)))
    for strike in session.strike(method, (~success).nonzero().flatten(), goal, budget, targeted=targeted):
        forwards[strike.rows] += strike.forwards
        backwards[strike.rows] += strike.backwards
        near = torch.ones_like(strike.broken)
        if budget is not None:
            near = within(strike.distance, torch.full_like(strike.distance, budget))
        rows = strike.rows[near]
        result[rows], success[rows], distances[rows] = strike.images[near], strike.broken[near], strike.distance[near]
        fooled_as[rows] = strike.fooled_as[near]
        report.settle(len(strike.rows) * (1 + method.passes(method.options)))
    report(0)

    asked = {"attack": name, "epsilon": budget, "options": method.options, **_setting(session)}
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
    attacks: str | Sequence[str] = "standard",
    seed: int = 0,
    ids: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    checks: bool = True,
    replay: Mapping[str, torch.Tensor] | None = None,
    generator: MultiTargetGenerator | None = None,
    journal: str | os.PathLike[str] | None = None,
    eight_bit: bool = False,
    eot: int = 1,
    batch_size: int = 64,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Measure robust accuracy over several budgets.

    The attacks run in the order given, cheapest first. Each meets an image at the largest budget at which it stands, and
    goes on to the next smaller one when it breaks it: what is found counts for every budget that holds it, and an image
    that stands against an attack is not tried with smaller budgets. An image broken at the smallest budget is done.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``; left untouched, attacked in eval mode.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)`` true classes. Without them the model's own predictions stand in: the curve then starts at 100 %
            and gives the share of images whose predicted class survives.
        norm: "linf", "l2", "l1" or "l0".
        epsilons: Budgets, in any order.
        attacks: A preset, or names from :data:`attacks.ATTACKS` and foolbox's catalogue, cheapest first. Presets:
            "standard" has the strength of AutoAttack at a fraction of its cost: the attacks that seldom find more run only
            on images where the gradient may not have told all. "thorough" runs everything on every image. "fast" is FGSM,
            then PGD with 20 steps: usually within a few points on networks without gradient masking.
        seed: Seed of all randomness; the draws of an image depend on it and the image's id only.
        ids: One distinct name per image; a digest of the pixels when left out.
        options: Own options per attack name, as ``{"pgd": {"steps": 40}}``.
        checks: Run the sanity checks; without them the result is not ``trustworthy``.
        replay: Adversarial images ``(C, H, W)`` by id, such as an earlier evaluation's ``adversarials()``; tried first.
        generator: A generator trained against this model, or one like it: it joins the attacks, at the place that its cost
            gives it, and shows the likeliest of its K - 1 versions of each image.
        journal: Folder in which every step is kept, so that the same call after a kill goes on where it was.
        eight_bit: Round the images found to multiples of 1/255, as a saved file does, before they are judged.
        eot: Passes over which a random model is averaged, everywhere.
        batch_size: Images per forward pass; changes speed and memory, not results (beyond float rounding).
        progress: Called with ``(done, total, what)`` before every pass; raising from it cancels.

    Raises:
        AttackError: Something about the request makes no sense; says what to do.
    """
    begin = time.perf_counter()
    x = check_images(images)
    extra = None if generator is None else as_attack(generator, x)
    cascade = find_attacks(attacks, options or {}, check_norm(norm), extra)
    budgets = check_epsilons(epsilons, norm, x[0].numel())
    report = Progress(progress, total=len(x) * (1 + sum(stage.cost for stage in cascade)))
    names = check_ids(ids, x)
    book = None if journal is None else Journal(journal)
    session = Session(
        model, x, names, norm=norm, seed=seed, eight_bit=eight_bit, eot=check_eot(eot), progress=report,
        batch_size=check_batch_size(batch_size), journal=book,
    )  # fmt: skip
    truth = session.clean.argmax(1) if labels is None else check_classes(labels, "labels", x, session.clean.shape[1])
    if generator is not None:
        check_same_classes(generator, session.clean.shape[1])

    ledger = Ledger.open(x, truth, session.clean, budgets, passes=session.eot)
    stages = run_cascade(session, ledger, cascade, check_replay(replay, names, x))
    report.what = "sanity checks"
    rows = run_checks(session, ledger, cascade) if checks else []
    report(0)

    asked = {
        "attacks": attacks if isinstance(attacks, str) else list(attacks),
        "options": {name: dict(own) for name, own in (options or {}).items()},
        "stages": [(stage.attack.name, _plain(stage.attack.options)) for stage in cascade],
        "epsilons": budgets,
        "labels": "model predictions" if labels is None else "given",
        "batch_size": batch_size,
        **_setting(session),
    }
    if generator is not None:
        asked["generator"] = {"digest": model_digest(generator), "source": generator.source}
    if book is not None:
        asked["journal"] = {"reused": book.reused, "executed": book.executed}
    return Evaluation(
        curve=curve_frame(budgets, ledger.broken_at),
        samples=ledger.frame(names, [stage.attack.name for stage in cascade]),
        stages=stages,
        checks=_checks_frame(rows),
        images=ledger.images,
        norm=norm,
        epsilons=budgets,
        seed=seed,
        seconds=time.perf_counter() - begin,
        provenance=provenance(model, x, names, **asked),
    )


def _setting(session: Session) -> dict[str, Any]:
    return {"norm": session.norm, "seed": session.seed, "eight_bit": session.eight_bit, "eot": session.eot}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a file can hold them: a generator by what it calls itself."""
    return {name: repr(value) if isinstance(value, nn.Module) else value for name, value in options.items()}


def _checks_frame(rows: Sequence[Check]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(Check._fields)).astype({"passed": bool, "value": float})
