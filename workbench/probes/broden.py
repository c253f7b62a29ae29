"""A folder in the layout of Broden, the Broadly and Densely Labeled Dataset (Bau et al. 2017, arXiv 1704.05796).

``index.csv`` has a row per image: image, split, ih, iw (size of the image), sh, sw (size of its label maps), and a column
per category. A cell there is empty, or a ``;``-separated list: a number labels the whole image, a name is that of a PNG
with one layer of labels (R + 256 G). Numbers are those of ``label.csv``, one numbering for all categories. Pictures and
label maps lie under ``images/``. Any folder of that layout will do, Broden itself is a gigabyte.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from explain.dissection.probe import Annotation

from ..decode import MAX_PIXELS
from ..errors import ImageError, OptionError
from ._base import BaseProbe, Skipped, evenly, feed_file, nothing_left
from ._labels import Labels, broden_labels
from ._masks import Numbering, read_mask, stacked
from ._pictures import FilePictures, Recipe, Size, reading
from ._tables import Table, inside, read_table, whole_number

if TYPE_CHECKING:
    from hashlib import _Hash

_COLUMNS = ("image", "split", "ih", "iw", "sh", "sw")


@dataclass(frozen=True)
class _Entry:
    """One usable row of ``index.csv``; ``layers`` are label maps as (name, file), ``whole`` labels of the whole image."""

    where: str
    image: str
    path: Path
    size: tuple[int, int]
    grid: tuple[int, int]
    layers: tuple[tuple[str, Path], ...]
    whole: tuple[int, ...]


class BrodenProbe(BaseProbe):
    """A folder in Broden's layout. Pixels are read when asked for.

    A label counts in its main category, also where it stands in another category's column; see
    :func:`workbench.probes._labels.broden_labels`. Rows without any label of the categories asked for are not read, as
    in NetDissect: nobody looked for these concepts there. Rows that cannot be used are left out and reported in
    ``skipped`` with their line.

    Args:
        folder: with ``index.csv``, ``label.csv`` and ``images/``; ``category.csv`` and ``c_<category>.csv`` if there are.
        size: height and width that the images are scaled to, as a whole, without cropping; by default that of
            ``index.csv``. Label maps stay ``sh`` × ``sw``.
        split: read only rows of this split ("train", "val").
        categories: read only these categories.
        limit: at most so many images, spread evenly over the rows.
        channels: 3, or 1 for grey.

    Raises:
        ImageError: a file is missing or broken, or no row can be used.
        OptionError: there is no such split or category, or a size or limit makes no sense.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        size: Size = None,
        split: str | None = None,
        categories: Sequence[str] | str | None = None,
        limit: int | None = None,
        *,
        channels: int = 3,
    ) -> None:
        root = Path(folder).expanduser()
        recipe = Recipe.whole(size, channels)
        index = read_table(root / "index.csv", _COLUMNS)
        kinds, notices, digests = _categories(root, index, categories)
        labels = broden_labels(root, kinds)
        entries, skipped, bare = _entries(root, index, split, kinds, labels)
        if bare:
            notices += (f"{bare} {'image has' if bare == 1 else 'images have'} no label of these categories: not read",)
        if not entries:
            fix = (
                "Check that images/ lies beside index.csv." if skipped else "Choose another split or other categories."
            )
            raise nothing_left("no image of this probe can be used", root / "index.csv", skipped, fix)
        entries = [entries[i] for i in evenly(len(entries), limit)]
        pictures = FilePictures(
            [e.path for e in entries],
            [f"images/{e.image} ({e.where})" for e in entries],
            recipe,
            [e.size for e in entries],
        )
        super().__init__(pictures, [e.image for e in entries], labels.concepts, labels.categories, skipped, notices)
        self._entries, self._numbering = entries, labels.numbering
        self._digests = (index.digest, *digests, *labels.digests)

    def annotation(self, index: int) -> Annotation:
        """Return the label maps of image ``index``, int64 ``(L, sh, sw)``, and the labels of the whole image.

        A label map of another size than ``sh`` × ``sw`` covers the same picture and is scaled to it (nearest).

        Raises:
            ProbeError: a file cannot be read, or holds a number that ``label.csv`` does not have.
        """
        entry = self._entries[index]
        layers = []
        for name, path in entry.layers:
            with reading(f"images/{name} ({entry.where})"):
                layers.append(self._numbering(read_mask(path)))
        return Annotation(stacked(layers, entry.grid), entry.whole)

    def _feed(self, state: _Hash) -> None:
        for digest in self._digests:
            state.update(digest)
        for entry in self._entries:
            state.update(f"{entry.grid}|{entry.whole}|{len(entry.layers)}".encode())
            for _, path in entry.layers:
                feed_file(state, path)


