"""The result of taking a network apart: one picture at a time, its votes, its bias, its patterns, and whether it all adds up."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st

from . import fooled, pixel
from .pictures import chart, pick, png, strip, truth
from .text import count, plain

if TYPE_CHECKING:
    from torch import Tensor

    from explain.linear import BiasTerms, Spectrum

    from ..interpretation import Interpretation
    from ..models import VisionModel
    from .loading import Photos

_PATTERNS, _FAINT = 4, 0.005  # at most so many, of at least that share of the energy
_SAME = 1e-4  # |J − A| / |A| below which A counts as the Jacobian
_SOUND = 1e-3  # of the largest logit: a float32 network of a hundred layers stays below

_STYLE = """<style>
[class*="st-key-linear-sum"] [data-testid="stMetricValue"] { font-size: 1.35rem; }
[class*="st-key-linear-sum"] [data-testid="stMarkdown"] p { font-size: 1.2rem; line-height: 1.9; }
.stMainBlockContainer h3 { font-size: 1.05rem; padding: .3rem 0 .4rem; }
</style>"""


@dataclass(eq=False, repr=False)
class Shown:
    """A result and what belongs to it.

    Attributes:
        key: a digest of what it was computed from, for the names of its widgets.
        model, photos: what was taken apart.
        found: votes, bias, spectrum of all images.
        recipe: the Python that computes it again.
        fooled: results of attacks, by the position of the picture.
        pictures: PNG files made so far, by what they show.
    """

    key: str
    model: VisionModel
    photos: Photos
    found: Interpretation
    recipe: str
    fooled: dict[int, Interpretation] = field(default_factory=dict)
    pictures: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    @property
    def images_told(self) -> str:
        """The images in words."""
        return count(len(self.photos.images), "image")


def draw(shown: Shown) -> None:
    """Draw the choice of a picture, and everything that is known about it."""
    st.html(_STYLE)
    for note in (*shown.photos.notices, *shown.photos.images.notices, *shown.found.lens.notes):
        st.caption(f":material/info: {plain(note)}")
    index = pick(shown.photos.images, f"linear-picture {shown.key}", shown.pictures)
    st.html(_headline(shown, index))
    pixel.section(shown, index)
    _sources(shown, index)
    _patterns(shown, index)
    _completeness(shown, index)
    st.header("Shake it", anchor=False)
    fooled.section(shown, index)
    st.header("Take it home", anchor=False)
    _home(shown)


def _headline(shown: Shown, index: int) -> str:
    """Return one line: which picture, what it is, what it is taken for."""
    model, images, lens = shown.model, shown.photos.images, shown.found.lens
    probabilities = lens.outputs[index].softmax(0)
    best = int(probabilities.argmax())
    parts = [
        f'<span style="opacity:.65">{html.escape(images.ids[index])}</span>',
        truth(model, images, index, best),
        f"predicted: <b>{html.escape(model.class_name(best))}</b> {float(probabilities[best]):.1%}",
    ]
    target = int(shown.found.target[index])
    if target != best:
        parts.append(f"taken apart: <b>{html.escape(model.class_name(target))}</b> {float(probabilities[target]):.1%}")
    spans = "".join(f"<span>{part}</span>" for part in parts if part)
    return f'<div style="display:flex;flex-wrap:wrap;gap:.2rem 1.5rem;font-size:.9rem">{spans}</div>'


def _sources(shown: Shown, index: int) -> None:
    """Draw how logit and lead split, which constants make the bias, and the spectrum."""
    from ..report import linear

    found, names = shown.found, shown.model.classes
    target = shown.model.class_name(int(found.target[index]))
    left, right = st.columns([11, 10], gap="medium")
    with left:
        said = f"The bias makes {float(found.shares.bias_share[index]):.0%} of the logit of {target}."
        chart(linear.share_bar(found.shares, index, names), "linear shares", said)
        said = f"Singular values; the effective rank is {float(found.spectrum.effective_rank[index]):.1f}."
        chart(linear.spectrum_figure(found.spectrum, index), "linear spectrum", said)
    with right:
        bias = float(found.shares.bias[index])
        chart(
            linear.bias_bars(found.terms, index, target), "linear bias",
            f"What each constant adds to the logit of {target}; together {bias:+.3g}.",
        )  # fmt: skip


def _patterns(shown: Shown, index: int) -> None:
    """Draw the patterns of pixels that the frozen network amplifies most, and which classes they move."""
    from ..report import linear

    spectrum = shown.found.spectrum
    values = spectrum.values[index]
    energy = values.square() / values.square().sum()
    st.subheader("The patterns that it listens to", anchor=False)
    pictures = []
    for rank in range(min(_PATTERNS, int((energy > _FAINT).sum()))):
        classes = spectrum.left[index, rank]
        sign = classes[classes.abs().argmax()].sign()  # it has none of its own: its strongest class gains
        if (key := ("pattern", index, rank)) not in shown.pictures:
            shown.pictures[key] = png(linear.pattern(sign * spectrum.right[index, rank]))
        moved = _moved(shown, sign * classes)
        caption = f"**{float(energy[rank]):.0%}** {plain(moved)}"
        pictures.append((shown.pictures[key], caption, f"pattern {rank + 1}: {moved}"))
    strip(pictures, 190)
    st.caption(
        "What to add to the picture to move its logits most, decisions as they are. Grey adds nothing; in bold the share of "
        "the energy of A."
    )


def _moved(shown: Shown, classes: Tensor) -> str:
    """Name the classes that a pattern moves, those that it moves at least half as much as the first one."""
    strong = classes.abs() >= classes.abs().max() / 2
    sides = []
    for word, side in (("for", strong & (classes > 0)), ("against", strong & (classes < 0))):
        names = [shown.model.class_name(i) for i in side.nonzero().flatten().tolist()]
        if names:
            sides.append(f"{word} {', '.join(names[:2])}{' …' if len(names) > 2 else ''}")
    return ", ".join(sides)


def _completeness(shown: Shown, index: int) -> None:
    """Say how well it adds up, what x is, and how far A is from the gradient."""
    found, lens = shown.found, shown.found.lens
    residual, ratio = float(lens.residual[index]), float(found.gap.ratio[index])
    if residual > _SOUND:
        st.warning(
            f"It does not add up: A·x + b misses the logits by {residual:.1%} of the largest. Do not trust these numbers."
        )
    about = "" if found.gap.exact else "about "
    slope = (
        "A is the Jacobian, the gradient of every logit"
        if ratio < _SAME
        else f"A is not the Jacobian J: |J−A|/|A| is {about}{ratio:.2g}, their cosine {float(found.gap.cosine[index]):.2f}"
    )
    st.caption(
        f":material/check_circle: A·x + b misses the logits by {residual:.0e} of the largest. x: {plain(lens.input_name)}. "
        f"{slope}. The frozen decisions of {count(len(lens), 'image')} take {_size(lens.gates_bytes)}; "
        f"all of it took {found.provenance['seconds']:.1f} s."
    )


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:,.1f} kB"


def _home(shown: Shown) -> None:
    """Draw the script and the tables."""
    with st.expander("Copy as Python", icon=":material/code:"):
        st.code(shown.recipe, language="python")
    found = shown.found
    tables: dict[str, Interpretation | BiasTerms | Spectrum] = {
        "shares": found, "bias": found.terms, "spectrum": found.spectrum,
    }  # fmt: skip
    with st.container(horizontal=True):
        for name, table in tables.items():
            st.download_button(
                f"Download {name} (CSV)", _csv(table), f"{name}.csv", "text/csv",
                on_click="ignore", icon=":material/download:", key=f"linear csv {name}",
            )  # fmt: skip


def _csv(table: Interpretation | BiasTerms | Spectrum) -> Callable[[], bytes]:
    """Return what makes the file once somebody asks for it."""
    return lambda: table.frame().to_csv(index=False).encode()
