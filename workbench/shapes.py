"""Makes the images of the ``shapes`` data, with their annotation, from random numbers that belong to each image alone.

Image ``i`` of (split, seed) takes its numbers from a stream keyed by (split, seed, block of forty images) and from a
fixed place in it, so it is the same picture whatever else is made with it, before it or instead of it. Only raw words
of the generator are used, which numpy keeps unchanged from version to version. No number depends on the colour of the
deciding part: the counterfactual twin of an image differs in that colour and in nothing else.

An object covers a pixel with the share of its 2 × 2 sub-pixels (soft edges); a pixel belongs to the part in front among
those that have any share in it. So *evidence* is exactly the set of pixels whose value depends on the deciding colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from . import drawings as art

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 64
NOISE = 0.04
SPLITS = ("train", "test")
INSTANCES = (1, 2, 3)

_BLOCK = 40  # a multiple of ten: every ten consecutive images hold each class once
_NUMBERS = 112  # uniform numbers per image; the spare ones can be put to use without changing any picture
_FULL = 255 * 16  # a colour of 1, in the 16-bit integers in which the sub-pixels are added up

# Objects stand on a circle around the middle. Per number of objects: least and greatest radius of an object, radius of
# the circle, how far off it an object may stand, and the side of a square that surely holds one; all in pixels. Objects
# never overlap and never leave the frame: the deciding part is always in full view.
_LAYOUT = {1: (15.0, 22.5, 0.0, 0.0, 48), 2: (11.5, 15.0, 16.0, 0.7, 34), 3: (10.5, 13.5, 17.5, 0.8, 30)}
_DISTRACTOR_PATCH = 14
_NOISE_SPREAD = np.sqrt(4 * (256**2 - 1) / 12)  # standard deviation of a sum of four bytes


@dataclass(frozen=True)
class Shapes:
    """A run of generated images.

    Attributes:
        images: float32 ``(N, 3, 64, 64)``, whole multiples of 1/255 as in an 8-bit file.
        labels: int64 ``(N,)``, ``2 * kind + colour``; ``label ^ 1`` is the same kind with the other colour.
        evidence: bool ``(N, 64, 64)``: the pixels of the deciding part.
        concepts: uint8 ``(N, 5, 64, 64)``: one map per category, in the order and with the numbers of ``drawings``.
    """

    images: np.ndarray
    labels: np.ndarray
    evidence: np.ndarray
    concepts: np.ndarray


_COLOUR = {name: i for i, name in enumerate(art.COLOURS)}
_PALETTE = np.array(list(art.COLOURS.values()))
_KEYS = np.array([_COLOUR[name] for name in art.KEY_COLOURS])
_BODIES = np.array([_COLOUR[name] for name in art.BODY_COLOURS])
_EXTRAS = np.array([[_COLOUR.get(colour, -1) for _, colour in kind.extras] for kind in art.KINDS])  # -1: as the body
_PARTS = np.array(
    [[art.NUMBER["part", p] for p in (k.body, k.body, *(part for part, _ in k.extras), k.key)] for k in art.KINDS]
)
_SCENE_COLOUR = np.array([[_COLOUR[name] for name, _ in scene] for scene in art.SCENES.values()])
_SCENE_RGB = np.array([[rgb for _, rgb in scene] for scene in art.SCENES.values()])


def generate(split: str, n: int, seed: int = 0, instances: int | None = None, twins: bool = False) -> Shapes:
    """Make the first ``n`` images of (split, seed).

    Args:
        split: "train" or "test": streams without a common number.
        n: how many images.
        seed: non-negative; every seed is another endless stream.
        instances: put 1, 2 or 3 objects in every image instead of a random number of them.
        twins: make the counterfactual twins instead: the same images with the deciding part in the other colour.
    """
    out = Shapes(
        images=np.empty((n, 3, SIZE, SIZE), np.float32),
        labels=np.empty(n, np.int64),
        evidence=np.empty((n, SIZE, SIZE), bool),
        concepts=np.empty((n, len(art.CATEGORIES), SIZE, SIZE), np.uint8),
    )
    for block in range(-(-n // _BLOCK)):
        run = slice(block * _BLOCK, min((block + 1) * _BLOCK, n))
        stream = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), block)))
        plan = _Plan(_Numbers(stream), instances, twins)
        part = Shapes(out.images[run], out.labels[run], out.evidence[run], out.concepts[run])
        _paint(plan, stream, part)
    return out


class _Numbers:
    """Uniform numbers of a block, one row per image, handed out column by column."""

    def __init__(self, stream: np.random.SFC64) -> None:
        raw = stream.random_raw(_BLOCK * _NUMBERS).reshape(_BLOCK, _NUMBERS)
        self._uniform = (raw >> np.uint64(11)) * 2.0**-53
        self._next = 0

    def real(self, low: float, high: float, *shape: int) -> np.ndarray:
        width = int(np.prod(shape))
        columns = self._uniform[:, self._next : self._next + width]
        self._next += width
        return low + (high - low) * columns.reshape(_BLOCK, *shape)

    def choice(self, options: int, *shape: int) -> np.ndarray:
        return self.real(0, options, *shape).astype(np.int64)


class _Plan:
    """What each image of a block shows: every random decision, taken in the same order for all of them."""

    def __init__(self, numbers: _Numbers, instances: int | None, twins: bool) -> None:
        ranks = numbers.real(0, 1).reshape(-1, 10).argsort(axis=1).reshape(-1)
        self.labels = ranks ^ int(twins)
        count = 1 + numbers.choice(3)
        self.count = count if instances is None else np.full(_BLOCK, instances)
        self.scene, self.texture = numbers.choice(len(art.SCENES)), numbers.choice(len(art.TEXTURES))
        self.body = _BODIES[numbers.choice(len(_BODIES))]
        self.brightness = numbers.real(0.82, 1.06)
        self.tint = numbers.real(-0.04, 0.04, art.SLOTS, 3)
        # Horizon: height, tilt, and a wave of hills.
        self.horizon, self.tilt = numbers.real(26, 46), numbers.real(-0.12, 0.12)
        self.hill, self.wave, self.phase = numbers.real(0, 3.5), numbers.real(0.06, 0.2), numbers.real(0, 2 * np.pi)
        # Objects, one to three.
        self.around, self.off, self.size = numbers.real(0, 2 * np.pi), numbers.real(-1, 1, 3, 2), numbers.real(0, 1, 3)
        self.angle, self.stretch = numbers.real(-0.4, 0.4, 3), numbers.real(0.86, 1, 3, 2)
        self.mirror, self.variant = 1 - 2 * numbers.choice(2, 3), numbers.choice(art.VARIANTS, 3)
        # Distractors, none to three.
        self.distractors, self.distractor_colour = numbers.choice(4), numbers.choice(len(_PALETTE), 3)
        self.distractor_at, self.distractor_size = numbers.real(0, 1, 3, 2), numbers.real(2.5, 5.5, 3)
        self.distractor_shape, self.distractor_angle = numbers.choice(2, 3), numbers.real(0, np.pi / 2, 3)

    @property
    def kind(self) -> np.ndarray:
        return self.labels // 2

    def colours(self) -> np.ndarray:
        """Colour number of every slot, ``(block, slots)``; slot 0, the background, is left at 0."""
        colours = np.zeros((_BLOCK, art.SLOTS), np.int64)
        colours[:, art.DISTRACTOR : art.BODY] = self.distractor_colour
        colours[:, art.BODY : art.EXTRA] = self.body[:, None]
        extras = _EXTRAS[self.kind]
        colours[:, art.EXTRA : art.KEY] = np.where(extras < 0, self.body[:, None], extras)
        colours[:, art.KEY] = _KEYS[self.labels % 2]
        return colours

    def inks(self) -> np.ndarray:
        """What a sub-pixel of each paint adds, ``(block, paints)``: RGB and cover, four packed uint16."""
        rgb = _PALETTE[self.colours()] + self.tint
        rgb[:, art.MARK] = 0.72 * rgb[:, art.BODY]
        shaded = np.clip(rgb[:, :, None] * np.array(art.SHADES)[:, None], 0, 0.98)
        inks = np.full((_BLOCK, art.SLOTS, len(art.SHADES), 4), _FULL, np.uint16)
        inks[..., :3] = np.rint(shaded * _FULL)
        inks[:, 0] = 0
        return inks.view(np.uint64).reshape(_BLOCK, art.PAINTS)

    def concepts(self) -> np.ndarray:
        """Colour, object, part and texture number of each paint, ``(block, paints)``, packed into one uint32."""
        table = np.zeros((_BLOCK, art.SLOTS, len(art.SHADES), 4), np.uint8)
        table[..., 0] = 1 + self.colours()[:, :, None]
        table[:, 0, :, 0] = 0
        table[:, 0, [art.SKY, art.GROUND], 0] = 1 + _SCENE_COLOUR[self.scene]
        table[:, art.BODY :, :, 1] = (art.NUMBER["object", art.KINDS[0].name] + self.kind)[:, None, None]
        table[:, art.BODY :, :, 2] = _PARTS[self.kind][:, :, None]
        table[:, art.BODY : art.EXTRA, :, 3] = (art.NUMBER["texture", art.TEXTURES[0]] + self.texture)[:, None, None]
        return table.view(np.uint32).reshape(_BLOCK, art.PAINTS)


@dataclass(frozen=True)
class _Stamp:
    """One drawing on each of some images of a block; every field but ``side`` has one entry per image.

    ``at`` (column, row) and ``radii`` (across, along) say where the drawing's cell lies and half its sides, in pixels;
    ``mirror`` is 1 or -1; ``side`` is that of a square of pixels which surely holds the drawing.
    """

    rows: np.ndarray
    cell: np.ndarray
    at: np.ndarray
    radii: np.ndarray
    angle: np.ndarray
    mirror: np.ndarray
    side: int


def _object_stamps(plan: _Plan, n: int) -> Iterator[_Stamp]:
    for count, (small, large, circle, off, side) in _LAYOUT.items():
        rows = np.flatnonzero(plan.count[:n] == count)
        for j in range(count):
            radius = (small + (large - small) * plan.size[rows, j])[:, None]
            turn = plan.around[rows] + 2 * np.pi * j / count
            slack = SIZE / 2 - 0.5 - radius if count == 1 else off
            at = SIZE / 2 + circle * np.stack([np.cos(turn), np.sin(turn)], axis=1) + slack * plan.off[rows, j]
            cell = art.object_cell(plan.kind[rows], plan.variant[rows, j], plan.texture[rows])
            radii, angle, mirror = radius * plan.stretch[rows, j], plan.angle[rows, j], plan.mirror[rows, j]
            yield _Stamp(rows, cell, at, radii, angle, mirror, side)


def _distractor_stamps(plan: _Plan, n: int) -> Iterator[_Stamp]:
    for j in range(3):
        rows = np.flatnonzero(plan.distractors[:n] > j)
        radii = plan.distractor_size[rows, j, None] + np.zeros(2)
        at = radii + (SIZE - 2 * radii) * plan.distractor_at[rows, j]
        cell = art.distractor_cell(j, plan.distractor_shape[rows, j])
        yield _Stamp(rows, cell, at, radii, plan.distractor_angle[rows, j], np.ones(len(rows)), _DISTRACTOR_PATCH)


def _paint(plan: _Plan, stream: np.random.SFC64, out: Shapes) -> None:
    """Paint the first images of a block, as many as ``out`` has room for."""
    n = len(out.labels)
    canvas, paint = _background(plan, n)
    inks = plan.inks()
    for stamp in (*_distractor_stamps(plan, n), *_object_stamps(plan, n)):
        _press(stamp, inks, canvas, paint)

    # Noise is a sum of four random bytes: nearly normal, quick to draw, and bounded, so that no pixel of evidence can
    # be driven to the same limit in both twins.
    raw = stream.random_raw(n * 3 * SIZE * SIZE // 2).view(np.uint8).reshape(n, 4, 3, SIZE, SIZE)
    noise = np.add(raw[:, 0], raw[:, 1], dtype=np.int16)
    noise += raw[:, 2]
    noise += raw[:, 3]
    canvas *= plan.brightness[:n, None, None, None].astype(np.float32)
    canvas += (noise - np.int16(510)) * np.float32(255 * NOISE / _NOISE_SPREAD)
    np.rint(np.clip(canvas, 0, 255, out=canvas), out=canvas)
    np.divide(canvas, np.float32(255), out=out.images)

    out.labels[:] = plan.labels[:n]
    np.greater_equal(paint, art.KEY * len(art.SHADES), out=out.evidence)
    place = paint + np.arange(0, n * art.PAINTS, art.PAINTS)[:, None, None]
    concepts = np.take(plan.concepts(), place).view(np.uint8).reshape(n, SIZE, SIZE, 4)
    out.concepts[:, :4] = concepts.transpose(0, 3, 1, 2)
    out.concepts[:, 4] = (art.NUMBER["scene", next(iter(art.SCENES))] + plan.scene[:n])[:, None, None]


def _background(plan: _Plan, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sky and ground with a hilly horizon: colours ``(n, 3, 64, 64)`` in [0, 255] and paints ``(n, 64, 64)``."""
    at = np.arange(SIZE)
    hills = plan.hill[:n, None] * np.sin(plan.wave[:n, None] * at + plan.phase[:n, None])
    horizon = plan.horizon[:n, None] + plan.tilt[:n, None] * (at - SIZE / 2) + hills
    ground = np.clip(at[:, None] + 1 - horizon[:, None], 0, 1).astype(np.float32)
    rgb = 255 * _SCENE_RGB[plan.scene[:n]] * (1 + plan.tint[:n, :2])
    # The sky pales towards the horizon, the ground darkens towards the viewer.
    sky_rows = (rgb[:, 0, :, None] * (0.90 + 0.16 * at / SIZE)).astype(np.float32)[..., None]
    ground_rows = (rgb[:, 1, :, None] * (1.10 - 0.22 * at / SIZE)).astype(np.float32)[..., None]
    canvas = ground[:, None] * (ground_rows - sky_rows)
    canvas += sky_rows
    paint = np.where(ground >= 0.5, np.uint8(art.GROUND), np.uint8(art.SKY))
    return canvas, paint


