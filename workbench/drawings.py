"""The drawings of the ``shapes`` data: what can be seen, in which colours, and a sheet of all things drawn once.

Everything is drawn once per process, at 128 × 128 texels, as small numbers ("paints") instead of colours. An image is
made by looking up turned and scaled positions in that sheet, and a paint becomes a colour, or a concept, by one table
per image. So pixels and annotation come from the same number and cannot disagree, and a thousand images cost a fraction
of a second. ``workbench.shapes`` does the making; this file holds the drawings.

A paint is ``4 · slot + shade``. Slots are ordered by who is in front: background, distractors, the object's body, its
other parts, and last the part whose colour decides the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

RESOLUTION = 128
VARIANTS = 4
SHADES = (0.58, 0.84, 1.0, 1.14)  # outline, shadow, plain, light
SKY, GROUND = 1, 2  # paints of slot 0, whose paint 0 is "nothing here"
DISTRACTOR, BODY, MARK, EXTRA, KEY = 1, 4, 5, 6, 9  # first slot of each; three distractors, three extras
SLOTS = 10
PAINTS = SLOTS * len(SHADES)

COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.13, 0.13, 0.15),
    "white": (0.93, 0.93, 0.91),
    "grey": (0.55, 0.57, 0.60),
    "red": (0.84, 0.13, 0.13),
    "orange": (0.93, 0.55, 0.14),
    "yellow": (0.94, 0.81, 0.25),
    "green": (0.33, 0.64, 0.30),
    "cyan": (0.50, 0.82, 0.90),
    "blue": (0.14, 0.28, 0.84),
    "purple": (0.52, 0.30, 0.66),
    "pink": (0.93, 0.62, 0.74),
    "brown": (0.50, 0.33, 0.20),
}
KEY_COLOURS = ("red", "blue")
# Not a key colour, lest a body be taken for the deciding part; neither black nor brown, which hide outlines.
BODY_COLOURS = ("white", "orange", "yellow", "green", "cyan", "purple", "pink", "grey")
DISTRACTOR_COLOURS = tuple(COLOURS)
SCENES: dict[str, tuple[tuple[str, tuple[float, float, float]], tuple[str, tuple[float, float, float]]]] = {
    "meadow": (("cyan", (0.66, 0.85, 0.94)), ("green", (0.52, 0.74, 0.40))),
    "desert": (("yellow", (0.95, 0.87, 0.63)), ("brown", (0.76, 0.58, 0.38))),
    "snow": (("grey", (0.66, 0.72, 0.79)), ("white", (0.90, 0.92, 0.94))),
    "dusk": (("pink", (0.94, 0.70, 0.65)), ("purple", (0.50, 0.40, 0.60))),
    "night": (("black", (0.13, 0.14, 0.23)), ("grey", (0.33, 0.37, 0.44))),
    "lake": (("white", (0.88, 0.91, 0.93)), ("cyan", (0.45, 0.72, 0.80))),
}
TEXTURES = ("plain", "striped", "banded", "dotted", "checked", "zigzag")

Mask = np.ndarray


class Pen:
    """Draws in the square [-1, 1]² (x right, y down) and keeps to the unit disc, so that turning cuts nothing off."""

    def __init__(self) -> None:
        axis = (np.arange(RESOLUTION) + 0.5) * 2 / RESOLUTION - 1
        self.x, self.y = np.meshgrid(axis, axis)
        self.paint = np.zeros((RESOLUTION, RESOLUTION), np.uint8)

    def ellipse(self, x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Mask:
        cos, sin = np.cos(angle), np.sin(angle)
        dx, dy = self.x - x, self.y - y
        return ((cos * dx + sin * dy) / rx) ** 2 + ((cos * dy - sin * dx) / ry) ** 2 <= 1

    def polygon(self, *corners: tuple[float, float]) -> Mask:
        inside = np.zeros(self.x.shape, bool)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            if y0 != y1:
                crosses = (y0 > self.y) != (y1 > self.y)
                inside ^= crosses & (self.x < x0 + (self.y - y0) * (x1 - x0) / (y1 - y0))
        return inside

    def box(self, left: float, top: float, right: float, bottom: float) -> Mask:
        return (self.x > left) & (self.x < right) & (self.y > top) & (self.y < bottom)

    def fill(self, mask: Mask, slot: int, outline: int = 4) -> None:
        """Fill ``mask`` with a slot's colour: light from the upper left, and an outline some texels wide."""
        mask = mask & (self.x**2 + self.y**2 < 0.98)
        if not mask.any():
            return
        core = mask.copy()
        for step in (-outline, outline):
            core &= np.roll(mask, step, 0) & np.roll(mask, step, 1)
        xs, ys = self.x[mask], self.y[mask]
        across = 0.4 * (xs - xs.min()) / np.ptp(xs) + 0.6 * (ys - ys.min()) / np.ptp(ys)
        shade = np.select([~core[mask], across < 0.32, across > 0.70], [0, 3, 1], 2)
        self.paint[mask] = len(SHADES) * slot + shade


