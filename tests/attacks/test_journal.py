"""An evaluation that was ended, however, goes on where it was and comes to the same result."""

from __future__ import annotations

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
from torch import nn

import attacks
from attacks._journal import Journal

ROOT = Path(__file__).parents[2]
EPSILONS = (0.03, 0.08, 0.15)
CASCADE = ("fgsm", "pgd", "square", "fmn")
OPTIONS = {"square": {"queries": 20}, "pgd": {"steps": 5}, "fmn": {"steps": 5}}


def run(digits, folder: Path | None, **request) -> attacks.Evaluation:
    request = {"epsilons": EPSILONS, "attacks": CASCADE, "options": OPTIONS, "batch_size": 8, **request}
    return attacks.evaluate(digits.model, digits.images[:24], digits.labels[:24], journal=folder, **request)


def same(a: attacks.Evaluation, b: attacks.Evaluation) -> None:
    pd.testing.assert_frame_equal(a.samples, b.samples)
    pd.testing.assert_frame_equal(a.curve, b.curve)
    pd.testing.assert_frame_equal(a.checks, b.checks)
    assert a.images.equal(b.images)


@pytest.fixture(scope="module")
def straight(digits) -> attacks.Evaluation:
    return run(digits, None)


def test_a_second_run_attacks_nothing(digits, straight, tmp_path) -> None:
    first, second = run(digits, tmp_path), run(digits, tmp_path)
    same(first, straight)
    same(second, straight)
    assert first.provenance["journal"]["reused"] == 0
    assert second.provenance["journal"] == {"reused": first.provenance["journal"]["executed"], "executed": 0}


def test_interrupted_anywhere_it_goes_on(digits, straight, tmp_path, monkeypatch) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    monkeypatch.setattr("attacks._session._GROUP", 8)
    ticks = 0

    def stop(done: int, total: int, what: str) -> None:
        nonlocal ticks
        ticks += 1
        if ticks % 60 == 0:
            raise Stop

    stops = 0
    while True:
        try:
            found = run(digits, tmp_path, progress=stop)
            break
        except Stop:
            stops += 1
    assert stops > 2 and found.provenance["journal"]["reused"] > 0
    pd.testing.assert_frame_equal(found.samples, straight.samples, check_exact=False, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "norm"), [(n, norm) for n, one in attacks.ATTACKS.items() if one.leaves for norm in one.norms]
)
def test_what_an_attack_has_finished_is_what_it_returns(digits, tmp_path, monkeypatch, name, norm) -> None:
    """Stopped twice it goes on with the images that are left, and every image gets what it would have got.

    What is finished is on the disk before the stop: a killed process has no chance to write.
    """

    class Stop(Exception):  # noqa: N818
        pass

    monkeypatch.setattr("attacks._finished._EVERY", 0.0)
    monkeypatch.setattr("attacks._finished._SHARE", torch.inf)
    epsilon = {"linf": 0.3 if name == "square" else 0.15, "l2": 1.2, "l1": 3.0}[norm]
    options = {"queries": 40} if name == "square" else {"steps": 20 if norm == "l1" else 8}
    request = {"norm": norm, "epsilons": [epsilon], "attacks": [name], "options": {name: options}, "checks": False}
    x, y = digits.images[:16], digits.labels[:16]
    whole = attacks.evaluate(digits.model, x, y, **request)
    # The first pass was clean, the last one verified.
    broken = whole.samples.forwards[whole.samples.attack.eq(name)] - 2
    assert len(broken) >= 4 and broken.min() < whole.samples.forwards.max() - 2
    for after in (broken.min(), int(broken.median())):
        ticks = iter(range(1 + after))

        def tick(done: int, total: int, what: str, ticks=ticks) -> None:
            if next(ticks, None) is None:
                assert list(tmp_path.glob("*-begun.npz"))
                raise Stop

        with pytest.raises(Stop):
            attacks.evaluate(digits.model, x, y, **request, journal=tmp_path, progress=tick)
        (begun,) = tmp_path.glob("*-begun.npz")
        assert len(np.load(begun)["rows"]) == (broken <= after).sum()
    again = attacks.evaluate(digits.model, x, y, **request, journal=tmp_path)
    pd.testing.assert_frame_equal(again.samples, whole.samples, check_exact=False, atol=1e-5)
    torch.testing.assert_close(again.images, whole.images, rtol=0, atol=1e-5)
    assert not list(tmp_path.glob("*-begun.npz"))


def test_other_requests_are_not_mixed_up(digits, straight, tmp_path) -> None:
    run(digits, tmp_path)
    for request in ({"seed": 1}, {"options": {**OPTIONS, "pgd": {"steps": 6}}}, {"epsilons": (0.05,)}):
        mixed, pure = (run(digits, folder, **request, checks=False) for folder in (tmp_path, None))
        same(mixed, pure)
    same(run(digits, tmp_path), straight)


def test_damage_from_outside_costs_a_repetition(digits, straight, tmp_path) -> None:
    run(digits, tmp_path)
    for place, file in enumerate(sorted(tmp_path.glob("*.npz"))):
        if not file.stem.endswith("clean"):
            file.write_bytes(file.read_bytes()[:100] if place % 2 else b"")
    same(run(digits, tmp_path), straight)


def test_a_model_of_the_same_weights_that_answers_otherwise_is_refused(digits, tmp_path) -> None:
    class Twice(nn.Sequential):
        factor = 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.factor + torch.arange(10) * (self.factor - 1)

    model = Twice(digits.model).eval()
    request = (digits.images[:4], digits.labels[:4])
    attacks.evaluate(model, *request, epsilons=[0.05], attacks="fast", journal=tmp_path)
    model.factor = 2.0
    with pytest.raises(attacks.AttackError, match="same weights that answers otherwise"):
        attacks.evaluate(model, *request, epsilons=[0.05], attacks="fast", journal=tmp_path)


def test_folders_that_cannot_be_written_are_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(attacks.AttackError, match="folder cannot be made"):
        Journal(tmp_path / "file" / "journal")


SCRIPT = """
import sys, torch, attacks
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 100, 4)).eval()
x = torch.rand(16, 1, 12, 12)
rob = attacks.evaluate(model, x, epsilons=(0.02, 0.1), attacks=("fgsm", "pgd", "square"), journal=sys.argv[1],
    options={"square": {"queries": int(sys.argv[3])}}, checks=False)
rob.samples.to_csv(sys.argv[2], index=False)
print(rob.provenance["journal"])
"""


@pytest.mark.slow
def test_a_killed_process_loses_no_finished_strike(tmp_path) -> None:
    def start(queries: int) -> subprocess.Popen[str]:
        arguments = [str(tmp_path / "journal"), str(tmp_path / "samples.csv"), str(queries)]
        return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)

    process = start(queries=10**7)
    written = lambda: [file for file in (tmp_path / "journal").glob("*.npz") if "begun" not in file.name]  # noqa: E731
    end = time.monotonic() + 60
    while len(written()) < 4 and time.monotonic() < end:  # clean, FGSM twice or more, PGD: then Square is at it
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = len(written())
    assert kept >= 4 and not (tmp_path / "samples.csv").exists()
    process = start(queries=10)
    out, _ = process.communicate(timeout=120)
    assert f"'reused': {kept}" in out, out
    once = pd.read_csv(tmp_path / "samples.csv")
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "other"), str(tmp_path / "again.csv"), "10"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    pd.testing.assert_frame_equal(once, pd.read_csv(tmp_path / "again.csv"))
