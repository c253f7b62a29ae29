"""What a dissection says, in sentences and printed numbers: for its page and for the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import words
from .dissection import concept_rows

if TYPE_CHECKING:
    from explain.dissection import Dissection, Interval, LayerDissection

    from ..dissecting import Findings

_FEW = 100  # images below which a person should look at the interval before the number


@dataclass(frozen=True)
class SummaryRow:
    """One layer of one network, as printed."""

    model: str
    layer: str
    units: str
    detectors: str
    detectors_interval: str
    unique: str
    unique_interval: str
    mean_iou: str
    mean_interval: str
    best: str
    chance: str
    above: str
    dead: str


def summary_rows(found: Findings) -> list[SummaryRow]:
    """Return one row per network and layer."""
    every: dict[str, Dissection] = {found.model.name: found.dissection, **found.others}
    return [_row(name, layer) for name, one in every.items() for layer in one.values()]


def _row(name: str, layer: LayerDissection) -> SummaryRow:
    count, unique, mean = layer.count(), layer.unique(), layer.mean_iou()
    unknown = math.isnan(layer.chance)
    return SummaryRow(
        model=name,
        layer=layer.layer,
        units=f"{len(layer):,}",
        detectors=f"{int(count.value)}",
        detectors_interval=_between(count, 0),
        unique=f"{int(unique.value)}",
        unique_interval=_between(unique, 0),
        mean_iou=f"{mean.value:.3f}",
        mean_interval=_between(mean, 3),
        best=f"{float(layer.best.max()):.3f}",
        chance="–" if unknown else f"{layer.chance:.3f}",
        above="–" if unknown else f"{int((layer.best > layer.chance).sum())}",
        dead=f"{int(layer.dead.sum())}",
    )


def headline(layer: LayerDissection) -> str:
    """Return what the units of a layer detect, in one sentence."""
    rows = concept_rows(layer)
    if not rows:
        return f"No unit of {layer.layer} detects a concept; the best IoU is {float(layer.best.max()):.3f}"
    _, name, n = rows[0]
    total = int(layer.detectors.sum())
    verb = "detects" if total == 1 else "detect"
    if len(rows) == 1:
        return f"{total} of {words.count(len(layer), 'unit')} of {layer.layer} {verb} a concept: {name}"
    return f"{total} of {len(layer):,} units of {layer.layer} {verb} a concept; the commonest is {name} ({n} units)"


def summary(found: Findings) -> list[str]:
    """Return the sentences below the headline."""
    last = found.last
    said = [honest(last)]
    for name, one in found.others.items():
        other = one.results.get(last.layer)
        if other is not None:
            of = {"random": "The same network, untrained", "rotated": "The same layer, its basis turned at random"}
            said.append(f"{of.get(name, name)}: {_detecting(other, last)}.")
    if found.attack is not None:
        fooled = int((found.moved.labels != found.moved.fooled_as).sum()) if found.moved is not None else 0
        said.append(
            f"PGD at l∞ 8/255 changed the answer on {fooled} of {words.count(len(found.attack.images), 'image')}."
        )
    return said


def _detecting(other: LayerDissection, first: LayerDissection) -> str:
    count, unique = int(other.detectors.sum()), other.unique_best
    if not count:
        return "no unit detects a concept"
    return (
        f"{count} of {words.count(len(other), 'unit')} {'detects' if count == 1 else 'detect'} a concept, {unique} different "
        f"{'one' if unique == 1 else 'ones'} instead of {first.unique_best}"
    )


def honest(layer: LayerDissection) -> str:
    """Return what the numbers of a layer are worth, in one sentence."""
    unit = int(layer.best.argmax())
    ceiling = float(layer.attainable[unit, layer.concept[unit]])
    reached = f"The best match is an IoU of {float(layer.best[unit]):.2f} of {ceiling:.2f} attainable by its size"
    if math.isnan(layer.chance):
        return f"{reached}; chance was not measured, as permutations are off."
    above = int((layer.best > layer.chance).sum())
    return (
        f"{reached}; by chance 95 % of units stay below {layer.chance:.3f}, and {above} of {len(layer):,} are above it."
    )


def notes(found: Findings) -> tuple[str, ...]:
    """Return what a person should know before trusting the numbers, the gravest first."""
    said = []
    for layer in found.dissection.values():
        if layer.chance >= layer.iou_threshold:
            said.append(
                f"In {layer.layer}, chance reaches an IoU of {layer.chance:.3f}, above the threshold of "
                f"{layer.iou_threshold:g}: detectors there may mean nothing."
            )
        if dead := int(layer.dead.sum()):
            said.append(
                f"{dead} of {words.count(len(layer), 'unit')} of {layer.layer} are never active: no concept is theirs."
            )
    if len(found.probe) < _FEW:
        few = words.count(len(found.probe), "image")
        said.append(f"{few.capitalize()} {'is' if len(found.probe) == 1 else 'are'} few: read the intervals too.")
    said += [_sentence(note) for note in (*found.dissection.notes, *getattr(found.probe, "notices", ()))]
    return (*said, *found.notes, *(_sentence(note) for note in getattr(found.model, "notices", ())))


def facts(found: Findings) -> tuple[tuple[str, str], ...]:
    """Return what was done, as name and value."""
    last, kinds = found.last, found.dissection.vocabulary.kinds
    concepts = len(found.probe.concepts)
    removed: tuple[tuple[str, str], ...] = ()
    if found.ablation is not None:
        removed = (
            ("Units removed from", f"{found.ablation.layer}, ranked on {words.count(found.ablation.images, 'image')}"),
        )
    return (
        ("Probe", f"{words.count(len(found.probe), 'image')}, {concepts} concepts: {', '.join(kinds)}"),
        ("A unit is active", f"where its value is among its top {100 * last.quantile:g} %"),
        ("It detects a concept", f"if IoU > {last.iou_threshold:g} with the best of them"),
        ("Maps", ", ".join(f"{one.layer} {one.size[0]} × {one.size[1]}" for one in found.dissection.values())),
        *removed,
    )


def provenance(found: Findings) -> tuple[tuple[str, str], ...]:
    """Return what it was made from."""
    known: dict[str, Any] = found.dissection.provenance
    options = known.get("options", {})
    values = (
        ("Model digest", known.get("model_digest")),
        ("Probe digest", known.get("probe_digest")),
        ("Seed", found.seed),
        ("Chance from", words.count(options["permutations"], "permutation") if "permutations" in options else None),
        ("Intervals from", f"{options['replicates']:,} bootstrap samples" if "replicates" in options else None),
        ("Device", known.get("device")),
        ("Versions", ", ".join(f"{name} {number}" for name, number in sorted(known.get("versions", {}).items()))),
        ("Time taken", "found in the cache" if known.get("reused") else f"{known.get('seconds', 0.0):.1f} s"),
    )
    return tuple((name, str(value)) for name, value in values if value is not None)


def skipped(found: Findings) -> tuple[tuple[str, str], ...]:
    """Return what of the probe could not be used: where, and why."""
    return (*getattr(found.probe, "skipped", ()), *found.dissection.skipped)


def _between(value: Interval, places: int) -> str:
    return "" if math.isnan(value.low) else f"{value.low:.{places}f} to {value.high:.{places}f}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
