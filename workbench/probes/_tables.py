"""CSV files that people and other programs wrote: rows with the line they stand on, so that a bad one can be found.

Whether a bad row is left out or refuses the whole file is for the caller to say; here it is only told apart.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..decode import MAX_BYTES
from ..errors import ImageError

_MOST_DIGITS = 15  # larger whole numbers are no counts of anything; also bounds the time that int() takes


@dataclass(frozen=True)
class Table:
    """A CSV file with a header.

    Attributes:
        name: the file's name.
        header: the columns' names.
        rows: line number and cells by column, without surrounding space.
        broken: line number and reason of rows that do not fit the header.
        digest: sha256 over the file's content.
    """

    name: str
    header: tuple[str, ...]
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    digest: bytes = b""

    def at(self, line: int) -> str:
        """Return what a person calls a line: "index.csv line 17"."""
        return f"{self.name} line {line}"

    def refuse_broken(self) -> None:
        """Raise for the first row that does not fit the header.

        Raises:
            ImageError: there is one.
        """
        for line, reason in self.broken:
            raise ImageError(
                f"{self.at(line)} is broken", reason, "Correct it: the numbers of all labels hang on this file."
            )


def read_table(path: Path, required: tuple[str, ...]) -> Table:
    """Read a CSV file (UTF-8, commas, a header).

    Raises:
        ImageError: the file cannot be read as such, or lacks one of the ``required`` columns.
    """
    name = path.name
    try:
        if not path.is_file():
            raise ImageError(f"{name} is missing", path.parent, f"It needs the columns {', '.join(required)}.")
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"{name} is too large", f"{path.stat().st_size / 1e6:.0f} MB", "Is it the right file?")
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ImageError(f"{name} cannot be opened", error.strerror, "Check its permissions.") from None
    except UnicodeDecodeError:
        raise ImageError(
            f"{name} is not UTF-8 text", None, 'Save it again; spreadsheets call it "CSV UTF-8".'
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    last = 0
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((last + 1, [cell.strip() for cell in cells]))
            last = reader.line_num
    except csv.Error as error:
        raise ImageError(f"{name} line {last + 1} is no CSV", error, "Check its quotation marks.") from None
    header = tuple(rows[0][1]) if rows else ()
    while header and not header[-1]:
        header = header[:-1]
    missing = [column for column in required if column not in header]
    if missing:
        fix = f"Its first line must name the columns {', '.join(required)}, with commas between them."
        raise ImageError(f"{name} lacks the column", ", ".join(missing), fix)
    twice = [column for column, n in Counter(header).items() if n > 1]
    if twice:
        raise ImageError(f"{name} names a column twice", repr(twice[0]), "Rename or remove one of the two.")
    table = Table(name, header, digest=hashlib.sha256(data).digest())
    for line, cells in rows[1:]:
        if len(cells) < len(header) or any(cells[len(header) :]):
            table.broken.append((line, f"{len(cells)} cells for {len(header)} columns"))
        else:
            table.rows.append((line, dict(zip(header, cells, strict=False))))
    return table


def whole_number(text: str) -> int | None:
    """Return the whole number from 0 up that ``text`` is, or ``None``."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None


def inside(root: Path, name: str) -> Path:
    """Return the file that ``name`` is below ``root``. Names come from a file that a stranger may have written.

    A link inside the folder may lead out of it: whoever made the link has the files already.

    Raises:
        ImageError: the name leads out of ``root``, or there is no such file.
    """
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or PureWindowsPath(name).drive
        or not name.isprintable()
    ):
        raise ImageError("a path that leads out of the folder is not followed", repr(name[:200]), "Use relative paths.")
    try:
        if name and (root / path).is_file():
            return root / path
    except OSError:  # too long for the file system, or not ours to look into
        pass
    raise ImageError("no such file", f"{root.name}/{name[:200]}", "Check the path.")
