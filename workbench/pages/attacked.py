"""The result of an attack on one picture: both pictures and their difference, what the network says and looks at, files."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import streamlit as st

from .pictures import compared, png
from .text import plain

if TYPE_CHECKING:
    from torch import Tensor

    from attacks import AttackResult
    from explain import Explanation

    from ..images import ImageSet
    from ..models import VisionModel
    from .loading import Loaded

# Two pictures fit side by side on a phone, three with room for their captions elsewhere.
_STYLE = """<style>
div:has(> [class*="st-key-attack-panel-"]) {
  flex: none !important; width: clamp(10rem, (100vw - 30rem) / 3, 16rem) !important;
}
.st-key-attack-facts [data-testid="stMetricValue"] { font-size: 1.5rem; }
</style>"""
_ANSWERS, _SAME = "what each is seen as", "the first answer in both"


@dataclass(frozen=True)
class Request:
    """What to do: which picture, which attack, in which norm, with which budget (``None``: the nearest), to which class
    (``None``: any other than the one predicted), and whether to round to what a picture file can hold."""

    index: int
    attack: str
    norm: str
    epsilon: float | None
    target: int | None
    eight_bit: bool


@dataclass(eq=False, repr=False)
class Shown:
    """A result and what belongs to it.

    Attributes:
        key: a digest of what it was computed from, for the names of its widgets.
        model, image: the network, and the picture as a set of one.
        request: what was asked for.
        found: the attack.
        before, after: ``(K,)``, probabilities of the classes.
        recipe: the Python that does it again.
        maps: explanations made so far, clean picture first, by method and the two classes explained.
        pictures: PNG files made so far, by what they show.
    """

    key: str
    model: VisionModel
    image: ImageSet
    request: Request
    found: AttackResult
    before: Tensor
    after: Tensor
    recipe: str
    maps: dict[tuple[str, int, int], Explanation] = field(default_factory=dict)
    pictures: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    @property
    def images_told(self) -> str:
        """The picture in words."""
        return plain(self.image.ids[0])

    @property
    def classes(self) -> tuple[int, int]:
        """What the network sees before and after."""
        return int(self.found.predicted[0]), int(self.found.fooled_as[0])

    @cached_property
    def seen_in_file(self) -> int:
        """What the network sees in the PNG, which knows 256 levels per colour."""
        import torch

        with torch.no_grad():
            return int(self.model((self.found.images * 255).round() / 255).argmax(1))

    @property
    def moved(self) -> bool:
        """Whether anything changed."""
        return bool((self.found.images != self.image.images).any())


def draw(shown: Shown, loaded: Loaded) -> None:
    """Draw the verdict, the pictures, the maps of both answers, and what to take home."""
    for notice in shown.image.notices:
        st.caption(f":material/info: {plain(notice)}")
    st.html(_STYLE)
    st.markdown(_verdict(shown))
    _pictures(shown)
    _facts(shown)
    if shown.moved:
        st.header("What speaks for each answer", anchor=False)
        _maps(shown, loaded)
    st.header("Take it home", anchor=False)
    _home(shown)


def _verdict(shown: Shown) -> str:
    """Return the outcome in one sentence."""
    from ..report import words

    found, request = shown.found, shown.request
    was, seen = (plain(shown.model.class_name(one)) for one in shown.classes)
    if request.target == shown.classes[0]:
        return f"**Nothing to do:** it already sees {was}. Choose another class to reach."
    if bool(found.success[0]):
        return f"**Fooled:** it sees {seen} instead of {was}."
    within = "" if request.epsilon is None else f" where {words.budget(request.epsilon, request.norm)}"
    goal = "something else" if request.target is None else plain(shown.model.class_name(request.target))
    tried = "Below is the strongest attempt." if shown.moved else "Nothing near enough was found."
    return f"**Not fooled:** no picture seen as {goal} was found{within}. {tried}"


def _pictures(shown: Shown) -> None:
    """Draw the picture before and after with what is seen in it, and the difference."""
    compared(
        shown.model, shown.image, shown.found.images[0].cpu().numpy(), (shown.before, shown.after), what="attacked",
        caption="After the attack", bold=shown.classes[1], made=shown.pictures,
    )  # fmt: skip


def _facts(shown: Shown) -> None:
    """Draw how far, how dear, and the same distance in the other norms."""
    from ..report import words
    from ..report.figures import NORMS

    found, norm = shown.found, shown.found.norm
    delta = (found.images.cpu() - shown.image.images)[0].flatten().double()
    others = {
        "linf": float(delta.abs().max()), "l2": float(delta.norm()), "l1": float(delta.abs().sum()),
        "l0": float((delta != 0).sum()),
    }  # fmt: skip
    with st.container(horizontal=True, gap="medium", key="attack-facts"):
        st.metric(
            f"{NORMS[norm]} distance", words.distance(others[norm], norm), width="content",
            help="; ".join(f"{NORMS[key]} {words.distance(value, key)}" for key, value in others.items() if key != norm),
        )  # fmt: skip
        st.metric(
            "Passes, forward + backward", f"{int(found.forwards[0]):,} + {int(found.backwards[0]):,}", width="content",
            help="With the one that looks at the clean picture and the one that verifies the result.",
        )  # fmt: skip
        st.metric("Seconds", f"{found.seconds:.1f}", width="content")


# ---- maps


def _maps(shown: Shown, loaded: Loaded) -> None:
    """Draw the choice of a method, and its maps before and after on one scale."""
    from explain import METHODS

    usable = [name for name in METHODS if name not in loaded.inapplicable]
    if not usable or shown.model.digest != loaded.model.digest:
        st.info("No map can be drawn: no method applies to this network." if not usable else _OTHER)
        return
    left, right = st.columns(2, gap="medium")
    method = left.selectbox(
        "Method", usable, format_func=lambda name: METHODS[name].title, key="attack method", persist_state="session"
    )
    how = right.segmented_control(
        "Maps of", [_ANSWERS, _SAME], default=_ANSWERS, required=True, key="attack maps of", persist_state="session"
    )
    for name, why in loaded.inapplicable.items():
        st.caption(f":material/block: {METHODS[name].title}: not for this network, {plain(why)}")
    was, seen = shown.classes
    pair = (was, was if how == _SAME else seen)
    one = _explained(shown, method or usable[0], pair)
    _pair(shown, one, pair)


_OTHER = "The model chosen in the sidebar is another one by now; run the attack again to see its maps."


def _explained(shown: Shown, method: str, pair: tuple[int, int]) -> Explanation:
    """Explain both pictures by one method, once."""
    import torch

    import explain

    if (key := (method, *pair)) not in shown.maps:
        both = torch.cat([shown.image.images, shown.found.images])
        shown.maps[key] = explain.explain(shown.model, both, pair, (method,))[method]
    return shown.maps[key]


def _pair(shown: Shown, one: Explanation, pair: tuple[int, int]) -> None:
    from explain import METHODS

    from ..report import figures

    title, scale = METHODS[one.method].title, figures.shared_scale(one.maps)
    name = shown.image.ids[0]
    with st.container(horizontal=True, gap="medium", key="attack-maps"):
        for row, (when, target) in enumerate(zip(("before", "after"), pair, strict=True)):
            what = shown.model.class_name(target)
            if (key := (one.method, *pair, row)) not in shown.pictures:
                pixels = (shown.image.images, shown.found.images)[row][0]
                overlay = figures.map_overlay(pixels, one.maps[row], scale_max=scale, signed=one.signed)
                shown.pictures[key] = png(overlay)
            with st.container(key=f"attack-panel-{when}", gap="small"):
                alt = f"{title} map of {name} {when} the attack for {what}"
                caption = plain(f"{when.capitalize()} the attack, for {what}")
                st.image(shown.pictures[key], caption, width="stretch", alt=alt, output_format="PNG")
    least = f"−{scale:.2g}" if one.signed else "0"
    where = f" at {plain(one.layer)}" if one.layer else ""
    st.caption(f"{title}{where}. Both maps share one scale, from {least} to {scale:.2g}.")


# ---- files


def _home(shown: Shown) -> None:
    """Draw the script and the files."""
    with st.expander("Copy as Python", icon=":material/code:"):
        st.code(shown.recipe, language="python")
    files: dict[str, tuple[str, str, Callable[[], bytes]]] = {
        "picture (PNG)": ("png", "image/png", lambda: _picture(shown)),
        "tensor (NumPy)": ("npy", "application/octet-stream", lambda: _numpy(shown)),
        "tensor (PyTorch)": ("pt", "application/octet-stream", lambda: _torch(shown)),
    }
    with st.container(horizontal=True):
        for name, (ending, kind, make) in files.items():
            st.download_button(
                f"Download {name}", make, f"attacked.{ending}", kind, on_click="ignore", icon=":material/download:",
                key=f"attack file {ending}",
            )  # fmt: skip
    st.caption(_as_file(shown))


def _as_file(shown: Shown) -> str:
    """Say what the network sees in the PNG, which knows 256 levels per colour, and how the tensors are laid out."""
    laid = "The tensors are float32 in [0, 1], channels first."
    if not shown.moved:
        return laid
    seen = shown.seen_in_file
    still = "still " if seen == shown.classes[1] else ""
    return f"In the PNG, rounded to 256 levels per colour, it {still}sees {plain(shown.model.class_name(seen))}. {laid}"


def _picture(shown: Shown) -> bytes:
    from ..report import figures

    return figures.to_png_bytes(shown.found.images[0])


def _numpy(shown: Shown) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, shown.found.images[0].cpu().numpy())
    return file.getvalue()


def _torch(shown: Shown) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(shown.found.images[0].cpu().clone(), file)
    return file.getvalue()
