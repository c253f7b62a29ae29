"""Results kept by everything that determines them, and long runs that go on where they were interrupted.

A key is the sha256 of canonical JSON: the network's weights, settings and code, the probe's content, the options, and the
source of this package. If any of it changes, nothing is found under the new key, so nothing stale is ever reused. Files are
written beside their place, flushed to the disk, and renamed: a killed process leaves the last whole state.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import explain
from explain.fingerprint import fingerprint

_LEAST = 10.0  # seconds between two states, and at least so many times what saving takes
_SHARE = 20


def key_of(parts: dict[str, Any]) -> str:
    """Return the digest of everything in ``parts``, which JSON must be able to hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def source_digest() -> str:
    """Return a digest over the source of this package."""
    folder = Path(explain.__file__).parent
    return _files_digest(sorted(folder.rglob("*.py")))


@functools.cache
def package_digest(kind: type) -> str:
    """Return a digest over the source of the package that a class is from: how a probe reads its files is part of what it
    says. A class from a script or notebook counts by its own code."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        return fingerprint(kind)[0]
    folder = Path(file).parent
    return _files_digest(sorted(folder.glob("*.py")) if getattr(module, "__package__", "") else [Path(file)])


def _files_digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Journal:
    """The file of one result and, until there is one, of the run's last state.

    Args:
        folder: where it lies; made if missing.
        key: of the result.
    """

    def __init__(self, folder: str | os.PathLike[str], key: str) -> None:
        self._folder = Path(folder).expanduser()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._result = self._folder / f"dissection-{key}.npz"
        self._state = self._folder / f"dissection-{key}.part.npz"
        self._next = time.monotonic() + _LEAST

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder

    def result(self) -> dict[str, Any] | None:
        """Return the finished result, if there is one."""
        return _read(self._result)

    def state(self) -> dict[str, Any] | None:
        """Return the last state of an interrupted run, if there is one."""
        return _read(self._state)

    def due(self) -> bool:
        """Whether it is time to save a state."""
        return time.monotonic() >= self._next

    def save(self, state: dict[str, Any]) -> None:
        """Save the state of a run."""
        started = time.monotonic()
        _write(self._state, state)
        now = time.monotonic()
        self._next = now + max(_LEAST, _SHARE * (now - started))

    def finish(self, result: dict[str, Any]) -> None:
        """Save the result and drop the state."""
        _write(self._result, result)
        self._state.unlink(missing_ok=True)


def _write(path: Path, values: dict[str, Any]) -> None:
    """Write tensors as arrays, and all else as JSON, whole or not at all."""
    arrays: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            arrays[name] = value.detach().cpu().numpy()
        else:
            rest[name] = value
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays, __rest__=np.frombuffer(json.dumps(rest).encode(), np.uint8))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path) -> dict[str, Any] | None:
    """Return what :func:`_write` wrote; ``None`` for a file that is missing or damaged, which is then made anew."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            values: dict[str, Any] = {n: torch.from_numpy(file[n]) for n in file.files if n != "__rest__"}
            return {**values, **json.loads(bytes(file["__rest__"]))}
    except (OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None
