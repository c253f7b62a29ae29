"""Transfer: Papernot, McDaniel, Goodfellow, "Transferability in Machine Learning", arXiv:1605.07277.

Attack every model, and show what was found to every model: row by row, what one network's weakness says about the others.
A pruned or quantised network that resists white-box attacks and falls to images made on its float parent hides its
gradients rather than being robust (Athalye et al., arXiv:1802.00420, section 3).

Only images that both models of a pair classify correctly count, so that a weak target does not look easy to reach.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ._inputs import check_batch_size, check_classes, check_ids, check_images, check_norm, find_attack
from ._provenance import model_digest, provenance
from ._session import Progress, ProgressCallback, Session
from .errors import AttackError
from .results import wilson
from .runner import attack

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class TransferMatrix:
    """What S models say to images made on each of them; tensors live where the images given did.

    Attributes:
        models: their names, in the order given.
        images: per source the adversarial images ``(N, C, H, W)``; where the attack failed, its strongest attempt.
        predicted: int64 ``(S, N)``, each model's answer to the images given.
        answers: int64 ``(S, S, N)``, source by target: the target's answer to the source's images.
        labels: int64 ``(N,)`` as given.
        attack: name of the attack.
        norm: norm of the budget.
        epsilon: the budget.
        ids: one id per image.
        seconds: wall time.
        provenance: digests per model, options, seed and versions.
    """

    models: tuple[str, ...]
    images: Mapping[str, torch.Tensor]
    predicted: torch.Tensor
    answers: torch.Tensor
    labels: torch.Tensor
    attack: str
    norm: str
    epsilon: float
    ids: tuple[str, ...]
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row per pair: source, target, n (images that both classify correctly), fooled, rate, low, high (Wilson, 95 %).

        Where n is 0 the rate is NaN, within [0, 1].
        """
        import pandas as pd

        correct = self.predicted == self.labels
        rows: list[tuple[Any, ...]] = []
        for source, first in enumerate(self.models):
            for target, second in enumerate(self.models):
                counted = correct[source] & correct[target]
                n = int(counted.sum())
                fooled = int((counted & (self.answers[source, target] != self.labels)).sum())
                shares = (fooled / n, *wilson(fooled, n)) if n else (float("nan"), 0.0, 1.0)
                rows.append((first, second, n, fooled, *shares))
        return pd.DataFrame(rows, columns=["source", "target", "n", "fooled", "rate", "low", "high"])

    def matrix(self) -> pd.DataFrame:
        """Share of images fooled: sources down, targets across; white-box success on the diagonal."""
        names = list(self.models)
        return self.frame().pivot(index="source", columns="target", values="rate").loc[names, names]

    def __repr__(self) -> str:
        frame = self.frame()
        own = frame["source"] == frame["target"]
        across = f", transfer {frame.loc[~own, 'rate'].mean():.1%}" if len(self.models) > 1 else ""
        return (
            f"<TransferMatrix {self.attack} {self.norm} epsilon={self.epsilon:.4g}, {len(self.models)} models, "
            f"{len(self.ids)} images: white-box {frame.loc[own, 'rate'].mean():.1%}{across} on average>"
        )


def transfer(
    models: Mapping[str, nn.Module],
    images: torch.Tensor,
    labels: torch.Tensor | Sequence[int],
    name: str = "pgd",
    *,
    norm: str = "linf",
    epsilon: float = 8 / 255,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    batch_size: int = 64,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> TransferMatrix:
    """Attack every model and show the images found to every model.

    Args:
        models: By name; each maps images in [0, 1] to logits ``(N, K)``, with one K for all. Left untouched.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``, the true classes.
        name: Attack. Those that spend a budget transfer better than minimal ones, which stop just beyond the boundary.
        norm: Norm of the budget.
        epsilon: Budget.
        seed: Seed of all randomness; the draws of an image depend on it and the image's id only.
        ids: One distinct name per image; a digest of the pixels when left out.
        batch_size: Images per forward pass; changes speed and memory, not results (beyond float rounding).
        progress: Called with ``(done, total, what)`` before every pass; raising from it cancels.
        **options: The attack's own. ``early_stop``, where it has it, is ``False`` unless given: an image that goes on to
            the strongest loss fools more of the others.

    Raises:
        AttackError: Something about the request makes no sense; names the model that is at fault.
    """
    begin = time.perf_counter()
    if not models:
        raise AttackError("There are no models to attack", None, 'Pass {"name": model, ...}.')
    method = find_attack(name, options, targeted=False)
    check_norm(norm, [method])
    if "early_stop" in method.options:
        options = {"early_stop": False, **options}
    x = check_images(images)
    names = check_ids(ids, x)
    each = len(x) * (2 + method.passes(method.options))  # passes per source, as attack() counts them
    total = len(models) * (len(x) * (1 + len(models)) + each)
    report = Progress(progress, total)
    setting: dict[str, Any] = {
        "norm": norm,
        "seed": seed,
        "batch_size": check_batch_size(batch_size),
    }
    sessions = {known: _session(known, model, x, names, report, setting) for known, model in models.items()}
    truth = check_classes(labels, "labels", x, _classes(sessions))

    found = {}
    for place, (source, model) in enumerate(models.items()):
        inner = shifted(progress, len(models) * len(x) + place * each, total, source)
        found[source] = attack(
            model, x, truth, name, epsilon=epsilon, ids=names, progress=inner, **setting, **options
        ).images
        report.settle(each)
    answers = []
    for source, shown in found.items():
        report.what = f"images of {source} shown to all"
        answers.append(torch.stack([session.logits(shown).argmax(1) for session in sessions.values()]))
    report(0)

    asked = {"attack": name, "epsilon": epsilon, "options": {**method.options, **options}, **setting}
    made = provenance(next(iter(models.values())), x, names, **asked)
    return TransferMatrix(
        models=tuple(models),
        images=found,
        predicted=torch.stack([session.clean.argmax(1) for session in sessions.values()]),
        answers=torch.stack(answers),
        labels=truth,
        attack=name,
        norm=norm,
        epsilon=epsilon,
        ids=names,
        seconds=time.perf_counter() - begin,
        provenance={**made, "model": {known: model_digest(model) for known, model in models.items()}},
    )


def _session(
    name: str, model: nn.Module, x: torch.Tensor, ids: Sequence[str], report: Progress, setting: Mapping[str, Any]
) -> Session:
    report.what = f"{name}: clean images"
    try:
        return Session(model, x, ids, progress=report, **setting)
    except AttackError as error:
        raise AttackError(f"{error.what} (model {name!r})", error.value, error.fix) from error


def _classes(sessions: Mapping[str, Session]) -> int:
    """The number of classes, if all models agree on it."""
    counts = {name: session.clean.shape[1] for name, session in sessions.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise AttackError("The models have different numbers of classes", listed, "Compare models of one task.")
    return next(iter(counts.values()))


def shifted(progress: ProgressCallback | None, before: int, total: int, name: str) -> ProgressCallback | None:
    """The callback for a call that is one part of a larger one, which began after ``before`` of ``total`` passes."""
    if progress is None:
        return None
    return lambda done, _, what: progress(min(before + done, total), total, f"{name}: {what}")
