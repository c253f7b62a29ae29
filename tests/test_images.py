"""From photos to tensors: what is kept, what is said, and what the digest hangs on."""

from __future__ import annotations

import dataclasses
import threading
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import skimage
import sklearn.datasets
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification  # what weights.transforms() returns

from workbench.errors import ImageError, OptionError
from workbench.images import ConceptMaps, ImageSet, read_images

CHINA = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
CAMERA = Path(skimage.__file__).parent / "data" / "camera.png"
PRESET = SimpleNamespace(resize=64, crop=(48, 56), mean=(0.5,) * 3, interpolation="bilinear")


def model(channels: int = 3, classes: tuple[str, ...] = ("cat", "dog"), preset: Any = PRESET) -> Any:
    return SimpleNamespace(
        preset=preset, input_size=(channels, *preset.crop), classes=classes, num_classes=len(classes) or 2
    )


def png(colour: Any = "red", size: tuple[int, int] = (8, 6), mode: str = "RGB") -> bytes:
    file = BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")
    return file.getvalue()


def test_a_real_photo_is_what_torchvision_would_feed() -> None:
    square = SimpleNamespace(resize=64, crop=(56, 56), mean=(0.5,) * 3, interpolation="bilinear")
    got = read_images(CHINA, model(preset=square))
    with Image.open(CHINA) as photo:
        expected = ImageClassification(resize_size=64, crop_size=56, mean=(0, 0, 0), std=(1, 1, 1))(photo)
    assert got.images.shape == (1, 3, 56, 56)
    assert torch.equal(got.images[0], expected)
    assert got.ids == ("china.jpg",)
    assert got.labels is None
    assert got.classes == ("cat", "dog")
    assert got.notices == got.skipped == ()


def test_channels_follow_the_model() -> None:
    grey = read_images(CHINA, model(channels=1))
    with Image.open(CHINA) as photo:
        expected = v2.functional.pil_to_tensor(v2.CenterCrop((48, 56))(v2.Resize(64)(photo.convert("L")))) / 255
    assert torch.equal(grey.images[0], expected)
    colour = read_images(CAMERA, model()).images[0]
    assert torch.equal(colour[0], colour[1])
    assert torch.equal(colour[0], read_images(CAMERA, model(channels=1)).images[0, 0])
    with pytest.raises(ImageError, match="1 or 3 channels, the model takes: 4"):
        read_images(CHINA, model(channels=4))


def test_a_preset_overrides_the_models() -> None:
    other = SimpleNamespace(resize=None, crop=(20, 30), mean=(0.5,), interpolation="bicubic")
    assert read_images(CHINA, model(), preset=other).images.shape == (1, 3, 20, 30)
    assert read_images(CHINA, preset=other).images.shape == (1, 1, 20, 30)


def test_without_a_model() -> None:
    same = [("a.png", png()), ("b.png", png(7, mode="L"))]
    assert read_images(same).images.shape == (2, 3, 6, 8)
    assert read_images(same[1:]).images.shape == (1, 1, 6, 8)
    with pytest.raises(ImageError, match=r"differ in size: 2 of 6 x 8, 1 of 5 x 5.*size="):
        read_images([*same, png(size=(5, 5))])
    assert read_images([*same, png(size=(5, 5))], size=4).images.shape == (3, 3, 4, 4)
    assert read_images(same, size=(12, 4)).images.shape == (2, 3, 12, 4)


def test_sixteen_bits_reach_the_tensor() -> None:
    ramp = np.linspace(0, 65535, 1024).round().astype(np.uint16).reshape(32, 32)
    images = read_images(ramp).images
    assert len(images.unique()) == 1024
    assert float(images.max()) == 1.0


def test_one_bad_file_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    (tmp_path / "cat/1b.jpg").write_bytes(b"<html>not found</html>")
    (tmp_path / "dog/gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("ignored")
    got = read_images(tmp_path, model(classes=("dog", "cat")))
    assert got.ids == ("cat/1.png", "cat/2.png", "dog/1.png")
    assert got.labels is not None
    assert got.labels.tolist() == [1, 1, 0]
    assert [name for name, _ in got.skipped] == ["cat/1b.jpg", "dog/gone.png"]
    assert "web page" in got.skipped[0][1]
    assert "no such file" in got.skipped[1][1]


def test_nothing_left_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"no picture found: {tmp_path}.*Give PNG"):
        read_images(tmp_path)
    with pytest.raises(ImageError, match="no picture found"):
        read_images([])
    (tmp_path / "a.jpg").write_bytes(b"<html>")
    with pytest.raises(ImageError, match=r"a\.jpg cannot be read: a web page.*save the picture") as caught:
        read_images(tmp_path)
    assert caught.value.fix
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(
        ImageError, match=r"none of the 2 pictures can be read: a\.jpg: a web.*; b\.jpg: the file is empty"
    ):
        read_images(tmp_path)


def test_uploads_with_one_name_stay_apart_and_labels_follow_them() -> None:
    got = read_images([("x.png", png("red")), ("bad.png", b""), ("x.png", png("blue"))], model(), labels=[0, 0, 1])
    assert got.ids == ("x.png", "x (2).png")
    assert got.labels is not None
    assert got.labels.tolist() == [0, 1]
    assert got.images[:, 0, 24, 28].tolist() == [1.0, 0.0]


