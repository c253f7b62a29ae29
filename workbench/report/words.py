"""The sentences of the report: what the numbers say, without a word that only an expert knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .figures import epsilon_text

if TYPE_CHECKING:
    from attacks import Evaluation

_FEW = 100  # images below which a person should look at the interval before the number


def count(n: int, noun: str) -> str:
    """Return "1 image" or "3 images"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def share(part: int, n: int) -> str:
    """Return "5 of 8", with the percentage where counting on fingers ends."""
    return f"{part} of {n}" if n <= 20 else f"{part} of {n:,} ({part / n:.0%})"


def budget(epsilon: float, norm: str) -> str:
    """Return what an attacker with this budget may do, as the end of a sentence."""
    amount = epsilon_text(epsilon, norm)
    return {
        "linf": f"every pixel may change by up to {amount}",
        "l2": f"the image may change by a Euclidean length of up to {amount}",
        "l1": f"the changes of all colour values may add up to {amount}",
        "l0": f"up to {amount} colour values may change at will",
    }.get(norm, f"the image may change by up to {amount} ({norm})")


def distance(value: float, norm: str) -> str:
    """Return a distance as people write it: linf as ``1.9/255``, l0 as a number of colour values, else three digits."""
    if norm == "linf":
        return f"{255 * value:.3g}/255"
    return count(round(value), "colour value") if norm == "l0" else f"{value:.3g}"


def percent(value: float) -> str:
    """Return a probability as people read it: what is not quite certain never reads 100 %, what is possible never 0 %."""
    if 0 < value < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def relative(evaluation: Evaluation) -> bool:
    """Return whether predictions of the model stand in for labels."""
    return evaluation.provenance.get("labels") == "model predictions"


def headline(evaluation: Evaluation, accuracy: tuple[int, int] | None) -> str:
    """Return the verdict in one sentence.

    Args:
        evaluation: the attack.
        accuracy: images classified right and images in all; ``None`` without labels.
    """
    last = evaluation.curve.iloc[-1]
    n, standing = int(last["n"]), round(float(last["robust_accuracy"]) * int(last["n"]))
    opening = "" if accuracy is None else f"{share(*accuracy)} {'image' if accuracy[1] == 1 else 'images'} right. "
    if not evaluation.trustworthy:
        return f"{opening}How easily it is fooled remains open."
    ending = f"when {budget(float(last['epsilon']), evaluation.norm)}"
    if relative(evaluation):
        return f"{opening}{share(standing, n)} {'prediction survives' if n == 1 else 'predictions survive'} {ending}."
    return f"{opening}{share(standing, n)} {'stays' if standing == 1 else 'stay'} right {ending}."


def summary(evaluation: Evaluation, name: str, accuracy: tuple[int, int] | None) -> list[str]:
    """Return the sentences below the verdict: who was asked, what was measured, how far to trust it."""
    curve = evaluation.curve
    n = int(curve["n"].iloc[0])
    kept = "kept their predicted class" if relative(evaluation) else "stayed right"
    steps = [
        f"{share(round(float(r) * n), n)} {kept if i == 0 else ''} at {epsilon_text(float(e), evaluation.norm)}"
        for i, (e, r) in enumerate(zip(curve["epsilon"][1:], curve["robust_accuracy"][1:], strict=True))
    ]
    shown = f"{name} was shown {count(n, 'image')}"
    if accuracy is None:
        said = [f"{shown} without known labels, so its own predictions stand in for the truth."]
    else:
        said = [f"{shown} and classified {share(*accuracy)} correctly."]
    listed = ", ".join(steps[:-1]) + (" and " if len(steps) > 1 else "") + steps[-1]
    doubt = "" if evaluation.trustworthy else " (not to be trusted, see below)"
    said.append(f"Under attack{doubt}, {' '.join(listed.split())}.")
    if n < _FEW:
        said.append(f"{count(n, 'image').capitalize()} {'is' if n == 1 else 'are'} few: read the intervals too.")
    return said


def distrust(evaluation: Evaluation) -> str | None:
    """Return why the robustness numbers are not to be trusted, or ``None``."""
    if evaluation.trustworthy:
        return None
    if not len(evaluation.checks):
        return "The sanity checks of the attack were not run, so nothing backs these numbers."
    failed = evaluation.checks.loc[~evaluation.checks["passed"].astype(bool), "check"].tolist()
    one = len(failed) == 1
    return (
        f"{count(len(failed), 'sanity check')} of the attack failed: {', '.join(failed)}. "
        f"Until {'it passes' if one else 'they pass'}, the model may be far easier to fool than the numbers say."
    )


def axis(norm: str) -> str:
    """Return what the budgets below a heading stand for."""
    known = {
        "linf": "by how much every pixel may change",
        "l2": "by the Euclidean length of the change",
        "l1": "by the sum of all changes",
        "l0": "by how many colour values may change",
    }
    return known.get(norm, f"by the {norm} size of the change")


def meaning(norm: str) -> str:
    """Return what a budget counts, in one sentence."""
    return {
        "linf": "A budget of 4/255 lets every colour value of every pixel move by at most 4 of 255 steps.",
        "l2": "The budget is the Euclidean length of the change: the root of the summed squares over all colour values, "
        "which run from 0 to 1.",
        "l1": "The budget is the sum of the changes of all colour values, which run from 0 to 1: one that goes from black to "
        "full counts 1.",
        "l0": "The budget is the number of colour values that may change, each by any amount; a pixel has one per channel.",
    }.get(norm, f"The budget is the largest {norm} size of the change.")
