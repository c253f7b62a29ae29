"""Figures from results: what the HTML report and the app show, made once, so that engines stay free of plotly.

Colours are for everyone: the qualitative ones are Okabe and Ito's (told apart with any colour blindness), magnitude is
inferno (even in lightness), sign is blue to red. Backgrounds are transparent and text is a grey that reads on white and
on black, so that one figure serves both themes. Names that come from strangers are escaped before plotly, which
understands a little HTML, sees them.
"""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.colors import diverging, hex_to_rgb, sequential, unlabel_rgb

from ..errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attacks import Evaluation


@dataclass(frozen=True)
class Palette:
    """The colours of the workbench; CSS colour strings, and colour scales as plotly takes them."""

    accent: str = "#0b6bcb"
    good: str = "#009e73"
    warn: str = "#e69f00"
    bad: str = "#d55e00"
    text: str = "#737a85"
    grid: str = "rgba(128, 128, 128, 0.25)"
    qualitative: tuple[str, ...] = ("#0b6bcb", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
    sequential: tuple[str, ...] = tuple(sequential.Inferno)
    diverging: tuple[str, ...] = tuple(reversed(diverging.RdBu))


PALETTE = Palette()
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601
NORMS = {"linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1", "l0": "ℓ0"}
_EPSILON = {
    "linf": "ε, the most that any channel of a pixel may change",
    "l2": "ε, Euclidean length of the change",
    "l1": "ε, sum of all changes",
    "l0": "ε, number of colour values that change",
}


def robustness_curve(evaluation: Evaluation) -> go.Figure:
    """Draw robust accuracy over epsilon with its 95 % Wilson band; dashed and marked when the checks do not back it.

    Where the model's own predictions stand in for labels, it is the share of predictions that survive, and says so.
    """
    curve = evaluation.curve
    relative = evaluation.provenance.get("labels") == "model predictions"
    what = "Surviving predictions" if relative else "Robust accuracy"
    names = [epsilon_text(e, evaluation.norm) for e in curve["epsilon"]]
    colour = PALETTE.accent if evaluation.trustworthy else PALETTE.bad
    x = curve["epsilon"].tolist()
    figure = go.Figure(
        [
            go.Scatter(
                x=x + x[::-1],
                y=curve["high"].tolist() + curve["low"].tolist()[::-1],
                fill="toself",
                fillcolor=_faded(colour),
                mode="lines",
                line={"width": 0},
                hoverinfo="skip",
            ),
            go.Scatter(
                x=x,
                y=curve["robust_accuracy"].tolist(),
                mode="lines+markers",
                line={"color": colour, "width": 2.5, "dash": "solid" if evaluation.trustworthy else "dash"},
                marker={"size": 8},
                cliponaxis=False,
                customdata=list(zip(names, curve["low"], curve["high"], curve["n"], strict=True)),
                hovertemplate=f"ε = %{{customdata[0]}}<br>{what.lower()} %{{y:.1%}}<br>95 % interval %{{customdata[1]:.1%}} to "
                "%{customdata[2]:.1%}<br>%{customdata[3]} images<extra></extra>",
            ),
        ]
    )
    n = int(curve["n"].iloc[-1])
    _dress(
        figure,
        f"{what} under {NORMS.get(evaluation.norm, evaluation.norm)} attack",
        f"{n} image{'s' * (n != 1)}, band: 95 % interval. An upper bound: a stronger attack can only lower it.",
    )
    ticks = apart(x)
    figure.update_xaxes(
        title=_EPSILON.get(evaluation.norm, "ε"),
        tickvals=[x[i] for i in ticks],
        ticktext=[names[i] for i in ticks],
        autotickangles=[0, -45],  # on a phone neighbours would run into each other
        range=[-0.02 * (x[-1] or 1), 1.03 * (x[-1] or 1)],
    )
    kept = "predictions that survive" if relative else "images classified right"
    figure.update_yaxes(title=kept, range=[0, 1], tickformat=".0%")
    if not evaluation.trustworthy:
        figure.add_annotation(
            text=f"<b>Do not trust this curve</b><br>{_distrust(evaluation)}",
            x=0.99,
            y=0.98,
            xref="paper",
            yref="paper",
            xanchor="right",
            yanchor="top",
            align="right",
            showarrow=False,
            font={"color": PALETTE.bad, "size": 13},
        )
    return figure


def predictions_bar(probabilities: Any, classes: Sequence[str] = (), top: int = 5) -> go.Figure:
    """Draw the ``top`` most probable classes of one image, the first one on top.

    Args:
        probabilities: ``(K,)``, after softmax.
        classes: K names; without them classes go by number.
        top: how many to draw.
    """
    shares = _array(probabilities)
    if shares.ndim != 1:
        raise OptionError("one row of probabilities is needed", f"shape {shares.shape}", "Draw one image at a time.")
    order = np.argsort(-shares, kind="stable")[:top]
    names = [classes[i] if len(classes) else f"class {i}" for i in order]
    rows = list(range(len(order)))  # by number: two classes of one name stay two bars
    figure = go.Figure(
        go.Bar(
            x=shares[order].tolist(),
            y=rows,
            orientation="h",
            marker={"color": [PALETTE.accent] + [_faded(PALETTE.accent, 0.5)] * (len(order) - 1)},
            text=[f"{share:.1%}" for share in shares[order]],
            textposition="outside",
            cliponaxis=False,
            customdata=[[html.escape(name), int(i)] for name, i in zip(names, order, strict=True)],
            hovertemplate="%{customdata[0]} (class %{customdata[1]})<br>%{x:.2%}<extra></extra>",
        )
    )
    _dress(figure, "Most probable classes")
    figure.update_xaxes(range=[0, 1.15], tickvals=[0, 0.25, 0.5, 0.75, 1], tickformat=".0%")
    figure.update_yaxes(
        tickvals=rows,
        ticktext=[html.escape(_short(n)) for n in names],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(height=90 + 32 * len(order), margin={"t": 44, "b": 28})
    return figure


def shared_scale(maps: Any) -> float:
    """Return the magnitude to use as ``scale_max`` for all ``maps`` ``(N, H, W)`` of one method.

    The 99.5th percentile, so that one glaring pixel does not blacken every other map; the maximum where so few pixels
    differ from zero that the percentile is zero.
    """
    magnitude = np.abs(_array(maps))
    return float(np.quantile(magnitude, 0.995) or magnitude.max(initial=0.0))


def map_overlay(image: Any, saliency: Any, *, scale_max: float, alpha: float = 0.6, signed: bool = False) -> np.ndarray:
    """Blend a map over the grey version of its image, so that every colour seen belongs to the map.

    Args:
        image: ``(C, H, W)`` in [0, 1], or uint8 ``(H, W, 3)``.
        saliency: ``(H, W)``.
        scale_max: the magnitude shown as the brightest colour; the same for all images of a method (see
            :func:`shared_scale`), or they cannot be compared.
        alpha: opacity of the map; where it is signed, opacity grows with magnitude, to the square root of ``alpha``.
        signed: blue for negative to red for positive, else only magnitude above zero.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    values, base = _array(saliency), to_rgb(image)
    if values.shape != base.shape[:2]:
        found = f"{values.shape} on {base.shape[:2]}"
        raise OptionError("the map does not have the size of its image", found, "Resize the map first.")
    share = values / scale_max if scale_max > 0 else np.zeros_like(values)
    share = share.clip(-1, 1) if signed else share.clip(0, 1)
    colours = _table(PALETTE.diverging if signed else PALETTE.sequential)
    colours = colours[((share + 1) * 127.5 if signed else share * 255).round().astype(int)]
    # Black means no evidence, so it may veil the picture; the white middle of a diverging scale may not.
    opacity = np.sqrt(alpha * np.abs(share))[..., None] if signed else alpha
    grey = 255 * (base @ _LUMA / 255)[..., None] ** 0.6  # lifted, so that the picture stays visible under the veil
    return ((1 - opacity) * grey + opacity * colours).round().clip(0, 255).astype(np.uint8)


def gradient_css(signed: bool = False) -> str:
    """Return the colours of :func:`map_overlay` as a CSS ``linear-gradient``, for the legend beside the maps."""
    colours = _table(PALETTE.diverging if signed else PALETTE.sequential)[:: 255 // 15].round().astype(int)
    return f"linear-gradient(to right, {', '.join(f'rgb({r}, {g}, {b})' for r, g, b in colours.tolist())})"


def to_rgb(image: Any) -> np.ndarray:
    """Return uint8 ``(H, W, 3)`` from pixels in [0, 1] ``(C, H, W)`` with C 1 or 3, or from uint8 ``(H, W[, 3])``."""
    pixels = _array(image)
    if pixels.dtype != np.uint8:
        pixels = (np.moveaxis(pixels, 0, -1).clip(0, 1) * 255).round().astype(np.uint8)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise OptionError("this cannot be shown as a picture", f"shape {pixels.shape}", "One image, grey or RGB.")
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def to_png_bytes(image: Any, max_side: int | None = None) -> bytes:
    """Return a PNG file of what :func:`to_rgb` takes, at full size or shrunk to ``max_side`` pixels."""
    file = BytesIO()
    _thumbnail(image, max_side).save(file, "PNG", optimize=True)
    return file.getvalue()


def to_webp_data_uri(image: Any, max_side: int = 224) -> str:
    """Return a ``data:`` address with a WebP thumbnail, a few kilobytes, for one HTML file that needs nothing else."""
    file = BytesIO()
    _thumbnail(image, max_side).save(file, "WEBP", quality=82, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _thumbnail(image: Any, max_side: int | None) -> Image.Image:
    picture = Image.fromarray(to_rgb(image))
    if max_side is not None:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return picture


def _array(values: Any) -> np.ndarray:
    """Take tensors of any device as well, without importing torch."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _table(colours: tuple[str, ...]) -> np.ndarray:
    """Interpolate a colour scale to 256 RGB rows, ``(256, 3)`` in 0 to 255."""
    stops = np.array([hex_to_rgb(c) if c.startswith("#") else unlabel_rgb(c) for c in colours], dtype=float)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(np.linspace(0, 1, 256), at, channel) for channel in stops.T], axis=1)


