"""Cheap tests of the evaluation itself: does the number measure the model, or the weakness of the attack?

After Carlini et al., "On Evaluating Adversarial Robustness", arXiv:1902.06705, and the flags of AutoAttack,
arXiv:2003.01690. All run on at most :data:`MANY` images, chosen by a hash of their ids so that order does not matter.
Passing them is necessary, not sufficient.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from ._ball import widest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._session import Session
    from .registry import Attack

MANY = 64  # images where one pass is enough
FEW = 16  # images that are attacked again


class Check(NamedTuple):
    """One row of ``Evaluation.checks``; ``value`` is NaN where there was nothing to test, which passes."""

    check: str
    passed: bool
    value: float
    detail: str


class Verdicts(NamedTuple):
    """What the evaluation found, as far as the checks look at it; all ``(N,)``.

    Attributes:
        labels: classes to leave.
        broken_at: smallest budget that broke the image; 0 when wrong from the start, inf when none did.
        credit: position in the cascade of the attack that broke it; -1 when none did.
    """

    labels: torch.Tensor
    broken_at: torch.Tensor
    credit: torch.Tensor


def run_checks(
    session: Session,
    verdicts: Verdicts,
    epsilons: Sequence[float],
    cascade: Sequence[Attack],
) -> list[Check]:
    """Run every check on a finished evaluation."""
    everything = torch.arange(len(session.images), device=session.images.device)
    correct = everything[verdicts.broken_at > 0]
    return [
        outputs_are_logits(session.clean),
        deterministic(session, _probe(session, everything, MANY)),
        judged_alone(session, _probe(session, everything, 1)),
        gradients(session, _probe(session, correct, MANY), verdicts.labels),
        huge_epsilon(session, _probe(session, correct, FEW), verdicts.labels, cascade),
        grows(session, verdicts, epsilons, cascade[-1]),
        iterative_not_weaker(session, verdicts, cascade),
    ]


def outputs_are_logits(logits: torch.Tensor) -> Check:
    """Probabilities fed to cross-entropy are squashed twice, which hides gradients."""
    inside = ((logits >= 0) & (logits <= 1)).all(1)
    share = (inside & ((logits.sum(1) - 1).abs() < 1e-5 * logits.shape[1])).float().mean().item()
    detail = (
        "The model returns probabilities; remove its final softmax, which hides gradients from every attack."
        if share == 1
        else "Outputs are not probabilities."
    )
    return Check("outputs are logits", share < 1, share, detail)


def deterministic(session: Session, probe: torch.Tensor) -> Check:
    """A model that answers differently each time needs attacks that average over its randomness."""
    x = session.images[probe]
    change = _change(session.logits(x), session.logits(x))
    word = "agree" if change <= 1e-4 else "DISAGREE: single-shot attacks overstate the robustness of a random model"
    return Check("deterministic model", change <= 1e-4, change, f"Two passes over {len(probe)} images {word}.")


def judged_alone(session: Session, probe: torch.Tensor) -> Check:
    """A model that normalises by batch statistics has no answer to an image, only to a batch."""
    x = session.images[probe[:1]]
    change = _change(session.logits(x), session.logits(torch.cat([x, x.flip(-1)]), together=True)[:1])
    word = "does not depend" if change <= 1e-3 else "DEPENDS (batch normalisation without running statistics?)"
    detail = f"The answer to an image {word} on the image beside it."
    return Check("images are judged alone", change <= 1e-3, change, detail)


def gradients(session: Session, probe: torch.Tensor, labels: torch.Tensor) -> Check:
    """Where cross-entropy has gradient zero, gradient attacks in general are blind and success proves little."""
    name = "gradients not zero"
    if len(probe) == 0:
        return _untested(name, "no image is classified correctly")
    x, y = session.images[probe].to(session.device), labels[probe].to(session.device)
    rows = torch.arange(len(x), device=session.device)
    _, _, gradient = session.victim([""] * len(x)).gradient(x, y, _cross_entropy, rows)
    blind = int((gradient.flatten(1) == 0).all(1).sum())
    detail = f"{blind} of {len(x)} images have a cross-entropy gradient of exactly zero"
    if blind:
        detail += ": saturated logits, rounding or a cut graph hide the way, and the model may break far more easily"
    return Check(name, blind == 0, blind / len(x), f"{detail}.")


def huge_epsilon(
    session: Session,
    probe: torch.Tensor,
    labels: torch.Tensor,
    cascade: Sequence[Attack],
) -> Check:
    """With a budget that reaches every image in the box, an attack that works breaks everything."""
    name = "huge epsilon breaks all"
    if len(probe) == 0:
        return _untested(name, "no image is classified correctly")
    epsilon = widest(session.norm, session.images[0].numel())
    standing = probe
    for attack in cascade:
        broken = _broken(session, attack, standing, labels, epsilon)
        standing = standing[~broken]
    share = 1 - len(standing) / len(probe)
    detail = f"{len(probe) - len(standing)} of {len(probe)} images break at epsilon {epsilon:.4g}"
    if len(standing):
        detail += ", where any image may become any other: the attacks are too weak for this model"
    return Check(name, len(standing) == 0, share, f"{detail}.")


def grows(
    session: Session,
    verdicts: Verdicts,
    epsilons: Sequence[float],
    attack: Attack,
) -> Check:
    """The curve falls by construction, so the last attack must show on its own that a larger budget helps it."""
    name = "success grows with epsilon"
    largest = epsilons[-1]
    smaller = (verdicts.broken_at > 0) & (verdicts.broken_at < largest)
    probe = _probe(session, smaller.nonzero().flatten(), FEW)
    if len(probe) == 0:
        return _untested(name, "no image broke below the largest epsilon")
    broken = _broken(session, attack, probe, verdicts.labels, largest)
    what = f"images broken at a smaller epsilon break again at {largest:.4g} by {attack.title} alone"
    return _almost_all(name, broken, what, "a larger budget should never hurt, so the attack is unreliable here")


def iterative_not_weaker(session: Session, verdicts: Verdicts, cascade: Sequence[Attack]) -> Check:
    """Where one step works and many do not, the gradient misleads: a sign of masking."""
    name = "PGD not weaker than FGSM"
    order = [attack.name for attack in cascade]
    if not {"fgsm", "pgd"} <= set(order):
        return _untested(name, "FGSM and PGD did not both run")
    by_fgsm = (verdicts.credit == order.index("fgsm")).nonzero().flatten()
    probe = _probe(session, by_fgsm, FEW)
    if len(probe) == 0:
        return _untested(name, "FGSM broke nothing")
    attack = cascade[order.index("pgd")]
    broken = _broken(session, attack, probe, verdicts.labels, verdicts.broken_at[probe])
    return _almost_all(name, broken, "images broken by FGSM also break by PGD", "masked gradients are suspected")


def _almost_all(name: str, broken: torch.Tensor, what: str, otherwise: str) -> Check:
    # One miss in FEW is chance at the edge of a budget, where either attack may be the luckier one.
    hits, n = int(broken.sum()), len(broken)
    passed = n - hits <= 1 if n > 1 else hits == n
    return Check(name, passed, hits / n, f"{hits} of {n} {what}." if passed else f"{hits} of {n} {what}: {otherwise}.")


def _untested(name: str, reason: str) -> Check:
    return Check(name, True, math.nan, f"Not tested: {reason}.")


def _broken(
    session: Session,
    attack: Attack,
    rows: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor,
) -> torch.Tensor:
    strikes = session.strike(attack, rows, labels, epsilon)
    return torch.cat([rows.new_zeros(0, dtype=torch.bool), *(strike.broken for strike in strikes)])


def _probe(session: Session, rows: torch.Tensor, count: int) -> torch.Tensor:
    """At most ``count`` of ``rows``, chosen by their ids."""
    order = sorted(rows.tolist(), key=lambda row: hashlib.sha256(session.ids[row].encode(errors="replace")).digest())
    return torch.tensor(order[:count], dtype=torch.int64, device=rows.device)


def _change(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest logit; equal infinities differ by nothing."""
    difference = torch.where(a == b, 0, (a - b).abs())
    scale = a[a.isfinite()].abs().amax().clamp(min=1e-12)
    return float(difference.nan_to_num(torch.inf).amax() / scale)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels, reduction="none")
