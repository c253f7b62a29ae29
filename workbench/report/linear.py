"""Figures of the linear interpreter: votes, bias, spectrum, and what an attack moved; palette and rules as in ``figures``.

One meaning per colour, in all of them: red speaks for a class and blue against it; where a number is split by where it comes
from, pixels are blue, bias is orange and changed decisions are green.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from ..errors import OptionError
from .figures import PALETTE, _array, _dress, _faded, _short
from .numbers import adding_up, class_name, shortened, signed
from .patterns import pattern as pattern
from .patterns import vote_overlay as vote_overlay
from .patterns import vote_picture as vote_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from explain.linear import BiasTerms, Change, GateAgreement, Shares, Spectrum

FOR, AGAINST = PALETTE.diverging[8], PALETTE.diverging[2]
PIXELS, BIAS, GATES = PALETTE.accent, PALETTE.warn, PALETTE.good
_NAMED = 24  # units of which each gets a line of its own; beyond, they are dots along the depth


def bias_bars(terms: BiasTerms, image: int = 0, class_name: str = "", most: int = 15) -> go.Figure:
    """Draw what each constant of the network adds to one output, the largest first; those left out are one bar, the last.

    Args:
        terms: of ``lens.bias_terms``.
        image: its position.
        class_name: the output's name, for the title.
        most: how many bars to draw.
    """
    rows = bias_rows(terms, image, most)
    numbers = [value for _, value, _ in rows]
    printed, total, decimals = adding_up(numbers)
    figure = go.Figure(
        go.Bar(
            x=numbers,
            y=list(range(len(numbers))),
            orientation="h",
            marker={"color": [FOR if value >= 0 else AGAINST for value in numbers]},
            text=[signed(value, decimals) for value in printed],
            textposition="outside",
            cliponaxis=False,
            customdata=[[html.escape(name), html.escape(about)] for name, _, about in rows],
            hovertemplate="%{customdata[0]}: %{x:+.4g}<br>%{customdata[1]}<extra></extra>",
        )
    )
    of = f" for {html.escape(_short(class_name))}" if class_name else ""
    _dress(figure, f"Bias{of}, constant by constant", f"Together {signed(total, decimals)}.")
    _rows(figure, [shortened(name) for name, _, _ in rows], numbers)
    return figure


def bias_rows(terms: BiasTerms, image: int = 0, most: int = 15) -> list[tuple[str, float, str]]:
    """Return name, value and place of the constants that :func:`bias_bars` draws, in its order."""
    values = _array(terms.values)[image].astype(float)
    order = [int(i) for i in np.argsort(-np.abs(values), kind="stable")]
    kept = order if len(order) <= most else order[: most - 1]
    rows = [
        (terms.names[i], float(values[i]), f"{terms.layers[i] or 'network'}, {terms.operators[i].strip('_')}")
        for i in kept
    ]
    if len(kept) < len(order):
        rest = float(values[order[len(kept) :]].sum())
        rows.append((f"{len(order) - len(kept)} others, together", rest, "each smaller than those above"))
    return rows


def spectrum_figure(spectrum: Spectrum, image: int = 0) -> go.Figure:
    """Draw the singular values of one image's A, strong up to its effective rank."""
    values = _array(spectrum.values)[image].astype(float)
    rank, stable = float(spectrum.effective_rank[image]), float(spectrum.stable_rank[image])
    strong = max(1, round(rank))
    energy = values**2 / max(float((values**2).sum()), np.finfo(float).tiny)
    figure = go.Figure(
        go.Bar(
            x=list(range(1, len(values) + 1)),
            y=values.tolist(),
            marker={
                "color": [PALETTE.accent if i < strong else _faded(PALETTE.accent, 0.45) for i in range(len(values))]
            },
            customdata=energy.tolist(),
            hovertemplate="pattern %{x}<br>gain %{y:.3g}<br>%{customdata:.1%} of the energy<extra></extra>",
        )
    )
    _dress(
        figure,
        "How strongly each pattern is amplified",
        f"{'All' if spectrum.complete else 'The largest'} {len(values)} singular values; "
        f"effective rank {rank:.1f}, stable rank {stable:.1f}.",
    )
    figure.update_xaxes(title="pattern, strongest first", showgrid=False, dtick=max(1, math.ceil(len(values) / 12)))
    figure.update_yaxes(title="singular value", rangemode="tozero")
    figure.update_layout(height=300, **_SMALL)
    return figure


