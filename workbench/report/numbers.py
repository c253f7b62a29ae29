"""Numbers as people read them: with their sign, and rounded so that a printed sum is one."""

from __future__ import annotations

import math
from collections.abc import Sequence


def adding_up(parts: Sequence[float], decimals: int | None = None) -> tuple[list[float], float, int]:
    """Round numbers so that what is printed adds up: the rounded parts sum to the rounded total.

    What rounding leaves over goes to the parts that it moved most, so each differs from its value by less than one unit
    of the last place (Hamilton's method of largest remainders).

    Args:
        parts: the summands.
        decimals: places after the point; as many as give the largest number four digits by default.

    Returns:
        the rounded parts, the rounded total, and the places after the point.
    """
    total = math.fsum(parts)
    largest = max((abs(value) for value in (*parts, total) if math.isfinite(value)), default=0.0)
    if decimals is None:
        decimals = min(max(3 - math.floor(math.log10(largest)), 0), 12) if largest > 0 else 2
    if not math.isfinite(total):
        return list(parts), total, decimals
    units = [value * 10**decimals for value in parts]
    rounded = [math.floor(unit) for unit in units]
    spare = round(total * 10**decimals) - sum(rounded)
    for i in sorted(range(len(units)), key=lambda i: rounded[i] - units[i])[:spare]:
        rounded[i] += 1
    return [value / 10**decimals for value in rounded], round(total * 10**decimals) / 10**decimals, decimals


def signed(value: float, decimals: int | None = None) -> str:
    """Return a number with its sign, as people write it: ``+3.1``, ``−0.52``; three digits unless ``decimals`` says."""
    if decimals is not None:
        text = f"{value:+.{decimals}f}"
    else:
        text = f"{value:+,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:+.3g}"
    return "0" if not value else text.replace("-", "−")


def class_name(names: Sequence[str], index: int) -> str:
    """Return the name of a class, or ``class 7`` where there are no names."""
    return names[index] if len(names) else f"class {index}"


def plain(value: float, decimals: int) -> str:
    """Return a number with so many places, and a minus as people write it."""
    return f"{value:,.{decimals}f}".replace("-", "−")


def significant(value: float) -> str:
    """Return a number with three digits, zeros too: ``0.150``, ``27.8``, ``1,240``."""
    return f"{value:#.3g}".rstrip(".") if abs(value) < 999.5 else f"{value:,.0f}"


def precision(residual: float) -> str:
    """Return a relative error as people say it: ``one part in 7,800,000``."""
    if residual == 0:
        return "the last digit"
    parts = 1 / residual
    digits = max(math.floor(math.log10(parts)) - 1, 0)
    return f"one part in {math.floor(parts / 10**digits) * 10**digits:,.0f}"


def shortened(name: str, limit: int = 28) -> str:
    """Shorten the name of a layer so that it stays different from its neighbours'.

    Words on the way lose all but their first letter and their numbers, from the left (``f.d4.d12.norm1 shift``); what is
    still too long is cut in the middle.
    """
    *path, last = name.split(".")
    for i, word in enumerate(path):
        if len(".".join((*path, last))) <= limit:
            break
        path[i] = word[:1] + "".join(c for c in word[1:] if c.isdigit())
    name = ".".join((*path, last))
    head = limit // 2
    return name if len(name) <= limit else f"{name[:head]}…{name[head + 1 - limit :]}"
