"""The parts of the page as plain values: what the template sees, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .chart import Chart
    from .recipe import Recipe


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        pixels: uint8 ``(H, W, 3)``.
        caption: what is written below it; ``note`` is the second line.
        alt: what is read out instead of it.
        uri: its ``data:`` address; empty until it is drawn.
    """

    pixels: np.ndarray
    caption: str
    alt: str
    note: str = ""
    uri: str = ""

    @property
    def width(self) -> int:
        """Width in pixels, of which the page needs the ratio to height."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])


@dataclass(frozen=True)
class Guess:
    """One line of an image's predictions."""

    name: str
    probability: float
    is_label: bool


@dataclass(frozen=True)
class Card:
    """One image: what it is, what the model says, its maps, and what an attack did to the answer.

    ``label`` and ``right`` are ``None`` where nobody knows the truth, ``explained`` where the maps are about the
    predicted class; ``robustness`` is empty for an image that was wrong from the start.
    """

    id: str
    guesses: tuple[Guess, ...]
    label: str | None
    right: bool | None
    explained: str | None
    robustness: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Fooled:
    """An image, what an attack made of it, the difference, and the maps of both answers; ``found`` says how."""

    id: str
    found: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Legend:
    """How to read the maps of one method: its colours from ``low`` to ``high``."""

    title: str
    layer: str | None
    colours: str
    low: str
    high: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Technique:
    """A method or an attack in one sentence, with its paper and the options it ran with."""

    title: str
    description: str
    paper: str
    link: str | None
    options: str


@dataclass(frozen=True)
class Row:
    """One budget of the curve."""

    budget: str
    standing: int
    n: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Spent:
    """What one attack found and cost; all numbers as printed. ``seconds`` is empty where a page is to be repeatable."""

    attack: str
    tried: str
    credited: str
    passes: str
    seconds: str


@dataclass(frozen=True)
class Check:
    """One sanity check; ``state`` is "passed", "failed" or "not tested"."""

    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Content:
    """The page, top to bottom. ``seconds``, here and in ``spent``, are the lines that differ between equal runs."""

    title: str
    headline: str
    summary: list[str]
    distrust: str | None
    relative: bool
    axis: str
    meaning: str
    facts: list[tuple[str, str]]
    model_notices: tuple[str, ...]
    image_notices: tuple[str, ...]
    skipped_files: tuple[tuple[str, str], ...]
    total: int
    cards: list[Card]
    legends: list[Legend]
    skipped_methods: list[tuple[str, str]]
    rows: list[Row]
    chart: Chart
    figure: str
    spent: list[Spent]
    order: str
    cost: str
    checks: list[Check]
    fooled: list[Fooled]
    mapped: str | None
    standing: bool
    methods: list[Technique]
    attacks: list[Technique]
    provenance: list[tuple[str, str]]
    recipe: Recipe
    seconds: str | None
    date: str | None
