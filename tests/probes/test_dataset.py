"""Segmentation datasets of torchvision, with a folder in VOC's layout that the test writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import VOCSegmentation
from torchvision.transforms import v2

from explain.dissection.probe import Probe
from explain.errors import ProbeError
from workbench.errors import ImageError, OptionError
from workbench.probes import DatasetProbe

from .conftest import quarters, save_picture

CLASSES = ("aeroplane", "bicycle", "bird")


def save_classes(path: Path, classes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(classes.astype(np.uint8)).convert("P")
    image.putdata(classes.flatten().tolist())
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    image.save(path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit/VOC2012"
    for i in range(3):
        save_picture(root / f"JPEGImages/2007_00000{i}.jpg", i, 8, 12)
        save_classes(root / f"SegmentationClass/2007_00000{i}.png", quarters(0, i + 1, 255, 2, 8, 12))
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("".join(f"2007_00000{i}\n" for i in range(3)))
    return tmp_path


def open_voc(root: Path, **options: Any) -> VOCSegmentation:
    return VOCSegmentation(str(root), year="2012", image_set="val", download=False, **options)


class Pairs:
    """A dataset in memory."""

    def __init__(self, *pairs: Any) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        return self.pairs[index]


def test_voc(voc: Path) -> None:
    probe = DatasetProbe(open_voc(voc), CLASSES)
    assert isinstance(probe, Probe)
    assert probe.ids == ("2007_000000.jpg", "2007_000001.jpg", "2007_000002.jpg")
    assert probe.categories == ("object",) * 3
    for i in range(3):
        assert torch.equal(probe.annotation(i).maps, torch.from_numpy(quarters(0, i + 1, 0, 2, 8, 12))[None])
    with Image.open(voc / "VOCdevkit/VOC2012/JPEGImages/2007_000001.jpg") as picture:
        expected = torch.tensor(np.asarray(picture)).permute(2, 0, 1) / 255
    assert torch.equal(probe.image(1), expected)
    assert probe.size(1) == (8, 12)
    small = DatasetProbe(open_voc(voc), CLASSES, size=(4, 5), limit=2, channels=1)
    assert small.ids == ("2007_000000.jpg", "2007_000001.jpg")
    assert small.image(1).shape == (1, *small.size(1)) == (1, 4, 5)
    assert small.annotation(1).maps.shape == (1, 8, 12)
    assert probe.digest != small.digest


def test_tensors_of_transforms_are_the_same(voc: Path) -> None:
    plain = DatasetProbe(open_voc(voc), CLASSES)
    tensors = DatasetProbe(
        open_voc(voc, transform=v2.PILToTensor(), target_transform=v2.PILToTensor()), CLASSES, ignore=[255]
    )
    scaled = DatasetProbe(
        open_voc(voc, transform=v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])), CLASSES
    )
    for probe in (tensors, scaled):
        torch.testing.assert_close(probe.image(2), plain.image(2))
        assert torch.equal(probe.annotation(2).maps, plain.annotation(2).maps)
    assert tensors.digest == plain.digest


def test_class_zero_can_be_a_concept() -> None:
    pair = (torch.rand(3, 4, 4), torch.tensor([[0, 1], [2, 255]]))
    probe = DatasetProbe(Pairs(pair), ("road", "wall", "sky"), "scene", offset=1)
    assert probe.annotation(0).maps.tolist() == [[[1, 2], [3, 0]]]
    assert probe.ids == ("item-0",)
    layers = DatasetProbe(Pairs((pair[0], pair[1].expand(3, 2, 2))), ("wall", "sky"), ("a", "b"))
    assert layers.annotation(0).maps.shape == (3, 2, 2)


def test_the_background_is_no_concept() -> None:
    pair = (torch.rand(3, 4, 4), torch.zeros(4, 4, dtype=torch.uint8))
    with pytest.raises(OptionError, match="first concept is class 1, not the background: __background__"):
        DatasetProbe(Pairs(pair), ("__background__", "aeroplane"))
    assert DatasetProbe(Pairs(pair), ("background", "aeroplane"), offset=1).annotation(0).maps.unique().tolist() == [1]


def test_wrong_class_numbers_are_named() -> None:
    pair = (torch.rand(3, 4, 4), torch.full((4, 4), 3))
    with pytest.raises(ProbeError, match=r"item 0 of the dataset.*class numbers outside 0 to 2: 3 to 3"):
        DatasetProbe(Pairs(pair), ("a", "b"))
    good = (torch.rand(3, 4, 4), torch.ones(4, 4, dtype=torch.int64))
    probe = DatasetProbe(Pairs(good, pair), ("a", "b"))
    with pytest.raises(ProbeError, match=r"item 1 of the dataset \(item-1\)"):
        probe.annotation(1)
    with pytest.raises(ProbeError, match="-1"):
        DatasetProbe(Pairs((good[0], good[1] - 2)), ("a", "b"))


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ((torch.rand(3, 4, 4), torch.rand(1, 4, 4)), "does not hold whole numbers.*Leave ToTensor away"),
        ((torch.randn(3, 4, 4) * 9, torch.ones(4, 4, dtype=torch.int64)), "outside 0 to 1.*undo any normalisation"),
        ((torch.rand(3, 4, 4), Image.new("RGB", (4, 4))), "its map is in colour"),
        ((torch.rand(3, 4, 4), 7), "neither a PIL image nor a tensor"),
        ((torch.rand(3, 4, 8), torch.ones(8, 4, dtype=torch.int64)), "differ in their proportions: 4 x 8 and 8 x 4"),
        (torch.rand(3, 4, 4), "is not a pair"),
    ],
)
def test_items_that_are_no_annotated_images(pair: Any, told: str) -> None:
    with pytest.raises(ProbeError, match=told) as caught:
        DatasetProbe(Pairs(pair), ("a",))
    assert caught.value.fix


def test_random_transforms_are_refused(voc: Path) -> None:
    class Flip:
        def __call__(self, image: Any) -> Any:
            flips.append(len(flips) % 2)
            return v2.functional.hflip(image) if flips[-1] else image

    flips: list[int] = []
    with pytest.raises(ImageError, match="gives another item each time"):
        DatasetProbe(open_voc(voc, transform=Flip()), CLASSES)


def test_files_that_go_missing(voc: Path) -> None:
    probe = DatasetProbe(open_voc(voc), CLASSES)
    (voc / "VOCdevkit/VOC2012/JPEGImages/2007_000001.jpg").write_bytes(b"no picture")
    (voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000000.png").unlink()
    with pytest.raises(ProbeError, match=r"2007_000001\.jpg\) cannot be read"):
        probe.image(1)
    with pytest.raises(ProbeError, match=r"2007_000000\.jpg\) cannot be read: FileNotFoundError"):
        probe.annotation(0)
    assert probe.image(2).shape == (3, 8, 12)


def test_the_digest_is_over_pixels(voc: Path) -> None:
    base = DatasetProbe(open_voc(voc), CLASSES).digest
    assert DatasetProbe(open_voc(voc), CLASSES).digest == base
    save_classes(voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png", quarters(0, 2, 3, 2, 8, 12))
    changed = DatasetProbe(open_voc(voc), CLASSES).digest
    assert len({base, changed, DatasetProbe(open_voc(voc), CLASSES, ignore=(255, 2)).digest}) == 3


def test_an_empty_dataset() -> None:
    with pytest.raises(ImageError, match="the dataset is empty"):
        DatasetProbe(Pairs(), ("a",))
