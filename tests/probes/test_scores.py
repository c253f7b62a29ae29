"""Scores of whole images, from memory, from a table and from a matrix."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from explain.errors import NotApplicable, ProbeError
from workbench.errors import ImageError, OptionError
from workbench.probes import ScoreProbe, read_probe, read_scores

from .conftest import save_picture, write_csv

SCORES = np.array([[0.1, -0.2], [0.3, 0.4], [0.5, 2.5e-3]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.png", "sub/b.png", "sub/c.png")):
        save_picture(tmp_path / "images" / name, seed, 6, 8)
    rows = [(name, *row) for name, row in zip(("sub/c.png", "a.png", "sub/b.png"), SCORES.tolist(), strict=True)]
    write_csv(tmp_path / "scores.csv", (("image", "dog", "cat"), *rows))
    np.save(tmp_path / "scores.npy", SCORES)
    (tmp_path / "concepts.txt").write_text("dog\ncat\n")
    return tmp_path


def test_scores_in_memory() -> None:
    images = torch.rand(3, 3, 4, 5)
    probe = ScoreProbe(images, torch.from_numpy(SCORES), ("dog", "cat"))
    assert probe.scores.dtype == torch.float32
    torch.testing.assert_close(probe.scores, torch.from_numpy(SCORES).float())
    assert torch.equal(probe.image(2), images[2])
    assert (len(probe), probe.size(0), probe.categories) == (3, (4, 5), ("concept", "concept"))
    with pytest.raises(NotApplicable, match=r"no label maps.*explain\.match_concepts"):
        probe.annotation(0)
    changed = torch.from_numpy(SCORES).clone()
    changed[2, 1] += 1
    others = [
        ScoreProbe(images, changed, ("dog", "cat")),
        ScoreProbe(images, torch.from_numpy(SCORES), ("dog", "cow")),
        ScoreProbe(images.flip(0), torch.from_numpy(SCORES), ("dog", "cat")),
    ]
    assert len({probe.digest, *(other.digest for other in others)}) == 4


def test_scores_that_cannot_be() -> None:
    images = torch.rand(3, 3, 4, 5)
    with pytest.raises(ImageError, match=r"scores must be floating point.*\(3, 2\).*for 3 images and 1 concepts"):
        ScoreProbe(images, torch.from_numpy(SCORES), ("dog",))
    with pytest.raises(ImageError, match="floating point"):
        ScoreProbe(images, torch.ones(3, 2, dtype=torch.int64), ("dog", "cat"))
    broken = torch.from_numpy(SCORES).clone()
    broken[1, 0] = float("nan")
    with pytest.raises(ImageError, match="not finite: image 1, concept 0"):
        ScoreProbe(images, broken, ("dog", "cat"))


def test_a_table(folder: Path) -> None:
    probe = read_scores(folder / "scores.csv")
    assert probe.ids == ("sub/c.png", "a.png", "sub/b.png")
    assert probe.concepts == ("dog", "cat")
    np.testing.assert_allclose(probe.scores, SCORES, rtol=1e-6)
    with Image.open(folder / "images/a.png") as picture:
        assert torch.equal(probe.image(1), torch.tensor(np.asarray(picture)).permute(2, 0, 1) / 255)
    limited = read_scores(folder / "scores.csv", limit=2, size=4)
    assert limited.ids == ("sub/c.png", "a.png")
    assert limited.image(0).shape == (3, 4, 4)
    np.testing.assert_allclose(limited.scores, SCORES[:2], rtol=1e-6)
    assert read_scores(folder / "scores.csv", folder / "images").digest == probe.digest


def test_bad_rows_of_a_table(folder: Path) -> None:
    rows = [
        ("gone.png", 1, 2),
        ("../scores.csv", 1, 2),
        ("/etc/passwd", 1, 2),
        ("a.png", 1, 2),
        ("sub/c.png", "high", 2),
        ("sub/c.png", "nan", 2),
        ("sub/c.png", 1),
        ("sub/c.png", 1, 2),
        ("a.png", 3, 4),
    ]
    write_csv(folder / "scores.csv", (("image", "dog", "cat"), *rows))
    probe = read_scores(folder / "scores.csv")
    assert probe.ids == ("a.png", "sub/c.png")
    assert probe.scores.tolist() == [[1, 2], [1, 2]]
    assert [where for where, _ in probe.skipped] == [f"scores.csv line {n}" for n in (2, 3, 4, 6, 7, 8, 10)]
    write_csv(folder / "scores.csv", (("image", "dog"), ("gone.png", 1)))
    with pytest.raises(ImageError, match=r"no picture with scores can be used.*scores\.csv line 2: no such file"):
        read_scores(folder / "scores.csv")
    write_csv(folder / "scores.csv", (("image",), ("a.png",)))
    with pytest.raises(ImageError, match="needs a name for every column"):
        read_scores(folder / "scores.csv")
    write_csv(folder / "scores.csv", (("image", "dog", "dog"), ("a.png", 1, 2)))
    with pytest.raises(ImageError, match="names a column twice: 'dog'"):
        read_scores(folder / "scores.csv")


def test_a_matrix(folder: Path) -> None:
    probe = read_probe(folder / "scores.npy")
    assert isinstance(probe, ScoreProbe)
    assert probe.ids == ("a.png", "sub/b.png", "sub/c.png")
    np.testing.assert_allclose(probe.scores, SCORES, rtol=1e-6)
    save_picture(folder / "images/d.png", 7, 6, 8)
    with pytest.raises(ImageError, match=r"does not fit: \(3, 2\) for 4 pictures and 2 concepts"):
        read_scores(folder / "scores.npy")


def test_hostile_matrices(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    (folder / "scores.npy").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ImageError, match="no matrix of numbers"):
        read_scores(folder / "scores.npy")
    np.save(folder / "scores.npy", np.array([[Evil(), 1]], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match="no matrix of numbers"):
        read_scores(folder / "scores.npy")
    assert not (tmp_path / "ran").exists()
    np.save(folder / "scores.npy", SCORES)
    data = (folder / "scores.npy").read_bytes()
    (folder / "scores.npy").write_bytes(data.replace(b"(3, 2), }" + b" " * 12, b"(3, 2000000000000), }"))
    with pytest.raises(ImageError, match="no matrix of numbers"):
        read_scores(folder / "scores.npy")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_scores(folder / "none.npy")


def test_a_damaged_picture(folder: Path) -> None:
    probe = read_scores(folder / "scores.csv", size=4)
    (folder / "images/a.png").write_bytes(b"<html>")
    with pytest.raises(ProbeError, match=r"a\.png cannot be read: a web page"):
        probe.image(1)
    again = read_scores(folder / "scores.csv")  # without a size the header is looked at
    assert again.ids == ("sub/c.png", "sub/b.png")
    np.testing.assert_allclose(again.scores, SCORES[[0, 2]], rtol=1e-6)
    assert again.skipped == (("a.png", "a web page (HTML), not a picture"),)
    with pytest.raises(OptionError, match="limit"):
        read_scores(folder / "scores.csv", limit=0)
