"""What strangers send: hostile until proven otherwise.

A checkpoint is streamed to a private folder in small pieces, read from there by the one safe loader, and removed. The
sizes that the browser was told are checked again here, because a browser can be told otherwise.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from ..errors import ImageError, RefusedFile

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

MEBIBYTE = 2**20
MAX_CHECKPOINT = 1024 * MEBIBYTE
MAX_PHOTO = 50 * MEBIBYTE
MAX_PHOTOS = 64
_LONGEST_NAME = 100


def digest(file: UploadedFile) -> str:
    """Return the sha256 of an upload in hex, computed once per upload."""
    known: dict[str, str] = st.session_state.setdefault("upload digests", {})
    if file.file_id not in known:
        state = hashlib.sha256()
        for piece in _pieces(file):
            state.update(piece)
        known[file.file_id] = state.hexdigest()
    return known[file.file_id]


def check_size(file: UploadedFile) -> None:
    """Refuse a checkpoint over the limit before anything looks at it.

    Raises:
        RefusedFile: it is too large.
    """
    if file.size > MAX_CHECKPOINT:
        raise RefusedFile(
            "This checkpoint is larger than the app accepts",
            f"{safe_name(file.name)}: {file.size / MEBIBYTE:.0f} MiB",
            f"The limit is {MAX_CHECKPOINT // MEBIBYTE} MiB. Use the command line or Python, which have none.",
        )


@contextmanager
def on_disk(file: UploadedFile) -> Iterator[Path]:
    """Write an upload to a folder that only this process can read, and remove it afterwards."""
    check_size(file)
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        path = Path(folder) / safe_name(file.name)
        with path.open("wb") as copy:
            copy.writelines(_pieces(file))
        yield path


def _pieces(file: UploadedFile) -> Iterator[bytes]:
    """Read an upload in small pieces; asking for its whole buffer would copy it, and it may be a gigabyte."""
    file.seek(0)
    while piece := file.read(MEBIBYTE):
        yield piece


def safe_name(name: str) -> str:
    """Return ``name`` as a file can be called anywhere: no folders, nothing that does not print, not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(c for c in last if c.isprintable()).strip(" .") or "upload"
    suffix = Path(printable).suffix[:16]
    return f"{printable.removesuffix(suffix)[: _LONGEST_NAME - len(suffix)]}{suffix}"


def photos(files: Sequence[UploadedFile]) -> tuple[list[tuple[str, bytes]], list[tuple[str, str]]]:
    """Return the photos to read as (name, bytes), and (name, reason) of those that are left out.

    Raises:
        ImageError: all of them are too large.
    """
    small = [file for file in files if file.size <= MAX_PHOTO]
    refused = [
        (safe_name(file.name), f"larger than {MAX_PHOTO // MEBIBYTE} MiB") for file in files if file.size > MAX_PHOTO
    ]
    refused += [(safe_name(file.name), f"only {MAX_PHOTOS} photos are taken at once") for file in small[MAX_PHOTOS:]]
    if not small:
        raise ImageError(
            "The photos are too large", f"over {MAX_PHOTO // MEBIBYTE} MiB each", "Make them smaller first."
        )
    return [(safe_name(file.name), file.getvalue()) for file in small[:MAX_PHOTOS]], refused
