"""The page of a dissection: one file, offline, from what units detect to how sure that is and what breaks without them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ..errors import OptionError
from . import dissection_cards as cards
from . import dissection_words as said
from .dissection import category_colours
from .page import _POLICY, Report, _environment, _own, _plotly
from .recipe import _call, _model_origin

if TYPE_CHECKING:
    from ..dissecting import Findings
    from .dissection_cards import LayerSection
    from .dissection_words import SummaryRow
    from .linear_cards import Plot

_MOST_CONCEPTS = 40
_MOST_SKIPPED = 10


@dataclass(frozen=True)
class ConceptRow:
    """One concept, as printed; ``best`` and ``top`` are shares of the scale from 0 to 1."""

    name: str
    category: str
    colour: str
    share: str
    ceiling: str
    iou: str
    place: str
    detectors: str
    best: float
    top: float


@dataclass(frozen=True)
class DissectionContent:
    """The page, top to bottom."""

    title: str
    headline: str
    summary: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    skipped_total: int
    rows: tuple[SummaryRow, ...]
    compared: bool
    overview: tuple[Plot, ...]
    concepts: tuple[ConceptRow, ...]
    concepts_total: int
    layers: tuple[LayerSection, ...]
    removal: tuple[Plot, ...]
    moved: tuple[Plot, ...]
    relation: str
    python: str
    command: str | None
    exact: bool
    provenance: tuple[tuple[str, str], ...]


def dissection_page(
    found: Findings,
    *,
    title: str | None = None,
    sources: tuple[str, str] | None = None,
    command: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Lay the page out and draw it.

    Args:
        found: of ``workbench.dissecting.investigate``.
        title: heading.
        sources: what a person types for the model and the probe, for the call that makes the page again.
        command: the command line that makes it again, if there is one.
        progress: called as pictures are drawn.

    Raises:
        OptionError: the images cannot be shown as pictures.
        ProbeError: an image cannot be read any more.
    """
    channels = found.model.input_size[0]
    if channels not in (1, 3):
        raise OptionError(
            "These images cannot be shown as pictures", f"{channels} channels", "A page needs grey or RGB images."
        )
    content = lay_out(found, title, sources, command)
    tick = progress or (lambda done, total, what: None)
    return Report(_render(replace(content, layers=tuple(cards.drawn(content.layers, tick)))))


def lay_out(
    found: Findings, title: str | None, sources: tuple[str, str] | None, command: str | None
) -> DissectionContent:
    """Return the page; its pictures are not drawn yet."""
    rows, total = _concepts(found)
    python, exact = _python(found, sources)
    lost = said.skipped(found)
    return DissectionContent(
        title=title or f"{found.model.name}, dissected",
        headline=f"{said.headline(found.last)}.",
        summary=tuple(sentence.replace(" %", "\u00a0%") for sentence in said.summary(found)),
        facts=said.facts(found),
        notes=said.notes(found),
        skipped=lost[:_MOST_SKIPPED],
        skipped_total=len(lost),
        rows=tuple(said.summary_rows(found)),
        compared=bool(found.others),
        overview=cards.overview_plots(found),
        concepts=rows,
        concepts_total=total,
        layers=tuple(cards.layer_section(found, layer) for layer in reversed(list(found.dissection.values()))),
        removal=cards.removal_plots(found),
        moved=cards.moved_plots(found),
        relation=_relation(found),
        python=python,
        command=command,
        exact=exact,
        provenance=said.provenance(found),
    )


def _concepts(found: Findings) -> tuple[tuple[ConceptRow, ...], int]:
    """Return the concepts with the best IoU, and how many the probe shows."""
    frame = found.dissection.concepts()
    seen = frame[frame["pixels"] > 0].sort_values("best_iou", ascending=False, kind="stable")
    colours = category_colours(found.dissection.vocabulary.kinds)
    scale = max([float(seen["ceiling"].max()) if len(seen) else 0.0, 1e-9])
    records: list[dict[Any, Any]] = seen.head(_MOST_CONCEPTS).to_dict("records")
    return tuple(
        ConceptRow(
            name=row["concept"],
            category=row["category"],
            colour=colours[row["category"]],
            share=f"{100 * row['share']:.2g} %",
            ceiling=f"{row['ceiling']:.2f}",
            iou=f"{row['best_iou']:.3f}",
            place=f"{row['best_layer']}, unit {row['best_unit']}",
            detectors=f"{row['detectors']}",
            best=row["best_iou"] / scale,
            top=row["ceiling"] / scale,
        )
        for row in records
    ), len(seen)


def _relation(found: Findings) -> str:
    """Say in one sentence whether the attack moved the units that matter."""
    if found.moved is None or found.ablation is None or len(found.last) < 2:
        return ""
    table = found.moved.relation(found.ablation, min(8, len(found.last) - 1))
    top, rest, rank = (table[f"source_{part}"].mean() for part in ("top", "rest", "rank"))
    if not len(table) or not rest > 0:
        return ""
    n, correlation = min(8, len(found.last) - 1), f"{rank:+.2f}".replace("-", "−")
    return (
        f"The {n} units that matter most to the class that an image left moved {top / rest:.1f} times as much as the others; "
        f"change and importance correlate by {correlation} (rank correlation, mean of {len(table)} images)."
    )


def _python(found: Findings, sources: tuple[str, str] | None) -> tuple[str, bool]:
    """Return the script that computes the dissection again, and whether it runs as it is."""
    typed, probe = sources or (None, None)
    net = _model_origin(typed or found.model, found.model)
    options = found.dissection.provenance.get("options", {})
    defaults = {"quantile": 0.005, "iou_threshold": 0.04, "permutations": 3, "seed": 0}
    asked = [f"{key}={options[key]!r}" for key, value in defaults.items() if options.get(key, value) != value]
    source = f"wb.read_probe({probe!r}, model, n={len(found.probe)})"
    if probe is None:
        source = 'wb.read_probe("path/to/probe", model)  # put your probe here'
    lines = [
        "import explain",
        "import workbench as wb",
        "",
        f"model = {net.expression}",
        f"probe = {source}",
        _call("units = explain.dissect", ["model", "probe", repr(tuple(found.dissection)), *asked]),
        "units.frame()",
    ]
    return "\n".join(lines), net.exact and probe is not None


def _render(content: DissectionContent) -> str:
    plots = [
        *content.overview,
        *(plot for one in content.layers for plot in one.plots),
        *content.removal,
        *content.moved,
    ]
    figures = json.dumps([json.loads(plot.figure) for plot in plots], separators=(",", ":"))
    text = (
        _environment()
        .get_template("dissection.html.j2")
        .render(
            c=content,
            policy=_POLICY,
            style=Markup("{}\n{}\n{}").format(_own("style.css"), _own("linear.css"), _own("dissection.css")),
            script=_own("common.js") + _own("linear.js"),
            plotly=_plotly(),
            figures=Markup(figures.replace("<", "\\u003c")),
            safe=Markup,
        )
    )
    # Names may hold lone surrogates (file systems) that no encoding has: they become question marks.
    return text.encode("utf-8", "replace").decode()
