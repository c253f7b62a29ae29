"""Figures of a dissection: what layers detect, how well, and how layers and models compare; palette and rules as in ``figures``.

One colour per category in all of them, the same for the same category in every probe. An IoU stands beside what it could have
been: the ceiling of a perfect unit, and the level of chance.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from ..errors import OptionError
from .ablated import ablation_figure as ablation_figure
from .ablated import importance_bars as importance_bars
from .ablated import moved_figure as moved_figure
from .axes import axis_titles, layer_axis, layer_name, legend_below, named_rows, nothing
from .axes import category_colours as category_colours
from .figures import PALETTE, _dress, _short
from .patterns import region as region

if TYPE_CHECKING:
    from explain.dissection import Dissection, Interval, LayerDissection

_WHATS = {
    "detectors": ("Units that detect a concept", "units"),
    "unique": ("Different concepts that units detect", "concepts"),
    "mean_iou": ("How well units match their best concept", "mean of the best IoUs"),
}
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "triangle-down")


def category_bars(dissection: Dissection) -> go.Figure:
    """Draw how many units of each layer detect something, stacked by category; layers in their order."""
    layers = list(dissection.values())
    colours = category_colours(dissection.vocabulary.kinds)
    counts = [Counter(layer.vocabulary.kind[layer.concept[layer.detectors]].tolist()) for layer in layers]
    figure = go.Figure()
    for number, kind in enumerate(dissection.vocabulary.kinds):
        heights = [count[number] for count in counts]
        if not any(heights):
            continue
        told = [
            (html.escape(one.layer), len(one), n / len(one), html.escape(kind))
            for one, n in zip(layers, heights, strict=True)
        ]
        figure.add_bar(
            x=list(range(len(layers))),
            y=heights,
            width=0.62,
            name=html.escape(_short(kind)),
            marker={"color": colours[kind]},
            customdata=told,
            hovertemplate="%{customdata[3]}: %{y} of %{customdata[1]} units, %{customdata[2]:.0%}<br>%{customdata[0]}"
            "<extra></extra>",
        )
    totals = [sum(count.values()) for count in counts]
    _dress(figure, "What units detect", f"Units whose best IoU is above {layers[0].iou_threshold:g}, by category.")
    for x, (total, layer) in enumerate(zip(totals, layers, strict=True)):
        text = f"{total} of {len(layer):,}"
        figure.add_annotation(x=x, y=total, text=text, showarrow=False, yanchor="bottom", yshift=2)
    layer_axis(figure, [layer.layer for layer in layers])
    axis_titles(figure, None, "units")
    figure.update_yaxes(range=[0, 1.14 * max(*totals, 4)], nticks=6, tickformat="d")
    figure.update_layout(barmode="stack", height=360)
    legend_below(figure, 84)
    return figure


def concept_bars(layer: LayerDissection, most: int = 30) -> go.Figure:
    """Draw how many units of one layer detect each concept, grouped and coloured by category.

    Args:
        layer: the units.
        most: how many concepts to draw, the most frequent ones.
    """
    rows = concept_rows(layer)
    shown = rows[:most]
    if not shown:
        return nothing(
            f"Detectors in {layer_name(layer.layer)}", f"No unit passes IoU > {layer.iou_threshold:g}", _best_of(layer)
        )
    per_kind = Counter({kind: sum(n for one, _, n in shown if one == kind) for kind, *_ in shown})
    kinds = [kind for kind, _ in per_kind.most_common()]
    shown.sort(key=lambda row: kinds.index(row[0]))
    colours = category_colours(layer.vocabulary.kinds)
    figure = go.Figure()
    for kind in kinds:
        mine = [(y, name, n) for y, (one, name, n) in enumerate(shown) if one == kind]
        figure.add_bar(
            x=[n for *_, n in mine],
            y=[y for y, *_ in mine],
            orientation="h",
            width=0.7,
            name=html.escape(_short(kind)),
            marker={"color": colours[kind]},
            text=[f"{n}" for *_, n in mine],
            textposition="outside",
            cliponaxis=False,
            customdata=[(html.escape(name), html.escape(kind), n / len(layer)) for _, name, n in mine],
            hovertemplate="%{customdata[0]} (%{customdata[1]}): %{x} units, %{customdata[2]:.0%}<extra></extra>",
        )
    found = int(layer.detectors.sum())
    left = f" {len(shown)} commonest of {len(rows)} concepts." if len(shown) < len(rows) else ""
    _dress(figure, f"Detectors in {layer_name(layer.layer)}", f"{found} of {len(layer):,} units.{left}")
    named_rows(figure, [name for _, name, _ in shown], 74)
    figure.update_xaxes(range=[0, 1.12 * max(n for *_, n in shown)], nticks=6, tickformat="d")
    legend_below(figure, 68)
    return figure


def concept_rows(layer: LayerDissection) -> list[tuple[str, str, int]]:
    """Return category, concept and number of detectors, the most frequent concept first."""
    names = layer.vocabulary
    counts = Counter(layer.concept[layer.detectors].tolist())
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return [(names.categories[i], names.concepts[i], n) for i, n in ordered]


def ceiling_bars(layer: LayerDissection, most: int = 30) -> go.Figure:
    """Draw the best IoU that any unit has with each concept, inside the outline of what a perfect unit could reach.

    Args:
        layer: the units.
        most: how many concepts to draw, those with the best IoU; concepts that no image shows are left out.
    """
    best, units = layer.iou.max(0)
    seen = [i for i in best.argsort(descending=True, stable=True).tolist() if int(layer.labels[i])]
    shown, names = seen[:most], layer.vocabulary
    if not shown:
        return nothing(f"Best IoU in {layer_name(layer.layer)}", "No image shows a concept", "Nothing can be matched.")
    colours = category_colours(names.kinds)
    ceilings, values = [float(layer.ceiling[i]) for i in shown], [float(best[i]) for i in shown]
    place = list(range(len(shown)))
    told = [
        (
            html.escape(names.concepts[i]),
            html.escape(names.categories[i]),
            int(units[i]),
            float(layer.share[i]),
            value,
            top,
        )
        for i, value, top in zip(shown, values, ceilings, strict=True)
    ]
    hover = (
        "%{customdata[0]} (%{customdata[1]})<br>best IoU %{customdata[4]:.3f}, unit %{customdata[2]}<br>"
        "a perfect unit: %{customdata[5]:.3f}<br>%{customdata[3]:.2%} of the pixels<extra></extra>"
    )
    outline = {"color": "rgba(0,0,0,0)", "line": {"color": PALETTE.text, "width": 1}}
    filled = {"color": [colours[names.categories[i]] for i in shown]}
    bars = {"y": place, "orientation": "h", "customdata": told, "hovertemplate": hover}
    figure = go.Figure(
        [
            go.Bar(x=ceilings, width=0.8, marker=outline, **bars),
            go.Bar(x=values, width=0.5, marker=filled, **bars),
        ]
    )
    left = f"{len(shown)} best of {len(seen)}. " if len(shown) < len(seen) else ""
    about = f"{left}Outline: what a perfect unit reaches."
    _dress(figure, f"Best IoU per concept in {layer_name(layer.layer)}", about)
    named_rows(figure, [names.concepts[i] for i in shown], 36)
    figure.update_xaxes(range=[0, 1.02 * max(*ceilings, *values, 0.05)], nticks=6)
    figure.update_layout(barmode="overlay")
    return figure


def layers_figure(dissections: Mapping[str, Dissection], what: str = "unique") -> go.Figure:
    """Draw one number per layer and model, with its 95 % interval.

    Args:
        dissections: model → dissection; the first one is drawn strongest.
        what: "detectors", "unique" (different concepts, one per unit) or "mean_iou".

    Raises:
        OptionError: ``what`` is something else.
    """
    if what not in _WHATS:
        raise OptionError("There is no such number per layer", what, f"Choose one of: {', '.join(_WHATS)}.")
    title, axis = _WHATS[what]
    layers = list(dict.fromkeys(name for one in dissections.values() for name in one))
    figure = go.Figure()
    spread = 0.36 / max(len(dissections) - 1, 1)
    for number, (model, one) in enumerate(dissections.items()):
        found = [(layers.index(layer.layer), layer, _number(layer, what)) for layer in one.values()]
        colour = PALETTE.qualitative[number % len(PALETTE.qualitative)]
        shift = spread * (number - (len(dissections) - 1) / 2)  # side by side, so that intervals do not hide each other
        figure.add_scatter(
            x=[x + shift for x, *_ in found],
            y=[value.value for *_, value in found],
            mode="lines+markers",
            name=html.escape(_short(model)),
            line={"color": colour, "width": 2.5 if number == 0 else 1.5, "dash": "solid" if number == 0 else "dot"},
            marker={"size": 9, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
            error_y={
                "type": "data",
                "array": [_length(value.high - value.value) for *_, value in found],
                "arrayminus": [_length(value.value - value.low) for *_, value in found],
                "thickness": 1.5,
                "width": 4,
            },
            customdata=[
                (html.escape(layer.layer), _interval(value, what), len(layer), html.escape(model))
                for _, layer, value in found
            ],
            hovertemplate="%{customdata[3]}, %{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]:,} units"
            "<extra></extra>",
        )
    _dress(figure, title, "Bars: 95 % interval over images.")
    layer_axis(figure, layers)
    axis_titles(figure, None, axis)
    figure.update_yaxes(rangemode="tozero", nticks=6, tickformat="d" if what != "mean_iou" else None)
    figure.update_layout(height=360)
    legend_below(figure, 84)
    return figure


def units_scatter(layer: LayerDissection) -> go.Figure:
    """Draw the best IoU of every unit, the best unit first; detectors are filled. ``customdata`` is the unit's number."""
    names, colours = layer.vocabulary, category_colours(layer.vocabulary.kinds)
    order = layer.best.argsort(descending=True, stable=True).tolist()
    rank = {unit: place for place, unit in enumerate(order, 1)}
    dead, detectors, concepts = layer.dead.tolist(), layer.detectors.tolist(), layer.concept.tolist()
    figure = go.Figure()
    for number, kind in enumerate((*names.kinds, None)):
        mine = [u for u in order if (kind is None) == dead[u] and (dead[u] or int(names.kind[concepts[u]]) == number)]
        if not mine:
            continue
        told = [f"{html.escape(layer.name(u) or 'active nowhere')}<br>IoU {float(layer.best[u]):.3f}" for u in mine]
        figure.add_scatter(
            x=[rank[unit] for unit in mine],
            y=[float(layer.best[unit]) for unit in mine],
            mode="markers",
            name="never active" if kind is None else html.escape(_short(kind)),
            marker={
                "size": 9,
                "color": PALETTE.text if kind is None else colours[kind],
                "symbol": ["circle" if detectors[unit] else "circle-open" for unit in mine],
            },
            customdata=mine,
            text=told,
            hovertemplate="unit %{customdata}: %{text}<extra></extra>",
            cliponaxis=False,
        )
    _dress(figure, f"Units of {layer_name(layer.layer)}", "Filled: detectors.")
    lines = [("threshold", layer.iou_threshold, "dash"), ("chance", layer.chance, "dot")]
    for name, value, dash in lines:
        if math.isnan(value):
            continue
        figure.add_hline(y=value, line={"color": PALETTE.text, "width": 1.2, "dash": dash})
        # In the margin, and away from the other line: points and lines are often close together.
        above = value >= max(other for _, other, _ in lines if not math.isnan(other))
        side = {"x": 1, "xref": "paper", "xanchor": "left", "xshift": 4, "yanchor": "bottom" if above else "top"}
        text = f"{name} {value:g}" if name == "threshold" else f"{name} {value:.3f}"
        figure.add_annotation(y=value, text=text, showarrow=False, font={"size": 12}, **side)
    count = len(layer)
    axis_titles(figure, "unit, the best first", "best IoU")
    figure.update_xaxes(range=[0.2 - 0.01 * count, 1.02 * count + 0.8], showgrid=False)
    top = max(float(layer.best.max()), 1.2 * layer.iou_threshold)
    figure.update_yaxes(range=[-0.03 * top, 1.08 * top], nticks=6)
    figure.update_layout(height=380, clickmode="event+select", margin={"r": 108})
    legend_below(figure, 96)
    return figure


def _number(layer: LayerDissection, what: str) -> Interval:
    return layer.count() if what == "detectors" else layer.unique() if what == "unique" else layer.mean_iou()


def _interval(value: Interval, what: str) -> str:
    places = ".3f" if what == "mean_iou" else ".0f"
    if math.isnan(value.low):
        return f"{value.value:{places}}"
    return f"{value.value:{places}}, 95 % interval {value.low:{places}} to {value.high:{places}}"


def _length(difference: float) -> float:
    """A bar of an interval: none where it is unknown, or where the value lies outside."""
    return 0.0 if math.isnan(difference) else max(difference, 0.0)


def _best_of(layer: LayerDissection) -> str:
    unit = int(layer.best.argmax())
    name = layer.name(unit)
    return (
        f"The best is unit {unit}, {_short(name)}, with {float(layer.best[unit]):.3f}."
        if name
        else "None is ever active."
    )
