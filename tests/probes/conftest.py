"""A small folder in Broden's layout, and one in the plain layout, with pixels whose labels are known by arithmetic."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

INDEX = ("image", "split", "ih", "iw", "sh", "sw", "color", "object", "part", "scene")

# Numbers have gaps, and go beyond one byte. "sky" occurs in two categories, "street" is an object and a scene.
LABELS = (
    (1, "red-c", "color(4)"),
    (2, "blue-c", "color(3)"),
    (12, "sky", "object(2);part(3)"),
    (40, "street-s", "scene(2)"),
    (300, "street", "object(1)"),
    (1025, "wheel", "part(2)"),
)
COVERAGE = {"color": {1: 0.9, 2: 0.6}, "object": {12: 1.5, 300: 0.1}, "part": {12: 0.2, 1025: 0.3}, "scene": {40: 2.0}}


def save_mask(path: Path, numbers: Any) -> None:
    """Write label numbers as R + 256 G."""
    numbers = np.asarray(numbers)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([numbers % 256, numbers // 256, numbers * 0], -1).astype(np.uint8)).save(path)


def save_picture(path: Path, seed: int, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def write_csv(path: Path, rows: Any) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def quarters(a: int, b: int, c: int, d: int, height: int, width: int) -> np.ndarray:
    """A label map of four rectangles."""
    numbers = np.empty((height, width), np.int64)
    y, x = height // 2, width // 2
    numbers[:y, :x], numbers[:y, x:], numbers[y:, :x], numbers[y:, x:] = a, b, c, d
    return numbers


# The rows of index.csv, from line 2 on; the first two images are 8 x 12, the others 10 x 6.
ROWS = (
    ("one/a.png", "train", 8, 12, 4, 6, "one/a_c.png", "one/a_o1.png;one/a_o2.png", "", 40),
    ("one/b.png", "train", 8, 12, 4, 6, "one/b_c.png", "", "one/b_p.png;1025", ""),
    ("two/c.jpg", "val", 10, 6, 5, 3, "", 12, "", "40;0"),
    ("two/d.jpg", "val", 10, 6, 5, 3, "two/d_c.png", "", "", ""),
)


def write_broden(root: Path) -> Path:
    """Write four images of two sizes, with pixel labels, labels of whole images and several layers; return ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    images = root / "images"
    for seed, (name, _, height, width, *_) in enumerate(ROWS):
        save_picture(images / name, seed, height, width)
    save_mask(images / "one/a_c.png", quarters(1, 2, 0, 0, 4, 6))
    save_mask(images / "one/a_o1.png", quarters(12, 300, 0, 12, 4, 6))
    save_mask(images / "one/a_o2.png", quarters(0, 12, 300, 0, 4, 6))
    save_mask(images / "one/b_c.png", quarters(2, 2, 1, 1, 4, 6))
    save_mask(images / "one/b_p.png", quarters(1025, 0, 0, 12, 8, 12))  # twice the size that index.csv says
    save_mask(images / "two/d_c.png", quarters(1, 0, 0, 2, 5, 3))
    write_csv(root / "index.csv", (INDEX, *ROWS))
    header = ("number", "name", "category", "frequency", "coverage", "syns")
    write_csv(root / "label.csv", (header, *((*row, 1, 0.5, "") for row in LABELS)))
    write_csv(
        root / "category.csv",
        (("name", "first", "last", "count", "frequency"), *((name, 1, 1025, 2, 4) for name in COVERAGE)),
    )
    names = {number: name for number, name, _ in LABELS}
    for category, covers in COVERAGE.items():
        rows = [(i, number, names[number], 1, cover) for i, (number, cover) in enumerate(covers.items(), start=1)]
        write_csv(root / f"c_{category}.csv", (("code", "number", "name", "frequency", "coverage"), *rows))
    return root


def write_folder(root: Path) -> Path:
    """Write three pictures, one in a sub-folder, with two layers of label maps; the third has none; return ``root``."""
    for seed, name in enumerate(("a.png", "b.jpg", "sub/a.png")):
        save_picture(root / "images" / name, seed, 8, 12)
    (root / "masks").mkdir()
    Image.fromarray(quarters(1, 3, 0, 0, 4, 6).astype(np.uint8)).save(root / "masks/a.png")
    save_mask(root / "masks/parts/a.png", quarters(0, 0, 700, 0, 8, 12))
    save_mask(root / "masks/sub/a.png", quarters(3, 3, 3, 1, 8, 12))
    write_csv(
        root / "concepts.csv",
        (("number", "name", "category"), (1, "cat", "object"), (3, "dog", "object"), (700, "tail", "part")),
    )
    return root


@pytest.fixture
def broden(tmp_path: Path) -> Path:
    return write_broden(tmp_path / "broden")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "plain")


@pytest.fixture
def add_row(broden: Path) -> Callable[..., int]:
    """Append a row to index.csv and return the line it stands on."""

    def add(*cells: Any) -> int:
        path = broden / "index.csv"
        with path.open("a", newline="") as file:
            csv.writer(file).writerow(cells)
        return len(path.read_text().splitlines())

    return add