def share_bar(shares: Shares, image: int = 0, names: Sequence[str] = ()) -> go.Figure:
    """Draw how one logit, and its lead over the runner-up, split into pixels and bias: two steps that lead to the sum.

    Args:
        shares: of ``lens.shares``.
        image: its position.
        names: K class names; without them classes go by number.
    """
    target, rival = (class_name(names, int(one[image])) for one in (shares.target, shares.runner_up))
    groups = [
        (f"logit of {target}", float(shares.pixels[image]), float(shares.bias[image])),
        (f"lead over {rival}", float(shares.margin_pixels[image]), float(shares.margin_bias[image])),
    ]
    labels, colours, starts, lengths, texts = [], [], [], [], []
    for whole, *parts in groups:
        printed, total, decimals = adding_up(parts)
        labels += ["pixels", "bias", whole]
        colours += [PIXELS, BIAS, PALETTE.text]
        starts += [0.0, parts[0], 0.0]
        lengths += [*parts, math.fsum(parts)]
        texts += [signed(value, decimals) for value in (*printed, total)]
    place = [0.0, 1.0, 2.0, 3.6, 4.6, 5.6]
    figure = go.Figure(
        go.Bar(
            x=lengths,
            base=starts,
            y=place,
            orientation="h",
            width=0.78,
            marker={"color": colours},
            customdata=[[html.escape(label), text] for label, text in zip(labels, texts, strict=True)],
            hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
        )
    )
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    for y, start, end, text in zip(place, starts, ends, texts, strict=True):
        figure.add_annotation(x=max(start, end), y=y, text=text, showarrow=False, xanchor="left", xshift=3)
    _dress(figure, "Where the answer comes from", "pixels + bias = the number below them")
    _rows(figure, [_short(label) for label in labels], [*starts, *ends], place)
    return figure


def change_bars(
    change: Change, image: int, target: int, fooled_as: int | None = None, names: Sequence[str] = ()
) -> go.Figure:
    """Draw what moved an output when the image changed: three steps that lead from nothing to the whole change.

    Args:
        change: of ``lens.change``.
        image: its position.
        target: the class whose logit is meant.
        fooled_as: the class that won instead: then the lead of ``target`` over it is meant.
        names: K class names; without them classes go by number.

    Raises:
        OptionError: there is no such class.
    """
    steps, total = change_steps(change, image, target, fooled_as)
    printed, whole, decimals = adding_up(steps)
    texts = [signed(value, decimals) for value in (*printed, whole)]
    starts, lengths = [0.0, steps[0], steps[0] + steps[1], 0.0], [*steps, total]
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    means = (
        "the pixels changed, every decision as before",
        "decisions changed how pixels count",
        "decisions changed which constants count",
        "pixels + decisions + bias",
    )
    figure = go.Figure(
        go.Bar(
            x=[0, 1, 2, 3],
            y=lengths,
            base=starts,
            width=0.62,
            marker={"color": [PIXELS, GATES, BIAS, PALETTE.text]},
            customdata=list(zip(texts, means, strict=True)),
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
        )
    )
    thread = {"color": PALETTE.text, "width": 1, "dash": "dot"}
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if i < 3:  # where one step ends, the next begins
            figure.add_shape(type="line", x0=i - 0.31, x1=i + 1.31, y0=end, y1=end, line=thread)
        figure.add_annotation(x=i, y=max(start, end), text=texts[i], showarrow=False, yanchor="bottom", yshift=1)
    about = f"logit of {class_name(names, target)}"
    if fooled_as is not None and fooled_as != target:
        about = f"lead of {class_name(names, target)} over {class_name(names, fooled_as)}"
    _dress(figure, "What the attack changed", html.escape(_short(f"In the {about}", 70)))
    figure.update_xaxes(
        tickvals=[0, 1, 2, 3],
        ticktext=["pixels", "decisions", "bias", "whole change"],
        showgrid=False,
        zeroline=False,
        tickangle=0,
    )
    low, high = min(0.0, *ends), max(0.0, *ends)
    pad = 0.14 * ((high - low) or 1.0)
    figure.update_yaxes(range=[low - 0.3 * pad, high + pad], zeroline=True, zerolinecolor=PALETTE.text)
    figure.update_layout(height=300, margin={"b": 32})
    return figure


