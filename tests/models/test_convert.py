"""The isolated reader: what it lets through, what it refuses, and that nothing in a file ever runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from workbench import RefusedFile
from workbench.models import convert
from workbench.models.convert import read_checkpoint

Save = Callable[..., Path]


class Payload:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("legacy", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_payload_never_runs_and_the_refusal_names_it(save: Save, tmp_path: Path, legacy: bool) -> None:
    mark = tmp_path / "ran"
    path = save({"w": torch.zeros(2), "x": Payload(mark)}, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(RefusedFile) as caught:
        read_checkpoint(path)
    assert not mark.exists()
    assert "posix.system" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    # The mark is not vacuous: torch.load with its safety off does run it.
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("legacy", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_whole_module_is_refused_with_the_recipe(save: Save, legacy: bool) -> None:
    with pytest.raises(RefusedFile, match=r"whole model object.*state_dict"):
        read_checkpoint(save(nn.Linear(2, 2), _use_new_zipfile_serialization=not legacy))


HOSTILE = {
    "expanded": {"w": torch.zeros(1).expand(10**6, 10**4)},
    "overlapping": {"a": torch.zeros(1000), "b": torch.zeros(3000).as_strided((900, 900), (1, 1))},
    "sparse": {"w": torch.eye(3).to_sparse()},
    "meta": {"w": torch.zeros(3, device="meta")},
    "complex": {"w": torch.zeros(3, dtype=torch.complex64)},
}


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param(one, id=name, marks=pytest.mark.slow if name in ("sparse", "meta", "complex") else ())
        for name, one in HOSTILE.items()
    ],
)
def test_hostile_tensors_are_refused_by_name(save: Save, tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(RefusedFile, match="This checkpoint holds"):
        read_checkpoint(save(tensors))


@pytest.mark.usefixtures("reader_in_process")
def test_many_overlapping_views_cannot_claim_more_than_the_file_holds(save: Save) -> None:
    base = torch.zeros(10_000)
    with pytest.raises(RefusedFile, match="overlap"):
        read_checkpoint(save({f"w{i}": base[i:] for i in range(1000)}))


@pytest.mark.usefixtures("reader_in_process")
def test_tied_weights_are_honest(save: Save) -> None:
    shared = torch.rand(1000)
    raw = read_checkpoint(save({"a": shared, "b": shared}))
    names = raw.tree["dict"]
    assert torch.equal(raw.tensors[names["a"]["tensor"]], shared)
    assert torch.equal(raw.tensors[names["b"]["tensor"]], shared)


@pytest.mark.usefixtures("reader_in_process")
def test_a_file_without_tensors_and_a_nested_bomb_are_refused(save: Save) -> None:
    with pytest.raises(RefusedFile, match="no tensors"):
        read_checkpoint(save({"epoch": 3}))
    nested: Any = torch.zeros(1)
    for _ in range(40):
        nested = {"x": nested}
    with pytest.raises(RefusedFile, match="nested too deeply"):
        read_checkpoint(save(nested))


@pytest.mark.usefixtures("reader_in_process")
def test_what_training_scripts_store_beside_the_weights_is_kept_as_plain_values(save: Save) -> None:
    path = save(
        {
            "state_dict": {"w": torch.arange(6.0).view(2, 3).t()},
            "args": argparse.Namespace(lr=0.1, model="resnet18", out=Path("runs")),
            "best_acc": np.float64(0.75),
            "history": np.arange(3),
            "optimizer": {"state": {0: {"momentum": torch.zeros(2)}}},
        }
    )
    raw = read_checkpoint(path)
    top = raw.tree["dict"]
    assert top["args"]["dict"]["lr"] == 0.1
    assert top["best_acc"] == 0.75
    assert top["history"] == {"list": [0, 1, 2]}
    assert "optimizer" not in top
    assert torch.equal(raw.tensors[top["state_dict"]["dict"]["w"]["tensor"]], torch.arange(6.0).view(2, 3).t())


@pytest.mark.usefixtures("reader_in_process")
def test_dtypes_survive(save: Save) -> None:
    kinds = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8)
    values = {str(dtype): torch.tensor([[0, 1], [1, 0]]).to(dtype) for dtype in kinds}
    raw = read_checkpoint(save(values))
    for name, value in values.items():
        read = raw.tensors[raw.tree["dict"][name]["tensor"]]
        assert read.dtype is value.dtype
        assert torch.equal(read, value)


def test_a_second_load_comes_from_the_store_without_a_reader(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save({"w": torch.rand(7)})
    first = read_checkpoint(path)
    monkeypatch.setattr(convert, "_run_reader", lambda *_: pytest.fail("the reader ran again"))
    second = read_checkpoint(path)
    assert first.digest == second.digest
    assert torch.equal(first.tensors["t0"], second.tensors["t0"])


def test_a_slow_reader_is_killed_and_nothing_is_left(save: Save) -> None:
    path = save({"w": torch.rand(9)})
    with pytest.raises(RefusedFile, match="too long"):
        read_checkpoint(path, timeout=0.05)
    assert not [item for item in convert.cache_folder().iterdir() if item.name.startswith(".reading-")]


def test_a_reader_that_crashes_is_a_refusal(save: Save, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crasher = tmp_path / "crash.py"
    crasher.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(convert, "_READER", crasher)
    with pytest.raises(RefusedFile, match="too much memory or time"):
        read_checkpoint(save({"w": torch.rand(11)}))


def test_the_reader_gets_no_environment_and_limits_itself(
    save: Save, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spy = tmp_path / "spy.py"
    reader = convert._READER
    spy.write_text(
        "import json, os, resource, runpy\n"
        f"module = runpy.run_path({str(reader)!r})\n"
        "module['limit_resources'](1000)\n"
        "print(json.dumps({'refused': 'module', 'environment': sorted(os.environ), "
        "'data': resource.getrlimit(resource.RLIMIT_DATA)[0], 'core': resource.getrlimit(resource.RLIMIT_CORE)[0]}))"
    )
    monkeypatch.setattr(convert, "_READER", spy)
    monkeypatch.setenv("SECRET_TOKEN", "x")
    answer = convert._run_reader(save({"w": torch.zeros(1)}), tmp_path / "out", str(tmp_path), 60)
    assert "SECRET_TOKEN" not in answer["environment"]
    assert answer["data"] == 2**30 + 3000
    assert answer["core"] == 0


@pytest.mark.parametrize(
    "damage", [b"", b"xx", b"\x02\0\0\0\0\0\0\0{}", None], ids=["empty", "short", "no tree", "truncated"]
)
@pytest.mark.usefixtures("reader_in_process")
def test_a_damaged_entry_of_the_store_is_made_again(save: Save, damage: bytes | None) -> None:
    weights = torch.rand(50)
    path = save({"w": weights})
    digest = read_checkpoint(path).digest
    stored = convert.cache_folder() / f"{digest}.safetensors"
    stored.write_bytes(stored.read_bytes()[:-8] if damage is None else damage)
    assert torch.equal(read_checkpoint(path).tensors["t0"], weights)


def test_names_that_cost_time_are_refused_before_they_do(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a." * 3000 + f"k{i}": torch.zeros(0) for i in range(50)}, tmp_path / "long.safetensors")
    with pytest.raises(RefusedFile, match="longer names than any network"):
        read_checkpoint(tmp_path / "long.safetensors")
