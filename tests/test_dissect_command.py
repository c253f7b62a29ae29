"""The command that dissects: a folder that says what the engine says, runs that go on, and errors that say what to do."""

from __future__ import annotations

import csv
import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import explain
import workbench as wb
from tests import commandline
from workbench.console import gently
from workbench.dissecting import default_layers, investigate
from workbench.errors import OptionError

HOSTILE = "<img src=x onerror='window.run=1'>"
VGG = "sample:shapes-vgg"
QUICK = ("--limit", 20, "--permutations", 1)


command = partial(commandline.command, "dissect")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, commandline.Done]:
    folder = tmp_path_factory.mktemp("out") / "dissection"
    done = command(
        VGG, *QUICK, "--layers", "relu5,relu6", "--compare", "random", "--compare", "rotated", "--attack", "-o", folder
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_tables_say_what_the_engine_says(written: tuple[Path, commandline.Done]) -> None:
    folder, _ = written
    model, probe = wb.load(VGG), wb.read_probe("shapes", n=20)
    found = explain.dissect(model, probe, ("relu5", "relu6"), permutations=1)
    told, expected = rows(folder / "units.csv"), found.frame()
    assert [row["concept"] for row in told] == expected["concept"].fillna("").tolist()
    np.testing.assert_allclose([float(row["iou"]) for row in told], expected["iou"], rtol=1e-6)
    assert [row["model"] for row in rows(folder / "comparison.csv")] == [VGG] * 2 + ["random"] * 2 + ["rotated"] * 2
    assert not (folder / "changes.csv").exists()
    assert {row["label"] for row in rows(folder / "ablation.csv")} == {str(i) for i in range(10)}
    assert "all" in {row["label"] for row in rows(folder / "curve.csv")}
    assert len(rows(folder / "moved.csv")) == 64
    page = (folder / "index.html").read_text()
    assert "Without units" in page
    assert "--compare random --compare rotated" in page


def test_the_terminal_shows_a_table_and_an_honest_sentence(written: tuple[Path, commandline.Done]) -> None:
    _, done = written
    assert sum(line.startswith(("random", "rotated")) for line in done.stdout.splitlines()) == 4
    flat = " ".join(done.stdout.split())
    assert "of 64 units of relu6" in flat
    assert "attainable by its size" in flat
    assert "by chance 95 % of units stay below" in flat
    assert "20 images are few" in " ".join(done.stderr.split())


def test_a_repeat_finds_its_result_and_json_is_json(written: tuple[Path, commandline.Done]) -> None:
    folder, _ = written
    done = command(VGG, *QUICK, "--layers", "relu5,relu6", "--no-ablate", "--json", "-o", folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["cached"] is True
    assert found["images"] == 20
    assert [row["layer"] for row in found["layers"]] == ["relu5", "relu6"]
    assert "comparison" not in found
    assert (folder / "index.html").read_text().count("found in the cache") == 1


def test_a_dry_run_says_what_it_costs_and_leaves_nothing(tmp_path: Path) -> None:
    done = command(VGG, *QUICK, "--layers", "relu6", "--dry-run", "--images", 63305, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "20 images: about" in done.stdout
    assert "63,305 images: about" in done.stdout
    assert not (tmp_path / "out").exists()
    made = json.loads(command(VGG, *QUICK, "--dry-run", "--compare", "random", "--json", "-o", tmp_path / "out").stdout)
    assert made["times"] == 2
    assert [one["images"] for one in made["estimates"]] == [20]


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the second network is dissected: the first is not dissected again."""
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started the tests in the background
    seen: list[str] = []
    dissect = explain.dissect

    def watched(model: Any, *arguments: Any, progress: Any, **options: Any) -> Any:
        def tick(done: int, total: int, what: str) -> None:
            progress(done, total, what)
            if len(seen) == 1 and not (tmp_path / "stopped").exists():
                (tmp_path / "stopped").touch()
                signal.raise_signal(signal.SIGINT)
                progress(done, total, what)

        found = dissect(model, *arguments, progress=tick, **options)
        seen.append("reused" if found.provenance["reused"] else "computed")
        return found

    monkeypatch.setattr(explain, "dissect", watched)
    arguments = (VGG, *QUICK, "--layers", "relu6", "--compare", "random", "--no-ablate", "-o", tmp_path / "out")
    done = command(*arguments)
    assert done.returncode == 130
    assert f"{tmp_path / 'out' / 'cache'}: the same command goes on from there" in " ".join(done.stderr.split())
    assert list((tmp_path / "out" / "cache").glob("*.part.npz"))
    assert signal.getsignal(signal.SIGINT) is before
    assert command(*arguments).returncode == 0
    assert seen == ["computed", "reused", "computed"]
    assert not list((tmp_path / "out" / "cache").glob("*.part.npz"))


def test_ctrl_c_waits_for_the_batch_and_a_second_one_does_not() -> None:
    with pytest.raises(KeyboardInterrupt), gently(None) as tick:
        tick(0, 1, "")
        signal.raise_signal(signal.SIGINT)
        reached = True
        tick(1, 1, "")
    assert reached
    with pytest.raises(KeyboardInterrupt), gently(None):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_another_network_is_compared_unit_by_unit(tmp_path: Path) -> None:
    done = command(
        "sample:digits-lenet", *QUICK, "--layers", "relu2", "--compare", "sample:digits-mlp", "--json", "-o", tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    models = {row["model"]: row["layer"] for row in found["comparison"]}
    assert models == {"sample:digits-lenet": "relu2", "sample:digits-mlp": "relu2"}
    assert (tmp_path / "changes.csv").exists()
    assert not (tmp_path / "ablation.csv").exists()  # digits are no shapes: nobody knows what it should answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A probe that a stranger made: his names are bad, and one picture is broken."""
    root = tmp_path / "probe"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(root / f"images/{i}.png")
        Image.fromarray(rng.integers(1, 3, (64, 64), np.uint8)).save(root / f"masks/{i}.png")
    (root / "images/2.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with (root / "concepts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("number", "name", "category"), (1, HOSTILE, "th\x1bing"), (2, "b", HOSTILE)])
    return root


def test_a_strangers_folder_is_text(folder: Path, tmp_path: Path) -> None:
    done = command(VGG, "--probe", folder, "--layers", "relu6", "--ablate", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "\x1b[2J" not in done.stdout
    assert "known classes" in " ".join(done.stderr.split())
    page = (tmp_path / "out" / "index.html").read_text()
    assert HOSTILE not in page
    assert "Left out" in page


def test_scores_are_matched_instead(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = ["image,dog,cat"]
    for i in range(6):
        Image.new("RGB", (64, 64), (40 * i, 90, 200 - 30 * i)).save(tmp_path / f"images/{i}.png")
        lines.append(f"{i}.png,{i / 5},{1 - i / 5}")
    (tmp_path / "scores.csv").write_text("\n".join(lines))
    arguments = (VGG, "--probe", tmp_path / "scores.csv", "--layers", "relu6", "-o", tmp_path / "out")
    found = json.loads(command(*arguments, "--json").stdout)
    assert len(found["units"]) == 64
    assert {row["concept"] for row in found["units"]} <= {"dog", "cat"}
    assert len(rows(tmp_path / "out" / "matches.csv")) == 64
    assert "no level of chance" in command(*arguments).stdout
    refused = command(*arguments, "--attack")
    assert refused.returncode == 2
    assert "can only be matched" in refused.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layers", "relu9"), "Close names: relu"),
        (("--layers", ","), "--layers a,b"),
        (("--quantile", "1.5"), "uantile"),
        (("--probe", "nowhere"), "no such file"),
        (("--compare", VGG), "compared with itself"),
        (("--compare", "random", "--compare", "random"), "compared with itself"),
        (("--compare", "sample:digits-lenet"), "different sizes"),
        (("--images", "5"), "--dry-run"),
        (("-o", "{file}"), "this is a file"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_paragraph_and_status_2(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = () if "-o" in options else ("-o", tmp_path / "out")
    done = command(VGG, "--limit", 4, *(text.format(file=tmp_path / "file") for text in options), *out)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_layers_are_chosen_from_front_to_back() -> None:
    assert default_layers(wb.load(VGG)) == ("relu1", "relu3", "relu5", "relu6")
    assert default_layers(wb.load("sample:shapes-resnet")) == ("layer1", "layer2", "layer3", "layer4")
    assert default_layers(wb.load("sample:digits-mlp")) == ("fc1", "relu1", "fc2", "relu2")
    empty = wb.load(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), input_size=(3, 4, 4))
    assert default_layers(empty) == ("0",)
    model, channels = wb.load("vit_b_32", weights=None), 12
    names = default_layers(model)
    assert len(names) == 4
    assert names[-1].endswith(f"layer_{channels - 1}")


def test_investigating_leaves_the_network_as_it_was_and_can_be_cancelled() -> None:
    model, probe = wb.load(VGG), wb.read_probe("shapes", n=20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = wb.sample_data("shapes", n=20).labels
    told: list[tuple[int, int, str]] = []
    found = investigate(
        model, probe, ["relu6"], against={"random": None, "rotated": None}, labels=labels, ablate=True, attack=True,
        permutations=0, progress=lambda *said: told.append(said),
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    done = [now for now, *_ in told]
    assert done == sorted(done)
    assert done[-1] == 1000
    assert found.label is not None
    assert len(found.curves) == 2
    assert found.comparison is not None

    class Stop(Exception):  # noqa: N818
        pass

    def stop(done: int, total: int, what: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        investigate(model, probe, ["relu6"], progress=stop)
    with pytest.raises(OptionError, match="different sizes"):
        investigate(model, probe, ["relu6"], against={"digits": wb.load("sample:digits-lenet")})