def _categories(
    root: Path, index: Table, asked: Sequence[str] | str | None
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[bytes, ...]]:
    """Return the columns to read, what to say about the others, and the digest of ``category.csv``."""
    columns = tuple(column for column in index.header if column and column not in _COLUMNS)
    notices: tuple[str, ...] = ()
    digests: tuple[bytes, ...] = ()
    if (root / "category.csv").is_file():
        table = read_table(root / "category.csv", ("name",))
        digests = (table.digest,)
        listed = {cells["name"] for _, cells in table.rows}
        if others := [column for column in columns if column not in listed]:
            notices = (f"columns of index.csv that category.csv does not list are not read: {', '.join(others)}",)
        columns = tuple(column for column in columns if column in listed)
    if not columns:
        raise ImageError("index.csv has no column of a category", root, "After sw comes one column per category.")
    if asked is None:
        return columns, notices, digests
    wanted = (asked,) if isinstance(asked, str) else tuple(asked)
    unknown = [name for name in wanted if name not in columns]
    if unknown or not wanted:
        raise OptionError(
            "there is no such category", ", ".join(unknown) or wanted, f"Choose from: {', '.join(columns)}."
        )
    return tuple(column for column in columns if column in wanted), notices, digests


def _entries(
    root: Path, index: Table, split: str | None, categories: tuple[str, ...], labels: Labels
) -> tuple[list[_Entry], Skipped, int]:
    """Return the rows that can be used, those that cannot, and how many have no label."""
    splits = {cells["split"] for _, cells in index.rows}
    if split is not None and split not in splits:
        raise OptionError("there is no split of that name", split, f"Choose from: {', '.join(sorted(splits))}.")
    entries: list[_Entry] = []
    broken = list(index.broken)
    seen: dict[str, int] = {}
    bare = 0
    for line, cells in index.rows:
        if split is not None and cells["split"] != split:
            continue
        try:
            if cells["image"] in seen:
                raise ImageError(f"line {seen[cells['image']]} has that image already", cells["image"])
            entry = _entry(root, index.at(line), cells, categories, labels.numbering)
        except ImageError as error:
            broken.append((line, error.what if error.value is None else f"{error.what}: {error.value}"))
            continue
        seen[entry.image] = line
        if entry.layers or entry.whole:
            entries.append(entry)
        else:
            bare += 1
    return entries, tuple((index.at(line), reason) for line, reason in sorted(broken)), bare


def _entry(root: Path, where: str, cells: dict[str, str], categories: tuple[str, ...], numbering: Numbering) -> _Entry:
    """Return what a row of ``index.csv`` says; the fix of an error is left out, as only its reason is reported."""
    images = root / "images"
    sides = [whole_number(cells[column]) or 0 for column in ("ih", "iw", "sh", "sw")]
    if 0 in sides or max(sides[0] * sides[1], sides[2] * sides[3]) > MAX_PIXELS:
        found = ", ".join(cells[column] or "nothing" for column in ("ih", "iw", "sh", "sw"))
        raise ImageError("ih, iw, sh, sw are no sizes in pixels", found)
    path = inside(images, cells["image"])
    layers, whole = [], []
    for category in categories:
        for item in filter(None, map(str.strip, cells[category].split(";"))):
            number = whole_number(item)
            if number is None and not item.lower().endswith(".png"):
                raise ImageError(f"column {category} holds neither label numbers nor PNG files", repr(item[:100]))
            if number is None:
                layers.append((item, inside(images, item)))
            elif number and number not in numbering.dense:
                raise ImageError(f"column {category} has a label number that label.csv does not have", number)
            elif number:
                whole.append(numbering.dense[number])
    chosen = tuple(dict.fromkeys(label for label in whole if label))
    return _Entry(where, cells["image"], path, (sides[0], sides[1]), (sides[2], sides[3]), tuple(layers), chosen)
