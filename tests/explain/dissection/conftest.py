"""A probe in memory, random ones of every shape, and the slow reference."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import explain

CONCEPTS = ("red", "cat", "kitchen", "blue", "dog", "street", "green", "cup")
CATEGORIES = ("colour", "object", "scene", "colour", "object", "scene", "colour", "object")


def _load(name: str) -> ModuleType:
    """Import a file beside this one; the tests are no package."""
    name, path = f"dissection_{name}", Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = _load("reference")


class MemoryProbe:
    """A probe of tensors that counts how often each image is read, and whose files can be made unreadable."""

    def __init__(
        self,
        images: Sequence[Tensor],
        annotations: Sequence[explain.Annotation],
        concepts: Sequence[str] = CONCEPTS,
        categories: Sequence[str] = CATEGORIES,
        ids: Sequence[str] | None = None,
    ) -> None:
        self.images, self.annotations = list(images), list(annotations)
        self.concepts, self.categories = tuple(concepts), tuple(categories)
        self.ids = tuple(ids or (f"image {n}" for n in range(len(self.images))))
        self.broken_images: set[int] = set()
        self.broken_annotations: set[int] = set()
        self.reads: list[int] = []

    @property
    def digest(self) -> str:
        digest = hashlib.sha256(repr((self.concepts, self.categories, self.ids)).encode())
        for image, annotation in zip(self.images, self.annotations, strict=True):
            digest.update(repr((image.shape, annotation.maps.shape, annotation.whole)).encode())
            digest.update(image.numpy().tobytes() + annotation.maps.numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def size(self, index: int) -> tuple[int, int]:
        height, width = self.images[index].shape[1:]
        return height, width

    def image(self, index: int) -> Tensor:
        self.reads.append(index)
        if index in self.broken_images:
            raise explain.ProbeError("This image cannot be read", self.ids[index], "Save it again.")
        return self.images[index]

    def annotation(self, index: int) -> explain.Annotation:
        if index in self.broken_annotations:
            raise explain.ProbeError("This annotation cannot be read", self.ids[index], "Save it again.")
        return self.annotations[index]

    def take(self, rows: Sequence[int]) -> MemoryProbe:
        """The same probe with some of its images, in some order."""
        images, annotations = [self.images[n] for n in rows], [self.annotations[n] for n in rows]
        return MemoryProbe(images, annotations, self.concepts, self.categories, [self.ids[n] for n in rows])


def random_probe(
    count: int = 6,
    size: tuple[int, int] | list[tuple[int, int]] = (16, 24),
    grid: tuple[int, int] | list[tuple[int, int]] = (16, 24),
    *,
    layers: int | list[int] = 2,
    channels: int = 3,
    steps: int | None = None,
    seed: int = 0,
) -> MemoryProbe:
    """Random images (in ``steps`` grey levels, if given) and blocks of random labels; sizes and missing categories in turn."""
    draw = np.random.default_rng(seed)
    sizes, grids, depths = (one if isinstance(one, list) else [one] for one in (size, grid, layers))
    images, annotations = [], []
    for n in range(count):
        pixels = draw.random((channels, *sizes[n % len(sizes)]))
        if steps is not None:
            pixels = np.floor(pixels * steps) / steps
        images.append(torch.from_numpy(pixels.astype(np.float32)))
        rows, columns = grids[n % len(grids)]
        blocks = draw.integers(0, len(CONCEPTS) + 1, (depths[n % len(depths)], 4, 5))
        missing = ((), ("colour",), ("object", "scene"))[n % 3]
        blocks[np.isin(blocks, [i + 1 for i, kind in enumerate(CATEGORIES) if kind in missing])] = 0
        maps = blocks[:, np.arange(rows)[:, None] * 4 // rows, np.arange(columns) * 5 // columns]
        whole = ((), (3,), (6, 5))[int(draw.integers(3))] if "scene" not in missing else ()
        annotations.append(explain.Annotation(torch.from_numpy(maps), whole))
    return MemoryProbe(images, annotations)


def same(one: explain.Dissection, other: explain.Dissection) -> bool:
    """Whether two dissections found exactly the same."""
    counts, figures = (
        ("both", "area", "labels", "annotated"),
        ("thresholds", "peak", "floor", "low", "high", "replicates"),
    )
    fields = (*counts, *figures, "null", "top_values", "top_images", "iou", "best", "concept")
    return list(one) == list(other) and all(
        torch.equal(getattr(one[layer], field).nan_to_num(-7), getattr(other[layer], field).nan_to_num(-7))
        for layer in one
        for field in fields
    )


@pytest.fixture
def make_probe() -> Callable[..., MemoryProbe]:
    """Builder of random probes."""
    return random_probe


@pytest.fixture
def probe_of() -> type[MemoryProbe]:
    """The probe class."""
    return MemoryProbe


@pytest.fixture
def equal() -> Callable[[explain.Dissection, explain.Dissection], bool]:
    """Function that compares all tensors of two dissections exactly."""
    return same


@pytest.fixture
def reference() -> Any:
    """The slow reference."""
    return REFERENCE


class SmallNet(nn.Module):
    """Two convolutions and an answer."""

    def __init__(self, channels: int = 3, units: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(4, units, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(units, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.last(self.relu(self.norm(self.first(x)))))
        return self.head(self.drop(x.mean((2, 3))))


@pytest.fixture
def small_net() -> type[SmallNet]:
    """A small network."""
    return SmallNet


@pytest.fixture
def model(small_net: Any) -> nn.Module:
    """A network in which sums do not depend on their order."""
    net = small_net().requires_grad_(False)
    for one in net.parameters():
        one.copy_((one * 16).round() / 16)
    net.norm.eps = 0.0
    return net


@pytest.fixture
def probe(make_probe: Any) -> Any:
    """Images and label maps of two sizes each, in sixteenths, so that sums are exact here too."""
    made = make_probe(9, [(16, 24), (16, 24), (12, 12)], [(8, 12), (16, 24)])
    made.images = [(image * 16).round() / 16 for image in made.images]
    return made
