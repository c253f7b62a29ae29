"""One call opens every source, and gives the model what it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import workbench as wb
from explain.dissection.probe import Annotation
from workbench.errors import ImageError, OptionError
from workbench.images import read_images
from workbench.probes import BrodenProbe, FolderProbe, ScoreProbe, TensorProbe, read_probe

from .conftest import write_csv


def model(channels: int = 3, size: tuple[int, int] = (10, 14)) -> Any:
    preset = SimpleNamespace(resize=12, crop=size, interpolation="bilinear")
    return SimpleNamespace(input_size=(channels, *size), preset=preset)


@pytest.fixture
def scores(plain: Path) -> Path:
    write_csv(plain / "scores.csv", (("image", "cat"), ("a.png", 0.5), ("b.jpg", 0.25), ("sub/a.png", 0.125)))
    return plain / "scores.csv"


def test_every_source_by_what_it_is(broden: Path, plain: Path, scores: Path) -> None:
    images = wb.sample_data("shapes", "test", 5)
    sources: list[tuple[Any, type, int]] = [
        (broden, BrodenProbe, 4),
        (str(plain), FolderProbe, 3),
        (scores, ScoreProbe, 3),
        (images, TensorProbe, 5),
        ("shapes", TensorProbe, 300),
    ]
    for source, kind, count in sources:
        probe = read_probe(source)
        assert type(probe) is kind
        assert len(probe) == count
        for channels in (1, 3):
            fitting = read_probe(source, model(channels), n=2)
            assert len(fitting) == 2
            assert fitting.image(1).shape == (channels, 10, 14)
            assert fitting.image(1).dtype == torch.float32
            assert fitting.size(1) == (10, 14)
        assert read_probe(source, model(1), size=(6, 5), n=2).image(1).shape == (1, 6, 5)
    assert read_probe("sample:shapes", n=7).digest == read_probe("shapes", n=7).digest


def test_scored_pictures_are_cropped_as_the_model_does(scores: Path) -> None:
    probe = read_probe(scores, model())
    preset = SimpleNamespace(resize=12, crop=(10, 14), mean=(0.5,) * 3, interpolation="bilinear")
    expected = read_images(scores.parent / "images/a.png", preset=preset)  # type: ignore[arg-type]
    assert torch.equal(probe.image(0), expected.images[0])


def test_a_probe_is_taken_as_it_is(broden: Path) -> None:
    probe = BrodenProbe(broden)
    assert read_probe(probe) is probe
    assert read_probe(probe, model()) is probe
    assert "digest" not in vars(probe), "recognising a probe must not hash a gigabyte"
    with pytest.raises(OptionError, match="a probe is taken as it is"):
        read_probe(probe, n=3)

    class Mine:
        concepts, categories, ids, digest = ("a",), ("b",), ("c",), "d"

        def __len__(self) -> int:
            return 1

        def size(self, index: int) -> tuple[int, int]:
            return 1, 1

        def image(self, index: int) -> torch.Tensor:
            return torch.zeros(3, 1, 1)

        def annotation(self, index: int) -> Annotation:
            return Annotation(torch.ones(1, 1, 1, dtype=torch.int64))

    mine = Mine()
    assert read_probe(mine) is mine


def test_what_is_no_source(tmp_path: Path, broden: Path) -> None:
    with pytest.raises(OptionError, match=r"no source of concepts: .*index\.csv, label\.csv, images/.*concepts\.csv"):
        read_probe(tmp_path)
    with pytest.raises(OptionError, match="there is no such file: shape"):
        read_probe("shape")
    with pytest.raises(OptionError, match="no source of concepts: int"):
        read_probe(3)
    with pytest.raises(ImageError, match="does not say where which concept is seen"):
        read_probe(wb.sample_data("digits", "test", 3))
    with pytest.raises(OptionError, match="1 or 3 channels"):
        read_probe(broden, model(4))
    with pytest.raises(OptionError, match="limit"):
        read_probe(broden, n=0)


def test_workbench_offers_probes_without_importing_them() -> None:
    assert wb.read_probe is wb.probes.read_probe
    assert wb.TensorProbe is wb.probes.TensorProbe
    code = "import workbench as wb, sys; 'torch' in sys.modules and sys.exit(1); wb.probes.BrodenProbe"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_real_layouts_go_through_a_real_model(broden: Path) -> None:
    network = wb.load("sample:shapes-vgg")
    probe = read_probe(broden, network)
    logits = network(torch.stack([probe.image(i) for i in range(len(probe))]))
    assert np.isfinite(logits.numpy()).all()
