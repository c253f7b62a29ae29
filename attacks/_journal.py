"""What an evaluation has done so far, kept in a folder, so that a killed one goes on where it was.

Every strike (one attack on one group of images) is a file named by a digest of all that decides its outcome: the model's
weights, the images, the attack with its options, budgets, seed, and the source of this package. A repeated evaluation
walks the same way and takes from the folder what it finds there; anything else that was asked for has other names. While a
strike goes on, a file beside it holds the images that it has finished (``_finished.py``). Files appear whole or not at all,
whenever the process ends.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .errors import AttackError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Logits of one model on one machine agree far better than this; those of another model with equal weights do not.
_SAME = 1e-3


@functools.cache
def source_digest() -> str:
    """sha256 of this package's source: results of other code are not ours to go on from."""
    sha = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        sha.update(file.read_bytes())
    return sha.hexdigest()


class Journal:
    """Results by key in ``folder``.

    Attributes:
        reused: how many were found there.
        executed: how many were written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self.reused = self.executed = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AttackError(
                "The journal's folder cannot be made", f"{folder}: {error.strerror}", "Choose another."
            ) from error

    def load(self, key: str) -> dict[str, torch.Tensor] | None:
        """What was saved under ``key``, if anything."""
        found = self._read(key)
        self.reused += found is not None
        return found

    def begun(self, key: str) -> dict[str, torch.Tensor] | None:
        """What was done of ``key`` before the process ended, if anything."""
        return self._read(f"{key}-begun")

    def _read(self, key: str) -> dict[str, torch.Tensor] | None:
        file = self._folder / f"{key}.npz"
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except FileNotFoundError:
            return None
        except (zipfile.BadZipFile, EOFError, ValueError, OSError):  # damaged from outside: as good as absent
            return None

    def save(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write under ``key``; on the disk when this returns."""
        self._write(key, tensors)
        self.executed += 1
        with suppress(OSError):  # what was begun is of no use any more, and does no harm
            (self._folder / f"{key}-begun.npz").unlink()

    def begin(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write what is done of ``key`` so far, in place of what was; :meth:`save` ends it."""
        self._write(f"{key}-begun", tensors)

    def _write(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as part:
                np.savez(part, allow_pickle=False, **arrays)
                part.flush()
                os.fsync(part.fileno())
            Path(part.name).replace(self._folder / f"{key}.npz")
        except OSError as error:
            fix = "Make room, or choose another folder; what was written before is kept."
            raise AttackError("The journal cannot be written", f"{self._folder}: {error.strerror}", fix) from error

    def check_model(self, key: str, logits: torch.Tensor) -> None:
        """Refuse a model that answers otherwise than the one this journal was begun with: equal weights, other code."""
        before = self.load(f"{key}-clean")
        if before is None:
            self.save(f"{key}-clean", {"logits": logits})
            return
        scale = logits[logits.isfinite()].abs().amax().clamp(min=1e-12)
        change = (before["logits"].to(logits) - logits).nan_to_num(0, 0, 0).abs().amax() / scale
        if change > _SAME:
            what = "The journal was begun with a model of the same weights that answers otherwise"
            raise AttackError(what, f"{self._folder}", "Choose another folder, or remove this one.")
