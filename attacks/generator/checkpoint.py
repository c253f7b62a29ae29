"""The state of a training on the disk: whole or not at all, and only for the training that wrote it."""

from __future__ import annotations

import os
import pickle
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..errors import AttackError


class Checkpoint:
    """One training's state in ``path``, under ``key``, a digest of everything that decides the outcome."""

    def __init__(self, path: str | os.PathLike[str], key: str) -> None:
        self.path = Path(path)
        self._key = key

    def load(self) -> dict[str, Any] | None:
        """What :meth:`save` was given last, or ``None`` where there is no file.

        Raises:
            AttackError: the file is damaged, or another training wrote it.
        """
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError) as error:
            fix = "Remove it, or name another; the training then starts anew."
            raise AttackError("The checkpoint cannot be read", str(self.path), fix) from error
        except OSError as error:
            raise AttackError(
                "The checkpoint cannot be read", f"{self.path}: {error.strerror}", "Name another."
            ) from error
        if not isinstance(kept, dict) or kept.get("key") != self._key:
            fix = "Name another file, or remove this one to start anew."
            raise AttackError(
                "The checkpoint belongs to another training (other model, images, options or seed)",
                str(self.path),
                fix,
            )
        state: dict[str, Any] = kept["state"]
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Put ``state`` (tensors, numbers, text, lists, dicts) in the place of what was there.

        Raises:
            AttackError: it cannot be written.
        """
        part = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path.parent, suffix=".part", delete=False) as part:
                torch.save({"key": self._key, "state": state}, part)
                part.flush()
                os.fsync(part.fileno())
            Path(part.name).replace(self.path)
        except OSError as error:
            if part is not None:
                with suppress(OSError):
                    Path(part.name).unlink()
            fix = "Make room, or name another file."
            raise AttackError("The checkpoint cannot be written", f"{self.path}: {error.strerror}", fix) from error
