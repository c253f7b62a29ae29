"""What every page shows of one image: the picture itself, what the model predicts for it, and the truth where it is known."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

from .text import plain

if TYPE_CHECKING:
    import numpy as np
    import plotly.graph_objects as go

    from ..images import ImageSet
    from ..models import VisionModel

_TOP = 3
_SMALLEST = 256
_THUMBNAIL = 48
# Two pictures fit side by side on a phone, three with room for their captions elsewhere.
_COMPARED = """<style>
div:has(> [class*="st-key-compared-panel-"]) {
  flex: none !important; width: clamp(10rem, (100vw - 30rem) / 3, 16rem) !important;
}
</style>"""
_THUMBNAILS = f"""<style>
[class*="st-key-KEY"] button {{ height: auto; padding: 3px; border-radius: .4rem; border-width: 2px; }}
[class*="st-key-KEY"] button img {{
  height: {_THUMBNAIL}px !important; max-height: none !important; width: auto; border-radius: .2rem;
}}
</style>"""


def chart(figure: go.Figure, key: str, alt: str) -> None:
    """Draw a figure that answers to the pointer, without the row of buttons above it."""
    st.plotly_chart(figure, theme=None, config={"displayModeBar": False}, key=key, alt=alt)


def png(picture: np.ndarray, smallest: int = _SMALLEST) -> bytes:
    """Encode a picture; a small one with its pixels repeated, so that an 8-pixel digit is seen as the squares it is.

    Args:
        picture: uint8 ``(H, W, 3)``.
        smallest: length that the longer side has at least.
    """
    from PIL import Image

    factor = max(1, -(-smallest // max(picture.shape[:2])))
    file = BytesIO()
    large = Image.fromarray(picture.repeat(factor, axis=0).repeat(factor, axis=1))
    large.save(file, "PNG", compress_level=1)  # it travels once, and mostly within one machine
    return file.getvalue()


def pick(images: ImageSet, key: str, made: dict[Any, bytes]) -> int:
    """Draw thumbnails of which one is chosen, if there are several; return its position.

    Args:
        images: the pictures.
        key: of the widget.
        made: keeps the thumbnails.
    """
    if len(images) == 1:
        return 0

    def label(index: int) -> str:
        address = "data:image/png;base64," + base64.b64encode(_thumbnail(images, index, made)).decode()
        return f"![{plain(images.ids[index])}]({address})"

    st.html(_THUMBNAILS.replace("KEY", key.partition(" ")[0]))
    chosen = st.pills(
        "Picture", range(len(images)), format_func=label, default=0, required=True, key=key,
        label_visibility="collapsed", persist_state="session",
    )  # fmt: skip
    return chosen or 0


def _thumbnail(images: ImageSet, index: int, made: dict[Any, bytes]) -> bytes:
    from ..report import figures

    if (key := ("thumbnail", images.digest, index)) not in made:
        rgb = figures.to_rgb(images.images[index])
        large = max(rgb.shape) > 2 * _THUMBNAIL
        made[key] = figures.to_png_bytes(rgb, 2 * _THUMBNAIL) if large else png(rgb, _THUMBNAIL)
    return made[key]


def strip(pictures: Sequence[tuple[bytes, str, str]], width: int, gap: Literal["small", "medium"] = "medium") -> None:
    """Draw small pictures side by side: each a PNG file, the Markdown below it, and its alternative text."""
    with st.container(horizontal=True, gap=gap):
        for file, caption, alt in pictures:
            # The container has the width; given to the picture, Streamlit would encode it again.
            with st.container(width=width, gap="xsmall"):
                st.image(file, width="stretch", alt=alt, output_format="PNG")
                st.caption(caption)


def compared(
    model: VisionModel,
    image: ImageSet,
    changed: np.ndarray,
    probabilities: tuple[Any, Any],
    *,
    what: str,
    caption: str,
    bold: int,
    made: dict[Any, bytes],
    key: object = "",
    goal: str = "",
) -> None:
    """Draw a picture, the one that was made of it, and the change, with what the network sees in both.

    Args:
        model: the network.
        image: the picture, as a set of one.
        changed: ``(C, H, W)``, what was made of it.
        probabilities: ``(K,)`` each, before and after.
        what: names the second picture in alternative texts, such as "attacked".
        caption: Markdown below it.
        bold: the class in bold there.
        made: keeps the PNG files.
        key: tells one change of this picture from another in ``made``.
        goal: ends the name of the change in its alternative text, such as " to fish".
    """
    from ..report import figures, pictures

    name, clean = image.ids[0], image.images[0].cpu().numpy()
    factor = pictures.magnification([changed - clean])
    if (what, key) not in made:
        made["clean",] = png(figures.to_rgb(clean))
        made[what, key] = png(figures.to_rgb(changed))
        made["change", key] = png(figures.to_rgb(pictures.difference(clean, changed, factor)))
    before, after = probabilities
    st.html(_COMPARED)
    with st.container(horizontal=True, gap="medium", key=f"compared-pictures-{what}"):
        for kind, file, seen_in, told, strong in (
            ("clean", made["clean",], before, "As the network gets it", int(before.argmax())),
            (what, made[what, key], after, caption, bold),
        ):
            with st.container(key=f"compared-panel-{kind}", gap="small"):
                alt = f"{name}, {kind}, seen as {model.class_name(int(seen_in.argmax()))}"
                st.image(file, told, width="stretch", alt=alt, output_format="PNG")
                st.html(predictions(model, image, 0, seen_in, strong))
        with st.container(key="compared-panel-change", gap="small"):
            told = f"The change, {factor} times as strong" if factor > 1 else "The change"
            alt = f"change of {name}{goal}, magnified {factor} times; grey is unchanged"
            st.image(made["change", key], told, width="stretch", alt=alt, output_format="PNG")
            st.caption("Grey is unchanged, brighter is more of a colour, darker is less.")


def predictions(model: VisionModel, images: ImageSet, index: int, probabilities: Any, explained: int) -> str:
    """Return HTML: the most probable classes as bars, the explained one in bold, and the truth where it is known.

    Args:
        model: which predicted.
        images: what it saw.
        index: which of them.
        probabilities: ``(K,)``, of that image.
        explained: the class in bold.
    """
    from ..report.figures import PALETTE

    best = probabilities.topk(min(_TOP, len(probabilities))).indices.tolist()
    rows = []
    for place in best if explained in best else [*best, explained]:
        share, name = float(probabilities[place]), html.escape(model.class_name(place))
        weight = 600 if place == explained else 400
        rows.append(
            f'<div style="display:flex;justify-content:space-between;gap:.5rem;font-weight:{weight}">'
            f'<span style="overflow-wrap:anywhere">{name}</span><span>{share:.1%}</span></div>'
            f'<div style="height:.35rem;border-radius:.2rem;background:rgba(128,128,128,.2);margin-bottom:.45rem">'
            f'<div style="height:100%;border-radius:.2rem;width:{share:.1%};background:{PALETTE.accent}"></div></div>'
        )
    name = html.escape(images.ids[index])
    cut = "opacity:.65;font-size:.8rem;white-space:nowrap;overflow:hidden;text-overflow:ellipsis"
    header = f'<div style="{cut}" title="{name}">{name}</div>'
    verdict = f'<div style="margin-bottom:.4rem">{truth(model, images, index, best[0])}</div>'
    return f'<div style="font-size:.9rem">{header}{verdict}{"".join(rows)}</div>'


def truth(model: VisionModel, images: ImageSet, index: int, predicted: int) -> str:
    """Return HTML: the true class and whether it was predicted; nothing where nobody knows."""
    from ..report.figures import PALETTE

    if images.labels is None:
        return ""
    label = int(images.labels[index])
    colour, verdict = (PALETTE.good, "right") if label == predicted else (PALETTE.bad, "wrong")
    return f'truth: {html.escape(model.class_name(label))}, <b style="color:{colour}">{verdict}</b>'