def _press(stamp: _Stamp, inks: np.ndarray, canvas: np.ndarray, paint: np.ndarray) -> None:
    """Put a drawing onto the canvas of each image of ``stamp``, and its paints onto ``paint``."""
    side, rows = stamp.side, stamp.rows
    left, top = np.clip(np.floor(stamp.at).astype(np.int64) - side // 2, 0, SIZE - side).T
    # Pixel (row, column) shows texel (v, u); both are affine in row and column, in fixed point with 16 binary digits.
    scale = art.RESOLUTION / 2 * 65536 / stamp.radii
    cos, sin = np.cos(stamp.angle), np.sin(stamp.angle)
    step_u = (scale[:, 0] * stamp.mirror * np.stack([cos, sin])).T
    step_v = (scale[:, 1] * np.stack([-sin, cos])).T
    across = np.arange(side) + 0.5 + (left - stamp.at[:, 0])[:, None]
    down = np.arange(side) + 0.5 + (top - stamp.at[:, 1])[:, None]
    middle = art.RESOLUTION / 2 * 65536
    u, v = (
        (step[:, :1] * across + middle).astype(np.int32)[:, None, :] + (step[:, 1:] * down).astype(np.int32)[:, :, None]
        for step in (step_u, step_v)
    )
    cell = (stamp.cell * art.RESOLUTION**2)[:, None, None]
    ink = (rows * art.PAINTS)[:, None, None]
    total = np.zeros(u.shape, np.uint64)
    front = np.zeros(u.shape, np.uint8)
    for sub in ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25)):
        texel = [(w + (step @ sub).astype(np.int32)[:, None, None]) >> 16 for w, step in ((u, step_u), (v, step_v))]
        for w in texel:
            np.clip(w, 0, art.RESOLUTION - 1, out=w)
        drawn = np.take(art.sheet(), texel[1] * art.RESOLUTION + texel[0] + cell)
        np.maximum(front, drawn, out=front)
        total += np.take(inks, drawn + ink)

    parts = total.view(np.uint16).reshape(*total.shape, 4)
    bare = 1 - parts[..., 3] * np.float32(0.25 / _FULL)
    images = sliding_window_view(canvas, (side, side), axis=(2, 3), writeable=True)
    under = images[rows, :, top, left]
    under *= bare[:, None]
    under += parts[..., :3].transpose(0, 3, 1, 2) * np.float32(0.25 * 255 / _FULL)
    images[rows, :, top, left] = under
    # Slots are numbered from back to front, so the greatest paint is the one in front.
    paints = sliding_window_view(paint, (side, side), axis=(1, 2), writeable=True)
    paints[rows, top, left] = np.maximum(paints[rows, top, left], front)
