"""What a file is, judged by its bytes before anything parses it, and a sentence for each kind that is not read.

Every refusal here is decided without torch and without unpickling. The list follows measured behaviour of
``torch.load(weights_only=True)``: a deflated zip record loads (a zip bomb), TorchScript and ``.pt2`` are programs, and for
an HTML page or a git-lfs pointer torch's own message advises to switch the safety off.
"""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any, Literal

from ..errors import ModelError, RefusedFile

Format = Literal["safetensors", "zip", "legacy"]

SAVE_RECIPE = 'In your training code run: torch.save(model.state_dict(), "model.pth") and use that file.'
MAX_HEADER = 100 * 2**20  # the safetensors format's own limit
MAX_ENTRIES = 20_000
MAX_NAME = 300
_MAX_INDEX = 16 * 2**20  # bytes; an honest checkpoint of 20 000 records stays far below
_LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # pickled long 0x1950a86a20f9469cfc6c
_ZIP_SLACK = 2**20

# First bytes -> what it looks like, what to do.
_STRANGERS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "it is a git-lfs pointer, not the file itself", "Run: git lfs pull."),
    (b"\x1f\x8b", "it is a gzip archive", "Unpack it first and use the checkpoint inside."),
    (b"\xfd7zXZ", "it is an xz archive", "Unpack it first and use the checkpoint inside."),
    (b"BZh", "it is a bzip2 archive", "Unpack it first and use the checkpoint inside."),
    (b"7z\xbc\xaf", "it is a 7z archive", "Unpack it first and use the checkpoint inside."),
    (b"Rar!", "it is a rar archive", "Unpack it first and use the checkpoint inside."),
    (b"\x89HDF", "it is an HDF5 file (Keras?)", "Only PyTorch checkpoints can be read."),
    (b"\x93NUMPY", "it is a NumPy array", "Only PyTorch checkpoints can be read."),
    (b"\x89PNG", "it is a PNG picture", "Put it among the photos, and a checkpoint here."),
    (b"\xff\xd8\xff", "it is a JPEG picture", "Put it among the photos, and a checkpoint here."),
    (b"%PDF", "it is a PDF document", "Only PyTorch checkpoints can be read."),
    (b"GGUF", "it is a GGUF language model", "Only image classifiers can be read."),
)


