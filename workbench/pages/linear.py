"""The page "Linear": freeze what a network decides on each picture, and take the linear map that remains apart.

A first result comes by itself, on sample data; everything else waits for a button that says what it costs.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import streamlit as st

from ..errors import ModelError
from . import apart, enlarging, frame, jobs, recipe
from .apart import Shown
from .loading import Loaded, Photos
from .text import count

if TYPE_CHECKING:
    from .sidebar import Choice

_MOST, _MOST_LARGE = 16, 4  # images: every decision of a network on every image stays in memory
_LARGE = 128 * 128  # pixels
_KEPT = 2  # results per session, for the same reason
_ITERATED = 170  # passes for the leading singular values where there are too many outputs to compute all
_VISITED = "had a first linear map"
_SPACES = {
    "raw": ("Black, in pixels from 0 to 1", "A black pixel casts no vote."),
    "normalised": ("The mean, as the network gets it", "A pixel of average colour casts no vote."),
}
_MODES = {
    "secant": ("Secant", "Output ÷ input: a factor, as in the paper."),
    "tangent": ("Tangent", "The slope; what it misses counts as bias."),
}


@dataclass(frozen=True)
class Request:
    """What to compute: the class (``None``: predicted), what x is, and how smooth units are frozen."""

    target: int | None
    space: str
    mode: str


def page(choice: Choice) -> None:
    """Draw the page for what the sidebar says."""
    frame.page(
        "What adds up to the answer?",
        "Freeze every decision taken on a picture, and a linear map remains: pixels vote, constants add a bias, the sum is "
        "the answer.",
        choice,
        _work,
    )


def _work(choice: Choice, loaded: Loaded, photos: Photos) -> None:
    """Draw the three steps: form, run, result."""
    st.header("Choose", anchor=False)
    request = _form(loaded)
    results: OrderedDict[str, Shown] = st.session_state.setdefault("linear results", OrderedDict())
    few = _first(photos, _MOST_LARGE if _is_large(loaded) else _MOST)
    key = f"{loaded.model.digest} {loaded.model.preset} {few.images.digest} {request}"
    _run(choice, loaded, few, request, key)
    if len(few.images) < len(photos.images):
        st.caption(
            f":material/info: The first {len(few.images)} of the {len(photos.images)} images: "
            "all decisions on each are kept in memory."
        )
    if not results:
        return
    st.header("Look", anchor=False)
    apart.draw(frame.latest(results, key))
    enlarging.section()


def _form(loaded: Loaded) -> Request:
    """Draw the choice of class, space and mode."""
    one, two, three = st.columns([1, 1, 1], gap="medium")
    target = frame.class_box(one, loaded)
    space = two.radio(
        "What counts as zero", list(_SPACES), format_func=lambda name: _SPACES[name][0], key="linear space",
        captions=[caption for _, caption in _SPACES.values()], persist_state="session",
        help="The split into votes and bias hangs on it: what is zero casts no vote, and the bias is the rest.",
    )  # fmt: skip
    mode = three.radio(
        "How bent units are frozen", list(_MODES), format_func=lambda name: _MODES[name][0], key="linear mode",
        captions=[caption for _, caption in _MODES.values()], persist_state="session",
        help="GELU, SiLU, Hardswish and their kin; with tangents, A is the Jacobian. For a network of ReLUs and max-pooling "
        "both are the same.",
    )  # fmt: skip
    return Request(target, space, mode)


def _is_large(loaded: Loaded) -> bool:
    _, height, width = loaded.model.input_size
    return height * width > _LARGE


def _first(photos: Photos, most: int) -> Photos:
    """Return the images that are taken apart."""
    if len(photos.images) <= most:
        return photos
    line = f"images = images.subset(slice({most}))"
    return replace(photos, images=photos.images.subset(slice(most)), recipe=(*photos.recipe, line))


def _run(choice: Choice, loaded: Loaded, photos: Photos, request: Request, key: str) -> None:
    """Draw the button that computes ``request``; on a first visit with samples, compute it at once."""
    import explain

    from .. import interpretation

    results: OrderedDict[str, Shown] = st.session_state["linear results"]

    def work(progress: jobs.Progress) -> Shown:
        st.session_state[_VISITED] = True
        try:
            found = interpretation.interpret(
                loaded.model, photos.images, target=request.target, space=request.space, mode=request.mode,
                attack=False, progress=progress,
                batch_size=2 if _is_large(loaded) else 8,  # small enough that Cancel is heard soon
            )  # fmt: skip
        except explain.NotApplicable as error:
            reason = f"This network leaves no linear map to look at: {error.what}"
            raise ModelError(reason, error.value, f"{error.fix} The page Explain works without.") from error
        script = recipe.linear(
            choice.model, loaded.options, loaded.model, photos, request.target, request.space, request.mode
        )
        return Shown(sha256(key.encode()).hexdigest()[:16], loaded.model, photos, found, script)

    jobs.offer(
        "Taking apart",
        f"Run: {_cost(loaded, len(photos.images))}",
        work,
        lambda shown: frame.keep(results, key, shown, _KEPT),
        icon=":material/play_arrow:",
        at_once=_VISITED not in st.session_state and choice.model.is_sample and bool(choice.images.data),
    )


def _cost(loaded: Loaded, images: int) -> str:
    """Say what a run costs: a pass per output for the singular values, two for the Jacobian, and a few for the rest."""
    outputs = loaded.model.num_classes
    passes = 6 + (outputs if outputs <= 128 else _ITERATED) + 2 * min(outputs, 32)
    return f"about {passes} forward and backward passes for {count(images, 'image')}"
