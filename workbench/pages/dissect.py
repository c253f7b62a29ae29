"""The page "Dissect": which concept each unit of a network looks for, how well, and whether that is more than chance.

A first result comes by itself, with a sample model; everything else waits for a button that says what it costs. Thresholds
and overlaps are measured on generated shapes, whose every pixel is known; the pictures of the sidebar are looked at with them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import streamlit as st

from ..unit_layers import first_look, units_of
from . import dissected, frame, jobs, loading, recipe
from .dissected import Shown
from .loading import Loaded, Photos
from .text import count

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    import explain

    from .sidebar import Choice

_COUNTS, _DEFAULT_COUNT, _DEFAULT_COUNT_LARGE = (100, 300, 1000), 300, 100
_LARGE, _MOST_LARGE = 128 * 128, 300  # pixels, and images of that size at most: all of them stay in memory
_QUANTILES = (0.005, 0.01, 0.02, 0.05)
_MEMORY = 1 << 28  # bytes for the maps of one run: a server has several visitors
_KEPT = 3  # results per session
_VISITED = "had a first dissection"


@dataclass(frozen=True)
class Request:
    """What to compute: how many probe images, which layers, where to cut, and what to compare with."""

    count: int
    layers: tuple[str, ...]
    quantile: float
    threshold: float
    control: bool
    rotated: bool


def page(choice: Choice) -> None:
    """Draw the page for what the sidebar says."""
    frame.page(
        "What does each unit look for?",
        "Show a network pictures in which every pixel is labelled, and see which label each of its units lights up on.",
        choice,
        _work,
    )


def _work(choice: Choice, loaded: Loaded, photos: Photos) -> None:
    """Draw the three steps: form, run, result."""
    st.header("Choose", anchor=False)
    if not loaded.dissectable:
        jobs.forget()
        st.info(
            "No layer of this network has units to look at: none gives channels over space, tokens or plain numbers."
        )
        return
    request = _form(loaded)
    results: OrderedDict[str, Shown] = st.session_state.setdefault("dissections", OrderedDict())
    key = f"{loaded.model.digest} {loaded.model.preset} {request}"
    if request.layers:
        _run(choice, loaded, request, key)
    else:
        st.info("Choose at least one layer.")
    if not results:
        return
    st.header("Look", anchor=False)
    dissected.draw(frame.latest(results, key), loaded, photos)


# ---- the form


def _form(loaded: Loaded) -> Request:
    """Draw the choice of layers, probe, thresholds and comparisons."""
    shapes = {layer.name: layer for layer in loaded.dissectable}
    layers = st.multiselect(
        "Layers", list(shapes), first_look(loaded.dissectable), format_func=lambda name: f"{name} ({_shape(shapes[name])})",
        key=f"dissect layers {loaded.model.digest}", persist_state="session",
        help="A unit is one channel of a layer. Layers that give neither channels nor plain numbers have no units and are "
        "not listed.",
    )  # fmt: skip
    large = _is_large(loaded)
    counts = [n for n in _COUNTS if not large or n <= _MOST_LARGE]
    with st.container(key="dissect-form"):
        one, two, three, four = st.columns([3, 3, 3, 4], gap="medium", vertical_alignment="top")
    images = one.segmented_control(
        "Generated pictures", counts, default=_DEFAULT_COUNT_LARGE if large else _DEFAULT_COUNT, required=True,
        key=f"dissect images {large}", persist_state="session", format_func=lambda n: f"{n:,}",
        help="The probe: drawings of flowers, houses, cars, trees and fish whose every pixel has a known colour, object, "
        "part, texture and scene, at the size that the model takes. More of them make the intervals narrower.",
    )  # fmt: skip
    quantile = two.selectbox(
        "A unit is active on its top", _QUANTILES, format_func=lambda q: f"{100 * q:g} % of positions",
        key="dissect quantile", persist_state="session",
        help="Where to cut: a unit's threshold is exceeded by this share of all its activations. Bau et al. 2017 take "
        "0.5 %; concepts that cover more of the pictures can only be matched with more.",
    )  # fmt: skip
    threshold = three.number_input(
        "Detector from an IoU above", 0.005, 0.9, 0.04, 0.01, format="%.3g", key="dissect threshold",
        persist_state="session",
        help="IoU, intersection over union: pixels shared by the active region and the concept, divided by the pixels that "
        "either covers. 0.04 is what Bau et al. 2017 take.",
    )  # fmt: skip
    with four, st.container(gap="xsmall"):
        st.markdown(":small[Compare with]")
        control = st.checkbox(
            "the same network, untrained", key="dissect control", persist_state="session",
            help="The same architecture with random weights: what it seems to detect is no achievement of training.",
        )  # fmt: skip
        rotated = st.checkbox(
            "a rotated basis", key="dissect rotated", persist_state="session",
            help="Random mixtures of the units, which carry the same information: if they detect as much, the single units "
            "mean nothing special.",
        )  # fmt: skip
    ordered = tuple(name for name in shapes if name in layers)
    return Request(int(images or counts[0]), ordered, float(quantile), round(float(threshold), 6), control, rotated)


def _shape(layer: explain.Layer) -> str:
    """Say how many units a layer has, and over which grid."""
    units, shape = units_of(layer), layer.shape or ()
    if layer.layout == "NCHW":
        return f"{count(units, 'unit')}, {shape[1]}×{shape[2]}"
    if layer.layout == "NHWC":
        return f"{count(units, 'unit')}, {shape[0]}×{shape[1]}"
    return f"{count(units, 'unit')}, {count(shape[0], 'token')}" if layer.layout == "tokens" else count(units, "unit")


def _is_large(loaded: Loaded) -> bool:
    _, height, width = loaded.model.input_size
    return height * width > _LARGE


# ---- the run


def _cost(loaded: Loaded, request: Request) -> str:
    """Say what a run costs: images go through the network once, or twice where their maps do not fit into memory."""
    chosen = [layer for layer in loaded.dissectable if layer.name in request.layers]
    maps = 4 * request.count * sum(math.prod(layer.shape or ()) for layer in chosen)
    passes = (1 if maps <= _MEMORY else 2) * (1 + request.control + request.rotated) * request.count
    units = sum(units_of(layer) for layer in chosen)
    return f"{count(units, 'unit')} in {count(len(chosen), 'layer')}, {passes:,} forward passes"


def _run(choice: Choice, loaded: Loaded, request: Request, key: str) -> None:
    """Draw the button that computes ``request``; on a first visit with a sample model, compute it at once."""
    import explain

    results: OrderedDict[str, Shown] = st.session_state["dissections"]
    model = loaded.model

    def work(progress: jobs.Progress) -> Shown:
        st.session_state[_VISITED] = True
        channels, *size = model.input_size
        progress(0, 1, "generating pictures")
        probe = loading.generated(request.count, "test", (size[0], size[1]), channels)
        parts = 1 + request.control + request.rotated

        def dissect(name: str, network: Module, basis: dict[str, Tensor] | None = None) -> explain.Dissection:
            part = len(found)
            return explain.dissect(
                network, probe, request.layers, quantile=request.quantile, iou_threshold=request.threshold, basis=basis,
                memory=_MEMORY, batch_size=8 if _is_large(loaded) else 32,
                progress=lambda done, total, what: progress(
                    part * total + done, parts * total, f"{name}: {what}" if parts > 1 else what
                ),
            )  # fmt: skip

        found: dict[str, explain.Dissection] = {}
        found["trained"] = dissect("trained", model)
        if request.control:
            import torch

            few = torch.stack([probe.image(i) for i in range(min(recipe.FITTED, len(probe)))])
            found["untrained"] = dissect("untrained", explain.randomised(model, few))
        if request.rotated:
            turned = {name: explain.random_rotation(len(one)) for name, one in found["trained"].items()}
            found["rotated basis"] = dissect("rotated basis", model, turned)
        return Shown(
            sha256(key.encode()).hexdigest()[:16], model, (choice.model, loaded.options), request, probe, found
        )

    jobs.offer(
        "Dissecting",
        f"Run: {_cost(loaded, request)}",
        work,
        lambda shown: frame.keep(results, key, shown, _KEPT),
        icon=":material/play_arrow:",
        at_once=_VISITED not in st.session_state and choice.model.is_sample,
    )
