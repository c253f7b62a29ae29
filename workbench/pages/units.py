"""One unit at a time: click it, and see the pictures that it is most active on; and which units fire on one's own pictures.

Both are fragments: a click draws its part of the page again, and nothing else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import streamlit as st

from .pictures import pick, png, strip
from .pixel import CLICKS
from .text import count, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from torch import Tensor

    from explain.dissection import Fired, LayerDissection

    from .dissected import Shown
    from .loading import Photos

_PICTURES, _WIDTH = 9, 128
_RIVALS = 4  # concepts in the table: the best, and those behind it
_FIRED, _FIRED_WIDTH = 12, 136


@st.fragment
def section(shown: Shown, name: str) -> None:
    """Draw all units of a layer on the left, the chosen one on the right."""
    layer = shown.found[name]
    key = f"dissect unit {shown.key} {name}"
    order = layer.best.argsort(descending=True, stable=True).tolist()
    st.session_state.setdefault(key, order[0])
    with st.container(key="dissect-pair-units"):
        left, right = st.columns([11, 10], gap="medium")
    with right:
        unit = st.selectbox(
            "Unit", order, key=key, format_func=lambda number: _told(layer, number), persist_state="session",
        )  # fmt: skip
        _one(shown, layer, unit if unit is not None else order[0])
    with left:
        st.caption(":material/ads_click: Click a unit in the chart, or choose one from the list.")
        _scatter(shown, layer, st.session_state[key], key)
        _rivals(layer, st.session_state[key])


def _told(layer: LayerDissection, unit: int) -> str:
    name = layer.name(unit)
    return f"unit {unit}: {name}, IoU {float(layer.best[unit]):.3f}" if name else f"unit {unit}: never active"


def _scatter(shown: Shown, layer: LayerDissection, unit: int, key: str) -> None:
    from ..report import dissection

    figure = dissection.units_scatter(layer)
    # The chosen one has a ring, whether it was clicked or not; so a click need not fade the others.
    figure.update_traces(selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 1}})
    _ring(figure, unit)
    chart_key = f"dissect units {shown.key} {layer.layer}"
    st.plotly_chart(
        figure, theme=None, config=CLICKS, key=chart_key, selection_mode="points",
        on_select=lambda: clicked(chart_key, key),
        alt=f"Best IoU of the {len(layer)} units of {layer.layer}, the best first; a click chooses a unit.",
    )  # fmt: skip


def _ring(figure: go.Figure, unit: int) -> None:
    """Draw a ring around the mark of a unit."""
    from ..report.figures import PALETTE

    for trace in list(figure.data):
        places = [i for i, one in enumerate(trace.customdata if trace.customdata is not None else ()) if one == unit]
        for i in places:
            figure.add_scatter(
                x=[trace.x[i]], y=[trace.y[i]], mode="markers", showlegend=False, hoverinfo="skip", cliponaxis=False,
                marker={"size": 17, "symbol": "circle-open", "color": PALETTE.text, "line": {"width": 2.5}},
            )  # fmt: skip


def clicked(chart_key: str, key: str) -> None:
    """Take over the unit that was clicked in a chart into the box ``key``."""
    for point in st.session_state[chart_key].selection.points[:1]:
        number = point["customdata"]
        st.session_state[key] = int(number[0] if isinstance(number, list | tuple) else number)


def _one(shown: Shown, layer: LayerDissection, unit: int) -> None:
    """Draw what is known of one unit, and the pictures that it is most active on."""
    if bool(layer.dead[unit]):
        st.info(
            "This unit is active nowhere: on all pictures it gives the same number, or it is at its greatest too often to "
            "be cut there."
        )
        return
    number = int(layer.concept[unit])
    kind = int(layer.vocabulary.kind[number])
    low, high = float(layer.low[unit, kind]), float(layer.high[unit, kind])
    interval = f"95 % interval: {low:.3f} to {high:.3f}." if math.isfinite(low) else ""
    p = float(layer.p_value[unit])
    least = f"{p:.2g}" if math.isfinite(p) else "–"
    with st.container(horizontal=True, gap="medium", key="dissect-facts"):
        st.metric("IoU", f"{float(layer.best[unit]):.3f}", help=interval, width="content")
        st.metric("95 % interval", f"{low:.2f}–{high:.2f}", width="content") if interval else None
        st.metric(
            "Ceiling", f"{float(layer.attainable[unit, number]):.3f}", width="content",
            help="The IoU if all the pixels that the unit is active on lay in the best places.",
        )  # fmt: skip
        st.metric(
            "Chance p", least, width="content",
            help="How often a unit of this layer matches labels of other pictures as well: the smaller, the less it is chance.",
        )  # fmt: skip
    _gallery(shown, layer, unit)


def _gallery(shown: Shown, layer: LayerDissection, unit: int) -> None:
    import explain

    from ..report import dissection

    if (key := ("top", layer.layer, unit)) not in shown.pictures:
        (top,) = explain.top_images(shown.model, shown.probe, shown.found, layer.layer, [unit], _PICTURES)
        shown.pictures[key] = [
            (png(dissection.region(image, mask)), plain(f"{peak:.2f}"), f"{name}, where unit {unit} is active")
            for name, image, mask, peak in zip(top.ids, top.images, top.masks, top.peaks, strict=True)
        ]
    strip(shown.pictures[key], _WIDTH, "small")
    where = (
        "in colour where it exceeds its threshold" if math.prod(layer.size) > 1 else "which the layer sees as wholes"
    )
    st.caption(f"The pictures that it is most active on, {where}; below, its greatest activation on each.")


def _rivals(layer: LayerDissection, unit: int) -> None:
    """Draw the concept of a unit, and those that come next."""
    import pandas as pd

    if bool(layer.dead[unit]):
        return
    names, best = layer.vocabulary, layer.iou[unit].topk(min(_RIVALS, len(layer.labels)))
    rows = [
        {
            f"What unit {unit} may look for": plain(names.concepts[i]),
            "Category": plain(names.categories[i]),
            "IoU": f"{value:.3f}",
            "Ceiling": f"{float(layer.attainable[unit, i]):.3f}",
        }
        for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    with st.container(key="dissect-rivals"):
        st.table(pd.DataFrame(rows), border="horizontal", hide_index=True, alt=f"The best concepts of unit {unit}.")


# ---- one's own pictures


@st.fragment
def fired_section(shown: Shown, name: str, photos: Photos) -> None:
    """Draw the choice of a picture, and the detectors that fire on it, with the region of each."""
    layer = shown.found[name]
    if not bool(layer.detectors.any()):
        st.caption(f":material/info: {plain(name)} has no detector that could fire.")
        return
    images = photos.images
    index = pick(images, f"dissect-picture {images.digest[:16]}", shown.pictures)
    found = _fired(shown, name, photos, index)
    frame = found.frame()
    if not len(frame):
        st.caption(f":material/info: None of the {count(len(found.units), 'detector')} of {plain(name)} fires here.")
        return
    concepts = ", ".join(plain(one) for one in dict.fromkeys(frame["concept"]))
    st.markdown(
        f"On {plain(images.ids[index])}, **{len(frame)} of {count(len(found.units), 'detector')}** of {plain(name)} "
        f"{'fires' if len(frame) == 1 else 'fire'}: {concepts}."
    )
    rows = list(frame.itertuples())[:_FIRED]
    strip([_overlay(shown, found, images.images[index], row, index) for row in rows], _FIRED_WIDTH, "small")
    if len(frame) > _FIRED:
        st.caption(f"Shown are the {_FIRED} with the largest regions.")


def _fired(shown: Shown, name: str, photos: Photos, index: int) -> Fired:
    import explain

    images = photos.images
    if (key := ("fired", name, images.digest, index)) not in shown.pictures:
        shown.pictures[key] = explain.fired(
            shown.model, images.images[index : index + 1], shown.found, name, ids=images.ids[index : index + 1]
        )
    found: Fired = shown.pictures[key]
    return found


def _overlay(shown: Shown, found: Fired, image: Tensor, row: Any, index: int) -> tuple[bytes, str, str]:
    """Return the picture of one detector's region, its caption and its alternative text."""
    from ..report import dissection

    if (key := ("overlay", found.layer.layer, found.ids, row.unit, index)) not in shown.pictures:
        place = found.units.tolist().index(row.unit)
        shown.pictures[key] = png(dissection.region(image, found.masks[place, 0]))
    what = f"{plain(row.concept)} (unit {row.unit})"
    caption = f"**{plain(row.concept)}** · unit {row.unit}  \n{row.area:.1%} of the picture"
    return shown.pictures[key], caption, f"{found.ids[0]}, where {what} fires"
