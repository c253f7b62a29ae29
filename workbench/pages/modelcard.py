"""What was loaded, what was inferred, and the form that overrides it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from ..errors import OptionError, WorkbenchError
from .loading import Loaded, Options
from .text import plain

if TYPE_CHECKING:
    from ..models import VisionModel

_QUESTIONS = {
    "stem": (
        "First layer of the ResNet",
        {"cifar": "stride 1, no pooling (as for small images)", "imagenet": "stride 2 and max-pooling"},
    ),
    "head_activation": (
        "Between the linear layers of the head",
        {"relu": "ReLU (the usual choice)", "gelu": "GELU", "tanh": "tanh", "none": "nothing but dropout"},
    ),
}


def options_of(source: str) -> Options:
    """Return what the person overrode for the model called ``source``."""
    found: Options = st.session_state.setdefault("overrides", {}).get(source, ())
    return found


def card(source: str, loaded: Loaded) -> None:
    """Draw the strip of facts about the model called ``source``, the form that overrides them, and its notices."""
    model = loaded.model
    sizes = "×".join(map(str, model.input_size))
    named = "" if model.architecture == model.name else f"{plain(model.architecture)} · "
    facts = f"{named}{model.num_classes:,} classes · {sizes} · {_short_number(model.parameters_count)} parameters"
    with st.container(border=True, gap="xsmall", key="model-card"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(f"**{plain(model.name)}** · {facts}", width="content")
            with st.container(horizontal=True, vertical_alignment="center", width="content"):
                st.caption("digest", width="content", help=f"sha256 of weights and preprocessing: {model.digest}")
                st.code(model.digest[:12], language=None, width="content")
                with st.popover("Preprocessing", icon=":material/tune:"):
                    st.caption(plain(f"Now: {model.preset} ({model.preset.source})."))
                    _form(source, loaded, None)
        for notice in model.notices:
            st.caption(f":material/info: {plain(notice)}")


def ask(source: str, error: Exception) -> None:
    """Below the error that stopped loading, draw the form for what a checkpoint does not say, if that can help."""
    if options_of(source) or any(_asks(error, name) for name in _QUESTIONS):
        with st.expander("What the file does not say", expanded=True):
            _form(source, None, error)


def _asks(error: Exception | None, question: str) -> bool:
    return f"{question}=" in getattr(error, "fix", "")


def _form(source: str, loaded: Loaded | None, error: Exception | None) -> None:
    """Draw the form and keep its answers as overrides of the model called ``source``."""
    given = dict(options_of(source))
    asked = [name for name in _QUESTIONS if name in given or _asks(error, name)]
    with st.form(f"overrides {source}", border=False):
        answers = {name: _question(source, name, given.get(name)) for name in asked}
        fields = _preset_fields(source, loaded.model) if loaded is not None else None
        with st.container(horizontal=True):
            apply = st.form_submit_button("Apply", type="primary")
            reset = st.form_submit_button("Back to what was inferred", disabled=not given)
    if apply or reset:
        try:
            chosen = {} if reset else _chosen(answers, fields, loaded, given)
        except WorkbenchError as mistake:
            st.error(plain(mistake))
            return
        st.session_state["overrides"][source] = tuple(sorted(chosen.items()))
        st.rerun()


def _question(source: str, name: str, given: str | None) -> str | None:
    label, answers = _QUESTIONS[name]
    keys = list(answers)
    return st.selectbox(
        label, keys, format_func=answers.__getitem__, key=f"{name} {source}",
        index=None if given is None else keys.index(given), placeholder="Choose one",
    )  # fmt: skip


def _preset_fields(source: str, model: VisionModel) -> dict[str, Any]:
    preset, key = model.preset, f"{source} {model.preset}"
    left, middle, right = st.columns(3)
    resize = left.number_input(
        "Shorter side (px)", 0, 4096, preset.resize or 0, key=f"resize {key}",
        help="The picture is scaled to this and cropped to the input size; 0 scales it straight to the input size.",
    )  # fmt: skip
    height = middle.number_input("Input height (px)", 1, 2048, preset.crop[0], key=f"height {key}")
    width = right.number_input("Input width (px)", 1, 2048, preset.crop[1], key=f"width {key}")
    left, right = st.columns(2)
    mean = left.text_input("Mean per channel", _listed(preset.mean), key=f"mean {key}")
    std = right.text_input("Standard deviation per channel", _listed(preset.std), key=f"std {key}")
    return {"resize": int(resize) or None, "crop": (int(height), int(width)), "mean": mean, "std": std}


def _chosen(
    answers: dict[str, str | None], fields: dict[str, Any] | None, loaded: Loaded | None, given: dict[str, Any]
) -> dict[str, Any]:
    """Return the overrides that differ from what was inferred."""
    chosen: dict[str, Any] = {name: value for name, value in answers.items() if value}
    if fields is None or loaded is None:
        return chosen | {name: value for name, value in given.items() if name not in _QUESTIONS}
    for name in ("mean", "std"):
        fields[name] = _numbers(fields[name], loaded.model.input_size[0])
    return chosen | {name: v for name, v in fields.items() if name in given or v != getattr(loaded.model.preset, name)}


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise OptionError(
            f"Mean and standard deviation are {count} number{'s' * (count > 1)}, one per channel",
            text,
            "Such as 0.5, 0.5.",
        )
    return numbers


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _short_number(n: int) -> str:
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return str(n)
