"""How well a generator does: every image towards every target, seen by every model, beside attacks that search.

Protocol of the literature (C-GSP and those after it): for every pair of an image and a target other than its label, does the
model say the target? Reported is the share of pairs, per target and on average, for the model attacked ("white box") and for
others that the images were not made for ("transfer").
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._inputs import check_batch_size, check_classes, check_ids, check_images, find_attack
from .._provenance import model_digest, provenance
from .._session import Progress, ProgressCallback, Session
from ..errors import AttackError
from ..results import wilson
from ..runner import attack
from .attack import GENERATOR as ENTRY
from .attack import check_same_classes

if TYPE_CHECKING:
    import pandas as pd

    from .network import MultiTargetGenerator

GENERATOR = ENTRY.name


@dataclass(frozen=True, eq=False, repr=False)
class GeneratorEvaluation:
    """What M models answer to images made towards T targets by A attacks; tensors live where the images did.

    Attributes:
        attacks: the generator first, then its rivals.
        models: the model attacked first, then the others.
        targets: int64 ``(T,)``.
        labels: int64 ``(N,)``; pairs of an image and its own label are not counted, and hold what the models say to the
            clean image.
        predicted: int64 ``(M, N)``, answers to the clean images.
        answers: int64 ``(A, M, N, T)``.
        seconds_each: per attack, wall seconds per image made (without what the other models take to look at it).
        epsilon: the budget, linf.
        ids: one id per image.
        seconds: wall time of everything.
        provenance: digests, options, seed and versions.
    """

    attacks: tuple[str, ...]
    models: tuple[str, ...]
    targets: torch.Tensor
    labels: torch.Tensor
    predicted: torch.Tensor
    answers: torch.Tensor
    seconds_each: Mapping[str, float]
    epsilon: float
    ids: tuple[str, ...]
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> torch.Tensor:
        """Bool ``(N, T)``: pairs of an image and a class other than its label."""
        return self.labels[:, None] != self.targets[None, :]

    @property
    def reached(self) -> torch.Tensor:
        """Bool ``(A, M, N, T)``: whether the model says the target; ``False`` where a pair is not counted."""
        return (self.answers == self.targets) & self.counted

    def frame(self) -> pd.DataFrame:
        """One row per attack, model and target: attack, model, target, n, reached, success, low, high (Wilson, 95 %)."""
        import pandas as pd

        counts = self.counted.sum(0).tolist()
        rows: list[tuple[Any, ...]] = []
        for a, attack_name in enumerate(self.attacks):
            for m, model in enumerate(self.models):
                for target, n, hits in zip(
                    self.targets.tolist(), counts, self.reached[a, m].sum(0).tolist(), strict=True
                ):
                    shares = (hits / n, *wilson(hits, n)) if n else (float("nan"), 0.0, 1.0)
                    rows.append((attack_name, model, target, n, hits, *shares))
        columns = ["attack", "model", "target", "n", "reached", "success", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> pd.DataFrame:
        """One row per attack and model: success (share of pairs), error (share of pairs no longer seen as the label), seconds.

        ``seconds`` are per image made, the same in all rows of an attack.
        """
        import pandas as pd

        counted = self.counted
        left = (self.answers != self.labels[:, None]) & counted
        rows = [
            (
                name,
                model,
                float(self.reached[a, m].sum() / counted.sum()),
                float(left[a, m].sum() / counted.sum()),
                self.seconds_each[name],
            )
            for a, name in enumerate(self.attacks)
            for m, model in enumerate(self.models)
        ]
        return pd.DataFrame(rows, columns=["attack", "model", "success", "error", "seconds"])

    def confusion(self, attack_name: str = GENERATOR, model: str | None = None) -> pd.DataFrame:
        """Where images went: targets down, answers across, each row the shares of the pairs with this target."""
        import pandas as pd

        if attack_name not in self.attacks:
            raise AttackError("This attack did not run", repr(attack_name), f"These did: {', '.join(self.attacks)}.")
        if model is not None and model not in self.models:
            raise AttackError("This model did not look", repr(model), f"These did: {', '.join(self.models)}.")
        a, m = self.attacks.index(attack_name), 0 if model is None else self.models.index(model)
        classes = int(self.provenance["num_classes"])
        rows = []
        for place in range(len(self.targets)):
            said = self.answers[a, m, :, place][self.counted[:, place]].cpu()
            rows.append((torch.bincount(said, minlength=classes).double() / max(1, len(said))).numpy())
        return pd.DataFrame(
            rows, index=pd.Index(self.targets.tolist(), name="target"), columns=pd.RangeIndex(classes, name="answer")
        )

    def __repr__(self) -> str:
        told = ", ".join(
            f"{row.attack} {row.success:.1%}" for row in self.summary().itertuples() if row.model == self.models[0]
        )
        size = f"{len(self.ids)} images x {len(self.targets)} targets"
        return f"<GeneratorEvaluation linf epsilon={self.epsilon:.4g}, {size}: {told}>"


def evaluate_generator(
    generator: MultiTargetGenerator,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor | Sequence[int] | None = None,
    *,
    others: Mapping[str, nn.Module] | None = None,
    rivals: Mapping[str, Mapping[str, Any]] | Sequence[str] = (),
    targets: Sequence[int] | None = None,
    epsilon: float | None = None,
    name: str = "model",
    eight_bit: bool = False,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 100,
    progress: ProgressCallback | None = None,
) -> GeneratorEvaluation:
    """Make every version of every image, and see what the models say.

    Args:
        generator: Trained, see :func:`attacks.train_generator`.
        model: The one attacked, images in [0, 1] to logits ``(N, K)``; left untouched.
        images: ``(N, C, H, W)`` in [0, 1], best such that the generator did not learn from.
        labels: ``(N,)``, the true classes; the model's answers when left out.
        others: Further models by name, to which all images are shown.
        rivals: Attacks to run towards the same targets, by name, or by name with options, as
            ``{"pgd": {"steps": 40}}``. ``early_stop``, where they have it, is ``False`` unless given: they spend all steps, as
            published, and their images transfer better.
        targets: Classes to reach; those that the generator was trained for when left out.
        epsilon: Budget of all; the generator's own when left out.
        name: What to call the model.
        eight_bit: Round images to multiples of 1/255, as a picture file does, before they are shown.
        ids: One distinct name per image; a digest of the pixels when left out.
        seed: Seed of the rivals' randomness.
        batch_size: Images per pass.
        progress: Called with ``(done, total, what)``, in images made; raising from it cancels.

    Raises:
        AttackError: Something about the request makes no sense; says what to do.
    """
    begin = time.perf_counter()
    x = check_images(images)
    generator.check_channels(x)
    models = {name: model, **(others or {})}
    if len(models) == len(others or {}):
        raise AttackError("Two models have one name", repr(name), "Name them apart.")
    asked = rivals if isinstance(rivals, Mapping) else {rival: {} for rival in rivals}
    for rival, options in asked.items():
        find_attack(rival, options, targeted=True)
    names = check_ids(ids, x)
    budget = generator.epsilon if epsilon is None else epsilon
    quiet = Progress(None, 0)
    setting: dict[str, Any] = {"norm": "linf", "seed": seed, "batch_size": check_batch_size(batch_size)}
    sessions = [Session(one, x, names, progress=quiet, **setting) for one in models.values()]
    for session in sessions:
        check_same_classes(generator, session.clean.shape[1])
    predicted = torch.stack([session.clean.argmax(1) for session in sessions])
    truth = predicted[0] if labels is None else check_classes(labels, "labels", x, generator.num_classes)
    reach = torch.as_tensor(generator.targets if targets is None else sorted(set(targets)), device=x.device)
    check_classes(reach, "targets", reach.view(-1, 1, 1, 1), generator.num_classes)

    attacks = (GENERATOR, *asked)
    answers = predicted.view(1, len(models), len(x), 1).repeat(len(attacks), 1, 1, len(reach))
    spent = dict.fromkeys(attacks, 0.0)
    pairs = (truth[:, None] != reach[None, :]).nonzero()
    total, done = len(attacks) * len(pairs), 0
    for a, attack_name in enumerate(attacks):
        for part in torch.split(pairs, batch_size):
            if progress is not None:
                progress(done, total, attack_name)
            rows, columns = part.T
            aims = reach[columns]
            start = time.perf_counter()
            if attack_name == GENERATOR:
                made = generator(x[rows], aims, epsilon=epsilon, eight_bit=eight_bit, batch_size=batch_size)
            else:
                keys = [f"{names[row]} to {aim}" for row, aim in zip(rows.tolist(), aims.tolist(), strict=True)]
                made = _searched(
                    model, x[rows], truth[rows], aims, attack_name, asked[attack_name], keys, budget, eight_bit, setting
                )
            spent[attack_name] += time.perf_counter() - start
            for m, session in enumerate(sessions):
                answers[a, m, rows, columns] = session.logits(made).argmax(1)
            done += len(part)
    if progress is not None:
        progress(total, total, "done")
    record = {
        "generator": model_digest(generator), "rivals": {key: dict(value) for key, value in asked.items()}, "epsilon": budget,
        "eight_bit": eight_bit, "targets": reach.tolist(), "num_classes": generator.num_classes, **setting,
        "others": {key: model_digest(one) for key, one in (others or {}).items()},
    }  # fmt: skip
    return GeneratorEvaluation(
        attacks=attacks,
        models=tuple(models),
        targets=reach,
        labels=truth,
        predicted=predicted,
        answers=answers,
        seconds_each={key: value / max(1, len(pairs)) for key, value in spent.items()},
        epsilon=budget,
        ids=names,
        seconds=time.perf_counter() - begin,
        provenance=provenance(model, x, names, **record),
    )


def _searched(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    aims: torch.Tensor,
    name: str,
    options: Mapping[str, Any],
    keys: Sequence[str],
    epsilon: float,
    eight_bit: bool,
    setting: Mapping[str, Any],
) -> torch.Tensor:
    """What an attack of the registry makes of the images."""
    method = find_attack(name, options, targeted=True)
    own = {"early_stop": False, **options} if "early_stop" in method.options else dict(options)
    return attack(
        model, x, labels, name, epsilon=epsilon, targets=aims, ids=keys, eight_bit=eight_bit, **setting, **own
    ).images