def _faded(colour: str, alpha: float = 0.18) -> str:
    return "rgba({}, {}, {}, {})".format(*hex_to_rgb(colour), alpha)


def _short(name: str, limit: int = 28) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def epsilon_text(epsilon: float, norm: str) -> str:
    """Return an epsilon as people write it: ``8/255`` for linf, else three digits."""
    steps = epsilon * 255
    quarters = round(4 * steps)
    if norm == "linf" and quarters > 0 and abs(4 * steps - quarters) < 1e-3:
        return f"{quarters / 4:g}/255"
    return f"{epsilon:.3g}"


def apart(x: list[float], share: float = 0.08) -> list[int]:
    """Indices of ticks that leave each other room: the two ends, and from the right what fits between."""
    kept = [len(x) - 1]
    for i in range(len(x) - 2, 0, -1):
        if min(x[kept[-1]] - x[i], x[i] - x[0]) >= share * x[-1]:
            kept.append(i)
    return [0, *kept[::-1]] if len(x) > 1 else kept


def _distrust(evaluation: Evaluation) -> str:
    checks = evaluation.checks
    if not len(checks):
        return "its sanity checks were not run"
    failed = checks.loc[~checks["passed"].astype(bool), "check"].tolist()
    return f"failed: {html.escape(', '.join(failed[:3]))}{' …' if len(failed) > 3 else ''}"


def _dress(figure: go.Figure, title: str, subtitle: str = "") -> None:
    figure.update_layout(
        template=go.layout.Template(),  # plotly's own adds 7 KB to every figure and a blue background
        title={"text": title, "subtitle": {"text": subtitle, "font": {"size": 12}}, "x": 0, "xref": "paper"},
        font={"family": "system-ui, sans-serif", "size": 13, "color": PALETTE.text},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=PALETTE.qualitative,
        showlegend=False,
        hoverlabel={"font": {"family": "system-ui, sans-serif"}},
        margin={"l": 64, "r": 24, "t": 72, "b": 56},
    )
    lines = {"gridcolor": PALETTE.grid, "zerolinecolor": PALETTE.grid, "linecolor": PALETTE.grid, "automargin": True}
    figure.update_xaxes(**lines)
    figure.update_yaxes(**lines)
