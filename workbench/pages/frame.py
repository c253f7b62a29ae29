"""What every page has around its own form and result: a title, the model and the images, the class, the latest result.

A page hands over the function that draws the rest; until the engine is imported and both model and images are there, the
frame says what is awaited, missing or wrong.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import streamlit as st

from . import engine, jobs, loading, modelcard
from .loading import Loaded, Photos
from .text import errors_shown, plain, show_error

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from ..models import VisionModel
    from .sidebar import Choice, ImageChoice, ModelChoice


class Result(Protocol):
    """What a page keeps of a run: at least which model and which images it belongs to."""

    model: VisionModel

    @property
    def images_told(self) -> str:
        """The images in words, such as "8 images"."""
        ...


R = TypeVar("R", bound=Result)

_PREDICTED = -1
_STALE = ":material/history:"

# The first result should be seen without scrolling.
_COMPACT = """<style>
.stMainBlockContainer { padding: 2.5rem 2rem; }
.stMainBlockContainer h1 { font-size: 1.9rem; padding: 0; }
.stMainBlockContainer h2 { font-size: 1.3rem; padding: .4rem 0 0; }
.st-key-model-card pre { padding: .3rem .6rem; }
@media (max-width: 768px) { .stMainBlockContainer { padding: 4rem 1.25rem; } }
</style>"""


def page(title: str, about: str, choice: Choice, work: Callable[[Choice, Loaded, Photos], None]) -> None:
    """Draw title and model card for what the sidebar says, then call ``work`` with the loaded model and images."""
    st.html(_COMPACT)
    st.title(title, anchor=False)
    st.caption(about)
    place = st.empty()
    with errors_shown():
        if not engine.is_ready():
            with place.container():
                _waiting()
            try:
                engine.wait()
            finally:
                place.empty()
        loaded = _model(choice.model)
        photos = None if loaded is None else _photos(choice.images, loaded)
        if loaded is None or photos is None:
            jobs.forget()
        else:
            work(choice, loaded, photos)


def class_box(place: DeltaGenerator, loaded: Loaded) -> int | None:
    """Draw the choice of a class, the same on every page; ``None`` stands for what is predicted for each image."""
    names = loaded.model.classes

    def label(index: int) -> str:
        if index == _PREDICTED:
            return "what the model predicts for each image"
        return f"{index}: {names[index]}" if names else f"class {index}"

    classes = [_PREDICTED, *range(loaded.model.num_classes)]
    key = f"class {loaded.model.digest}"
    target = place.selectbox("Class to explain", classes, format_func=label, key=key, persist_state="session")
    return None if target == _PREDICTED else target


def latest(results: OrderedDict[str, R], key: str) -> R:
    """Return the result to show: the one of ``key`` if there is one, else the newest, with a line that says so."""
    if key in results:
        results.move_to_end(key)
    newest = next(reversed(results.values()))
    if key not in results:
        made = f"with {plain(newest.model.name)} on {newest.images_told}"
        st.warning(
            f"The choices above have changed since this was made, {made}. Run to see what they give.", icon=_STALE
        )
    return newest


def keep(results: OrderedDict[str, R], key: str, result: R, most: int) -> None:
    """Store a result, and of the older ones only so many."""
    results[key] = result
    while len(results) > most:
        results.popitem(last=False)


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
