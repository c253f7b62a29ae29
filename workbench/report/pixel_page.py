"""The page about one pixel of a network from images to images: filters, impulse responses, patterns. It needs no script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw

from ..errors import OptionError
from . import linear
from .figures import to_png_bytes, to_rgb
from .linear_page import MODES
from .numbers import adding_up, plain, precision, significant
from .page import _LITE_POLICY, Report, _environment, _own
from .parts import Picture
from .pictures import SIZES, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..images import ImageSet
    from ..interpretation.look import Look

_MOST = 12
_SIDE = 224  # of the pictures in which the pixel is marked
COLOURS = {3: ("red", "green", "blue"), 1: ("grey",)}
_MARK = (255, 0, 160)  # a pink that hardly any picture has


@dataclass(frozen=True)
class Channel:
    """One colour of the pixel, as printed: ``value = pixels sign bias``; and how it weighs the input."""

    name: str
    value: str
    pixels: str
    sign: str
    bias: str


@dataclass(frozen=True)
class Pattern:
    """A singular pattern: what goes in, what comes out, and how much stronger."""

    gain: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class PixelCard:
    """One image; ``filters`` and ``impulses`` are cut out around the pixel."""

    id: str
    pictures: tuple[Picture, ...]
    channels: tuple[Channel, ...]
    filters: tuple[Picture, ...]
    impulses: tuple[Picture, ...]
    patterns: tuple[Pattern, ...]


def pixel_page(
    look: Look,
    images: ImageSet,
    model: Any,
    *,
    command: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Lay the page out and draw it.

    Args:
        look: what was found.
        images: what went in.
        model: the ``ImageModel`` that was looked at.
        command: the command line that makes the page again, if there is one.
        progress: called as pictures are drawn.

    Raises:
        OptionError: images or answers cannot be shown as pictures.
    """
    for size in (look.lens.inputs.shape[1], look.lens.outputs.shape[1]):
        if size not in COLOURS:
            raise OptionError("These images cannot be shown as pictures", f"{size} channels", "Use grey or RGB images.")
    shown = min(len(look), _MOST)
    cards = [_card(look, images, i) for i in range(shown)]
    tick = progress or (lambda done, total, what: None)
    lens, name = look.lens, getattr(model, "name", type(model).__name__)
    text = (
        _environment()
        .get_template("pixel.html.j2")
        .render(
            policy=_LITE_POLICY,
            style=Markup("{}\n{}").format(_own("style.css"), _own("linear.css")),
            title=f"{name} at pixel {look.pixel[0]}, {look.pixel[1]}",
            pixel=look.pixel,
            beneath=look.beneath,
            facts=(
                ("What x is", lens.input_name),
                ("Mode", MODES[lens.mode]),
                ("From, to", f"{_size(lens.inputs)} to {_size(lens.outputs)}"),
                ("Completeness", f"pixels + bias is the answer to {precision(float(lens.residual.max()))}"),
                ("Frozen decisions", f"{lens.gates_bytes / 1e6:,.1f} MB in memory"),
                ("Model digest", getattr(model, "digest", "unknown")),
                ("Image digest", images.digest),
            ),
            notes=(*lens.notes, *getattr(model, "notices", ()), *images.notices),
            cards=list(_drawn(cards, tick)),
            total=len(look),
            command=command,
        )
    )
    return Report(text.encode("utf-8", "replace").decode())


