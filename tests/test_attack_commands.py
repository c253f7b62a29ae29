"""The commands that attack: they say what the engine says, go on where a run was ended, and refuse in one paragraph."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import attacks
import workbench as wb
from tests.commandline import command
from workbench.errors import OptionError
from workbench.evaluate_command import print_evaluation
from workbench.report import credit
from workbench.typed import attack_names, attack_options

MLP, DIGITS = "sample:digits-mlp", "sample:digits"
FEW = (MLP, DIGITS, "--limit", 12, "--eps", "0.05,0.1,0.2", "--attacks", "fgsm,pgd")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], attacks.Evaluation]:
    """A folder that ``workbench evaluate`` wrote, what it told a machine, and the same by the engine."""
    folder = tmp_path_factory.mktemp("evaluation")
    done = command("evaluate", *FEW, "-o", folder, "--json")
    assert done.returncode == 0, done.stderr
    images = wb.sample_data("digits", n=12)
    expected = attacks.evaluate(
        wb.load(MLP), images.images, images.labels, epsilons=(0.05, 0.1, 0.2), attacks=["fgsm", "pgd"], ids=images.ids
    )
    return folder, json.loads(done.stdout), expected


# ---- evaluate


def test_an_evaluation_is_that_of_the_engine(run: Any) -> None:
    folder, told, expected = run
    assert told["curve"] == expected.curve.to_dict("records")
    assert told["trustworthy"] is expected.trustworthy is True
    assert told["forwards"] == expected.samples["forwards"].sum()
    pd.testing.assert_frame_equal(pd.read_csv(folder / "samples.csv", keep_default_na=False), expected.samples)
    assert [row["credited"] for row in rows(folder / "stages.csv")] == [str(n) for n in expected.stages["credited"]]
    assert {row["trustworthy"] for row in rows(folder / "curve.csv")} == {"True"}
    assert len(rows(folder / "checks.csv")) == len(expected.checks)
    page = (folder / "index.html").read_text()
    assert "Which attack found what" in page
    assert "workbench report sample:digits-mlp sample:digits" in page


def test_adversarial_images_are_kept_by_id_and_fool(run: Any) -> None:
    folder, _, expected = run
    with np.load(folder / "adversarials.npz") as kept:
        ids, images = kept["ids"].tolist(), torch.from_numpy(kept["images"])
    found = expected.adversarials()
    assert ids == list(found)
    torch.testing.assert_close(images, torch.stack(list(found.values())))
    labels = {row["id"]: int(row["label"]) for row in rows(folder / "samples.csv")}
    assert all(seen != labels[one] for seen, one in zip(wb.load(MLP)(images).argmax(1).tolist(), ids, strict=True))


def test_the_same_command_goes_on_and_says_so_with_every_number(run: Any) -> None:
    folder, _, expected = run
    done = command("evaluate", *FEW, "-o", folder)
    steps = len(list((folder / "journal").glob("*.npz")))
    assert f"Going on from an earlier run: {steps} of the {steps} steps were kept." in done.stderr
    for row in expected.curve.to_dict("records"):
        share = f"{round(row['robust_accuracy'] * 12)} of 12 {row['robust_accuracy']:.1%} {row['low']:.1%} – {row['high']:.1%}"
        assert share in done.said
    for one in credit.credits_of(expected):
        assert f"{one.attack} {one.tried} {one.credited} {one.passes}" in done.said
    assert credit.cost(expected) in done.said
    assert "The 9 sanity checks passed" in done.said


@pytest.mark.parametrize("size", [1, 7])
def test_batches_are_only_speed(run: Any, size: int, tmp_path: Path) -> None:
    folder, *_ = run
    assert command("evaluate", *FEW, "--batch-size", size, "-o", tmp_path).returncode == 0
    mine, whole = (pd.read_csv(place / "samples.csv", keep_default_na=False) for place in (tmp_path, folder))
    exact = ["id", "predicted", "broken_at", "attack", "fooled_as", "forwards", "backwards"]
    pd.testing.assert_frame_equal(mine[exact], whole[exact])


def test_stored_images_are_tried_first(run: Any, tmp_path: Path) -> None:
    folder, _, expected = run
    done = command("evaluate", *FEW, "--replay", folder / "adversarials.npz", "-o", tmp_path)
    assert set(pd.read_csv(tmp_path / "samples.csv")["attack"].dropna()) == {"replay"}
    assert f"Stored adversarials {len(expected.adversarials())} –" in done.said
    page = (tmp_path / "index.html").read_text()
    assert "by a stored adversarial" in page
    assert "Fill in where your files are" in page
    other = command(
        "evaluate", MLP, DIGITS, "--limit", 1, "--eps", 0.1, "--attacks", "fgsm", "--option", "pgd.steps=1",
        "--replay", folder / "curve.csv", "-o", tmp_path,
    )  # fmt: skip
    assert other.returncode == 2
    assert "These are no adversarial images of an earlier run" in " ".join(other.stderr.split())


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the second attack: the steps of the first are not made again."""
    evaluate, stopped = attacks.evaluate, tmp_path / "stopped"

    def watched(*arguments: Any, progress: Any, **options: Any) -> Any:
        def tick(done: int, total: int, what: str) -> None:
            if what.startswith("PGD") and not stopped.exists():
                stopped.touch()
                signal.raise_signal(signal.SIGINT)
            progress(done, total, what)

        return evaluate(*arguments, progress=tick, **options)

    monkeypatch.setattr(attacks, "evaluate", watched)
    first = command("evaluate", *FEW, "-o", tmp_path / "out")
    assert first.returncode == 130
    assert f"{tmp_path / 'out' / 'journal'}: the same command goes on from there" in " ".join(first.stderr.split())
    assert not (tmp_path / "out" / "samples.csv").exists()
    second = command("evaluate", *FEW, "-o", tmp_path / "out", "--json")
    kept = json.loads(second.stdout)["journal"]
    assert kept["reused"] > 1
    assert kept["executed"] > 0


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_like_one_that_was_not(tmp_path: Path) -> None:
    many = (MLP, DIGITS, "--limit", 40, "--eps", "0.1,0.2", "--attacks", "fgsm,pgd,apgd-t,square", "--seed", 3)
    arguments = [sys.executable, "-m", "workbench", "evaluate", *map(str, many), "-o", str(tmp_path / "killed")]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while len(list((tmp_path / "killed" / "journal").glob("*.npz"))) < 4 and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was at work"
    kept = len(list((tmp_path / "killed" / "journal").glob("*.npz")))
    again = json.loads(command("evaluate", *many, "-o", tmp_path / "killed", "--json").stdout)
    whole = json.loads(command("evaluate", *many, "-o", tmp_path / "whole", "--json").stdout)
    assert again["journal"]["reused"] >= kept >= 4
    assert again["journal"]["executed"] > 0
    assert again["images"] == whole["images"]
    assert again["curve"] == whole["curve"]


