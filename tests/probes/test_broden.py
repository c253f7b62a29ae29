"""Broden's layout: which label is where, what a broken row says, and what the digest hangs on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from explain.dissection.probe import Probe
from explain.errors import ProbeError
from workbench.errors import ImageError, OptionError
from workbench.probes import BrodenProbe

from .conftest import INDEX, LABELS, ROWS, quarters, save_mask, write_broden, write_csv

RED, BLUE, SKY, STREET_SCENE, STREET, WHEEL = range(1, 7)
GOOD = ("train", 8, 12, 4, 6, "one/a_c.png", "", "", "")


def test_names_numbers_and_categories(broden: Path) -> None:
    probe = BrodenProbe(broden)
    assert isinstance(probe, Probe)
    assert probe.concepts == ("red", "blue", "sky", "street (scene)", "street (object)", "wheel")
    assert probe.categories == ("color", "color", "object", "scene", "object", "part")
    assert probe.ids == ("one/a.png", "one/b.png", "two/c.jpg", "two/d.jpg")
    assert len(probe) == 4
    assert probe.skipped == probe.notices == ()
    assert repr(probe) == "BrodenProbe(4 images, 6 concepts in 4 categories)"


def test_layers_and_labels_of_the_whole_image(broden: Path) -> None:
    probe = BrodenProbe(broden)
    maps = probe.annotation(0).maps
    assert maps.dtype == torch.int64
    expected = [
        quarters(RED, BLUE, 0, 0, 4, 6),
        quarters(SKY, STREET, 0, SKY, 4, 6),
        quarters(0, SKY, STREET, 0, 4, 6),
    ]
    assert torch.equal(maps, torch.from_numpy(np.stack(expected)))
    assert probe.annotation(0).whole == (STREET_SCENE,)
    scaled = probe.annotation(1)  # a layer of another size, and a number beside it in the same cell
    assert torch.equal(scaled.maps[1], torch.from_numpy(quarters(WHEEL, 0, 0, SKY, 4, 6)))
    assert scaled.whole == (WHEEL,)
    scene = probe.annotation(2)
    assert tuple(scene.maps.shape) == (0, 5, 3)
    assert scene.whole == (SKY, STREET_SCENE)


def test_images_keep_their_sizes_or_are_scaled_as_a_whole(broden: Path) -> None:
    probe = BrodenProbe(broden)
    assert [probe.size(i) for i in range(4)] == [(8, 12), (8, 12), (10, 6), (10, 6)]
    with Image.open(broden / "images/one/a.png") as picture:
        assert torch.equal(probe.image(0), torch.tensor(np.asarray(picture)).permute(2, 0, 1) / 255)
        expected = torch.tensor(np.asarray(picture.resize((7, 5), Image.Resampling.BILINEAR))).permute(2, 0, 1) / 255
    small = BrodenProbe(broden, size=(5, 7))
    assert torch.equal(small.image(0), expected)
    assert {small.size(i) for i in range(4)} == {(5, 7)}
    assert small.image(2).shape == (3, 5, 7)
    assert small.annotation(0).maps.shape == (3, 4, 6)
    assert BrodenProbe(broden, size=6, channels=1).image(3).shape == (1, 6, 6)


def test_a_label_counts_where_it_covers_most(broden: Path) -> None:
    for path in broden.glob("c_*.csv"):
        path.unlink()
    # Without coverage it is the most frequent category in label.csv: sky is 3 times a part, twice an object.
    assert BrodenProbe(broden).categories[SKY - 1] == "part"
    assert BrodenProbe(broden, categories="object").categories == ("object", "object")


def test_categories_choose_columns_and_labels(broden: Path) -> None:
    probe = BrodenProbe(broden, categories=("object",))
    assert probe.concepts == ("sky", "street")
    assert probe.ids == ("one/a.png", "two/c.jpg")
    assert probe.notices == ("2 images have no label of these categories: not read",)
    assert torch.equal(probe.annotation(0).maps[0], torch.from_numpy(quarters(1, 2, 0, 1, 4, 6)))
    assert probe.annotation(0).whole == ()
    parts = BrodenProbe(broden, categories="color")
    assert torch.equal(parts.annotation(1).maps[0], torch.from_numpy(quarters(2, 2, 1, 1, 4, 6)))
    with pytest.raises(OptionError, match=r"no such category: colour\. Choose from: color, object, part, scene"):
        BrodenProbe(broden, categories=["colour"])


def test_labels_not_asked_for_become_unlabelled(broden: Path) -> None:
    save_mask(broden / "images/one/a_c.png", quarters(1, 300, 2, 0, 4, 6))  # an object in the column of colours
    assert torch.equal(
        BrodenProbe(broden, categories="color").annotation(0).maps[0], torch.from_numpy(quarters(1, 0, 2, 0, 4, 6))
    )


def test_split_and_limit(broden: Path) -> None:
    assert BrodenProbe(broden, split="val").ids == ("two/c.jpg", "two/d.jpg")
    assert BrodenProbe(broden, limit=2).ids == ("one/a.png", "two/c.jpg")
    with pytest.raises(OptionError, match=r"no split of that name: test\. Choose from: train, val"):
        BrodenProbe(broden, split="test")
    with pytest.raises(OptionError, match="limit"):
        BrodenProbe(broden, limit=0)
    with pytest.raises(OptionError, match="no image size"):
        BrodenProbe(broden, size=(0, 4))
    with pytest.raises(OptionError, match="no image size"):
        BrodenProbe(broden, size=(100_000, 100_000))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("one/x.png", "train", 8, 12), "4 cells for 10 columns"),
        (("one/x.png", *GOOD, "more"), "11 cells for 10 columns"),
        (("one/x.png", *GOOD), "no such file: images/one/x.png"),
        (("one/a.png", *GOOD), "line 2 has that image already: one/a.png"),
        (("new.png", "train", "8.0", 12, 4, 6, "", 12, "", ""), "no sizes in pixels: 8.0, 12, 4, 6"),
        (("new.png", "train", 8, 12, 0, 6, "", 12, "", ""), "no sizes in pixels: 8, 12, 0, 6"),
        (("new.png", "train", 8, 12, 99999999, 99999999, "", 12, "", ""), "no sizes in pixels"),
        (("new.png", "train", 8, 12, 4, 6, "", 13, "", ""), "column object has a label number that label.csv does not have: 13"),
        (("new.png", "train", 8, 12, 4, 6, "", "9" * 5000, "", ""), "column object holds neither"),
        (("new.png", "train", 8, 12, 4, 6, "", "-1", "", ""), "column object holds neither label numbers nor PNG files: '-1'"),
        (("new.png", "train", 8, 12, 4, 6, "one/no.png", "", "", ""), "no such file: images/one/no.png"),
        (("new.png", "train", 8, 12, 4, 6, "../../secret.png", "", "", ""), "leads out of the folder"),
        (("../new.png", *GOOD), "leads out of the folder is not followed: '../new.png'"),
        (("one/../../x.png", *GOOD), "leads out of the folder"),
        (("/etc/passwd", *GOOD), "leads out of the folder"),
        (("..\\new.png", *GOOD), "leads out of the folder"),
        (("C:/new.png", *GOOD), "leads out of the folder"),
        (("a" * 5000 + ".png", *GOOD), "no such file"),
        (("", *GOOD), "no such file"),
    ],
)  # fmt: skip
def test_broken_rows_are_reported_with_their_line(
    broden: Path, add_row: Callable[..., int], row: tuple, reason: str
) -> None:
    # What a path out of the folder would reach does exist.
    for name in ("images/new.png", "new.png", "../secret.png", "x.png"):
        shutil.copy(broden / "images/one/a.png", broden / name)
    line = add_row(*row)
    after = add_row("new.png", *GOOD)
    probe = BrodenProbe(broden)
    assert (line, after) == (6, 7)
    assert [where for where, _ in probe.skipped] == ["index.csv line 6"]
    assert reason in probe.skipped[0][1]
    assert probe.ids[-1] == "new.png"


def test_lines_are_counted_through_quoted_line_breaks(broden: Path, add_row: Callable[..., int]) -> None:
    add_row("with\nbreak.png", *GOOD)
    add_row("gone.png", *GOOD)
    assert [where for where, _ in BrodenProbe(broden).skipped] == ["index.csv line 6", "index.csv line 8"]


def test_a_link_out_of_the_folder_is_followed(broden: Path, tmp_path: Path) -> None:
    shutil.move(broden / "images/one", tmp_path / "elsewhere")
    (broden / "images/one").symlink_to(tmp_path / "elsewhere")
    assert BrodenProbe(broden).image(0).shape == (3, 8, 12)


def test_damaged_files_name_file_and_line(broden: Path) -> None:
    (broden / "images/one/a_o2.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (broden / "images/one/b.png").write_bytes((broden / "images/one/b.png").read_bytes()[:150])
    (broden / "images/two/d_c.png").write_bytes((broden / "images/two/d.jpg").read_bytes())  # lossy: not a label map
    probe = BrodenProbe(broden)
    assert probe.image(0).shape == (3, 8, 12)
    with pytest.raises(
        ProbeError, match=r"^images/one/a_o2\.png \(index\.csv line 2\) cannot be read: not a label map"
    ):
        probe.annotation(0)
    with pytest.raises(ProbeError, match=r"^images/one/b\.png \(index\.csv line 3\) cannot be read") as caught:
        probe.image(1)
    assert caught.value.fix
    with pytest.raises(ProbeError, match=r"two/d_c\.png \(index\.csv line 5\)"):
        probe.annotation(3)
    (broden / "images/two/c.jpg").unlink()
    with pytest.raises(ProbeError, match=r"two/c\.jpg \(index\.csv line 4\) cannot be read: no such file"):
        probe.image(2)


def test_unknown_numbers_in_pixels(broden: Path) -> None:
    save_mask(broden / "images/one/a_c.png", quarters(1, 65535, 3, 0, 4, 6))
    with pytest.raises(ProbeError, match=r"a_c\.png \(index\.csv line 2\).*label\.csv does not have: 3, 65535"):
        BrodenProbe(broden).annotation(0)


def test_huge_numbers_cost_no_memory(broden: Path, add_row: Callable[..., int]) -> None:
    header = ("number", "name", "category")
    write_csv(broden / "label.csv", (header, *LABELS, (10**14, "atom", "part(1)")))
    shutil.copy(broden / "images/one/a.png", broden / "images/new.png")
    add_row("new.png", "train", 8, 12, 4, 6, "", "", 10**14, "")
    probe = BrodenProbe(broden)
    assert probe.concepts[-1] == "atom"
    assert probe.annotation(4).whole == (7,)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("x", "green-c", "color(1)"), "label.csv line 8 is broken: its number is no whole number: x"),
        ((12, "green-c", "color(1)"), "line 8 is broken: its number is that of line 4 already: 12"),
        ((77, "", "color(1)"), "line 8 is broken: it has no name"),
        ((77, "green-c", ""), "line 8 is broken: it has no category"),
        ((77, "green-c", "color(many)"), "line 8 is broken: its category does not read like"),
        ((77, "green-c"), "label.csv line 8 is broken: 2 cells for 3 columns"),
    ],
)
def test_broken_labels_refuse_the_folder(broden: Path, row: tuple, reason: str) -> None:
    write_csv(broden / "label.csv", (("number", "name", "category"), *LABELS, row))
    with pytest.raises(ImageError) as caught:
        BrodenProbe(broden)
    assert reason in str(caught.value)


def test_names_stay_unique_and_number_zero_is_the_rest(broden: Path) -> None:
    rows = ((0, "-", ""), *LABELS, (5, "red", "color(1)"), (6, "red", "color(1)"), (7, "plan-c", "part(1)"))
    write_csv(broden / "label.csv", (("number", "name", "category"), *rows))
    concepts = BrodenProbe(broden).concepts
    assert concepts[:5] == ("red (color) #1", "blue", "red (color) #5", "red (color) #6", "plan-c")
    assert len(set(concepts)) == len(concepts) == 9


def test_columns_that_are_no_category(broden: Path) -> None:
    write_csv(broden / "index.csv", ((*INDEX, "notes"), *((*row, "nice;old") for row in ROWS)))
    probe = BrodenProbe(broden)
    assert probe.notices == ("columns of index.csv that category.csv does not list are not read: notes",)
    (broden / "category.csv").unlink()
    with pytest.raises(ImageError, match="column notes holds neither"):
        BrodenProbe(broden)


def test_unusable_folders(broden: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"index\.csv is missing"):
        BrodenProbe(tmp_path / "empty")
    write_csv(broden / "index.csv", (INDEX,))
    with pytest.raises(ImageError, match="no image of this probe can be used"):
        BrodenProbe(broden)
    write_csv(broden / "index.csv", (INDEX, ("x.png", *GOOD), ("y.png", *GOOD)))
    with pytest.raises(ImageError, match=r"index\.csv line 2: no such file.*; index\.csv line 3") as caught:
        BrodenProbe(broden)
    assert caught.value.fix
    (broden / "index.csv").write_text("image;split;ih\n")
    with pytest.raises(ImageError, match=r"index\.csv lacks the column: image, split, ih, iw, sh, sw.*commas"):
        BrodenProbe(broden)
    (broden / "index.csv").write_bytes(b"image,split,ih,iw,sh,sw,colour\nK\xfcche.jpg,train,1,1,1,1,1\n")
    with pytest.raises(ImageError, match=r"index\.csv is not UTF-8 text"):
        BrodenProbe(broden)
    (broden / "index.csv").write_text('image,split,ih,iw,sh,sw,color\n"a')
    with pytest.raises(ImageError, match=r"index\.csv line 2 is no CSV"):
        BrodenProbe(broden)


def test_the_digest_hangs_on_content_and_options_alone(broden: Path, tmp_path: Path) -> None:
    base = BrodenProbe(broden).digest
    assert len(base) == 64
    for path in broden.rglob("*"):
        os.utime(path, (1, 1))
    assert BrodenProbe(broden).digest == base
    assert BrodenProbe(write_broden(tmp_path / "copy")).digest == base
    others = [
        BrodenProbe(broden, size=8),
        BrodenProbe(broden, channels=1),
        BrodenProbe(broden, limit=3),
        BrodenProbe(broden, split="val"),
        BrodenProbe(broden, categories=("color", "object", "scene")),
    ]
    assert len({base, *(other.digest for other in others)}) == 6


@pytest.mark.parametrize(
    "name",
    [
        "index.csv",
        "label.csv",
        "category.csv",
        "c_part.csv",
        "images/one/a.png",
        "images/one/a_o2.png",
        "images/two/d_c.png",
    ],
)
def test_the_digest_changes_with_every_file(broden: Path, name: str) -> None:
    base = BrodenProbe(broden).digest
    path = broden / name
    with path.open("ab") as file:
        file.write(b"\n")
    assert BrodenProbe(broden).digest != base


def test_nothing_is_decoded_before_it_is_asked_for(broden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "open", refuse)
    probe = BrodenProbe(broden)
    assert probe.size(2) == (10, 6)
    assert probe.digest
