"""The curve as numbers for a static drawing: what paper, readers without JavaScript and the lite page show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .figures import apart, epsilon_text

if TYPE_CHECKING:
    from attacks import Evaluation

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 14, 46


@dataclass(frozen=True)
class Chart:
    """Positions in a box of ``WIDTH`` by ``HEIGHT``.

    Attributes:
        line, band: what SVG calls ``points``.
        dots: x, y of each measurement.
        x_ticks, y_ticks: position and text.
        trusted: whether the sanity checks back the curve.
        alt: the curve in one sentence.
    """

    line: str
    band: str
    dots: list[tuple[float, float]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    trusted: bool
    alt: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


def chart(evaluation: Evaluation) -> Chart:
    """Lay out the curve of an evaluation."""
    curve = evaluation.curve
    epsilons = [float(e) for e in curve["epsilon"]]
    largest = max(epsilons) or 1.0

    def x(epsilon: float) -> float:
        return round(_LEFT + 8 + (WIDTH - _LEFT - _RIGHT - 16) * epsilon / largest, 1)

    def y(share: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - share), 1)

    def points(column: str) -> list[tuple[float, float]]:
        return [(x(e), y(float(share))) for e, share in zip(epsilons, curve[column], strict=True)]

    dots = points("robust_accuracy")
    names = [epsilon_text(e, evaluation.norm) for e in epsilons]
    said = ", ".join(f"{name}: {share:.0%}" for name, share in zip(names, curve["robust_accuracy"], strict=True))
    return Chart(
        line=_text(dots),
        band=_text(points("high") + points("low")[::-1]),
        dots=dots,
        x_ticks=[(x(epsilons[i]), names[i]) for i in apart(epsilons)],
        y_ticks=[(y(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)],
        trusted=evaluation.trustworthy,
        alt=f"Share of images by budget. {said}.",
    )


def _text(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{a:g},{b:g}" for a, b in points)
