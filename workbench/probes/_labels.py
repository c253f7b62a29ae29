"""The label tables of probe folders: numbers with gaps become dense label numbers with names and categories.

A broken row refuses the whole file. Left out, it would leave a label without a name, and one typing error would look like
a network that has no detector of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError
from ._masks import Numbering
from ._tables import Table, read_table, whole_number

_CATEGORY = re.compile(r"([^()]+?)\s*(?:\(\s*(\d+)\s*\))?")  # "color(289)"
_SUFFIXES = {"color": "-c", "colour": "-c", "scene": "-s"}  # Broden's names of colours and scenes: red-c, street-s


@dataclass(frozen=True)
class Label:
    """One row of a label table.

    Attributes:
        number: as in the files.
        name: as in the files.
        category: the one that it counts in; empty where it is not asked for.
        listed: all categories that it occurs in.
    """

    number: int
    name: str
    category: str
    listed: tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """What the label tables say.

    Attributes:
        concepts: display names, all different, in the order of their numbers.
        categories: one per concept.
        numbering: from the numbers in files to 1..C.
        digests: of the files that were read.
    """

    concepts: tuple[str, ...]
    categories: tuple[str, ...]
    numbering: Numbering
    digests: tuple[bytes, ...]


def broden_labels(folder: Path, categories: Sequence[str]) -> Labels:
    """Read ``label.csv`` and, where they are, ``c_<category>.csv``.

    A label can occur in several categories; it is one concept all the same, and counts in its main category. That is, as
    in NetDissect's loader, the one in which it covers most (column ``coverage`` of the ``c_<category>.csv`` files). Where
    those do not tell, it is the most frequent one in ``label.csv``, and the first of equals.

    Args:
        folder: that holds the files.
        categories: the ones asked for; labels that occur in none of them are no concepts.

    Raises:
        ImageError: a file is missing or broken; names the line.
    """
    table = _read(folder / "label.csv", ("number", "name", "category"))
    coverage, digests = _coverage(folder, categories)
    rows = []
    for line, number, cells in _numbered(table):
        frequency = _frequencies(table, line, cells["category"])
        listed = [kind for kind in frequency if kind in categories]
        covers = {kind: coverage[number, kind] for kind in listed if (number, kind) in coverage}
        weights = covers or {kind: frequency[kind] for kind in listed}
        rows.append(Label(number, cells["name"], max(weights, key=weights.__getitem__, default=""), tuple(frequency)))
    return _labels(table, rows, (table.digest, *digests))


def folder_labels(path: Path) -> Labels:
    """Read ``concepts.csv``: columns number, name and category.

    Raises:
        ImageError: the file is missing or broken; names the line.
    """
    table = _read(path, ("number", "name", "category"))
    rows = [
        Label(number, cells["name"], cells["category"], (cells["category"],)) for _, number, cells in _numbered(table)
    ]
    return _labels(table, rows, (table.digest,))


def _read(path: Path, columns: tuple[str, ...]) -> Table:
    table = read_table(path, columns)
    table.refuse_broken()
    return table


def _numbered(table: Table) -> list[tuple[int, int, dict[str, str]]]:
    """Return line, label number and cells of each row."""
    found: dict[int, tuple[int, int, dict[str, str]]] = {}
    for line, cells in table.rows:
        number = whole_number(cells["number"])
        if number is None:
            raise _broken(table, line, "its number is no whole number", cells["number"])
        if number == 0:  # some tables list it: it is the unlabelled rest
            continue
        if number in found:
            raise _broken(table, line, f"its number is that of line {found[number][0]} already", number)
        for column in ("name", "category"):
            if not cells[column]:
                raise _broken(table, line, f"it has no {column}", None)
        found[number] = line, number, cells
    return [found[number] for number in sorted(found)]


def _broken(table: Table, line: int, reason: str, value: object) -> ImageError:
    return ImageError(
        f"{table.at(line)} is broken: {reason}", value, "Correct it: the numbers of all labels hang on it."
    )


def _frequencies(table: Table, line: int, cell: str) -> dict[str, float]:
    """Return frequency by category of "color(289);object(5)"."""
    found = {}
    for part in filter(None, cell.split(";")):
        match = _CATEGORY.fullmatch(part.strip())
        if match is None:
            raise _broken(table, line, "its category does not read like color(289);object(5)", cell[:100])
        found[match[1]] = float(match[2] or 0)
    return found


def _coverage(folder: Path, categories: Sequence[str]) -> tuple[dict[tuple[int, str], float], list[bytes]]:
    """Return how much each label covers in each category, by number and category, and the files' digests."""
    coverage, digests = {}, []
    for category in categories:
        path = folder / f"c_{category}.csv"
        if not path.is_file():
            continue
        table = _read(path, ("code", "number", "name"))
        digests.append(table.digest)
        for line, cells in table.rows:
            number = whole_number(cells["number"])
            try:
                covers = float(cells.get("coverage") or "nan")
            except ValueError:
                raise _broken(table, line, "its coverage is no number", cells["coverage"]) from None
            if number is None or whole_number(cells["code"]) is None:
                raise _broken(
                    table, line, "code and number must be whole numbers", f"{cells['code']}, {cells['number']}"
                )
            if covers == covers:
                coverage[number, category] = covers
    return coverage, digests


def _labels(table: Table, rows: list[Label], digests: tuple[bytes, ...]) -> Labels:
    chosen = [row for row in rows if row.category]
    if not chosen:
        raise ImageError(
            f"{table.name} lists no label of the categories asked for", None, "Choose others, or add rows."
        )
    dense = {row.number: 0 for row in rows} | {row.number: i for i, row in enumerate(chosen, start=1)}
    categories = tuple(row.category for row in chosen)
    return Labels(tuple(_display(chosen)), categories, Numbering(dense, table.name), digests)


def _display(rows: list[Label]) -> list[str]:
    """Return names without Broden's suffixes, and with category or number where they would not be unique."""
    names = []
    for row in rows:
        suffixes = {_SUFFIXES[kind] for kind in row.listed if kind in _SUFFIXES}
        bare = row.name[:-2] if row.name[-2:] in suffixes else row.name
        names.append(bare or row.name)
    for more in ([f"({row.category})" for row in rows], [f"#{row.number}" for row in rows]):
        shared = {name for name, n in Counter(names).items() if n > 1}
        names = [f"{name} {added}" if name in shared else name for name, added in zip(names, more, strict=True)]
    return names
