"""What ``workbench interpret`` leaves in a folder: pictures and figures per image, tables, the votes, and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OptionError
from . import linear
from .figures import to_png_bytes
from .linear_cards import Subject, bias_drawing, spectrum_drawing

if TYPE_CHECKING:
    import os

    from .page import Report

_WIDTH = 256  # at least so wide, so that the 8 pixels of a digit can be read
PAGE = "index.html"


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` made, before a long run that would end in an error of the file system.

    Raises:
        OptionError: it is a file, or cannot be made or written to.
    """
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise OptionError("The results need a folder, and this is a file", folder, "Choose another name with --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OptionError(
            "The folder cannot be written to", f"{folder} ({error.strerror})", "Choose another place with --out."
        ) from error
    return folder


def write_files(folder: Path, subject: Subject, names: Sequence[str]) -> None:
    """Write everything but the page.

    Args:
        folder: exists.
        subject: the interpretation, its images, and the names of the classes.
        names: one file name per image, without extension.
    """
    for i, name in enumerate(names):
        image, votes = _numpy(subject.images.images[i]), _numpy(subject.found.votes[i])
        _png(folder / f"{name}.overlay.png", linear.vote_overlay(image, votes, subject.scale(i)))
        _png(folder / f"{name}.votes.png", linear.vote_picture(votes, subject.scale(i)))
        (folder / f"{name}.bias.svg").write_text(bias_drawing(subject, i, titled=True), encoding="utf-8")
        (folder / f"{name}.spectrum.svg").write_text(spectrum_drawing(subject, i, titled=True), encoding="utf-8")
    for file, frame in _tables(subject).items():
        frame.to_csv(folder / file, index=False)
    np.savez_compressed(
        folder / "votes.npz",
        ids=np.array(subject.images.ids),
        target=_numpy(subject.found.target),
        votes=_numpy(subject.found.votes),
        bias=_numpy(subject.found.shares.bias),
    )


def write_page(folder: Path, page: Report) -> Path:
    """Write the page and return where it is."""
    page.save(folder / PAGE)
    return folder / PAGE


def _tables(subject: Subject) -> dict[str, Any]:
    found = subject.found
    tables = {
        "shares.csv": found.frame(),
        "bias_terms.csv": found.terms.frame(),
        "spectrum.csv": found.spectrum.frame(),
    }
    if found.attack is not None:
        tables["change.csv"] = found.attack.change.frame()
        if found.attack.agreement is not None:
            tables["agreement.csv"] = found.attack.agreement.frame()
    return tables


def _png(path: Path, pixels: np.ndarray) -> None:
    factor = max(1, math.ceil(_WIDTH / pixels.shape[1]))
    path.write_bytes(to_png_bytes(pixels.repeat(factor, axis=0).repeat(factor, axis=1)))


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu())