def change_steps(
    change: Change, image: int, target: int, fooled_as: int | None = None
) -> tuple[tuple[float, float, float], float]:
    """Return what pixels, decisions and bias moved, and the whole change; as :func:`change_bars` draws it.

    Raises:
        OptionError: there is no such class.
    """
    found = []
    for term in (change.pixels, change.gates, change.bias, change.total):
        row = _array(term)[image].reshape(-1).astype(float)
        rival = target if fooled_as is None else fooled_as
        if not (0 <= target < len(row) and 0 <= rival < len(row)):
            raise OptionError("there is no such class", f"{target}, {rival}", f"Choose 0 to {len(row) - 1}.")
        found.append(float(row[target] - (row[rival] if rival != target else 0.0)))
    return (found[0], found[1], found[2]), found[3]


def agreement_bars(agreement: GateAgreement, image: int = 0) -> go.Figure:
    """Draw, unit by unit in the order of the network, which share of the decisions stayed as they were."""
    share = _array(agreement.values)[image].astype(float).tolist()
    units = zip(agreement.layers, agreement.operators, strict=True)
    names = [f"{layer or 'network'} {operator.strip('_')}" for layer, operator in units]
    smooth = [kind == "factor" for kind in agreement.kinds]
    measure = ["likeness (cosine) of" if one else "unchanged, of" for one in smooth]
    sizes = [f"{size:,} {'factors' if one else 'decisions'}" for size, one in zip(agreement.sizes, smooth, strict=True)]
    place = list(range(1, len(share) + 1))
    listed = len(share) <= _NAMED
    value = "%{x:.2%}" if listed else "%{y:.2%}"
    figure = go.Figure(
        go.Scatter(
            x=share if listed else place,
            y=place if listed else share,
            mode="markers",
            marker={
                "size": 9 if listed else 7,
                "color": [BIAS if one else GATES for one in smooth],
                "symbol": ["diamond" if one else "circle" for one in smooth],
            },
            cliponaxis=False,
            customdata=[[html.escape(name), *rest] for name, *rest in zip(names, measure, sizes, strict=True)],
            hovertemplate=f"%{{customdata[0]}}<br>{value} %{{customdata[1]}} %{{customdata[2]}}<extra></extra>",
        )
    )
    factors = " Diamonds: likeness of factors." if any(smooth) else ""
    _dress(figure, "Whose decisions agree", f"Circles: decisions that stayed.{factors}")
    low = min([*share, 0.99])
    span = {"range": [low - 0.06 * (1 - low), 1 + 0.02 * (1 - low)], "tickformat": ".0%" if low < 0.95 else ".1%"}
    if listed:
        figure.update_xaxes(**span, nticks=5)
        labels = [html.escape(shortened(name)) for name in names]
        figure.update_yaxes(tickvals=place, ticktext=labels, autorange="reversed", zeroline=False)
        figure.update_layout(height=120 + 22 * len(share), margin={"b": 36}, title={"xref": "container"})
    else:
        figure.update_yaxes(**span, nticks=6)
        figure.update_xaxes(title="unit, from input to output", showgrid=False)
        figure.update_layout(height=320, title={"xref": "container"}, **_SMALL)
    return figure


_SMALL = {"xaxis_title_font_size": 13, "yaxis_title_font_size": 13}


def _rows(
    figure: go.Figure, labels: Sequence[str], numbers: Sequence[float], place: Sequence[float] | None = None
) -> None:
    """Lay out horizontal bars: labels on the left, the first one on top, and room for numbers beside the bars."""
    low, high = min(0.0, *numbers, 0.0), max(0.0, *numbers, 0.0)
    pad = 0.34 * ((high - low) or 1.0)
    left = low - pad if low < 0 and place is None else low
    figure.update_xaxes(range=[left, high + pad], zeroline=True, zerolinecolor=PALETTE.text, nticks=5)
    figure.update_yaxes(
        tickvals=list(place or range(len(labels))),
        ticktext=[html.escape(label) for label in labels],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    rows = max(len(labels), 1)
    figure.update_layout(height=110 + 28 * rows, margin={"b": 32}, title={"xref": "container"})
