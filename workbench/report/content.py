"""Results become the page: its sentences, tables and appendix, in the order in which a person reads them."""

from __future__ import annotations

import datetime
import math
import os
import platform
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .. import __version__
from . import credit, gallery, words
from .chart import chart
from .figures import epsilon_text, robustness_curve
from .parts import Check, Content, Row, Spent, Technique
from .source import Source

if TYPE_CHECKING:
    from attacks import Evaluation

    from ..models import VisionModel
    from .recipe import Recipe

_ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
_NAMES = 12  # class names that the model card spells out


def lay_out(source: Source, title: str | None, recipe: Recipe) -> Content:
    """Return the page; its pictures are not drawn yet."""
    model, images, evaluation = source.model, source.images, source.evaluation
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    figure = robustness_curve(evaluation)
    figure.update_layout(title=None, margin={"t": 12, "r": 12}, height=340)
    figure.update_xaxes(title="budget ε")  # the page says what it counts; the long title does not fit a phone
    spent = float(source.explanations.provenance.get("seconds", 0.0))
    return Content(
        title=title or f"{model.name}: what it looks at, and how easily it is fooled",
        headline=words.headline(evaluation, source.accuracy),
        summary=words.summary(evaluation, model.name, source.accuracy),
        distrust=words.distrust(evaluation),
        relative=words.relative(evaluation),
        axis=words.axis(evaluation.norm),
        meaning=words.meaning(evaluation.norm),
        facts=_facts(source),
        model_notices=model.notices,
        image_notices=images.notices,
        skipped_files=images.skipped,
        total=len(images),
        cards=list(gallery.cards(source)),
        legends=gallery.legends(source),
        skipped_methods=[(gallery.method_title(name), why) for name, why in source.explanations.skipped.items()],
        rows=_rows(evaluation),
        chart=chart(evaluation),
        figure=str(figure.to_json()),
        spent=_spent(evaluation, timed=not epoch),
        order=credit.order(evaluation),
        cost=credit.cost(evaluation),
        checks=_checks(evaluation),
        fooled=gallery.fooled(source),
        mapped=None if source.answers is None else gallery.method_title(next(iter(source.answers))),
        standing=bool((evaluation.samples["broken_at"] > 0).any()),
        methods=_methods(source),
        attacks=_attacks(evaluation),
        provenance=_provenance(source),
        recipe=recipe,
        seconds=None if epoch else f"{spent:.1f} s for the maps, {evaluation.seconds:.1f} s for the attacks",
        date=_date(epoch) if epoch else None,
    )


def _facts(source: Source) -> list[tuple[str, str]]:
    model: VisionModel = source.model
    names = model.classes
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    classes = (
        f"{model.num_classes:,}: {', '.join(names[:_NAMES])}{more}"
        if names
        else f"{model.num_classes:,}, without names"
    )
    channels, height, width = model.input_size
    facts = [
        ("Architecture", model.architecture),
        ("Classes", classes),
        ("Parameters", f"{model.parameters_count:,}"),
        ("Input", f"{width} × {height} pixels, {'grey' if channels == 1 else 'RGB' if channels == 3 else channels}"),
        ("Preprocessing", f"{model.preset} ({model.preset.source})"),
        ("Digest", model.digest),
    ]
    return facts if model.name == model.architecture else [("Name", model.name), *facts]


def _rows(evaluation: Evaluation) -> list[Row]:
    return [
        Row(
            budget=epsilon_text(float(r["epsilon"]), evaluation.norm) if r["epsilon"] else "unchanged",
            standing=round(float(r["robust_accuracy"]) * int(r["n"])),
            n=int(r["n"]),
            share=float(r["robust_accuracy"]),
            low=float(r["low"]),
            high=float(r["high"]),
        )
        for _, r in evaluation.curve.iterrows()
    ]


def _checks(evaluation: Evaluation) -> list[Check]:
    """A check that had nothing to test is not called passed."""
    found = []
    for _, r in evaluation.checks.iterrows():
        untested = bool(r["passed"]) and math.isnan(float(r["value"]))
        state = "not tested" if untested else "passed" if r["passed"] else "failed"
        detail = str(r["detail"]).removeprefix("Not tested: ")
        found.append(Check(str(r["check"]), state, detail[:1].upper() + detail[1:]))
    return found


def _methods(source: Source) -> list[Technique]:
    import explain

    known = [explain.METHODS[name] for name in source.explanations if name in explain.METHODS]
    return [Technique(m.title, m.description, m.paper, _link(m.paper), "") for m in known]


def _spent(evaluation: Evaluation, timed: bool) -> list[Spent]:
    return [
        Spent(
            attack=one.attack,
            tried="–" if one.tried is None else f"{one.tried:,}",
            credited=f"{one.credited:,}",
            passes=one.passes,
            seconds=f"{one.seconds:.1f} s" if timed and math.isfinite(one.seconds) else "",
        )
        for one in credit.credits_of(evaluation)
    ]


def _attacks(evaluation: Evaluation) -> list[Technique]:
    """One entry per attack; where it ran twice, with the options of both runs."""
    told: dict[str, list[str]] = {}
    for name, options in evaluation.provenance.get("stages", ()):
        listed = [
            f"{credit.plain_option(key)} {_option(v)}"
            for key, v in options.items()
            if v is not None and key != "generator"
        ]
        told.setdefault(name, []).append(", ".join(listed))
    found = []
    for name, runs in told.items():
        one = credit.attack_called(name)
        found.append(
            Technique(one.title, one.description, one.paper, _link(one.paper), "; then ".join(filter(None, runs)))
        )
    return found


def _option(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _provenance(source: Source) -> list[tuple[str, str]]:
    explained, attacked = source.explanations.provenance, source.evaluation.provenance
    versions = {
        "workbench": __version__,
        "python": platform.python_version(),
        "torchvision": version("torchvision"),
        **attacked.get("versions", {}),
        **explained.get("versions", {}),
    }
    told = "given" if source.labels is not None else "none; the model's own predictions stand in for them"
    return [
        ("Model digest", source.model.digest),
        ("Image digest", source.images.digest),
        ("Labels", told),
        ("Budgets", f"{source.evaluation.norm}: {', '.join(map(str, source.evaluation.epsilons))}"),
        ("Seed", str(source.evaluation.seed)),
        ("Device", str(attacked.get("device", explained.get("device", source.model.device)))),
        ("Versions", ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))),
    ]


def _link(paper: str) -> str | None:
    found = _ARXIV.search(paper)
    return f"https://arxiv.org/abs/{found.group(1)}" if found else None


def _date(epoch: str) -> str:
    """Return the date that reproducible builds put into their outputs (reproducible-builds.org, SOURCE_DATE_EPOCH)."""
    return datetime.datetime.fromtimestamp(int(epoch), tz=datetime.UTC).strftime("%Y-%m-%d")