def _flower(pen: Pen, variant: int) -> None:
    pen.fill(pen.box(-0.06, 0.0, 0.06, 0.97), EXTRA)
    pen.fill(pen.ellipse(0.24, 0.66, 0.25, 0.11, -0.5), EXTRA + 1, 3)
    if variant % 2:
        pen.fill(pen.ellipse(-0.24, 0.74, 0.25, 0.11, 0.5), EXTRA + 1, 3)
    petals = 5 + variant
    for k in range(petals):
        angle = 2 * np.pi * (k + 0.25 * variant) / petals
        x, y = 0.40 * np.cos(angle), 0.40 * np.sin(angle) - 0.28
        pen.fill(pen.ellipse(x, y, 0.29, 0.30 - 0.025 * variant, angle), BODY)
    pen.fill(pen.ellipse(0, -0.28, 0.28, 0.28), KEY)


def _house(pen: Pen, variant: int) -> None:
    wide = 0.52 + 0.04 * (variant % 3)
    pen.fill(pen.box(0.18, -0.80, 0.36, -0.2), EXTRA + 2)
    pen.fill(pen.box(-wide, -0.15, wide, 0.76), BODY)
    pen.fill(pen.box(-0.40, 0.26, -0.08, 0.76), EXTRA)
    pen.fill(pen.box(0.12, 0.10, 0.42, 0.42), EXTRA + 1, 3)
    if variant % 2:
        pen.fill(pen.box(-0.38, -0.02, -0.12, 0.18), EXTRA + 1, 3)
    left, right, eaves = -wide - 0.16, wide + 0.16, -0.08
    tops = (
        [(0.0, -0.72)],
        [(-0.38, -0.56), (0.38, -0.56)],
        [(-0.22, -0.70)],
        [(-0.5, -0.42), (0.0, -0.72), (0.5, -0.42)],
    )
    pen.fill(pen.polygon((left, eaves), *tops[variant], (right, eaves)), KEY)


def _car(pen: Pen, variant: int) -> None:
    cabins = (
        ((-0.60, 0.02), (-0.38, -0.44), (0.26, -0.44), (0.52, 0.02)),
        ((-0.84, 0.02), (-0.76, -0.42), (0.30, -0.42), (0.62, 0.02)),
        ((-0.10, 0.02), (-0.02, -0.44), (0.38, -0.44), (0.62, 0.02)),
        ((-0.78, 0.02), (-0.40, -0.34), (0.10, -0.46), (0.60, 0.02)),
    )
    cabin = cabins[variant]
    body = pen.polygon(*cabin) | pen.polygon(
        (-0.90, 0.02), (-0.84, -0.06), (0.78, -0.06), (0.92, 0.12), (0.90, 0.38), (-0.90, 0.38)
    )
    pen.fill(body, BODY)
    glass = pen.polygon(*((x * 0.78 + 0.22 * (cabin[0][0] + cabin[3][0]) / 2, y * 0.72 - 0.06) for x, y in cabin))
    pillar = (cabin[1][0] + cabin[2][0]) / 2
    pen.fill(glass & (pen.x < pillar - 0.03), EXTRA, 3)
    pen.fill(glass & (pen.x > pillar + 0.03), EXTRA, 3)
    pen.fill(pen.ellipse(0.86, 0.14, 0.07, 0.07), EXTRA + 1, 2)
    for x in (-0.48, 0.48):
        pen.fill(pen.ellipse(x, 0.40, 0.25, 0.25), KEY)


