"""A picture and its votes, to be clicked: the pixel under the pointer, and what it does to every class.

It is a fragment: a click draws this part of the page again, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from .pictures import chart
from .text import plain

if TYPE_CHECKING:
    from torch import Tensor

    from .apart import Shown

_STEP = 0.1  # of the range of a pixel
# Two quick clicks on two pixels are no double click.
CLICKS = {"displayModeBar": False, "doubleClick": False, "doubleClickDelay": 1}
_QUESTIONS = {"votes": "As it is", "brighter": f"{_STEP:g} brighter"}


@st.fragment
def section(shown: Shown, index: int) -> None:
    """Draw the pair of pictures with the sums of their votes on the left, the chosen pixel on the right."""
    height, width = shown.photos.images.images.shape[2:]
    row_key, column_key = (f"linear {axis} {shown.key} {index}" for axis in ("row", "column"))
    if row_key not in st.session_state:
        loudest = int(shown.found.votes[index].abs().argmax())
        st.session_state[row_key], st.session_state[column_key] = divmod(loudest, width)
    left, right = st.columns([11, 10], gap="medium")
    with right, st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        row = st.number_input("Row", 0, height - 1, key=row_key, width=100, persist_state="session")
        column = st.number_input("Column", 0, width - 1, key=column_key, width=100, persist_state="session")
        question = st.segmented_control(
            "What the pixel does", list(_QUESTIONS), format_func=_QUESTIONS.__getitem__, default="votes",
            required=True, key="linear question", label_visibility="collapsed", persist_state="session",
        )  # fmt: skip
    with left:
        st.caption(
            ":material/ads_click: Click a pixel in either picture; at first it is the one with the loudest vote."
        )
        _pair(shown, index, (row, column), row_key, column_key)
        _equations(shown, index)
    with right:
        _bars(shown, index, (row, column), question or "votes")


def _pair(shown: Shown, index: int, pixel: tuple[int, int], row_key: str, column_key: str) -> None:
    from ..report import clickable, figures

    votes, target = shown.found.votes, shown.model.class_name(int(shown.found.target[index]))
    scale = figures.shared_scale(votes)
    figure = clickable.picture_and_votes(
        shown.photos.images.images[index], votes[index], scale, pixel, ("as the model saw it", f"votes for {target}")
    )
    key = f"linear pair {shown.key} {index}"
    st.plotly_chart(
        figure, theme=None, config=CLICKS, key=key, selection_mode="points",
        on_select=lambda: clicked(key, row_key, column_key),
        alt=f"{shown.photos.images.ids[index]} and the votes of its pixels for {target}; a click chooses a pixel.",
    )  # fmt: skip
    st.html(_legend(scale))


def clicked(key: str, row_key: str, column_key: str) -> None:
    """Take over the pixel that was clicked in the chart ``key``: into the boxes with row and column."""
    points = st.session_state[key].selection.points
    if points:
        st.session_state[row_key], st.session_state[column_key] = int(points[0]["y"]), int(points[0]["x"])


def _legend(scale: float) -> str:
    from ..report import figures

    bar = f"flex:1;height:.6rem;border-radius:.2rem;background:{figures.gradient_css(signed=True)}"
    return (
        '<div style="display:flex;align-items:center;gap:.6rem;font-size:.8rem">'
        f'<span style="opacity:.65">against −{scale:.2g}</span>'
        f'<div role="img" aria-label="colour scale from −{scale:.2g} to {scale:.2g}" style="{bar}"></div>'
        f'<span style="opacity:.65">for +{scale:.2g}</span></div>'
    )


def _equations(shown: Shown, index: int) -> None:
    shares = shown.found.shares
    target, rival = (shown.model.class_name(int(one[index])) for one in (shares.target, shares.runner_up))
    _equation("logit", f"Logit of {target}", shares.pixels[index], shares.bias[index])
    _equation("lead", f"Lead over {rival}", shares.margin_pixels[index], shares.margin_bias[index])


def _equation(key: str, what: str, pixels: Any, bias: Any) -> None:
    """Draw a sum of two numbers; as printed, it is one."""
    from ..report.numbers import adding_up, signed

    exact = float(pixels), float(bias)
    (left, right), total, decimals = adding_up(exact)
    told = f"Before rounding: {signed(sum(exact), 6)} = {signed(exact[0], 6)} {signed(exact[1], 6)}"
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", key=f"linear-sum-{key}"):
        st.metric(plain(what), signed(total, decimals), help=plain(told), width="content")
        st.markdown("=", width="content")
        st.metric("pixels", signed(left, decimals), width="content")
        st.markdown(plain("+"), width="content")
        st.metric("bias", signed(right, decimals), width="content")


def _bars(shown: Shown, index: int, pixel: tuple[int, int], question: str) -> None:
    from ..report import clickable

    columns = _columns(shown, index, pixel)
    values = shown.found.lens.inputs[index][:, *pixel].to(columns)
    where = f"pixel ({pixel[0]}, {pixel[1]})"
    if question == "votes":
        title, told = f"Votes of {where}", "What it adds to each logit as it is."
        numbers = (columns * values[:, None]).sum(0)
    else:
        title, told = f"{_STEP:g} more in {where}", "What that adds to each logit, decisions as they are."
        numbers = columns.sum(0) * _STEP
    figure = clickable.class_bars(numbers, shown.model.classes, title, told)
    chart(figure, "linear pixel", f"{title}. {told}")
    if question == "votes" and not values.any():
        st.caption(":material/info: This pixel is zero, so it casts no vote; see what making it brighter would do.")


def _columns(shown: Shown, index: int, pixel: tuple[int, int]) -> Tensor:
    """Return the columns of A that belong to a pixel, one per channel: ``(C, K)``."""
    import torch

    lens = shown.found.lens.pick(index)
    return torch.cat([lens.column((channel, *pixel)) for channel in range(lens.inputs.shape[1])])
