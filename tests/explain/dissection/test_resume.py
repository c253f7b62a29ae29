"""Runs that stop at any point go on there, repeat nothing, and find exactly what they would have found."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import explain

QUICK: dict[str, Any] = {"quantile": 0.05, "batch_size": 2, "permutations": 2, "replicates": 20}
MEMORY = pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "streaming"])


class Stop(Exception):  # noqa: N818 - a person presses a button
    """Comes out of progress."""


def stopper(after: int, error: type[BaseException] = Stop) -> Callable[[int, int, str], None]:
    """Progress that raises at its call number ``after``, from one."""
    calls = 0

    def progress(done: int, total: int, what: str) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise error(what)

    return progress


def steps(model: nn.Module, probe: Any, **options: Any) -> int:
    """How often progress is called."""
    calls: list[int] = []
    explain.dissect(model, probe, "last", progress=lambda done, *_: calls.append(done), **options)
    return len(calls)


@MEMORY
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_stopped_anywhere_once(
    memory: int, error: type[BaseException], model: nn.Module, probe: Any, tmp_path: Path, equal: Any
) -> None:
    options = {**QUICK, "memory": memory}
    probe.broken_images, probe.broken_annotations = {2}, {7}
    expected, count = explain.dissect(model, probe, "last", **options), steps(model, probe, **options)
    probe.reads.clear()
    explain.dissect(model, probe, "last", **options)
    once = len(probe.reads)
    for after in range(1, count + 1):
        folder = tmp_path / f"{after}"
        probe.reads.clear()
        with pytest.raises(error):
            explain.dissect(model, probe, "last", cache=folder, progress=stopper(after, error), **options)
        done: list[int] = []
        found = explain.dissect(
            model, probe, "last", cache=folder, progress=lambda one, *_, done=done: done.append(one), **options
        )
        assert equal(found, expected) and (found.skipped, found.notes) == (expected.skipped, expected.notes)
        assert not found.provenance["reused"]
        assert len(done) <= count - after or memory  # maps in memory are lost, and some passes made again
        # maps in memory are lost and made again; beside that, one image is read once more for its channels
        assert len(probe.reads) <= (once if memory == 0 else 2 * len(probe)) + 2
        assert [path.name.endswith(".part.npz") for path in folder.iterdir()] == [False]
        assert explain.dissect(model, probe, "last", cache=folder, **options).provenance["reused"]


@MEMORY
def test_stopped_again_and_again(memory: int, model: nn.Module, probe: Any, tmp_path: Path, equal: Any) -> None:
    """One batch per call is enough to get to the end."""
    options = {**QUICK, "memory": memory}
    expected, count = explain.dissect(model, probe, ("last", "first"), **options), steps(model, probe, **options)
    for _ in range(2 * count + 1):
        try:
            found = explain.dissect(model, probe, ("last", "first"), cache=tmp_path, progress=stopper(1), **options)
            break
        except Stop:
            continue
    else:
        pytest.fail("it never gets to the end")
    assert equal(found, expected)


def test_gone_on_with_more_or_less_memory(model: nn.Module, probe: Any, tmp_path: Path, equal: Any) -> None:
    expected = explain.dissect(model, probe, "last", **QUICK)
    for before, after in ((0, 1 << 30), (1 << 30, 0)):
        for stop in (1, 3, 5, 7):
            options = {**QUICK, "cache": tmp_path / f"{before}{stop}"}
            with pytest.raises(Stop):
                explain.dissect(model, probe, "last", progress=stopper(stop), memory=before, **options)
            assert equal(explain.dissect(model, probe, "last", memory=after, **options), expected), (before, stop)


def test_gone_on_with_other_batches(model: nn.Module, probe: Any, tmp_path: Path, equal: Any) -> None:
    """What changes no result may change between two calls."""
    expected = explain.dissect(model, probe, "last", **QUICK)
    ways = [(2, 0), (3, 0), (4, 1 << 30)]
    for before in ways:
        for after in ways:  # out of memory, and tried again with smaller batches
            for stop in (1, 3, 5, 7):
                folder = tmp_path / f"{before}{after}{stop}"
                options = {**QUICK, "batch_size": before[0], "memory": before[1], "cache": folder}
                try:
                    explain.dissect(model, probe, "last", progress=stopper(stop), **options)
                    continue
                except Stop:
                    pass
                options |= {"batch_size": after[0], "memory": after[1]}
                assert equal(explain.dissect(model, probe, "last", **options), expected), (before, after, stop)


@pytest.mark.parametrize("damage", ["empty", "half", "other"])
def test_a_damaged_state_is_left_aside(damage: str, model: nn.Module, probe: Any, tmp_path: Path, equal: Any) -> None:
    expected = explain.dissect(model, probe, "last", memory=0, **QUICK)
    with pytest.raises(Stop):
        explain.dissect(model, probe, "last", cache=tmp_path, memory=0, progress=stopper(7), **QUICK)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "other": b"PK" + whole[2:40]}[damage])
    assert equal(explain.dissect(model, probe, "last", cache=tmp_path, memory=0, **QUICK), expected)


def test_a_stopped_run_of_another_key_is_not_taken_up(model: nn.Module, probe: Any, tmp_path: Path, equal: Any) -> None:
    with pytest.raises(Stop):
        explain.dissect(model, probe, "last", cache=tmp_path, memory=0, progress=stopper(7), **QUICK)
    options = {**QUICK, "seed": 3}
    assert equal(
        explain.dissect(model, probe, "last", cache=tmp_path, memory=0, **options),
        explain.dissect(model, probe, "last", memory=0, **options),
    )


def test_a_folder_that_cannot_be_used(model: nn.Module, probe: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((explain.ExplainError, OSError)):
        explain.dissect(model, probe, "last", cache=tmp_path / "file", **QUICK)


KILLED = """
import importlib.util, json, os, signal, sys
import torch
folder, moment, tests = sys.argv[1:]
spec = importlib.util.spec_from_file_location("dissection_conftest", tests + "/conftest.py")
conftest = importlib.util.module_from_spec(spec)
sys.modules["dissection_conftest"] = conftest
spec.loader.exec_module(conftest)
import explain
from explain.dissection import journal
torch.set_num_threads(1)
torch.manual_seed(0)
model, probe, calls = conftest.SmallNet(), conftest.random_probe(9), []
options = dict(quantile=0.05, batch_size=2, permutations=2, replicates=20, memory=0)
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def progress(done, total, what):
    calls.append(done)
    if moment == "writes" and len(calls) == 7 or moment == "result" and done == total:
        os.fsync = kill  # when half is written, or all but its name
journal._LEAST, journal._SHARE = 0.0, 0
if moment == "never":
    found = explain.dissect(model, probe, "last", cache=folder, progress=progress, **options)
    plain = explain.dissect(model, probe, "last", **options)
    print(json.dumps([conftest.same(found, plain), found.provenance["reused"], len(calls)]))
else:
    explain.dissect(model, probe, "last", cache=folder, progress=progress, **options)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_whole_files(tmp_path: Path) -> None:
    """Killed while it writes a state, then while it writes the result: the third goes on, and finds what one run finds."""

    def run(moment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path), moment, str(Path(__file__).parent)]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(explain.__file__).parents[1])

    files = lambda: sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))  # noqa: E731
    assert run("writes").returncode == -signal.SIGKILL
    assert len(files()) == 1 and files()[0].endswith(".part.npz")
    assert run("result").returncode == -signal.SIGKILL
    assert len(files()) == 1 and files()[0].endswith(".part.npz")
    last = run("never")
    assert last.returncode == 0, last.stderr
    right, reused, calls = json.loads(last.stdout)
    assert right and not reused and calls <= 1  # all but the last batch was done
    assert len(files()) == 1 and not files()[0].endswith(".part.npz")