def _tree(pen: Pen, variant: int) -> None:
    pen.fill(pen.polygon((-0.10, 0.1), (0.10, 0.1), (0.17, 0.96), (-0.17, 0.96)), EXTRA)
    crowns = (
        [pen.ellipse(0, -0.28, 0.66, 0.62)],
        [
            pen.ellipse(-0.34, -0.05, 0.42, 0.38),
            pen.ellipse(0.34, -0.05, 0.42, 0.38),
            pen.ellipse(0, -0.46, 0.46, 0.44),
        ],
        [pen.polygon((-0.70, 0.36), (0.70, 0.36), (0, -0.48)), pen.polygon((-0.52, -0.14), (0.52, -0.14), (0, -0.94))],
        [pen.ellipse(0, -0.36, 0.50, 0.60), pen.ellipse(0, 0.02, 0.70, 0.34)],
    )
    for blob in crowns[variant]:
        pen.fill(blob, BODY)
    fruit = (
        ((-0.34, -0.38), (0.06, -0.62), (0.38, -0.30), (-0.10, -0.12), (0.28, 0.08), (-0.42, -0.02)),
        ((-0.44, -0.08), (-0.08, -0.62), (0.20, -0.36), (0.46, -0.02), (0.04, 0.02)),
        ((0.0, -0.62), (-0.22, -0.30), (0.24, -0.26), (-0.38, 0.18), (0.06, 0.10), (0.42, 0.20)),
        ((-0.18, -0.68), (0.20, -0.48), (-0.22, -0.24), (0.22, -0.06), (-0.44, 0.08), (0.52, 0.08)),
    )
    for x, y in fruit[variant]:
        pen.fill(pen.ellipse(x, y, 0.135, 0.135), KEY, 3)


def _fish(pen: Pen, variant: int) -> None:
    tail = (
        ((-0.30, 0.0), (-0.92, -0.36), (-0.72, 0.0), (-0.92, 0.36)),
        ((-0.30, 0.0), (-0.86, -0.42), (-0.86, 0.42)),
        ((-0.30, 0.0), (-0.70, -0.48), (-0.96, -0.22), (-0.76, 0.0), (-0.96, 0.22), (-0.70, 0.48)),
        ((-0.30, 0.0), (-0.84, -0.46), (-0.78, -0.10), (-0.94, 0.30)),
    )
    pen.fill(pen.polygon((-0.14, -0.2), (-0.06, -0.64), (0.16, -0.54), (0.46, -0.32), (0.44, -0.2)), EXTRA)
    pen.fill(pen.polygon(*tail[variant]), KEY)
    pen.fill(pen.ellipse(0.22, 0, 0.66, (0.40, 0.46, 0.34, 0.42)[variant]), BODY)
    if variant % 2:
        pen.fill(pen.polygon((0.02, 0.06), (0.26, 0.12), (-0.02, 0.34)), EXTRA, 3)
    pen.fill(pen.ellipse(0.56, -0.10, 0.13, 0.13), EXTRA + 1, 2)
    pen.fill(pen.ellipse(0.59, -0.09, 0.07, 0.07), EXTRA + 2, 0)


