"""The page "Explain": choose methods, run them, look at the maps, measure robustness, take the report home.

A first picture comes by itself, on sample data; everything else waits for a button that says what it costs.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from . import frame, gallery, jobs, recipe, robustness
from .gallery import Shown
from .loading import Loaded, Photos
from .text import count, plain

if TYPE_CHECKING:
    from explain import Method

    from .sidebar import Choice

_DEFAULT = ("saliency", "guided_backprop", "gradcam++")
_KEPT = 3  # results per session: maps of a few dozen photos are tens of megabytes
_AUTOMATIC = ""
_VISITED = "had a first picture"


@dataclass(frozen=True)
class Request:
    """What to compute: method names, the class (``None``: predicted), the layer (``None``: automatic)."""

    methods: tuple[str, ...]
    target: int | None
    layer: str | None


def page(choice: Choice) -> None:
    """Draw the page for what the sidebar says."""
    frame.page(
        "Why does it decide so?",
        "Maps of the pixels and regions that a classifier's answer hangs on, and how easily that answer is changed.",
        choice,
        _work,
    )


def _work(choice: Choice, loaded: Loaded, photos: Photos) -> None:
    """Draw the three steps: form, run, result."""
    st.header("Choose", anchor=False)
    request = _form(loaded)
    results: OrderedDict[str, Shown] = st.session_state.setdefault("results", OrderedDict())
    key = f"{loaded.model.digest} {loaded.model.preset} {photos.images.digest} {request}"
    if request.methods:
        _run(choice, loaded, photos, request, key)
    else:
        st.info("Choose at least one method.")
    if not results:
        return
    st.header("Look", anchor=False)
    latest = frame.latest(results, key)
    gallery.draw(latest)
    with st.expander("Copy as Python", icon=":material/code:"):
        st.code(latest.recipe, language="python")
    st.header("Shake it", anchor=False)
    robustness.section(latest)


def _form(loaded: Loaded) -> Request:
    """Draw the choice of methods, class and layer; what cannot work is disabled, with the reason."""
    from explain import METHODS

    boxes, reasons = st.container(horizontal=True, gap="medium", key="methods"), st.container()
    left, right = st.columns(2)
    target = frame.class_box(left, loaded)
    layer = _AUTOMATIC
    if loaded.layers:
        automatic = f"automatic: {loaded.automatic_layer or 'none fits'}"
        shapes = {one.name: "×".join(map(str, one.shape or ())) for one in reversed(loaded.layers)}
        layer = right.selectbox(
            "Layer for class activation maps", [_AUTOMATIC, *shapes], key=f"layer {loaded.model.digest}", persist_state="session",
            format_func=lambda name: f"{name} ({shapes[name]})" if name else automatic,
        )  # fmt: skip
    idle = {name: why for name, why in loaded.inapplicable.items() if not (layer and "layer" in METHODS[name].needs)}
    with boxes:
        chosen = [method.name for method in METHODS.values() if _box(method, disabled=method.name in idle)]
    by_reason: dict[str, list[str]] = {}
    for name, why in idle.items():
        by_reason.setdefault(why, []).append(METHODS[name].title)
    for why, titles in by_reason.items():
        reasons.caption(f":material/block: {', '.join(titles)}: not for this network, {plain(why)}")
    return Request(tuple(chosen), target, layer or None)


def _box(method: Method, disabled: bool) -> bool:
    """Draw one method; return whether it is wanted."""
    return st.checkbox(
        method.title,
        method.name in _DEFAULT and not disabled,
        key=f"method {method.name}{' off' if disabled else ''}",  # one key would keep the tick of a network that can
        help=f"{method.description}\n\n{method.paper}",
        disabled=disabled,
        width="content",
        persist_state="session",
    )


def _cost(methods: tuple[str, ...], images: int) -> str:
    """Say what a run costs: the methods share a forward pass, and all without a backward rule share a backward pass."""
    from explain import METHODS

    backwards = len({name if "relu" in METHODS[name].needs else "plain" for name in methods})
    passes = f"1 forward and {backwards} backward pass{'es' * (backwards > 1)}"
    return f"{passes} for {count(images, 'image')}"


def _run(choice: Choice, loaded: Loaded, photos: Photos, request: Request, key: str) -> None:
    """Draw the button that computes ``request``; on a first visit with samples, compute it at once."""
    import explain

    results: OrderedDict[str, Shown] = st.session_state["results"]
    images, (_, height, width) = photos.images, loaded.model.input_size

    def work(progress: jobs.Progress) -> Shown:
        st.session_state[_VISITED] = True
        found = explain.explain(
            loaded.model, images.images, request.target, request.methods, request.layer,
            ids=images.ids, skip_inapplicable=True, progress=progress,
            batch_size=32 if height * width <= 128 * 128 else 4,  # small enough that Cancel is heard soon
        )  # fmt: skip
        script = recipe.python(
            choice.model, loaded.options, loaded.model, photos,
            request.methods, request.target, request.layer,
        )  # fmt: skip
        return Shown(loaded.model, photos, found, script, recipe.sources(choice))

    jobs.offer(
        "Explaining",
        f"Run: {_cost(request.methods, len(images))}",
        work,
        lambda shown: frame.keep(results, key, shown, _KEPT),
        icon=":material/play_arrow:",
        at_once=_VISITED not in st.session_state and choice.model.is_sample and bool(choice.images.data),
    )
