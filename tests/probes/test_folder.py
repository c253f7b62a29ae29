"""Pictures, label maps and a table of names."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from explain.errors import ProbeError
from workbench.errors import ImageError, OptionError
from workbench.probes import FolderProbe
from workbench.probes._masks import read_mask, resized

from .conftest import quarters, save_mask, save_picture, write_csv


def test_layers_sub_folders_and_pictures_without_labels(plain: Path) -> None:
    probe = FolderProbe(plain)
    assert probe.concepts == ("cat", "dog", "tail")
    assert probe.categories == ("object", "object", "part")
    assert probe.ids == ("a.png", "b.jpg", "sub/a.png")
    first = probe.annotation(0).maps
    # The larger layer sets the size; masks/sub is no layer of a.png, as images/sub is a folder of pictures.
    assert first.shape == (2, 8, 12)
    assert torch.equal(first[0], torch.from_numpy(quarters(1, 2, 0, 0, 8, 12)))
    assert torch.equal(first[1], torch.from_numpy(quarters(0, 0, 3, 0, 8, 12)))
    assert torch.equal(probe.annotation(2).maps, torch.from_numpy(quarters(2, 2, 2, 1, 8, 12))[None])
    assert probe.annotation(1).maps.shape == (0, 8, 12)
    assert probe.notices == ("1 of 3 pictures have no label map and count as unlabelled: b.jpg",)
    assert probe.skipped == ()


def test_sizes_limit_and_channels(plain: Path) -> None:
    save_picture(plain / "images/c.png", 9, 6, 4)
    probe = FolderProbe(plain)
    assert [probe.size(i) for i in range(4)] == [(8, 12), (8, 12), (6, 4), (8, 12)]
    assert [tuple(probe.image(i).shape) for i in range(4)] == [(3, *probe.size(i)) for i in range(4)]
    small = FolderProbe(plain, size=5, limit=2, channels=1)
    assert small.ids == ("a.png", "c.png")
    assert small.image(1).shape == (1, 5, 5)
    with pytest.raises(OptionError, match="1 or 3 channels"):
        FolderProbe(plain, channels=4)


def test_a_sideways_photo_has_the_size_that_it_is_read_at(plain: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 8)).save(plain / "images/phone.jpg", exif=exif)
    probe = FolderProbe(plain)
    index = probe.ids.index("phone.jpg")
    assert probe.size(index) == (12, 8) == tuple(probe.image(index).shape[1:])


def test_bad_entries_are_reported(plain: Path) -> None:
    (plain / "images/bad.png").write_bytes(b"<html>")
    save_picture(plain / "images/a.jpg", 5, 8, 12)
    save_mask(plain / "masks/nobody.png", [[1]])
    probe = FolderProbe(plain)
    assert probe.ids == ("a.jpg", "b.jpg", "sub/a.png")
    assert [where for where, _ in probe.skipped] == ["images/a.png", "images/bad.png"]
    assert "images/a.jpg has the same name" in probe.skipped[0][1]
    assert "web page" in probe.skipped[1][1]
    assert probe.notices[1] == "1 label maps belong to no picture: nobody.png"


def test_files_that_cannot_be_read(plain: Path) -> None:
    probe = FolderProbe(plain)
    save_mask(plain / "masks/sub/a.png", quarters(3, 3, 2, 1, 8, 12))
    with pytest.raises(ProbeError, match=r"masks/sub/a\.png cannot be read.*concepts\.csv does not have: 2"):
        probe.annotation(2)
    save_mask(plain / "masks/sub/a.png", quarters(3, 3, 1, 1, 12, 8))  # lies on its side
    with pytest.raises(ProbeError, match=r"masks/sub/a\.png has not the proportions of its picture: 12 x 8 for 8 x 12"):
        probe.annotation(2)
    (plain / "images/b.jpg").write_bytes(b"")
    with pytest.raises(ProbeError, match=r"images/b\.jpg cannot be read: the file is empty"):
        probe.image(1)


def test_every_kind_of_png_keeps_its_numbers(tmp_path: Path) -> None:
    numbers = quarters(0, 1, 3, 2, 4, 6).astype(np.uint8)
    palette = Image.fromarray(numbers).convert("P")
    palette.putdata(numbers.flatten().tolist())
    palette.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 90, 90, 90])
    images = {
        "grey": Image.fromarray(numbers),
        "palette": palette,
        "deep": Image.fromarray(numbers.astype(np.uint16) * 1000),
        "colour": Image.fromarray(np.stack([numbers, numbers, numbers * 50], -1)),
    }
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    palette.save(tmp_path / "bits.png", bits=2)
    for name, factor in {"grey": 1, "palette": 1, "bits": 1, "deep": 1000, "colour": 257}.items():
        assert np.array_equal(read_mask(tmp_path / f"{name}.png"), numbers.astype(np.int64) * factor), name


def test_grey_of_two_bits_is_not_stretched(tmp_path: Path) -> None:
    """Pillow writes no such file, so it is made of one with a palette: the colour type becomes grey, the palette goes."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for bits, row, expected in ((2, bytes([0b00011011]), [0, 1, 2, 3]), (4, bytes([0x0F, 0x2A]), [0, 15, 2, 10])):
        header = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
        file = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(b"\0" + row))
            + chunk(b"IEND", b"")
        )
        (tmp_path / "grey.png").write_bytes(file)
        assert read_mask(tmp_path / "grey.png").tolist() == [expected]