def test_notices_are_said_once() -> None:
    clear = png((0, 0, 0, 0), mode="RGBA")
    got = read_images([("a.png", clear), ("b.png", clear), ("c.png", png())])
    assert got.notices == ("a.png and 1 more: transparency put on white",)


def test_limit_reads_some_of_each_class(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            (tmp_path / name / f"{i}.png").write_bytes(png())
    assert read_images(tmp_path, limit=4).ids == ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")
    with pytest.raises(OptionError, match="limit"):
        read_images(tmp_path, limit=0)


def test_two_sizes_are_refused() -> None:
    with pytest.raises(OptionError, match="two sizes"):
        read_images(CHINA, model(), size=32)


def test_progress_counts_in_order_and_cancels() -> None:
    seen: list[tuple[int, int, str]] = []
    sources = [(f"{i}.png", png()) for i in range(20)]
    read_images(sources, progress=lambda *step: seen.append(step))
    assert seen == [(i + 1, 20, f"{i}.png") for i in range(20)]

    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        read_images(sources, progress=stop)
    assert threading.active_count() == before


def test_digest_changes_with_pixels_labels_and_ids_and_with_nothing_else() -> None:
    images = torch.rand(4, 3, 5, 6)
    base = ImageSet.of(images, [0, 1, 0, 1], "abcd", ("x", "y"))
    other = images.clone()
    other[3, 2, 4, 5] = 1 - other[3, 2, 4, 5]
    changed = [
        ImageSet.of(other, [0, 1, 0, 1], "abcd"),
        ImageSet.of(images, [0, 1, 1, 1], "abcd"),
        ImageSet.of(images, None, "abcd"),
        ImageSet.of(images, [0, 1, 0, 1], "abce"),
        ImageSet.of(images.view(4, 3, 6, 5), [0, 1, 0, 1], "abcd"),
    ]
    assert len({base.digest, *(c.digest for c in changed)}) == 6
    assert ImageSet.of(images.clone(), torch.tensor([0, 1, 0, 1]), "abcd", notices=("n",)).digest == base.digest
    assert len(base.digest) == 64


def test_reading_twice_gives_the_same_digest(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(png((i, 2 * i, 3 * i)))
    assert read_images(tmp_path).digest == read_images(str(tmp_path)).digest


def test_subset_keeps_everything_that_belongs_to_an_image() -> None:
    concepts = ConceptMaps(torch.arange(4).view(4, 1, 1, 1).expand(4, 2, 5, 6), ("a",), ("part",))
    evidence = torch.rand(4, 5, 6) > 0.5
    whole = ImageSet.of(torch.rand(4, 3, 5, 6), [0, 1, 0, 1], "abcd", ("x", "y"), evidence=evidence, concepts=concepts)
    part = whole.subset([3, 1])
    assert part.ids == ("d", "b")
    assert torch.equal(part.images, whole.images[[3, 1]])
    assert part.labels is not None
    assert part.labels.tolist() == [1, 1]
    assert part.evidence is not None
    assert torch.equal(part.evidence, evidence[[3, 1]])
    assert part.concepts is not None
    assert part.concepts.labels[:, 0, 0, 0].tolist() == [3, 1]
    assert part.digest != whole.digest
    assert whole.subset(slice(None)).digest == whole.digest
    assert whole.subset(torch.tensor([True, False, False, True])).ids == ("a", "d")
    assert len(whole.subset([])) == 0


def test_frame_and_repr() -> None:
    named = ImageSet.of(torch.zeros(2, 1, 3, 4), [1, 0], "ab", ("x", "y"))
    assert named.frame().to_dict("list") == {"id": ["a", "b"], "label": [1, 0], "class": ["y", "x"]}
    unknown = ImageSet.of(torch.zeros(2, 1, 3, 4))
    assert unknown.frame()["label"].isna().all()
    assert list(unknown.frame()["id"]) == ["image-0", "image-1"]
    assert repr(named) == f"ImageSet(2 x 1 x 3 x 4, labelled, 2 classes, digest {named.digest[:12]})"
    assert "\n" not in repr(unknown)
    with pytest.raises(dataclasses.FrozenInstanceError):
        named.digest = ""  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"images": torch.zeros(2, 3, 4)}, "float32"),
        ({"images": torch.zeros(2, 3, 4, 5, dtype=torch.float64)}, "float32"),
        ({"images": torch.full((2, 3, 4, 5), 1.01)}, "outside 0 to 1"),
        ({"images": torch.full((2, 3, 4, 5), float("nan"))}, "outside 0 to 1"),
        ({"ids": ("a",)}, "one id per image"),
        ({"ids": ("a", "a")}, "one id per image"),
        ({"labels": [0]}, "labels must be int64"),
        ({"labels": [0, 2]}, "indices into classes"),
        ({"labels": [0, -1]}, "indices into classes"),
        ({"evidence": torch.zeros(2, 4, 4, dtype=torch.bool)}, "evidence"),
        ({"concepts": ConceptMaps(torch.zeros(2, 4, 5), (), ())}, "concept maps"),
    ],
)
def test_sets_that_cannot_be(change: dict[str, Any], rule: str) -> None:
    good: dict[str, Any] = {
        "images": torch.zeros(2, 3, 4, 5),
        "labels": [0, 1],
        "ids": ("a", "b"),
        "classes": ("x", "y"),
    }
    ImageSet.of(**good)
    with pytest.raises(ImageError, match=rule):
        ImageSet.of(**(good | change))
