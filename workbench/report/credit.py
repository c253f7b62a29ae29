"""Which attack found what, and what it cost: the stages of an evaluation as people read them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .words import count

if TYPE_CHECKING:
    from attacks import Attack, Evaluation


@dataclass(frozen=True)
class Credit:
    """One stage of the cascade.

    Attributes:
        attack: its title, with the options that tell it from another stage of the same attack.
        tried: images that it met; ``None`` for images that were brought along.
        credited: images whose adversarial image is its own.
        forwards, backwards: passes per image tried; NaN where none was.
        seconds: wall time.
    """

    attack: str
    tried: int | None
    credited: int
    forwards: float
    backwards: float
    seconds: float

    @property
    def passes(self) -> str:
        """Forward and backward passes per image, as "12 + 11"."""
        return "–" if math.isnan(self.forwards) else f"{_few(self.forwards)} + {_few(self.backwards)}"


def credits_of(evaluation: Evaluation) -> list[Credit]:
    """Return the stages of an evaluation in the order in which they ran; before them what was replayed, if it broke any."""
    found = []
    replayed = int((evaluation.samples["attack"] == "replay").sum())
    if replayed:
        found.append(Credit("Stored adversarials", None, replayed, math.nan, math.nan, math.nan))
    for row, title in zip(evaluation.stages.to_dict("records"), stage_titles(evaluation), strict=True):
        tried = int(row["tried"])
        forwards, backwards = (row[name] / tried if tried else math.nan for name in ("forwards", "backwards"))
        found.append(Credit(title, tried, int(row["credited"]), forwards, backwards, float(row["seconds"])))
    return found


def stage_titles(evaluation: Evaluation) -> list[str]:
    """Return one title per stage; stages of the same attack also name the options in which they differ."""
    titles: list[str] = evaluation.stages["title"].tolist()
    options: list[dict[str, Any]] = [dict(own) for _, own in evaluation.provenance.get("stages", ())]
    repeated = {title for title, times in Counter(titles).items() if times > 1}
    if len(options) != len(titles) or not repeated:
        return titles
    told = []
    for title, own in zip(titles, options, strict=True):
        same = [other for name, other in zip(titles, options, strict=True) if name == title]
        telling = {key: value for key, value in own.items() if any(other.get(key) != value for other in same)}
        words = ", ".join(f"{plain_option(key)} {value}" for key, value in telling.items())
        told.append(f"{title} ({words})" if words else title)
    return told


def attack_called(name: str) -> Attack:
    """Return the attack of that name: ours, foolbox's, or what a generator is in an evaluation.

    Raises:
        AttackError: there is none.
    """
    from attacks import ATTACKS
    from attacks.foolbox_catalogue import find
    from attacks.generator.attack import GENERATOR

    if name == GENERATOR.name:
        return GENERATOR
    return ATTACKS[name] if name in ATTACKS else find(name)


def plain_option(name: str) -> str:
    """Return an option's name as words."""
    return name.replace("_", " ")


def cost(evaluation: Evaluation) -> str:
    """Return what the attacks cost in all; the passes that checks make are not counted."""
    samples = evaluation.samples
    forwards, backwards, n = int(samples["forwards"].sum()), int(samples["backwards"].sum()), len(samples)
    each = f" ({_few(forwards / n)} + {_few(backwards / n)} per image)" if n > 1 else ""
    return f"{forwards:,} forward and {backwards:,} backward passes{each} for {count(n, 'image')}"


def resumed(evaluation: Evaluation) -> str | None:
    """Return how much was taken over from an earlier run, or ``None`` if nothing was."""
    kept = evaluation.provenance.get("journal") or {}
    reused, executed = int(kept.get("reused", 0)), int(kept.get("executed", 0))
    return f"{reused:,} of the {count(reused + executed, 'step')} were kept" if reused else None


def order(evaluation: Evaluation) -> str:
    """Return how the attacks shared the images, in one sentence."""
    from attacks import PRESETS

    name = evaluation.provenance.get("attacks")
    stages = PRESETS.get(name, ()) if isinstance(name, str) else ()
    some = "; some only where the gradient may not have told all" if any(stage.doubtful for stage in stages) else ""
    return f"The attacks ran one after the other, each on the images that stood until then{some}."


def _few(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"
