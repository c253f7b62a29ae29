"""What a folder holds, how its pictures are called, and when its sub-folders are labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from workbench.errors import ImageError, OptionError
from workbench.folders import find, label_pictures, spread


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")  # finding and labelling open nothing
    return root


def names(source: Any) -> list[str]:
    return [picture.name for picture in find(source)[0]]


def model(*classes: str, count: int | None = None) -> Any:
    return SimpleNamespace(classes=classes, num_classes=count or len(classes))


def labels(root: Path, net: Any, how: Any = "auto") -> tuple[dict[str, int], tuple[str, ...], str]:
    known = label_pictures(find(root)[0], net, how)
    return {name.split("/")[0]: number for name, number in known.labels.items()}, known.classes, " ".join(known.notices)


def test_folders_are_sorted_recursive_and_without_what_is_no_photo(tmp_path: Path) -> None:
    junk = (".DS_Store", "Thumbs.db", "notes.txt", "labels.csv", "._b.jpg", ".cache/x.png", "__MACOSX/a.jpg")
    tree(tmp_path, "b.jpg", "a.PNG", "deep/er/c.webp", "a/z.tif", "phone.heic", *junk)
    assert names(tmp_path) == ["a/z.tif", "a.PNG", "b.jpg", "deep/er/c.webp", "phone.heic"]
    assert names(str(tmp_path / "b.jpg")) == ["b.jpg"]


def test_links_that_lead_back_up_end_the_walk(tmp_path: Path) -> None:
    tree(tmp_path, "one/a.png", "two/b.png")
    (tmp_path / "one" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "two" / "again").symlink_to(tmp_path / "two", target_is_directory=True)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["gone.png", "one/a.png", "two/b.png"]


def test_linked_class_folders_are_followed(tmp_path: Path) -> None:
    tree(tmp_path / "store", "x/a.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "store" / "x", target_is_directory=True)
    assert names(tmp_path / "photos") == ["cat/a.png"]


def test_lists_keep_their_order_and_get_unique_names(tmp_path: Path) -> None:
    tree(tmp_path, "b/1.png", "a/1.png", "a/2.png")
    listed = [tmp_path / "b/1.png", str(tmp_path / "a/2.png"), tmp_path / "a/2.png"]
    assert names(listed) == ["b/1.png", "a/2.png", "a/2 (2).png"]
    assert names([tmp_path / "a/1.png", tmp_path / "a/2.png"]) == ["1.png", "2.png"]
    found, skipped = find([tmp_path / "a/1.png", tmp_path / "b"])
    assert len(found) == 1
    assert [(name, error.what) for name, error in skipped] == [("b", "a folder inside a list")]


def test_things_in_memory() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    assert names(pixels) == names([Image.fromarray(pixels)]) == names(b"...") == ["image-0"]
    assert names(("up.png", b"...")) == ["up.png"]
    assert names([("x.png", b"1"), ("x.png", b"2"), ("x (2).png", b"3"), pixels]) == [
        "x.png",
        "x (2).png",
        "x (2) (2).png",
        "image-3",
    ]


def test_names_sent_by_strangers_are_made_harmless() -> None:
    sent = [
        "../../etc/passwd.png",
        "C:\\photos\\me.jpg",
        "a\nb\x1b[31m.png",
        "caf\udce9.png",
        "\u202egpj.exe",
        "",
        "/abs.png",
    ]
    got = names([(name, b"") for name in sent])
    assert got == ["etc/passwd.png", "C:/photos/me.jpg", "a?b?[31m.png", "caf?.png", "?gpj.exe", "unnamed", "abs.png"]
    "".join(got).encode()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere/at/all", "no such file or folder: nowhere/at/all"),
        ("https://example.org/cat.jpg", "web"),
        (3, "int"),
        ([3.5], "float"),
        ([("a.png", None)], "NoneType"),
    ],
)
def test_sources_that_make_no_sense(source: Any, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        find(source)
    assert caught.value.fix


def test_limit_is_spread_over_the_classes(tmp_path: Path) -> None:
    pictures = find(tree(tmp_path, *(f"{c}/{i}.png" for c in "abc" for i in range(4)), "a/9.png"))[0]
    assert [p.name for p in spread(pictures, 5)] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "c/0.png"]
    assert spread(pictures, 99) == pictures
    flat = find(tree(tmp_path / "flat", "1.png", "2.png", "3.png"))[0]
    assert [p.name for p in spread(flat, 2)] == ["1.png", "2.png"]


def test_names_map_to_the_models_index_not_to_their_order(tmp_path: Path) -> None:
    tree(tmp_path, "tiger_cat/1.png", "Golden-Retriever/1.png")
    net = model("zebra", "tiger cat", "golden retriever")
    assert labels(tmp_path, net) == ({"tiger_cat": 1, "Golden-Retriever": 2}, net.classes, "")


def test_one_unknown_name_leaves_everything_unlabelled(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.png", "unicorn/1.png")
    found, classes, said = labels(tmp_path, model("cat", "dog"))
    assert found == {}
    assert classes == ("cat", "dog")
    assert "no class of the name unicorn" in said


def test_a_name_that_two_classes_share_is_not_trusted(tmp_path: Path) -> None:
    tree(tmp_path, "crane/1.png", "dog/1.png")
    assert labels(tmp_path, model("crane", "Crane", "dog"))[0] == {}


def test_same_number_of_folders_is_no_proof_when_the_model_knows_names(tmp_path: Path) -> None:
    tree(tmp_path, "apple/1.png", "pear/1.png")
    assert labels(tmp_path, model("cat", "dog"))[0] == {}


def test_sorted_order_when_the_model_has_no_names_but_as_many_classes(tmp_path: Path) -> None:
    tree(tmp_path, "dog/1.png", "cat/1.png")
    found, classes, said = labels(tmp_path, model(count=2))
    assert found == {"cat": 0, "dog": 1}
    assert classes == ("cat", "dog")
    assert "0 is cat, 1 is dog" in said
    found, classes, said = labels(tmp_path, model(count=3))
    assert (found, classes) == ({}, ())
    assert "2 sub-folders, but the model has 3 classes" in said


def test_all_synset_folders_follow_imagenets_order(tmp_path: Path) -> None:
    tree(tmp_path, *(f"n{i:08d}/1.png" for i in (3, 1, 2)))
    found, classes, said = labels(tmp_path, model("tench", "goldfish", "shark"))
    assert found == {"n00000001": 0, "n00000002": 1, "n00000003": 2}
    assert classes == ("tench", "goldfish", "shark")
    assert said


def test_numbers_are_class_numbers(tmp_path: Path) -> None:
    tree(tmp_path / "few", "3/1.png", "7/1.png")
    assert labels(tmp_path / "few", model(*"abcdefghij"))[0] == {"3": 3, "7": 7}
    tree(tmp_path / "all", *(f"{i}/1.png" for i in range(12)))
    found, classes, said = labels(tmp_path / "all", model(count=12))
    assert found == {str(i): i for i in range(12)}
    assert classes == ()
    assert "ImageFolder would sort them as text" in said
    assert labels(tmp_path / "all", model(count=12), "sorted")[0]["10"] == 2
    tree(tmp_path / "over", "1/1.png", "12/1.png")
    assert labels(tmp_path / "over", model(count=12))[0] == {}


def test_without_a_model_the_folders_are_the_classes(tmp_path: Path) -> None:
    tree(tmp_path, "b/1.png", "a/1.png", "c/readme.txt")
    assert labels(tmp_path, None) == ({"a": 0, "b": 1}, ("a", "b"), "")
    tree(tmp_path / "single", "2024/1.png")
    assert labels(tmp_path / "single", None)[0] == {}


@pytest.mark.parametrize("extra", ["loose.png", "cat/more/deep.png"])
def test_other_layouts_are_read_but_not_labelled(tmp_path: Path, extra: str) -> None:
    tree(tmp_path, "cat/1.png", "dog/1.png", extra)
    assert len(names(tmp_path)) == 3
    found, _, said = labels(tmp_path, model("cat", "dog"))
    assert found == {}
    assert "source/class/picture" in said


def test_labels_by_hand(tmp_path: Path) -> None:
    tree(tmp_path, "cats/1.png", "dogs/1.png")
    net = model("zebra", "cat", "dog")
    assert labels(tmp_path, net, {"cats": 1, "dogs": 2, "more": 0})[0] == {"cats": 1, "dogs": 2}
    assert labels(tmp_path, net, [2, 0])[0] == {"cats": 2, "dogs": 0}
    assert labels(tmp_path, net, None) == ({}, net.classes, "")
    for how in (
        {"cats": 1},
        {"cats": 1, "dogs": 3},
        {"cats": 1, "dogs": -1},
        {"cats": 1, "dogs": "dog"},
        [1],
        [0, 3],
        "x",
    ):
        with pytest.raises(OptionError):
            labels(tmp_path, net, how)
    with pytest.raises(OptionError, match="more class folders"):
        labels(tmp_path, model(count=1), "sorted")
    for how in ("sorted", {"cats": 0}):
        with pytest.raises(OptionError, match="no class folders"):
            labels(tmp_path / "cats", net, how)
