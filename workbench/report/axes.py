"""What figures of a dissection share: colours of categories, axes of layers and of named rows, legends, and an empty figure."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from .figures import PALETTE, _dress, _faded, _short
from .numbers import shortened

# Categories that have a colour of their own, in every spelling of the usual probes.
_KNOWN = {"object": 0, "part": 1, "scene": 2, "texture": 3, "color": 4, "colour": 4, "material": 5}
_NAMED = 12  # layers that can all be named below the axis
_ROW = 24  # pixels
_LEGEND = {"orientation": "h", "yref": "container", "y": 0.005, "yanchor": "bottom", "x": 0, "traceorder": "normal"}


def category_colours(kinds: Sequence[str]) -> dict[str, str]:
    """Return one colour per category: a fixed one for the usual categories, so that two probes can be compared.

    Others get what is left, then fainter shades.
    """
    names = list(dict.fromkeys(kinds))
    found = {name: PALETTE.qualitative[_KNOWN[name.lower()]] for name in names if name.lower() in _KNOWN}
    left = [colour for colour in PALETTE.qualitative if colour not in found.values()]
    left += [_faded(colour, 0.5) for colour in PALETTE.qualitative]
    others = [name for name in names if name not in found]
    return {**found, **{name: left[i % len(left)] for i, name in enumerate(others)}}


def legend_below(figure: go.Figure, room: int, **options: Any) -> None:
    """Show the legend in one line below everything.

    Args:
        figure: its margin is set.
        room: pixels below the axis, ticks and title of the axis included.
        options: of the legend, besides.
    """
    figure.update_layout(showlegend=True, legend={**_LEGEND, **options}, margin={"b": room})


def layer_axis(figure: go.Figure, layers: Sequence[str]) -> None:
    """Lay layers out from left to right, by number; of many, some are named."""
    step = math.ceil(len(layers) / _NAMED)
    ticks = list(range(len(layers) - 1, -1, -step))[::-1]  # the last layer always has its name
    figure.update_xaxes(
        tickvals=ticks,
        ticktext=[html.escape(shortened(layers[i], 18)) for i in ticks],
        range=[-0.6, len(layers) - 0.4],
        showgrid=False,
        zeroline=False,
    )


def named_rows(figure: go.Figure, names: Sequence[str], below: int) -> None:
    """Lay out horizontal bars: names on the left, the first one on top.

    Args:
        figure: with bars at 0, 1, 2, …
        names: of the bars.
        below: pixels below them.
    """
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[html.escape(_short(name, 24)) for name in names],
        range=[len(names) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(zeroline=True, zerolinecolor=PALETTE.text)
    figure.update_layout(
        height=72 + below + _ROW * max(len(names), 2), margin={"b": below}, title={"xref": "container"}
    )


def nothing(title: str, what: str, why: str) -> go.Figure:
    """Return a figure that says that there is nothing to draw, and why.

    Args:
        title: as the figure would have; escaped by the caller.
        what: what there is not.
        why: the line below.
    """
    figure = go.Figure()
    _dress(figure, title)
    figure.update_xaxes(visible=False, range=[0, 1])
    figure.update_yaxes(visible=False, range=[0, 1])
    figure.add_annotation(
        text=f"<b>{html.escape(what)}</b><br>{html.escape(why)}",
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
    )
    figure.update_layout(height=200, margin={"b": 24})
    return figure


def axis_titles(figure: go.Figure, x: str | None, y: str | None) -> None:
    """Write what the axes are, no larger than everything else."""
    for axes, text in ((figure.update_xaxes, x), (figure.update_yaxes, y)):
        if text is not None:
            axes(title={"text": text, "font": {"size": 13}, "standoff": 10})


def layer_name(layer: str) -> str:
    """Return a layer's name for a title, escaped."""
    return html.escape(shortened(layer))