def test_scaled_labels_are_those_under_the_centre() -> None:
    assert resized(np.arange(4)[None], (2, 2)).tolist() == [[1, 3], [1, 3]]
    assert resized(np.arange(3)[None], (1, 2)).tolist() == [[0, 2]]
    assert resized(np.arange(2)[:, None], (4, 1)).tolist() == [[0], [0], [1], [1]]


def test_a_picture_bomb_is_not_decoded(tmp_path: Path) -> None:
    file = BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    (tmp_path / "bomb.png").write_bytes(file.getvalue())
    with pytest.raises(ImageError):
        read_mask(tmp_path / "bomb.png")


def test_unusable_folders(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"concepts\.csv is missing"):
        FolderProbe(tmp_path)
    write_csv(plain / "concepts.csv", (("number", "name", "category"), (1, "cat", "object"), (1, "dog", "object")))
    with pytest.raises(ImageError, match=r"concepts\.csv line 3 is broken: its number is that of line 2 already: 1"):
        FolderProbe(plain)
    write_csv(plain / "concepts.csv", (("number", "name", "category"),))
    with pytest.raises(ImageError, match=r"concepts\.csv lists no label"):
        FolderProbe(plain)
    write_csv(plain / "concepts.csv", (("number", "name", "category"), (1, "cat", "object")))
    (plain / "masks").rename(plain / "labels")
    with pytest.raises(ImageError, match="the folder masks is missing"):
        FolderProbe(plain)
    (plain / "masks").mkdir()
    with pytest.raises(ImageError, match="no picture has a label map"):
        FolderProbe(plain)


def test_the_digest_hangs_on_content(plain: Path) -> None:
    digests = {FolderProbe(plain).digest}
    for path in plain.rglob("*"):
        os.utime(path, (1, 1))
    digests.add(FolderProbe(plain).digest)
    assert len(digests) == 1
    for number, name in enumerate(("images/b.jpg", "masks/parts/a.png", "concepts.csv"), start=2):
        with (plain / name).open("ab") as file:
            file.write(b"\n")
        digests.add(FolderProbe(plain).digest)
        assert len(digests) == number
    (plain / "masks/parts/a.png").unlink()
    assert len({*digests, FolderProbe(plain).digest, FolderProbe(plain, size=4).digest}) == 6