def test_a_failed_check_is_said_before_and_beside_every_number(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    *_, expected = run
    checks = expected.checks.copy()
    checks.loc[3, ["passed", "detail"]] = [False, "12 of 12 images have no gradient."]
    print_evaluation(replace(expected, checks=checks), "my net")
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("UNTRUSTWORTHY. 1 sanity check of the attack failed: gradients not zero.")
    assert "✗ gradients not zero: 12 of 12 images have no gradient." in text
    assert text.count("untrustworthy") == 3, "one per budget"
    assert "sanity checks passed" not in text
    print_evaluation(replace(expected, checks=checks.iloc[:0]), "my net")
    assert "UNTRUSTWORTHY. The sanity checks of the attack were not run" in capsys.readouterr().out


def test_names_and_options_as_typed() -> None:
    assert attack_names("thorough") == "thorough"
    assert attack_names("fgsm, foolbox:LinfBasicIterativeAttack") == ("fgsm", "foolbox:LinfBasicIterativeAttack")
    assert attack_options(["pgd.steps=40", "pgd.early_stop=false", "foolbox:LinfBasicIterativeAttack.rel_stepsize=1/4"]) == {
        "pgd": {"steps": 40, "early_stop": False}, "foolbox:LinfBasicIterativeAttack": {"rel_stepsize": 0.25},
    }  # fmt: skip
    for text in ("steps=40", "pgd.steps", ".steps=1", "pgd.=1", "pgd.steps=many"):
        with pytest.raises(OptionError):
            attack_options([text])


# ---- attack, attacks, transfer


def test_a_minimal_attack_needs_no_budget_and_says_how_near(tmp_path: Path) -> None:
    arguments = ("attack", MLP, DIGITS, "--attack", "ddn", "--limit", 3)
    found = json.loads(command(*arguments, "--json").stdout)
    assert found["epsilon"] is None
    assert found["norm"] == "l2"
    distances = [row["distance"] for row in found["images"]]
    assert found["median_distance"] == pytest.approx(sorted(distances)[1])
    done = command(*arguments, "-o", tmp_path)
    assert f"3 of 3 images fool the model; median distance {sorted(distances)[1]:.3g}." in done.said
    assert re.search(r"As PNG, rounded to whole grey levels, \d of these 3 still do", done.said)
    assert len(list(tmp_path.glob("*.ddn.png"))) == 3
    assert len(np.load(tmp_path / "adversarials.npz")["ids"]) == 3


def test_rounded_images_fool_as_files_too(tmp_path: Path) -> None:
    command(
        "attack",
        MLP,
        DIGITS,
        "--eps",
        "0.3",
        "--limit",
        2,
        "--eight-bit",
        "--attack",
        "foolbox:LinfBasicIterativeAttack",
        "-o",
        tmp_path,
    )
    with np.load(tmp_path / "adversarials.npz") as kept:
        assert len(kept["ids"]) > 0
        np.testing.assert_allclose(kept["images"] * 255, (kept["images"] * 255).round(), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("attack", MLP, DIGITS, "--norm", "l2"), "Add --eps 0.5"),
        (("attack", MLP, DIGITS, "--attack", "apgd-t", "--target", "3", "--limit", "1"), "cannot aim at a class"),
        (("attack", MLP, DIGITS, "--option", "steps"), "steps=40"),
        (("evaluate", MLP, DIGITS, "--attacks", "standart"), "Unknown attack"),
        (("evaluate", MLP, DIGITS, "--option", "steps=40"), "pgd.steps=40"),
        (("evaluate", MLP, DIGITS, "--norm", "l3", "--limit", "1"), "Unknown norm"),
        (("evaluate", MLP, DIGITS, "--replay", "nothing.npz"), "There is no such file of adversarial images"),
        (("transfer", MLP, "--images", DIGITS), "Name a second one"),
        (("transfer", MLP, MLP, "--images", DIGITS), "compared with itself"),
        (("transfer", MLP, "sample:shapes-vgg", "--images", DIGITS), "images of different sizes"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_gets_one_paragraph(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert len(done.stderr.strip().splitlines()) <= 2


def test_the_list_names_every_attack_in_full() -> None:
    listed = json.loads(command("attacks", "--json").stdout)["attacks"]
    assert {one["name"] for one in listed} >= set(attacks.ATTACKS) | {"foolbox:HopSkipJumpAttack"}
    printed = command("attacks").stdout
    assert all(one["name"] in printed for one in listed)


def test_a_matrix_of_models_fooled_by_each_other(tmp_path: Path) -> None:
    arguments = ("transfer", MLP, "sample:digits-lenet", "--images", DIGITS, "--limit", 16, "--eps", "0.2")
    pairs = json.loads(command(*arguments, "-o", tmp_path / "pairs.csv", "--json").stdout)["pairs"]
    images = wb.sample_data("digits", n=16)
    models = {name: wb.load(name) for name in (MLP, "sample:digits-lenet")}
    expected = attacks.transfer(models, images.images, images.labels, epsilon=0.2, ids=images.ids).frame()
    assert pairs == expected.to_dict("records")
    assert len(rows(tmp_path / "pairs.csv")) == 4
    said = command(*arguments).said
    for row in pairs:
        assert f"{row['rate']:.0%} of {row['n']}" in said
        assert f"[{row['low']:.0%} – {row['high']:.0%}]" in said
