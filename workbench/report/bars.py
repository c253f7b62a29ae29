"""Static bars as SVG: what paper, readers without JavaScript and other documents show. Colours read on white and on black."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from .figures import PALETTE

_WIDTH, _LABELS, _TEXT, _ROW, _TOP = 560, 200, 76, 24, 8


@dataclass(frozen=True)
class Bar:
    """One bar: what it is called, where it starts and ends, its colour, and the number beside it."""

    label: str
    start: float
    end: float
    colour: str
    text: str


def bars_svg(bars: Sequence[Bar], alt: str, title: str = "") -> str:
    """Return horizontal bars on one scale, the first one on top, as an SVG document.

    Args:
        bars: at least one.
        alt: what is read out instead of it.
        title: written above; without it the document is meant to stand below a heading.
    """
    top = _TOP + (26 if title else 0)
    height = top + _ROW * len(bars) + _TOP
    values = [0.0, *(value for bar in bars for value in (bar.start, bar.end))]
    low, high = min(values), max(values)
    negative = low < 0
    left, right = _LABELS + (_TEXT if negative else 0), _WIDTH - _TEXT

    def at(value: float) -> float:
        return left + (right - left) * (value - low) / ((high - low) or 1.0)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{_text(alt)}" font-family="system-ui, sans-serif" font-size="13" fill="{PALETTE.text}">'
    ]
    if title:
        lines.append(f'<text x="0" y="18" font-size="15">{_text(title)}</text>')
    for row, bar in enumerate(bars):
        y = top + _ROW * row
        start, end = sorted((at(bar.start), at(bar.end)))
        outside = bar.end < bar.start and negative and bar.start <= 0
        anchor, x = ("end", start - 5) if outside else ("start", end + 5)
        lines += [
            f'<text x="{_LABELS - 8}" y="{y + 16}" text-anchor="end">{_text(bar.label)}</text>',
            f'<rect x="{start:.1f}" y="{y + 4}" width="{max(end - start, 0.5):.1f}" height="{_ROW - 8}" '
            f'fill="{bar.colour}"/>',
            f'<text x="{x:.1f}" y="{y + 16}" text-anchor="{anchor}">{_text(bar.text)}</text>',
        ]
    lines.append(
        f'<line x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{top}" y2="{height - _TOP}" stroke="{PALETTE.text}" stroke-width="1"/>'
    )
    return "\n".join([*lines, "</svg>\n"])


def _text(text: str) -> str:
    """Escape, and leave out what XML cannot hold: names come from strangers."""
    kept = "".join(char if char.isprintable() and not 0xD800 <= ord(char) < 0xE000 else "�" for char in text)
    return html.escape(kept)
