"""What attacks and evaluations return: frozen, with tidy frames and enough provenance to be repeated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import torch


@dataclass(frozen=True, eq=False, repr=False)
class AttackResult:
    """Outcome of one attack with one budget; tensors live where the images given did.

    Success is measured by a forward pass on the float32 image returned here, which lies in [0, 1] and within epsilon
    (to 1e-6). An image that the model had wrong (or, with targets, already on target) is a success at distance 0,
    returned untouched. What a minimal attack found beyond epsilon is no success, and the clean image is returned.

    Attributes:
        images: ``(N, C, H, W)``; where the attack failed, its strongest attempt.
        success: bool ``(N,)``.
        distance: ``(N,)`` of the returned image from the given one, in ``norm``.
        forwards: forward passes per image, int64 ``(N,)``: clean image, attack, verification.
        backwards: backward passes per image, int64 ``(N,)``.
        attack: name in :data:`attacks.ATTACKS`, or of the foolbox catalogue.
        norm: "linf", "l2", "l1" or "l0".
        epsilon: the budget; ``None`` where a minimal attack had none.
        ids: one id per image.
        labels: int64 ``(N,)`` as given.
        targets: int64 ``(N,)`` as given, or ``None``.
        predicted: int64 ``(N,)``, the model's answer to the image given.
        fooled_as: int64 ``(N,)``, its answer to the image returned.
        seconds: wall time.
        provenance: digests, options, seed and versions.
    """

    images: torch.Tensor
    success: torch.Tensor
    distance: torch.Tensor
    forwards: torch.Tensor
    backwards: torch.Tensor
    attack: str
    norm: str
    epsilon: float | None
    ids: tuple[str, ...]
    labels: torch.Tensor
    targets: torch.Tensor | None
    predicted: torch.Tensor
    fooled_as: torch.Tensor
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row per image."""
        import pandas as pd

        frame = pd.DataFrame({"id": self.ids, "label": self.labels.tolist()})
        if self.targets is not None:
            frame["target"] = self.targets.tolist()
        for name in ("predicted", "fooled_as", "success", "distance", "forwards", "backwards"):
            frame[name] = getattr(self, name).cpu().numpy()
        return frame.assign(attack=self.attack, norm=self.norm, epsilon=self.epsilon)

    def __repr__(self) -> str:
        hits = int(self.success.sum())
        aim = "" if self.targets is None else " targeted"
        budget = "" if self.epsilon is None else f" epsilon={self.epsilon:.4g}"
        middle = ""
        if self.epsilon is None and hits:
            middle = f", median distance {self.distance[self.success].median():.4g}"
        return f"<AttackResult {self.attack}{aim} {self.norm}{budget}: {hits} of {len(self.ids)}{middle}>"


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Robust accuracy over several budgets, per image, with the checks that say how far to trust it.

    Every number is an upper bound on robustness: a stronger attack can only lower it.

    Attributes:
        curve: per epsilon: epsilon, robust_accuracy, low, high (Wilson, 95 %), n; the first row, epsilon 0, is clean
            accuracy.
        samples: per image: id, label, predicted, clean_correct, broken_at (smallest epsilon that holds an adversarial, 0
            when it was wrong from the start, inf when none does), attack (that found it, "clean" when wrong from the
            start, "replay" when it was given, "" when none did), distance (inf when none did), forwards, backwards (all
            budgets together), fooled_as (the model's answer to the image in ``images``).
        stages: per stage of the cascade: attack, title, tried (images), credited (images whose adversarial is its own),
            forwards, backwards (all images together), seconds.
        checks: per sanity check: check, passed, value, detail. Empty when they were left out.
        images: ``(N, C, H, W)``: the adversarial image at ``broken_at``, the clean image where there is none.
        norm: "linf", "l2", "l1" or "l0".
        epsilons: budgets, ascending.
        seed: seed of all randomness.
        seconds: wall time.
        provenance: digests, attacks with options, where labels came from, versions.
    """

    curve: pd.DataFrame
    samples: pd.DataFrame
    stages: pd.DataFrame
    checks: pd.DataFrame
    images: torch.Tensor
    norm: str
    epsilons: tuple[float, ...]
    seed: int
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def trustworthy(self) -> bool:
        """Whether sanity checks ran and all passed; necessary, not sufficient, for a number to mean what it says."""
        return len(self.checks) > 0 and bool(self.checks["passed"].all())

    def frame(self) -> pd.DataFrame:
        """The curve, tidy: with the norm and the verdict of the checks in every row."""
        return self.curve.assign(norm=self.norm, trustworthy=self.trustworthy)

    def adversarials(self) -> dict[str, torch.Tensor]:
        """The adversarial images ``(C, H, W)`` found, by image id: what ``evaluate(replay=...)`` takes."""
        found = (self.samples["broken_at"] > 0) & self.samples["broken_at"].lt(float("inf"))
        return {self.samples["id"].iloc[row]: self.images[row] for row in found.to_numpy().nonzero()[0]}

    def __repr__(self) -> str:
        first, last = self.curve.iloc[0], self.curve.iloc[-1]
        failed = self.checks.loc[~self.checks["passed"], "check"].tolist() if len(self.checks) else ["not run"]
        return (
            f"<Evaluation {self.norm} n={int(last.n)}: clean {first.robust_accuracy:.1%}, robust "
            f"{last.robust_accuracy:.1%} [{last.low:.1%}, {last.high:.1%}] at epsilon={last.epsilon:.4g}; "
            f"checks: {', '.join(failed) or 'all passed'}>"
        )


def curve_frame(epsilons: tuple[float, ...], broken_at: torch.Tensor) -> pd.DataFrame:
    """Robust accuracy per epsilon from each image's smallest breaking budget ``(N,)``."""
    import pandas as pd

    n = len(broken_at)
    rows = []
    for epsilon in (0.0, *epsilons):
        standing = int((broken_at > epsilon).sum())
        rows.append((epsilon, standing / n, *wilson(standing, n), n))
    return pd.DataFrame(rows, columns=["epsilon", "robust_accuracy", "low", "high", "n"])


def wilson(count: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of a share, Wilson 1927: sound for small n and shares near 0 or 1."""
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
