"""What a file is, by its bytes; and the sentence for each that is not read."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from workbench import ModelError, RefusedFile
from workbench.models.sniff import sniff

STRANGERS = {
    "empty": (b"", "empty"),
    "html": (b"<!DOCTYPE html><html><body>Please log in</body></html>", "HTML page"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n", "git lfs pull"),
    "text": (b"epoch 1 loss 0.3\n", "text file"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "gzip"),
    "png": (b"\x89PNG\r\n\x1a\n", "PNG picture"),
    "plain pickle": (b"\x80\x04\x95\x10\x00", "Python pickle"),
    "noise": (bytes(range(200, 256)), "not a checkpoint"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
}


@pytest.mark.parametrize(("content", "said"), STRANGERS.values(), ids=STRANGERS)
def test_strangers_are_refused_with_what_they_look_like(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(RefusedFile) as caught:
        sniff(path)
    assert said in str(caught.value)
    assert caught.value.fix
    assert "weights_only" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(ModelError) as caught:
            sniff(path)
        assert path.name in str(caught.value)


def write_zip(path: Path, names: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return path


ZIPS = {
    "deflated records": ({"m/data.pkl": b"0" * 5000}, zipfile.ZIP_DEFLATED, "zip bomb"),
    "torchscript": (
        {"m/data.pkl": b"x", "m/constants.pkl": b"x", "m/code/m.py": b"x"},
        zipfile.ZIP_STORED,
        "TorchScript",
    ),
    "pt2": ({"m/archive_format": b"pt2", "m/models/m.json": b"{}"}, zipfile.ZIP_STORED, ".pt2"),
    "other zip": ({"photo.jpg": b"x"}, zipfile.ZIP_STORED, "not a PyTorch checkpoint"),
    "traversal": ({"m/data.pkl": b"x", "m/../../etc/passwd": b"x"}, zipfile.ZIP_STORED, "does not fit"),
}


@pytest.mark.parametrize(("names", "compression", "said"), ZIPS.values(), ids=ZIPS)
def test_zip_archives_are_judged_by_their_index(
    tmp_path: Path, names: dict[str, bytes], compression: int, said: str
) -> None:
    with pytest.raises(RefusedFile, match=said):
        sniff(write_zip(tmp_path / "m.pth", names, compression))


def test_a_real_torchscript_file_is_refused(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "m.pt")
    with pytest.raises(RefusedFile, match="TorchScript"):
        sniff(tmp_path / "m.pt")


def test_a_real_exported_program_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(RefusedFile, match="pt2"):
        sniff(tmp_path / "m.pt2")


def test_a_truncated_zip_is_cut_off(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "m.pth")
    content = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(RefusedFile, match="cut off"):
        sniff(tmp_path / "m.pth")


@pytest.mark.parametrize("length", [2**40, 100])
def test_a_safetensors_header_longer_than_the_file_is_refused_before_reading_it(tmp_path: Path, length: int) -> None:
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", length) + b"{}      ")
    with pytest.raises(RefusedFile, match="header claims"):
        sniff(tmp_path / "m.safetensors")


def test_safetensors_offsets_must_cover_the_file(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(RefusedFile, match=r"its tensors need .* bytes"):
        sniff(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "header", [b"{nonsense", b'{"w": 3}       ', b'{"w": {"data_offsets": []}}', b"{" + b'"a":[' * 90000]
)
def test_a_broken_safetensors_header_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(RefusedFile, match="cannot be read"):
        sniff(tmp_path / "m.safetensors")