def write_pixel_files(folder: Path, look: Look, names: Sequence[str]) -> None:
    """Write filters and impulse responses as pictures, and the numbers as CSV and NPZ, into ``folder``."""
    for i, name in enumerate(names):
        for kind, pictures in (("filter", _filters(look, i)), ("impulse", _impulses(look, i))):
            for picture in pictures:
                pixels = picture.pixels
                factor = max(1, -(-256 // pixels.shape[1]))
                path = folder / f"{name}.{kind}.{picture.caption}.png"
                path.write_bytes(to_png_bytes(pixels.repeat(factor, axis=0).repeat(factor, axis=1)))
    look.frame().to_csv(folder / "pixel.csv", index=False)
    look.spectrum.frame().to_csv(folder / "spectrum.csv", index=False)
    np.savez_compressed(
        folder / "pixel.npz",
        ids=np.array(look.lens.ids),
        pixel=np.array(look.pixel),
        beneath=np.array(look.beneath),
        filters=_numpy(look.filters),
        impulses=_numpy(look.impulses),
        right=_numpy(look.spectrum.right),
        left=_numpy(look.spectrum.left),
    )


def _card(look: Look, images: ImageSet, i: int) -> PixelCard:
    name = images.ids[i]
    answer = np.clip(_numpy(look.lens.outputs[i]), 0, 1)
    entered = _numpy(images.images[i])
    channels = []
    for c, colour in enumerate(COLOURS[look.value.shape[1]]):
        (pixels, bias), value, decimals = adding_up((float(look.pixels[i, c]), float(look.bias[i, c])), 4)
        channels.append(
            Channel(
                colour, plain(value, decimals), plain(pixels, decimals), "−" if bias < 0 else "+", plain(abs(bias), 4)
            )
        )
    return PixelCard(
        id=name,
        pictures=(
            Picture(
                _marked(entered, look.beneath, _window(look.filters[i], look.beneath)), "Input", f"{name}, the input"
            ),
            Picture(
                _marked(answer, look.pixel, _window(look.impulses[i], look.pixel)), "Answer", f"{name}, the answer"
            ),
        ),
        channels=tuple(channels),
        filters=_filters(look, i),
        impulses=_impulses(look, i),
        patterns=tuple(_patterns(look, i)),
    )


def _filters(look: Look, i: int) -> tuple[Picture, ...]:
    return cut_out(look.filters[i], look.beneath, COLOURS[look.value.shape[1]], "Weights of the input for {}")


def _impulses(look: Look, i: int) -> tuple[Picture, ...]:
    return cut_out(look.impulses[i], look.pixel, COLOURS[look.lens.inputs.shape[1]], "Answer to one more {}")


def cut_out(maps: Any, centre: tuple[int, int], colours: Sequence[str], alt: str) -> tuple[Picture, ...]:
    """Return maps ``(K, C, H, W)`` around ``centre`` as pictures on one scale, mid-grey for zero.

    What is shown is the root of each weight: one of them usually outweighs all others a hundredfold.
    """
    top, bottom, left, right = _window(maps, centre)
    weights = _numpy(maps)[:, :, top:bottom, left:right]
    part = np.sign(weights) * np.sqrt(np.abs(weights))
    scale = float(np.abs(part).max())
    where = f"rows {top}–{bottom - 1}, columns {left}–{right - 1}"
    return tuple(
        Picture(linear.pattern(one, scale), colour, f"{alt.format(colour)}; {where}; grey is zero", where)
        for one, colour in zip(part, colours, strict=True)
    )


def _window(maps: Any, centre: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of the square around ``centre`` in which anything exceeds a hundredth of the peak."""
    size = _numpy(maps).shape[-2:]
    strength = np.abs(_numpy(maps)).reshape(-1, *size).max(0)
    rows, columns = np.nonzero(strength > 0.01 * strength.max()) if strength.any() else (np.array([]), np.array([]))
    reach = max(
        4, *(int(np.abs(at - middle).max(initial=0)) for at, middle in zip((rows, columns), centre, strict=True))
    )
    spans = [(max(0, c - reach), min(n, c + reach + 1)) for c, n in zip(centre, size, strict=True)]
    return (*spans[0], *spans[1])


def _marked(image: np.ndarray, pixel: tuple[int, int], window: tuple[int, int, int, int]) -> np.ndarray:
    """Return an enlarged picture with a frame around the pixel and one around the part that is cut out below."""
    pixels = to_rgb(image)
    factor = max(1, _SIDE // max(pixels.shape[:2]))
    picture = Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    draw = ImageDraw.Draw(picture)
    (i, j), (top, bottom, left, right) = pixel, window
    draw.rectangle((j * factor - 1, i * factor - 1, (j + 1) * factor, (i + 1) * factor), outline=_MARK, width=2)
    draw.rectangle((left * factor, top * factor, right * factor - 1, bottom * factor - 1), outline=_MARK, width=1)
    return np.asarray(picture)


def _patterns(look: Look, i: int) -> Iterator[Pattern]:
    spectrum = look.spectrum
    for n in range(spectrum.values.shape[1]):
        right, left = _numpy(spectrum.right[i, n]), _numpy(spectrum.left[i, n])
        sign = -1.0 if float((right * _numpy(look.lens.inputs[i])).sum()) < 0 else 1.0
        gain = significant(float(spectrum.values[i, n]))
        yield Pattern(
            gain,
            (
                Picture(linear.pattern(sign * right), "in", f"Pattern {n + 1} of the input; grey is zero"),
                Picture(linear.pattern(sign * left), "out", f"What it becomes, {gain} times as strong; grey is zero"),
            ),
        )


def _drawn(cards: Sequence[PixelCard], tick: Callable[[int, int, str], None]) -> Iterator[PixelCard]:
    groups = [
        [*one.pictures, *one.filters, *one.impulses, *(p for pattern in one.patterns for p in pattern.pictures)]
        for one in cards
    ]
    addresses = encode([[picture.pixels for picture in group] for group in groups], SIZES, tick)
    for one, group, uris in zip(cards, groups, addresses, strict=False):
        left = iter([replace(picture, uri=uri) for picture, uri in zip(group, uris, strict=True)])
        yield replace(
            one,
            pictures=tuple(next(left) for _ in one.pictures),
            filters=tuple(next(left) for _ in one.filters),
            impulses=tuple(next(left) for _ in one.impulses),
            patterns=tuple(replace(pattern, pictures=(next(left), next(left))) for pattern in one.patterns),
        )


def _size(tensor: Any) -> str:
    return " × ".join(map(str, tensor.shape[1:]))


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu() if hasattr(tensor, "detach") else tensor)
