"""The result of an explanation: each image as the model saw it, what it predicted, and one map per method.

Maps of one method share one colour scale over all images, which the legend shows. Pictures are encoded once per result.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import streamlit as st

from .pictures import png, predictions
from .text import count, plain

if TYPE_CHECKING:
    from explain import Explanations

    from ..models import VisionModel
    from .loading import Photos
    from .robustness import Measured

_PER_PAGE = 8


@dataclass(eq=False, repr=False)
class Shown:
    """A result and what belongs to it.

    Attributes:
        model, photos: what was explained.
        found: the maps.
        recipe: the Python that makes them again.
        sources: what a person would type for the model and the images.
        measured: robustness and report, once asked for.
        pictures: PNG files made so far, by what they show.
    """

    model: VisionModel
    photos: Photos
    found: Explanations
    recipe: str
    sources: tuple[str, str]
    measured: Measured | None = None
    pictures: dict[tuple[Any, ...], bytes] = field(default_factory=dict)

    @property
    def images_told(self) -> str:
        """The images in words."""
        return count(len(self.photos.images), "image")


def draw(shown: Shown) -> None:
    """Draw legend, notices, and the images page by page."""
    found, images = shown.found, shown.photos.images
    for name, reason in found.skipped.items():
        st.info(f"{plain(_title(name))} was left out: {plain(reason)}")
    st.html(_sizes(len(found) + 1))
    st.html(_legends(shown))
    for note in (*shown.photos.notices, *images.notices, *_notes(shown)):
        st.caption(f":material/info: {plain(note)}")
    pages = -(-len(images) // _PER_PAGE)
    number = st.pagination(pages, key="gallery page") if pages > 1 else 1
    probabilities = found.logits.softmax(dim=1).cpu()
    for index in range((number - 1) * _PER_PAGE, min(number * _PER_PAGE, len(images))):
        with st.container(border=True, horizontal=True, key=f"image {index}"):
            _picture(shown, index)
            with st.container(width=180):
                explained = int(found.target[index])
                st.html(predictions(shown.model, images, index, probabilities[index], explained))
            for name in found:
                _map(shown, index, name)
    seconds = found.provenance["seconds"]
    st.caption(f"{count(len(images), 'image')} in {seconds:.2f} s. Each map explains the class in bold.")


def _picture(shown: Shown, index: int) -> None:
    from ..report import figures

    images = shown.photos.images
    if (key := (index,)) not in shown.pictures:
        shown.pictures[key] = png(figures.to_rgb(images.images[index]))
    _image(f"{index}", shown.pictures[key], "as the model saw it", f"{images.ids[index]}, as the model saw it")


def _map(shown: Shown, index: int, name: str) -> None:
    from ..report import figures

    one, images = shown.found[name], shown.photos.images
    if (key := (index, name)) not in shown.pictures:
        overlay = figures.map_overlay(
            images.images[index], one.maps[index], scale_max=figures.shared_scale(one.maps), signed=one.signed
        )
        shown.pictures[key] = png(overlay)
    what = shown.model.class_name(int(one.target[index]))
    alt = f"{_title(name)} map of {images.ids[index]} for {what}"
    _image(f"{index}-{name}", shown.pictures[key], _title(name), alt)


def _image(key: str, png: bytes, caption: str, alt: str) -> None:
    # The container has the width; given to the picture, Streamlit would encode it again.
    with st.container(key=f"picture-{key}"):
        st.image(png, width="stretch", alt=alt, caption=plain(caption), output_format="PNG")


def _sizes(columns: int) -> str:
    """Return the style that fits ``columns`` pictures and the predictions into one row, where there is room for that."""
    beside = 38 + columns  # sidebar, margins, predictions, gaps
    width = f"clamp(7.7rem, (100vw - {beside}rem) / {columns}, 17rem)"
    return (
        f'<style>div:has(> [class*="st-key-picture-"]) {{ flex: none !important; width: {width} !important; }}</style>'
    )


def _title(name: str) -> str:
    from explain import METHODS

    return METHODS[name].title


def _notes(shown: Shown) -> list[str]:
    """What the methods say about their maps, each note once."""
    said: dict[str, list[str]] = {}
    for name, one in shown.found.items():
        for note in one.notes:
            said.setdefault(note, []).append(_title(name))
    return [f"{', '.join(titles)}: {note}" for note, titles in said.items()]


def _legends(shown: Shown) -> str:
    from ..report import figures

    items = []
    for name, one in shown.found.items():
        most = f"{figures.shared_scale(one.maps):.2g}"
        least = f"−{most}" if one.signed else "0"
        where = f" at {html.escape(one.layer)}" if one.layer else ""
        bar = f"height:.6rem;border-radius:.2rem;margin:.2rem 0;background:{figures.gradient_css(one.signed)}"
        items.append(
            '<div style="flex:1 1 8rem;max-width:13rem">'
            f'<div>{html.escape(_title(name))}<span style="opacity:.65">{where}</span></div>'
            f'<div role="img" aria-label="colour scale from {least} to {most}" style="{bar}"></div>'
            '<div style="display:flex;justify-content:space-between;opacity:.65;font-size:.8rem">'
            f"<span>{least}</span><span>{most}</span></div></div>"
        )
    return f'<div style="display:flex;flex-wrap:wrap;gap:.5rem 1.5rem;font-size:.9rem">{"".join(items)}</div>'
