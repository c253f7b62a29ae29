"""The last part of the page "Linear": the sample network that returns pictures, one pixel of its answer at a time.

For such a network a row of A is a filter over the input and a column an answer to an impulse. Click a pixel and see both:
the interpolation that the network made up for this place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from .pictures import png, strip
from .pixel import CLICKS, clicked

if TYPE_CHECKING:
    from explain.linear import LinearInterpreter

_NAME = "sample:shapes-sr"
_IMAGES = 6
_WIDTH = 110
_SCRIPT = """import explain
import workbench as wb

model = wb.load_image_model("sample:shapes-sr")
images = wb.shrink(wb.sample_data("shapes", n={count}).images)
lens = explain.linear_interpreter(model, images)
lens.rows([(c, {row}, {column}) for c in range(3)])[{index}]  # how the pixel weighs the input, for each of its colours
lens.column((0, {above}, {left}))[{index}]  # what more red in the pixel beneath adds to the answer
"""


def section() -> None:
    """Draw the switch; once it is on, the picture, the chosen pixel and what belongs to it."""
    st.header("A network that returns pictures", anchor=False)
    st.markdown(
        "The same works where the answer is a picture: each of its numbers is a weighted sum of the input plus a bias. The "
        "sample doubles the size of pictures, with another interpolation at every place."
    )
    if st.toggle("Open it up, pixel by pixel", key="enlarging", persist_state="session"):
        _explorer()


@st.cache_resource(show_spinner="Opening the sample up ...", max_entries=1)
def _lens() -> LinearInterpreter:
    import explain
    import workbench as wb

    images = wb.shrink(wb.sample_data("shapes", n=_IMAGES).images)
    return explain.linear_interpreter(wb.load_image_model(_NAME), images)


@st.fragment
def _explorer() -> None:
    lens = _lens()
    height, width = lens.outputs.shape[2:]
    index = int(st.segmented_control(
        "Picture", range(_IMAGES), format_func=lambda i: str(i + 1), default=0, required=True, key="enlarging picture",
        persist_state="session",
    ) or 0)  # fmt: skip
    left, right = st.columns([11, 10], gap="medium")
    with right, st.container(horizontal=True, gap="small"):
        row = st.number_input("Row ", 0, height - 1, height * 5 // 8, key="enlarging row", persist_state="session")
        column = st.number_input("Column ", 0, width - 1, width // 3, key="enlarging column", persist_state="session")
    with left:
        st.caption(":material/ads_click: Click a pixel of the enlarged picture.")
        _answer(lens, index, (row, column))
    with right:
        _kernels(lens, index, (row, column))


def _answer(lens: LinearInterpreter, index: int, pixel: tuple[int, int]) -> None:
    from ..report import clickable

    key = f"enlarging answer {index}"
    st.plotly_chart(
        clickable.picture(lens.outputs[index].clamp(0, 1), pixel), theme=None, config=CLICKS, key=key,
        selection_mode="points", on_select=lambda: clicked(key, "enlarging row", "enlarging column"),
        alt="The enlarged picture; a click chooses one of its pixels.",
    )  # fmt: skip


def _kernels(lens: LinearInterpreter, index: int, pixel: tuple[int, int]) -> None:
    """Draw rows and columns of A around the pixel, and the sums that the pixel is."""
    import torch

    from ..report.numbers import adding_up, plain
    from ..report.pixel_page import COLOURS, cut_out

    one, colours = lens.pick(index), COLOURS[lens.outputs.shape[1]]
    scale = lens.outputs.shape[2] // lens.inputs.shape[2]
    beneath = pixel[0] // scale, pixel[1] // scale
    filters = one.rows([(channel, *pixel) for channel in range(len(colours))])[0]
    impulses = torch.cat([one.column((channel, *beneath)) for channel in range(lens.inputs.shape[1])])
    st.markdown("**Filters**: how the pixel weighs the input, for each of its colours (rows of A)")
    _strip(cut_out(filters, beneath, colours, "Weights of the input for {}"))
    st.markdown("**Impulse responses**: what more of one colour in the pixel beneath adds to the answer (columns of A)")
    _strip(cut_out(impulses, pixel, colours, "Answer to one more {}"))
    st.caption("Grey is zero; shown is the root of each weight, or the strongest would hide all others.")
    sums = []
    for channel, colour in enumerate(colours):
        bias = float(one.bias[0, channel, *pixel])
        (weighted, rest), value, decimals = adding_up((float((filters[channel] * one.inputs[0]).sum()), bias), 4)
        sign = "−" if rest < 0 else "+"
        sums.append(
            f"{colour} {plain(value, decimals)} = {plain(weighted, decimals)} {sign} {plain(abs(rest), decimals)}"
        )
    st.caption("Weighted pixels + bias: " + " · ".join(sums))
    with st.expander("Copy as Python"):
        st.code(_SCRIPT.format(
            count=_IMAGES, index=index, row=pixel[0], column=pixel[1], above=beneath[0], left=beneath[1]
        ), language="python")  # fmt: skip


def _strip(pictures: Any) -> None:
    strip([(png(picture.pixels), picture.caption, picture.alt) for picture in pictures], _WIDTH)
