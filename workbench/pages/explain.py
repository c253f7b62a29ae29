"""The page "Explain": choose methods, run them, look at the maps, measure robustness, take the report home.

A first picture comes by itself, on sample data; everything else waits for a button that says what it costs.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from . import engine, gallery, jobs, loading, modelcard, recipe, robustness
from .gallery import Shown
from .loading import Loaded, Photos
from .text import count, errors_shown, plain, show_error

if TYPE_CHECKING:
    from explain import Method

    from .sidebar import Choice, ImageChoice, ModelChoice

_DEFAULT = ("saliency", "guided_backprop", "gradcam++")
_KEPT = 3  # results per session: maps of a few dozen photos are tens of megabytes
_PREDICTED = -1
_AUTOMATIC = ""
_VISITED = "had a first picture"
_STALE = ":material/history:"


# The first maps should be seen without scrolling.
_COMPACT = """<style>
.stMainBlockContainer { padding: 2.5rem 2rem; }
.stMainBlockContainer h1 { font-size: 1.9rem; padding: 0; }
.stMainBlockContainer h2 { font-size: 1.3rem; padding: .4rem 0 0; }
.st-key-model-card pre { padding: .3rem .6rem; }
</style>"""


@dataclass(frozen=True)
class Request:
    """What to compute: method names, the class (``None``: predicted), the layer (``None``: automatic)."""

    methods: tuple[str, ...]
    target: int | None
    layer: str | None


def page(choice: Choice) -> None:
    """Draw the page for what the sidebar says."""
    st.html(_COMPACT)
    st.title("Why does it decide so?", anchor=False)
    st.caption(
        "Maps of the pixels and regions that a classifier's answer hangs on, and how easily that answer is changed."
    )
    place = st.empty()
    with errors_shown():
        if not engine.is_ready():
            with place.container():
                _waiting()
            engine.wait()
            place.empty()
        loaded = _model(choice.model)
        photos = None if loaded is None else _photos(choice.images, loaded)
        if loaded is None or photos is None:
            jobs.forget()
        else:
            _work(choice, loaded, photos)


def _waiting() -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(":material/hourglass_top: Starting the engine … The first picture follows by itself.")
    st.skeleton(height=320)


def _model(choice: ModelChoice) -> Loaded | None:
    """Load the model and draw its card; or draw what is missing or wrong and return nothing."""
    source = loading.identity(choice)
    if not source:
        st.info(_EMPTY_UPLOAD if choice.upload is None and st.session_state["model"] == "upload" else _EMPTY_NETWORK)
        return None
    if not _consented(choice):
        return None
    options = modelcard.options_of(source)
    try:
        with st.spinner("Loading the model …"):
            loaded = loading.load_model(choice, options)
    except Exception as error:
        show_error(error)
        modelcard.ask(source, error)
        return None
    modelcard.card(source, loaded)
    return loaded


_EMPTY_UPLOAD = (
    "**Upload a checkpoint in the sidebar.** A state dict or safetensors file of any torchvision architecture, or a relative "
    "of one: which one it is, is read off its tensors. Nothing in the file is run."
)
_EMPTY_NETWORK = "**Choose a torchvision network in the sidebar.**"


def _consented(choice: ModelChoice) -> bool:
    """Ask before a download: torchvision's weights are up to gigabytes."""
    if choice.upload is not None or choice.is_sample:
        return True
    allowed: set[str] = st.session_state.setdefault("networks", set())
    if choice.source in allowed:
        return True
    from ..models.signatures import signatures

    numbers = sum(math.prod(shape) for shape in signatures()[choice.source].tensors.values())
    st.info(f"**{plain(choice.source)}** has about {4 * numbers / 1e6:,.0f} MB of weights. They are downloaded once.")
    if st.button("Load it", type="primary", icon=":material/download:"):
        allowed.add(choice.source)
        st.rerun()
    return False


def _photos(choice: ImageChoice, loaded: Loaded) -> Photos | None:
    if not choice.data and not choice.uploads:
        st.info("**Upload photos in the sidebar**, one or several.")
        return None
    try:
        with st.spinner("Reading the images …"):
            photos = loading.load_images(choice, loaded.model)
    except Exception as error:
        show_error(error)
        return None
    skipped = (*photos.refused, *photos.images.skipped)
    if skipped:
        lines = "\n".join(f"- {plain(name)}: {plain(reason)}" for name, reason in skipped)
        st.warning(f"{len(skipped)} of the photos were left out:\n\n{lines}")
    return photos


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
    if key in results:
        results.move_to_end(key)
    latest = next(reversed(results.values()))
    if key not in results:
        made = f"with {plain(latest.model.name)} on {count(len(latest.photos.images), 'image')}"
        st.warning(
            f"The choices above have changed since this was made, {made}. Run to see what they give.", icon=_STALE
        )
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
    classes = [_PREDICTED, *range(loaded.model.num_classes)]
    target = left.selectbox(
        "Class to explain", classes, key=f"class {loaded.model.digest}",
        format_func=lambda i: "what the model predicts for each image" if i == _PREDICTED else _class_label(loaded, i),
    )  # fmt: skip
    layer = _AUTOMATIC
    if loaded.layers:
        automatic = f"automatic: {loaded.automatic_layer or 'none fits'}"
        shapes = {one.name: "×".join(map(str, one.shape or ())) for one in reversed(loaded.layers)}
        layer = right.selectbox(
            "Layer for class activation maps", [_AUTOMATIC, *shapes], key=f"layer {loaded.model.digest}",
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
    return Request(tuple(chosen), None if target == _PREDICTED else target, layer or None)


def _class_label(loaded: Loaded, index: int) -> str:
    return f"{index}: {loaded.model.classes[index]}" if loaded.model.classes else f"class {index}"


def _box(method: Method, disabled: bool) -> bool:
    """Draw one method; return whether it is wanted."""
    return st.checkbox(
        method.title,
        method.name in _DEFAULT and not disabled,
        key=f"method {method.name}{' off' if disabled else ''}",  # one key would keep the tick of a network that can
        help=f"{method.description}\n\n{method.paper}",
        disabled=disabled,
        width="content",
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

    def keep(shown: Shown) -> None:
        results[key] = shown
        while len(results) > _KEPT:
            results.popitem(last=False)

    jobs.offer(
        "Explaining",
        f"Run: {_cost(request.methods, len(images))}",
        work,
        keep,
        icon=":material/play_arrow:",
        at_once=_VISITED not in st.session_state and choice.model.is_sample and bool(choice.images.data),
    )