def sniff(path: Path) -> Format:
    """Return the checkpoint format of ``path``.

    Raises:
        ModelError: the file does not exist or is a folder.
        RefusedFile: the file is something else, is damaged, or is a program.
    """
    if not path.exists():
        raise ModelError("There is no such file", path.name, "Check the path.")
    if not path.is_file():
        raise ModelError("This is not a file", path.name, "Give the checkpoint file itself, not a folder.")
    size = path.stat().st_size
    if size == 0:
        raise RefusedFile("The file is empty", path.name, "The upload or download was probably cut off; get it again.")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ModelError(
            "The file cannot be opened", f"{path.name}: {error.strerror}", "Check its permissions."
        ) from error
    if start.startswith(b"PK"):
        _check_zip(path, size)
        return "zip"
    if start[:1] == b"\x80" and _LEGACY_MAGIC in start[:16]:
        return "legacy"
    if len(start) >= 9 and start[8:9] == b"{":
        read_safetensors_header(path)
        return "safetensors"
    raise _stranger(path, start)


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """Return the JSON header of a safetensors file: ``{name: {"dtype", "shape", "data_offsets"}, "__metadata__": …}``.

    Raises:
        RefusedFile: lengths or offsets do not fit the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(MAX_HEADER, size - 8):
            raise RefusedFile(
                "This is not a complete safetensors file",
                f"{path.name}: the header claims {length:,} bytes, the file has {size:,}",
                "Get the file again; it is damaged or cut off.",
            )
        try:
            header = json.loads(file.read(length))
            claimed = max(
                (int(entry["data_offsets"][1]) for key, entry in header.items() if key != "__metadata__"), default=0
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError):
            raise RefusedFile(
                "The header of this safetensors file cannot be read", path.name, "Get the file again; it is damaged."
            ) from None
    if len(header) > MAX_ENTRIES or any(len(key) > MAX_NAME for key in header):
        raise RefusedFile(
            "This file has more or longer names than any network",
            f"{path.name}: {len(header):,} tensors",
            f"Save the weights alone. {SAVE_RECIPE}",
        )
    if claimed + 8 + length != size:
        raise RefusedFile(
            "This is not a complete safetensors file",
            f"{path.name}: its tensors need {claimed + 8 + length:,} bytes, the file has {size:,}",
            "Get the file again; it is damaged or cut off.",
        )
    return header


def _check_zip(path: Path, size: int) -> None:
    if _index_size(path, size) > _MAX_INDEX:
        raise RefusedFile("The index of this archive is larger than any checkpoint's", path.name, SAVE_RECIPE)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError):
        raise RefusedFile(
            "The file is cut off: the index at its end is missing", path.name, "Upload or download it again."
        ) from None
    names = [entry.filename for entry in entries]
    parts = {part for name in names for part in name.split("/")[1:-1]}
    leaves = {name.rsplit("/", 1)[-1] for name in names}
    if "constants.pkl" in leaves or "code" in parts:
        raise RefusedFile(
            "TorchScript files are programs and hide the layers that the workbench needs",
            path.name,
            f"Only tensors are read. {SAVE_RECIPE}",
        )
    if "archive_format" in leaves or "models" in parts or "serialized_exported_program.json" in leaves:
        raise RefusedFile(
            "Exported programs (.pt2) are not read: torch falls back to running pickled code in them",
            path.name,
            f"Only tensors are read. {SAVE_RECIPE}",
        )
    if sum(name.rsplit("/", 1)[-1] == "data.pkl" for name in names) != 1:
        raise RefusedFile(
            "This zip archive is not a PyTorch checkpoint", path.name, "Unpack it first if the checkpoint is inside."
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise RefusedFile(
            "This checkpoint holds compressed records, which torch.save never writes and which can hide a zip bomb",
            path.name,
            f"Save it anew. {SAVE_RECIPE}",
        )
    if (
        len(entries) > MAX_ENTRIES
        or sum(entry.file_size for entry in entries) > size + _ZIP_SLACK
        or any(name.startswith(("/", "\\")) or ".." in name.split("/") for name in names)
    ):
        raise RefusedFile(
            "The index of this checkpoint does not fit its contents", path.name, f"Save it anew. {SAVE_RECIPE}"
        )


def _index_size(path: Path, size: int) -> int:
    """Return the length of a zip's index as its end record claims it, before anything parses the index."""
    with path.open("rb") as file:
        file.seek(max(size - 2**16 - 22, 0))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    return int(struct.unpack_from("<I", tail, at + 12)[0]) if 0 <= at <= len(tail) - 16 else 0


def _stranger(path: Path, start: bytes) -> RefusedFile:
    for magic, looks_like, fix in _STRANGERS:
        if start.startswith(magic):
            return RefusedFile("This is not a checkpoint", f"{path.name}: {looks_like}", fix)
    head = start.lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return RefusedFile(
            "This is not a checkpoint",
            f"{path.name}: it is an HTML page",
            "The download probably needed a login or a direct link; get the file itself.",
        )
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return RefusedFile(
            "This is a plain Python pickle, which can run code when it is read",
            path.name,
            f"It was not opened. {SAVE_RECIPE}",
        )
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return RefusedFile(
            "This is not a checkpoint", f"{path.name}: it is a text file", "Give a .pth or .safetensors file."
        )
    if path.suffix.lower() == ".onnx":
        return RefusedFile("ONNX files are not read", path.name, f"Use the PyTorch weights. {SAVE_RECIPE}")
    return RefusedFile(
        "This is not a checkpoint that the workbench knows",
        path.name,
        "Give a state dict as .pth, .pt, .ckpt, .bin or .safetensors.",
    )
