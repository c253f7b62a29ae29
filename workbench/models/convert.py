"""From an untrusted file to plain tensors: the parent's side.

The process that serves people never unpickles. A pickle checkpoint goes to an isolated child (``_reader.py``), which
re-writes its tensors as safetensors into a content store, named by the sha256 of the original; this process opens only
that. A second load of the same file finds it there.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..errors import ModelError, RefusedFile
from .sniff import SAVE_RECIPE, Format, read_safetensors_header, sniff

_READER = Path(__file__).with_name("_reader.py")
_TENSOR_KINDS = {
    "expanded": "an expanded tensor, which claims far more memory than the file holds",
    "overlapping": "tensors that overlap and claim more memory than the file holds",
    "sparse": "a sparse tensor",
    "quantised": "a quantised tensor",
    "meta-device": "a tensor without data (meta device)",
    "complex": "a complex tensor",
}


@dataclass(frozen=True)
class RawCheckpoint:
    """What was in a file: tensors by number, and the tree of containers that held them.

    Attributes:
        tree: nested ``{"dict": …}`` / ``{"list": …}`` / ``{"tensor": name}`` / plain values.
        tensors: the tensors that the tree names, on the CPU.
        digest: sha256 of the original file, in hex.
        format: how the file was stored.
    """

    tree: Any
    tensors: dict[str, torch.Tensor]
    digest: str
    format: Format


def cache_folder() -> Path:
    """Return the folder of converted checkpoints: ``$WORKBENCH_CACHE``, else ``workbench`` in the user's cache folder."""
    base = os.environ.get("WORKBENCH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "workbench"
    return Path(base).expanduser() / "checkpoints"


def read_checkpoint(path: Path, *, timeout: float = 300.0) -> RawCheckpoint:
    """Read a checkpoint of any supported format without running anything that it contains.

    Args:
        path: a ``.safetensors`` file or a ``torch.save`` file holding tensors.
        timeout: seconds that the isolated reader may take.

    Raises:
        RefusedFile: see :mod:`workbench.models.sniff`; or the file holds Python objects, hostile tensors, or no tensors.
    """
    form = sniff(path)
    digest = file_digest(path)
    if form == "safetensors":
        header = read_safetensors_header(path)
        # Copies: the file is the user's and may be saved anew while its mapped pages are in use.
        tensors = {name: tensor.clone() for name, tensor in _open(path, path.name).items()}
        metadata = {key: _maybe_json(value) for key, value in (header.get("__metadata__") or {}).items()}
        named = {name: {"tensor": name} for name in tensors}
        return RawCheckpoint({"dict": {**metadata, "state_dict": {"dict": named}}}, tensors, digest, form)
    stored = cache_folder() / f"{digest}.safetensors"
    if stored.exists():
        try:
            return _open_stored(stored, path.name, digest, form)
        except (OSError, ValueError, KeyError, TypeError, struct.error, RefusedFile):  # a damaged entry: make it again
            stored.unlink(missing_ok=True)
    _convert(path, stored, timeout)
    return _open_stored(stored, path.name, digest, form)


def _open_stored(stored: Path, name: str, digest: str, form: Format) -> RawCheckpoint:
    tree = json.loads(read_safetensors_header(stored)["__metadata__"]["tree"])
    return RawCheckpoint(tree, _open(stored, name), digest, form)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path, name: str) -> dict[str, torch.Tensor]:
    try:
        return load_file(path, device="cpu")
    except Exception as error:  # safetensors raises its own class and several of Python's
        raise RefusedFile(
            "This safetensors file is damaged", f"{name}: {type(error).__name__}", "Get the file again."
        ) from error


def _maybe_json(text: str) -> Any:
    """Metadata of safetensors are strings; lists and dicts travel in them as JSON."""
    try:
        return _as_tree(json.loads(text))
    except (ValueError, RecursionError):
        return text


def _as_tree(value: Any) -> Any:
    if isinstance(value, dict):
        return {"dict": {str(key): _as_tree(item) for key, item in value.items()}}
    if isinstance(value, list):
        return {"list": [_as_tree(item) for item in value]}
    return value


def _convert(path: Path, stored: Path, timeout: float) -> None:
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            "The folder for converted checkpoints cannot be used",
            error.strerror,
            "Set the environment variable WORKBENCH_CACHE to a folder that can be written.",
        ) from error
    with tempfile.TemporaryDirectory(dir=stored.parent, prefix=".reading-") as folder:
        target = Path(folder) / "tensors.safetensors"
        answer = _run_reader(path.resolve(), target, folder, timeout)
        if "refused" in answer:
            raise _sentence(path.name, answer)
        target.replace(stored)


def _run_reader(path: Path, target: Path, folder: str, timeout: float) -> dict[str, Any]:
    # -I: no PYTHON* variables, no user site, no current folder. The environment is empty: no tokens to steal.
    with subprocess.Popen(
        [sys.executable, "-I", str(_READER), str(path), str(target)],
        cwd=folder,
        env={"HOME": folder, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as reader:
        try:
            output, _ = reader.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise RefusedFile(
                "Reading this checkpoint took too long",
                f"{path.name}: over {timeout:g} s",
                f"Save it anew. {SAVE_RECIPE}",
            ) from None
        finally:
            if reader.poll() is None:
                os.killpg(reader.pid, signal.SIGKILL)
    try:
        answer = json.loads(output.decode().strip().rsplit("\n", 1)[-1])
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"refused": "crashed"}


def _sentence(name: str, answer: dict[str, Any]) -> RefusedFile:
    """Turn the child's code into the paragraph that a person reads."""
    code = answer["refused"]
    names = ", ".join(f"`{item}`" for item in answer.get("names", [])[:4])
    if code == "module":
        return RefusedFile(
            "This file contains a whole model object; loading it would run code from the file",
            name,
            f"Only tensors are read. {SAVE_RECIPE}",
        )
    if code == "objects":
        return RefusedFile(
            f"This checkpoint stores Python objects ({names}) beside the weights",
            name,
            f"For safety only tensors are read. {SAVE_RECIPE}",
        )
    if code == "tensor":
        kind = _TENSOR_KINDS.get(answer.get("kind", ""), "a tensor of an unusual kind")
        return RefusedFile(
            f"This checkpoint holds {kind}", f"{name}: {answer.get('name')}", f"Save plain dense tensors. {SAVE_RECIPE}"
        )
    if code == "no-tensors":
        return RefusedFile("This file holds no tensors", name, "Give the file that holds the weights.")
    if code == "deep":
        return RefusedFile("This checkpoint is nested too deeply to be a state dict", name, SAVE_RECIPE)
    if code in ("memory", "crashed"):
        return RefusedFile(
            "Reading this checkpoint needed too much memory or time, and was stopped",
            name,
            f"Save it anew. {SAVE_RECIPE}",
        )
    if code == "disk":
        return RefusedFile(
            "There was no room to convert this checkpoint",
            name,
            "Free some disk space, or set WORKBENCH_CACHE to another disk.",
        )
    return RefusedFile(
        "This checkpoint is damaged or is not one", name, f"Get the file again, or save it anew. {SAVE_RECIPE}"
    )
