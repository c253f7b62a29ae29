"""A picture beside its votes, to be clicked pixel by pixel, and what one pixel does to every class.

Plotly reports clicks on markers, not on pictures: over both pictures lies a grid of invisible markers, one per pixel, or one
per block of pixels where a picture has too many.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .figures import PALETTE, _array, _dress, _short, to_png_bytes, to_rgb
from .linear import AGAINST, FOR
from .numbers import adding_up, class_name, signed
from .patterns import vote_overlay

_GRID = 64  # markers along the longer side: 64 × 64 are drawn in a tenth of a second
_SMOOTH = 100  # pixels: with more, a picture is interpolated, with fewer its squares are what is looked at
_MARK = 32  # the frame around the chosen pixel is at least this fraction of the picture
_GAP = 0.02


def picture_and_votes(
    image: Any, votes: Any, scale_max: float, pixel: tuple[int, int], titles: Sequence[str]
) -> go.Figure:
    """Draw a picture and its vote map side by side, with a frame around one pixel in both.

    A click selects a marker, whose ``x`` and ``y`` are column and row of a pixel.

    Args:
        image: ``(C, H, W)`` in [0, 1].
        votes: ``(H, W)``.
        scale_max: the magnitude shown as the strongest colour.
        pixel: row and column of the chosen pixel.
        titles: what is written below the two.
    """
    values = _array(votes).astype(np.float32)
    height, width = values.shape
    figure = go.Figure()
    for number, pixels in enumerate((to_rgb(image), vote_overlay(image, values, scale_max))):
        figure.add_traces(_pane(pixels, values, xaxis=f"x{number + 1}", yaxis=f"y{number + 1}"))
    _dress(figure, "")
    for number, title in enumerate(titles):
        low, high = (0.0, 0.5 - _GAP / 2) if number == 0 else (0.5 + _GAP / 2, 1.0)
        name = str(number + 1)
        hidden = {"visible": False, "fixedrange": True, "constrain": "domain"}
        figure.update_layout(
            {
                f"xaxis{name}": {**hidden, "domain": [low, high], "range": [-0.5, width - 0.5], "anchor": f"y{name}"},
                f"yaxis{name}": {
                    **hidden, "range": [height - 0.5, -0.5], "anchor": f"x{name}", "scaleanchor": f"x{name}",
                    "constraintoward": "bottom",
                },
            }
        )  # fmt: skip
        figure.add_annotation(
            text=html.escape(title), x=(low + high) / 2, y=0, xref="paper", yref="paper",
            xanchor="center", yanchor="top", yshift=-4, showarrow=False,
        )  # fmt: skip
        _frame(figure, pixel, max(1.0, max(height, width) / _MARK), f"x{name}", f"y{name}")
    figure.update_layout(
        title=None, height=258, margin={"l": 0, "r": 0, "t": 0, "b": 26}, clickmode="event+select", dragmode=False,
        hoverdistance=30,
    )  # fmt: skip
    return figure


def picture(image: Any, pixel: tuple[int, int]) -> go.Figure:
    """Draw one picture with a frame around a pixel; a click selects a marker as in :func:`picture_and_votes`.

    Args:
        image: ``(C, H, W)`` in [0, 1].
        pixel: row and column of the chosen pixel.
    """
    pixels = to_rgb(image)
    height, width = pixels.shape[:2]
    figure = go.Figure(_pane(pixels))
    _dress(figure, "")
    hidden = {"visible": False, "fixedrange": True, "constrain": "domain"}
    figure.update_xaxes({**hidden, "range": [-0.5, width - 0.5]})
    figure.update_yaxes({**hidden, "range": [height - 0.5, -0.5], "scaleanchor": "x"})
    _frame(figure, pixel, max(1.0, max(height, width) / _MARK), "x", "y")
    figure.update_layout(
        title=None, height=320, margin={"l": 0, "r": 0, "t": 0, "b": 0}, clickmode="event+select", dragmode=False,
        hoverdistance=30,
    )  # fmt: skip
    return figure


def class_bars(values: Any, names: Sequence[str], title: str, subtitle: str = "", most: int = 10) -> go.Figure:
    """Draw one number per class, in the order of the classes; with many classes, the largest numbers in order.

    Args:
        values: ``(K,)``.
        names: K class names; without them classes go by number.
        title: what the numbers are.
        subtitle: the line below.
        most: how many bars to draw.
    """
    numbers = _array(values).astype(float)
    order = list(range(len(numbers)))
    if len(order) > most:
        order = np.argsort(-np.abs(numbers), kind="stable")[:most].tolist()
        subtitle = f"{subtitle} The {most} strongest of {len(numbers):,} classes.".strip()
    labels, kept = [html.escape(_short(class_name(names, i))) for i in order], [float(numbers[i]) for i in order]
    decimals = max(0, adding_up(kept)[2] - 1)  # three digits for the largest
    rows = list(range(len(order)))  # by number: two classes of one name stay two bars
    figure = go.Figure(
        go.Bar(
            x=kept,
            y=rows,
            orientation="h",
            marker={"color": [FOR if value >= 0 else AGAINST for value in kept]},
            text=[signed(value, decimals) for value in kept],
            textposition="outside",
            cliponaxis=False,
            customdata=list(zip(labels, order, strict=True)),
            hovertemplate="%{customdata[0]} (class %{customdata[1]}): %{x:+.4g}<extra></extra>",
        )
    )
    _dress(figure, html.escape(title), html.escape(subtitle))
    low, high = min(0.0, *kept), max(0.0, *kept)
    room = 0.36 * ((high - low) or 1.0)  # for the numbers beside the bars
    figure.update_xaxes(
        range=[low - room if low else 0, high + room], zeroline=True, zerolinecolor=PALETTE.text, nticks=5
    )
    figure.update_yaxes(tickvals=rows, ticktext=labels, autorange="reversed", showgrid=False, zeroline=False)
    figure.update_layout(height=100 + 28 * len(rows), margin={"b": 32}, title={"xref": "container"})
    return figure


def _pane(pixels: np.ndarray, votes: np.ndarray | None = None, **axes: str) -> tuple[go.Image, go.Scatter]:
    """Return a picture, and the markers over it that answer to clicks."""
    height, width = pixels.shape[:2]
    step = -(-max(height, width) // _GRID)
    rows, columns = (np.arange(step // 2, size, step, dtype=np.int32) for size in (height, width))
    y, x = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    source = "data:image/png;base64," + base64.b64encode(to_png_bytes(pixels)).decode()
    smooth = "fast" if max(height, width) > _SMOOTH else False
    unseen = {"marker": {"opacity": 0}}
    told = "" if votes is None else "<br>vote %{customdata:+.3g}"
    markers = go.Scatter(
        x=x, y=y, mode="markers", marker={"opacity": 0, "size": 5}, selected=unseen, unselected=unseen,
        customdata=None if votes is None else votes[y, x],
        hovertemplate=f"row %{{y}}, column %{{x}}{told}<extra></extra>", **axes,
    )  # fmt: skip
    return go.Image(source=source, zsmooth=smooth, hoverinfo="skip", **axes), markers


def _frame(figure: go.Figure, pixel: tuple[int, int], size: float, xref: str, yref: str) -> None:
    """Draw a frame that is seen on light and on dark pixels."""
    (row, column), half = pixel, size / 2
    box = {"x0": column - half, "x1": column + half, "y0": row - half, "y1": row + half, "xref": xref, "yref": yref}
    for colour, line in (("#000000", 4), ("#ffffff", 2)):
        figure.add_shape(type="rect", line={"color": colour, "width": line}, **box)