@dataclass(frozen=True)
class Kind:
    """One kind of object: its parts as ``(part, colour)`` in the order of the slots, and how it is drawn."""

    name: str
    body: str
    extras: tuple[tuple[str, str], tuple[str, str], tuple[str, str]]
    key: str
    draw: Callable[[Pen, int], None]


KINDS = (
    Kind("flower", "petal", (("stem", "green"), ("leaf", "green"), ("leaf", "green")), "centre", _flower),
    Kind("house", "wall", (("door", "brown"), ("window", "cyan"), ("chimney", "grey")), "roof", _house),
    Kind("car", "bodywork", (("window", "cyan"), ("lamp", "yellow"), ("lamp", "yellow")), "wheel", _car),
    Kind("tree", "crown", (("trunk", "brown"), ("trunk", "brown"), ("trunk", "brown")), "fruit", _tree),
    Kind("fish", "fish body", (("fin", "body"), ("eye", "white"), ("eye", "black")), "tail", _fish),
)
CLASSES = tuple(f"{colour}-{kind.key} {kind.name}" for kind in KINDS for colour in KEY_COLOURS)
PARTS = tuple(dict.fromkeys(part for k in KINDS for part in (k.key, k.body, *(name for name, _ in k.extras))))

# Concepts, numbered from 1 up through all categories.
CATEGORIES = ("colour", "object", "part", "texture", "scene")
_NAMES = (tuple(COLOURS), tuple(kind.name for kind in KINDS), PARTS, TEXTURES, tuple(SCENES))
CONCEPTS = tuple((category, name) for category, names in zip(CATEGORIES, _NAMES, strict=True) for name in names)
NUMBER = {concept: number for number, concept in enumerate(CONCEPTS, start=1)}


def _texture_marks(pen: Pen) -> list[Mask]:
    """One mask per texture: the texels of a body that the pattern darkens."""
    u, v = (pen.x + 1) * 3.2, (pen.y + 1) * 3.2
    cell_u, cell_v = u % 1 - 0.5, v % 1 - 0.5
    return [
        np.zeros(u.shape, bool),
        u % 1 < 0.45,
        v % 1 < 0.45,
        cell_u**2 + cell_v**2 < 0.09,
        (cell_u < 0) ^ (cell_v < 0),
        (v + np.abs(cell_u)) % 1 < 0.45,
    ]


def object_cell(kind: np.ndarray, variant: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """Number of the sheet's cell that shows an object."""
    return (kind * VARIANTS + variant) * len(TEXTURES) + texture


def distractor_cell(slot: int, shape: np.ndarray) -> np.ndarray:
    """Number of the sheet's cell that shows a distractor (shape 0 disc, 1 square) in distractor slot 0, 1 or 2."""
    return len(KINDS) * VARIANTS * len(TEXTURES) + 2 * slot + shape


@lru_cache(maxsize=1)
def sheet() -> np.ndarray:
    """Return all drawings as paints: uint8 ``(cells * RESOLUTION * RESOLUTION,)``; the rim of every cell is empty."""
    cells = []
    for kind in KINDS:
        for variant in range(VARIANTS):
            pen = Pen()
            kind.draw(pen, variant)
            shade = pen.paint % len(SHADES)
            body = (pen.paint // len(SHADES) == BODY) & (shade > 0)
            for marks in _texture_marks(pen):
                cells.append(np.where(body & marks, len(SHADES) * MARK + shade, pen.paint))
    for slot in range(DISTRACTOR, DISTRACTOR + 3):
        disc, square = Pen(), Pen()
        disc.fill(disc.ellipse(0, 0, 0.95, 0.95), slot, 10)
        square.fill(square.box(-0.68, -0.68, 0.68, 0.68), slot, 10)
        cells += [disc.paint, square.paint]
    drawings = np.stack(cells).astype(np.uint8)
    drawings[:, [0, -1], :] = 0
    drawings[:, :, [0, -1]] = 0
    drawings.setflags(write=False)
    return drawings.reshape(-1)
