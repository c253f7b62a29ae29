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

from ._ball import widest, within
from .registry import ATTACKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._ledger import Ledger
    from ._session import Session
    from .registry import Attack, Stage

MANY = 64  # images where one pass is enough
FEW = 16  # images that are attacked again
_QUERIES = 100  # of Square, where the evaluation has none of its own


class Check(NamedTuple):
    """One row of ``Evaluation.checks``; ``value`` is NaN where there was nothing to test, which passes."""

    check: str
    passed: bool
    value: float
    detail: str


def run_checks(session: Session, ledger: Ledger, cascade: Sequence[Stage]) -> list[Check]:
    """Run every check on a finished evaluation."""
    everything = torch.arange(len(session.images), device=session.images.device)
    correct = everything[ledger.broken_at > 0]
    whole = [stage.attack for stage in cascade if not stage.doubtful]
    return [
        outputs_are_logits(session.clean),
        deterministic(session, _probe(session, everything, MANY)),
        judged_alone(session, _probe(session, everything, 1)),
        gradients(session, _probe(session, correct, MANY), ledger.labels),
        huge_epsilon(session, _probe(session, correct, FEW), ledger.labels, whole),
        grows(session, ledger, whole),
        iterative_not_weaker(session, ledger, cascade),
        white_box_not_weaker(session, ledger, cascade),
        more_steps(session, ledger, whole),
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
        if len(standing):
            standing = standing[~_broken(session, attack, standing, labels, epsilon)]
    share = 1 - len(standing) / len(probe)
    detail = f"{len(probe) - len(standing)} of {len(probe)} images break at epsilon {epsilon:.4g}"
    if len(standing):
        detail += ", where any image may become any other: the attacks are too weak for this model"
    return Check(name, len(standing) == 0, share, f"{detail}.")


def grows(session: Session, ledger: Ledger, cascade: Sequence[Attack]) -> Check:
    """The curve falls by construction; an attack that fails at a budget must not succeed at a smaller one."""
    name = "success grows with epsilon"
    attack = next((one for one in reversed(cascade) if one.kind == "gradient" and not one.minimal), None)
    rows, budgets = ledger.next(torch.arange(len(ledger.labels), device=ledger.labels.device))
    inner = budgets > ledger.epsilons[0]
    probe = _probe(session, rows[inner], FEW)
    if attack is None or len(probe) == 0:
        return _untested(name, "nothing stands at more than one epsilon")
    smaller = ledger.epsilons[torch.searchsorted(ledger.epsilons, ledger.next(probe)[1]) - 1]
    broken = _broken(session, attack, probe, ledger.labels, smaller)
    what = f"images that stood keep standing against {attack.title} at the next smaller epsilon"
    return _almost_all(name, ~broken, what, "a larger budget should never hurt, so the attack is unreliable here")


def iterative_not_weaker(session: Session, ledger: Ledger, cascade: Sequence[Stage]) -> Check:
    """Where one step works and many do not, the gradient misleads: a sign of masking."""
    name = "many steps not weaker than one"
    order = [stage.attack for stage in cascade]
    names = [attack.name for attack in order]
    attack = next((one for one in order if one.name in ("pgd", "apgd")), None)
    if "fgsm" not in names or attack is None:
        return _untested(name, "FGSM did not run together with PGD or APGD")
    probe = _probe(session, (ledger.credit == names.index("fgsm")).nonzero().flatten(), FEW)
    if len(probe) == 0:
        return _untested(name, "FGSM broke nothing")
    broken = _broken(session, attack, probe, ledger.labels, ledger.broken_at[probe])
    what = f"images broken by FGSM also break by {attack.title}"
    return _almost_all(name, broken, what, "masked gradients are suspected")


def white_box_not_weaker(session: Session, ledger: Ledger, cascade: Sequence[Stage]) -> Check:
    """Where a search that only sees logits beats the gradient, the gradient is masked."""
    name = "white box not weaker than black box"
    kinds = [stage.attack.kind for stage in cascade]
    if "gradient" not in kinds or session.norm not in ATTACKS["square"].norms:
        return _untested(name, f"there is no attack of each kind for {session.norm}")
    blind = torch.tensor([kind not in ("gradient", "transfer") for kind in kinds], device=ledger.credit.device)
    credited = ledger.credit >= 0
    ahead = int((credited & blind[ledger.credit.clamp(min=0)]).sum())
    probe = _nearest(ledger)
    square = ATTACKS["square"].configured({"queries": _QUERIES})
    if "square" not in [stage.attack.name for stage in cascade] and len(probe):
        ahead += int(_broken(session, square, probe, ledger.labels, ledger.next(probe)[1]).sum())
    of = int((ledger.broken_at > 0).sum())
    # As many as AutoAttack's own warning tolerates (0.2 points), and one.
    passed = ahead <= max(1, 0.002 * of)
    detail = f"A search that sees logits only broke {ahead} of {of} images that the gradient had left standing"
    return Check(name, passed, ahead / max(of, 1), f"{detail}{'' if passed else ': masked gradients are suspected'}.")


def more_steps(session: Session, ledger: Ledger, cascade: Sequence[Attack]) -> Check:
    """Where twice the steps break more, the attack had not arrived."""
    name = "more steps do not help"
    attack = next((one for one in reversed(cascade) if "steps" in one.options and one.kind == "gradient"), None)
    probe = _nearest(ledger)
    if attack is None or len(probe) == 0:
        return _untested(name, "nothing stands, or no attack takes steps")
    longer = attack.configured({"steps": 2 * attack.options["steps"]})
    budgets = ledger.epsilons[:1].expand(len(probe)) if attack.minimal else ledger.next(probe)[1]
    strikes = list(session.strike(longer, probe, ledger.labels, budgets))
    near = [strike.broken & within(strike.distance.double(), ledger.next(strike.rows)[1]) for strike in strikes]
    what = f"images nearest to breaking stand against {attack.title} with {2 * attack.options['steps']} steps"
    return _almost_all(name, ~torch.cat(near), what, "the attack stopped too early; give it more steps")


def _nearest(ledger: Ledger) -> torch.Tensor:
    """The :data:`FEW` standing images that an attack brought nearest to breaking."""
    rows = ledger.standing()
    reached = torch.maximum(ledger.climbed, ledger.probed)[rows]
    return rows[reached.argsort(descending=True, stable=True)[:FEW]]


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
