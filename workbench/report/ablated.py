"""Figures of what breaks without units: curves of removing and keeping them, their importance, and those that an attack moved.

Red is the most important units, blue the least, grey any at random; solid is removing and dashed is keeping.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .axes import axis_titles, layer_name, legend_below, named_rows, nothing
from .figures import PALETTE, _array, _dress, _short

if TYPE_CHECKING:
    from explain.dissection import Ablation, AblationCurve, MovedUnits

_COLOURS = {"most": PALETTE.bad, "random": PALETTE.text, "least": PALETTE.accent}
_RANDOM_BAND = "rgba(128, 134, 145, 0.22)"


def ablation_figure(curve: AblationCurve, class_name: str = "") -> go.Figure:
    """Draw balanced accuracy as units are removed (solid) or all others are (dashed): most important, random, least.

    Args:
        curve: of ``explain.ablation_curve``.
        class_name: of its class, for the title.
    """
    frame = curve.frame()
    figure = go.Figure()
    for which, colour in _COLOURS.items():
        for kind, dash in (("remove", "solid"), ("keep", "dash")):
            rows = frame[frame["kind"] == f"{kind} {which}"].sort_values("n")
            if not len(rows):
                continue
            n = rows["n"].tolist()
            if which == "random":
                figure.add_scatter(
                    x=n + n[::-1],
                    y=rows["high"].tolist() + rows["low"].tolist()[::-1],
                    fill="toself",
                    fillcolor=_RANDOM_BAND,
                    mode="lines",
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                )
            spread = [
                f"<br>random draws: {low:.1%} to {high:.1%}" if which == "random" else ""
                for low, high in zip(rows["low"], rows["high"], strict=True)
            ]
            figure.add_scatter(
                x=n,
                y=rows["balanced_accuracy"].tolist(),
                mode="lines+markers",
                name=f"{kind} {which}",
                line={"color": colour, "width": 2, "dash": dash},
                marker={"size": 6},
                customdata=spread,
                hovertemplate=f"{kind} %{{x}} units ({which})<br>balanced accuracy %{{y:.1%}}%{{customdata}}<extra></extra>",
                cliponaxis=False,
            )
    line = {"color": PALETTE.text, "width": 1, "dash": "dot"}
    figure.add_hline(y=curve.base, line=line)
    about = html.escape(_short(class_name)) if class_name else _class(curve.label)
    _dress(figure, f"Without units of {layer_name(curve.layer)}", f"{about}. Dotted: all units. 50% is guessing.")
    ticks = sorted(set(frame["n"].tolist()))
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{n:,}" for n in ticks], showgrid=False)
    axis_titles(figure, "units removed or kept", "balanced accuracy")
    low = min([0.5, *frame["low"].tolist()])
    figure.update_yaxes(tickformat=".0%", range=[low - 0.02, 1.02], nticks=6)
    figure.update_layout(height=420)
    legend_below(figure, 128, entrywidth=0.45, entrywidthmode="fraction")
    return figure


def importance_bars(
    ablation: Ablation, label: int | None, concepts: Sequence[str] = (), most: int = 12, class_name: str = ""
) -> go.Figure:
    """Draw the units that a class needs most: the margin lost without each, and beside it the fall of balanced accuracy.

    Accuracy is what counts, but most single units of a good network do not move it; the margin tells them apart.

    Args:
        ablation: of ``explain.ablate``.
        label: the class; ``None``: the mean over classes.
        concepts: one per unit, written beside its number.
        most: how many units to draw.
        class_name: of the class, for the title.
    """
    margin, importance = _of_class(ablation.margin, label), _of_class(ablation.importance, label)
    about = html.escape(_short(class_name)) if class_name else _class(label)
    title = f"Units that matter most in {layer_name(ablation.layer)}"
    if not np.isfinite(margin).any():
        return nothing(title, "No image has this class", "Its units cannot be ranked.")
    order = np.argsort(-margin, kind="stable")[:most].tolist()
    values, falls = [float(margin[unit]) for unit in order], [float(importance[unit]) for unit in order]
    names = [concepts[unit] if len(concepts) else "" for unit in order]
    figure = go.Figure(
        go.Bar(
            x=values,
            y=list(range(len(order))),
            orientation="h",
            width=0.68,
            marker={"color": [PALETTE.bad if value > 0 else PALETTE.accent for value in values]},
            text=[f"{-100 * fall:+.1f}".replace("-", "−") if abs(fall) >= 5e-4 else "" for fall in falls],
            textposition="outside",
            cliponaxis=False,
            customdata=[(unit, html.escape(name), fall) for unit, name, fall in zip(order, names, falls, strict=True)],
            hovertemplate="unit %{customdata[0]} %{customdata[1]}<br>margin lost: %{x:.3g}<br>"
            "balanced accuracy lost: %{customdata[2]:.2%}<extra></extra>",
        )
    )
    told = "Beside the bars: points of balanced accuracy." if any(abs(fall) >= 5e-4 for fall in falls) else (
        "No single one moves accuracy."
    )  # fmt: skip
    _dress(figure, title, f"{about}. {told}")
    named_rows(
        figure, [f"{unit} · {name}" if name else f"unit {unit}" for unit, name in zip(order, names, strict=True)], 56
    )
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    axis_titles(figure, "margin lost without the unit", None)
    figure.update_xaxes(range=[1.15 * low, 1.18 * (high or 1)], nticks=6)
    return figure


def moved_figure(moved: MovedUnits, ablation: Ablation, label: int | None) -> go.Figure:
    """Draw how an attack changed each unit beside what the unit matters to a class; ``customdata`` is the unit's number.

    Args:
        moved: of ``explain.moved_units``.
        ablation: of the same layer and network.
        label: the class that the network answered before: only its fooled images count; ``None``: all fooled ones.
    """
    labels, fooled_as = _array(moved.labels), _array(moved.fooled_as)
    chosen = (labels != fooled_as) & ((labels == label) if label is not None else True)
    margin = _of_class(ablation.margin, label)
    title = f"Units that the attack moved in {layer_name(moved.layer)}"
    if not chosen.any() or not np.isfinite(margin).any():
        return nothing(title, "No image of this class was fooled", "Choose another class, or a stronger attack.")
    change = _array(moved.change).astype(float)[:, chosen].mean(1)
    relative = change / np.maximum(_array(moved.scale).astype(float), 1e-30)
    # A unit that no clean image moves has no scale to compare with.
    units = np.flatnonzero(np.isfinite(margin) & (_array(moved.scale) > 1e-12)).tolist()
    x, y = [float(margin[unit]) for unit in units], [float(relative[unit]) for unit in units]
    figure = go.Figure(
        go.Scatter(
            x=x,
            y=y,
            mode="markers",
            marker={"size": 9, "color": [PALETTE.bad if value < 0 else PALETTE.accent for value in y], "opacity": 0.85},
            customdata=units,
            hovertemplate="unit %{customdata}<br>margin lost without it: %{x:.3g}<br>"
            "change: %{y:+.2f} standard deviations<extra></extra>",
            cliponaxis=False,
        )
    )
    rank = _spearman(x, y)
    n = int(chosen.sum())
    told = f"{n} fooled image{'s' * (n != 1)}."
    _dress(figure, title, told if rank is None else f"{told} Rank correlation {rank:+.2f}.".replace("-", "−"))
    axis_titles(figure, "margin lost without the unit", "change, in standard deviations")
    figure.update_xaxes(nticks=7, zeroline=True)
    figure.update_yaxes(nticks=6, zeroline=True, zerolinecolor=PALETTE.text)
    figure.update_layout(height=380, clickmode="event+select")
    return figure


def _spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)


def _of_class(values: object, label: int | None) -> np.ndarray:
    table = _array(values).astype(float)
    if label is not None:
        return np.asarray(table[:, label])
    known = np.isfinite(table).any(0)
    return np.asarray(table[:, known].mean(1)) if known.any() else np.full(len(table), np.nan)


def _class(label: int | None) -> str:
    return "Mean over classes" if label is None else f"Class {label}"
