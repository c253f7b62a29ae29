"""``workbench generate``: it trains, goes on after a kill, uses and measures a generator as the engine does, and explains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import attacks
import workbench as wb
from tests.commandline import answer, command
from workbench.generators import sample_generators

MLP, DIGITS = "sample:digits-mlp", "sample:digits"
QUICK = ("--steps", 40, "--width", 8, "--blocks", 1, "--eps", 0.2, "--limit", 200)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that ``workbench generate train`` wrote."""
    folder = tmp_path_factory.mktemp("generator")
    done = command("generate", "train", MLP, DIGITS, *QUICK, "-o", folder / "mine.safetensors")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"mine.safetensors", "mine.json"}
    assert "Reached" in done.said and "width" not in done.said
    return folder / "mine"


def test_a_training_is_that_of_the_engine(trained: Path) -> None:
    data = wb.sample_data("digits", "train", n=200)
    expected = attacks.train_generator(wb.load(MLP), data.images, data.labels, steps=40, width=8, blocks=1, epsilon=0.2)
    found = wb.load_generator(trained)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    assert found.epsilon == 0.2 and found.about == {"model": MLP, "also": [], "images": DIGITS}


@pytest.mark.slow
def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "workbench", "generate", "train", MLP, DIGITS, "--steps", "800", "-o", "g"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # as the tests: more threads than cores wait for each other
    process = subprocess.Popen(arguments, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL, env=alone)
    state = tmp_path / "g.training"
    end = time.monotonic() + 120
    while not state.exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "g.json").exists()
    before = torch.load(state, weights_only=True)["state"]
    assert 0 < before["step"] < 800
    done = subprocess.run([*arguments, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True, env=alone)
    told = json.loads(done.stdout)
    assert told["history"][: len(before["history"])] == before["history"] and told["history"][-1]["step"] == 800
    assert not state.exists()


def test_versions_are_those_of_the_generator(trained: Path, tmp_path: Path) -> None:
    told = answer("generate", "attack", trained, MLP, DIGITS, "--limit", 3, "-o", tmp_path)
    data, generator, model = wb.sample_data("digits", n=3), wb.load_generator(trained), wb.load(MLP)
    expected = generator.every(data.images)
    with np.load(tmp_path / "versions.npz") as kept:
        np.testing.assert_allclose(kept["images"], expected.numpy(), atol=1e-6)
        assert kept["ids"].tolist() == list(data.ids) and kept["targets"].tolist() == list(range(10))
    for row, versions in zip(told["images"], expected, strict=True):
        assert row["seen"] == model(versions).argmax(1).tolist()
    assert len(list(tmp_path.glob("*.png"))) == 30
    done = command(
        "generate", "attack", trained, MLP, DIGITS, "--limit", 3, "--target", 4, "--eps", "0.3", "--eight-bit"
    )
    assert "where every pixel may change by up to 76.5/255" in done.said


def test_measures_are_those_of_the_engine(trained: Path, tmp_path: Path) -> None:
    asked = (
        "generate",
        "evaluate",
        trained,
        MLP,
        DIGITS,
        "--limit",
        12,
        "--other",
        "sample:digits-lenet",
        "--against",
        "pgd:5",
    )
    told = answer(*asked, "-o", tmp_path)
    data = wb.sample_data("digits", n=12)
    expected = attacks.evaluate_generator(
        wb.load_generator(trained), wb.load(MLP), data.images, data.labels, name=MLP, ids=data.ids,
        others={"sample:digits-lenet": wb.load("sample:digits-lenet")}, rivals={"pgd": {"steps": 5}},
    )  # fmt: skip
    assert told["targets"] == expected.frame().to_dict("records")
    assert told["confusion"] == expected.confusion().to_numpy().tolist()
    assert [row["success"] for row in told["summary"]] == expected.summary()["success"].tolist()
    assert pd.read_csv(tmp_path / "targets.csv")["reached"].tolist() == expected.frame()["reached"].tolist()
    assert pd.read_csv(tmp_path / "confusion.csv", index_col="target").shape == (10, 10)
    said = command(*asked).said
    assert "class reached" in said and "sample:digits-lenet" in said


def test_a_generator_joins_an_evaluation_and_its_page(trained: Path, tmp_path: Path) -> None:
    told = answer(
        "evaluate",
        MLP,
        DIGITS,
        "--limit",
        8,
        "--eps",
        "0.2",
        "--attacks",
        "pgd",
        "--generator",
        trained,
        "-o",
        tmp_path,
    )
    assert [row["attack"] for row in told["stages"]] == ["generator", "pgd"]
    page = (tmp_path / "index.html").read_text()
    assert f"generator=wb.load_generator(&#39;{trained}&#39;)" in page and "arXiv:1908.05185" in page


@pytest.mark.parametrize(("arguments", "told"), [
    (("train", MLP, DIGITS, "--loss", "l2"), "Choose one of hinge, ce|Choose one of ce, hinge"),
    (("train", MLP, DIGITS, "--targets", "one"), "Write them as 0,3,7"),
    (("train", MLP, DIGITS, "--source", "sample:shapes-vgg"), "models of one size"),
    (("train", MLP, DIGITS, "--eps", "8"), "budget lies in"),
    (("attack", "nowhere", MLP, DIGITS), "two files of one name"),
    (("attack", "sample:nothing", MLP, DIGITS), "Choose one of: sample:digits-lenet"),
    (("attack", "sample:digits-lenet", "sample:shapes-vgg", "sample:shapes"), "name the model that it was trained against"),
    (("attack", "sample:digits-lenet", MLP, DIGITS, "--target", "10"), "numbered 0 to 9"),
    (("evaluate", "sample:digits-lenet", MLP, DIGITS, "--against", "pgd:many"), "Write the attack as pgd:40"),
    (("evaluate", "sample:digits-lenet", MLP, DIGITS, "--against", "apgd-t"), "cannot aim"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_paragraph(arguments, told, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("generate", *arguments)
    assert done.returncode == 2 and not done.stdout
    assert any(part in " ".join(done.stderr.split()) for part in told.split("|")), done.stderr
    assert not list(tmp_path.iterdir())


def test_the_samples_are_there() -> None:
    assert {"digits-lenet", "shapes-vgg"} <= set(sample_generators())
    generator = wb.load_generator("sample:digits-lenet")
    assert wb.load_generator(generator) is generator
