"""Finished results are found again, and only when they are the same; long runs go on where they stopped."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import explain

QUICK: dict[str, Any] = {"quantile": 0.05, "batch_size": 2, "permutations": 2, "replicates": 20}


def test_the_same_call_finds_its_result(model: nn.Module, probe: Any, tmp_path: Path, equal: Any) -> None:
    first = explain.dissect(model, probe, ("last", "first"), cache=tmp_path / "new" / "folder", **QUICK)
    assert not first.provenance["reused"]
    probe.reads.clear()
    options = {**QUICK, "batch_size": 5, "memory": 0}  # what changes no result
    again = explain.dissect(model.train(), probe, ("last", "first"), cache=f"{tmp_path}/new/folder", **options)
    assert again.provenance["reused"] and not probe.reads
    assert equal(again, first) and (again.skipped, again.notes) == (first.skipped, first.notes)
    for table in ("frame", "summary", "categories", "concepts"):
        assert getattr(again, table)().equals(getattr(first, table)())
    assert again["last"].field == first["last"].field and again["last"].size == first["last"].size
    assert again.provenance["key"] == first.provenance["key"]
    assert not explain.dissect(model, probe, ("last", "first"), **QUICK).provenance["reused"]
    assert [path.suffix for path in (tmp_path / "new" / "folder").iterdir()] == [".npz"]


def test_skipped_images_are_remembered(model: nn.Module, probe: Any, tmp_path: Path) -> None:
    probe.broken_images = {3}
    first = explain.dissect(model, probe, "last", cache=tmp_path, **QUICK)
    again = explain.dissect(model, probe, "last", cache=tmp_path, **QUICK)
    assert again.provenance["reused"] and again.skipped == first.skipped != ()


INPUTS = ("weights", "buffer", "settings", "precision", "pixel", "label", "whole", "names", "layers", "basis")
OPTIONS = ("quantile", "iou_threshold", "seed", "permutations", "replicates", "top")


@pytest.mark.parametrize("change", [*INPUTS, "another basis", *OPTIONS])
def test_what_changes_a_result_changes_its_key(change: str, model: nn.Module, probe: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"layers": "last", "cache": tmp_path, **QUICK}
    if change == "another basis":
        options["basis"] = {"last": torch.eye(6)[:2]}
    explain.dissect(model, probe, **options)
    assert explain.dissect(model, probe, **options).provenance["reused"]
    one = probe.annotations[0]
    match change:
        case "weights":
            model.first.weight.data[0, 0, 0, 0] += 1 / 16
        case "buffer":
            model.norm.running_mean[1] += 1
        case "settings":
            model.last.padding_mode = "reflect"
        case "precision":
            model.double()
        case "pixel":
            probe.images[8][0, 0, 0] += 1 / 16
        case "label" | "whole":
            maps, whole = (one.maps.flip(1), one.whole) if change == "label" else (one.maps, (2,))
            probe.annotations[0] = explain.Annotation(maps, whole)
        case "names":
            probe.concepts = ("crimson", *probe.concepts[1:])
        case "basis" | "another basis":
            options["basis"] = {"last": torch.eye(6)[1:3]}
        case "layers":
            options["layers"] = "first"
        case _:
            options[change] = {"quantile": 0.06, "iou_threshold": 0.05}.get(change, 7)
    assert not explain.dissect(model, probe, **options).provenance["reused"]
    assert explain.dissect(model, probe, **options).provenance["reused"]


CLASS = """
    import torch.nn.functional as F
    from torch import nn
    HELPER
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.attribute = None
        METHODS
        def forward(self, x, scale=DEFAULT):
            x = F.relu(self.conv(x)) * scale
            x = EXPRESSION
            return self.out(x).mean((2, 3))
"""
BLANKS = {"HELPER": "", "METHODS": "", "DEFAULT": "1.0", "EXPRESSION": "x"}
HELP = "def helper(x):\n        return x * {}"
STATIC = "@staticmethod\n        def helper(x):\n            return x * {}"
PROPERTY = "@property\n        def factor(self):\n            return {}"


def two(text: str, **others: str) -> tuple[dict[str, str], dict[str, str]]:
    """Two sources that differ in one number."""
    first, second = ({blank: one.replace("{}", number) for blank, one in others.items()} for number in ("2", "3"))
    return {"EXPRESSION": text.replace("{}", "2"), **first}, {"EXPRESSION": text.replace("{}", "3"), **second}


CHANGES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "operator": ({"EXPRESSION": "F.relu(x)"}, {"EXPRESSION": "F.gelu(x)"}),
    "number": two("x * {}"),
    "inner function": two("(lambda y: y * {})(x)"),
    "order of variables": ({"EXPRESSION": "x - 2 * scale"}, {"EXPRESSION": "scale - 2 * x"}),
    "default": two("x * scale", DEFAULT="{}"),
    "helper": two("helper(x)", HELPER=HELP),
    "static method": two("self.helper(x)", METHODS=STATIC),
    "property": two("x * self.factor", METHODS=PROPERTY),
    "class attribute": two("x * self.factor", METHODS="factor = {}"),
}
VALUES: dict[str, tuple[str, Any, Any]] = {
    "number": ("x * self.attribute", 2.0, 3.0),
    "none": ("x * (self.attribute or 2.0)", None, 3.0),
    "function": ("self.attribute(x)", torch.relu, torch.tanh),
    "list": ("x * self.attribute[0]", [2.0], [3.0]),
    "dictionary": ("x * self.attribute['by']", {"by": 2.0}, {"by": 3.0}),
    "tensor": ("x * self.attribute", torch.ones(1), torch.ones(1) * 3),
}


def build(blanks: dict[str, str], weights: dict[str, Tensor] | None) -> nn.Module:
    """Run the source of a class, as a notebook does, and give it some weights."""
    source = CLASS
    for blank, text in {**BLANKS, **blanks}.items():
        source = source.replace(blank, text)
    space: dict[str, Any] = {"__name__": "notebook"}
    exec(textwrap.dedent(source), space)
    net = space["Net"]()
    if weights is not None:
        net.load_state_dict(weights)
    return net


@pytest.mark.parametrize("change", CHANGES)
def test_a_class_that_does_something_else_is_another_network(change: str, probe: Any, tmp_path: Path) -> None:
    before, after = CHANGES[change]
    net = build(before, None)
    run = lambda model: explain.dissect(model, probe, "out", cache=tmp_path, **QUICK)  # noqa: E731
    assert not run(net).provenance["reused"]
    assert run(build(before, net.state_dict())).provenance["reused"]  # the same source, run again
    assert not run(build(after, net.state_dict())).provenance["reused"]


@pytest.mark.parametrize("change", VALUES)
def test_a_module_that_holds_something_else_is_another_network(change: str, probe: Any, tmp_path: Path) -> None:
    expression, before, after = VALUES[change]
    net = build({"EXPRESSION": expression}, None)
    net.attribute = before
    run = lambda model: explain.dissect(model, probe, "out", cache=tmp_path, **QUICK)  # noqa: E731
    assert not run(net).provenance["reused"]
    assert run(net).provenance["reused"]
    net.attribute = after
    assert not run(net).provenance["reused"]


def test_hooks_belong_to_the_network(model: nn.Module, probe: Any, tmp_path: Path) -> None:
    explain.dissect(model, probe, "last", cache=tmp_path, **QUICK)
    model.first.register_forward_hook(lambda module, given, output: -output)
    assert not explain.dissect(model, probe, "last", cache=tmp_path, **QUICK).provenance["reused"]


@pytest.mark.parametrize("keep", ["text", "gone", 0.0, 0.001, 0.5, 0.99, "flip"])
def test_a_damaged_file_is_made_anew(keep: Any, model: nn.Module, probe: Any, tmp_path: Path, equal: Any) -> None:
    first = explain.dissect(model, probe, "last", cache=tmp_path, **QUICK)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damages = {
        "text": [b"<html>"],
        "flip": [whole[:n] + bytes([whole[n] ^ 255]) + whole[n + 1 :] for n in range(40, len(whole), len(whole) // 12)],
    }
    for damaged in damages.get(keep, [whole[: int(len(whole) * keep)] if isinstance(keep, float) else b""]):
        path.write_bytes(damaged)
        if keep == "gone":
            path.unlink()
        found = explain.dissect(model, probe, "last", cache=tmp_path, **QUICK)
        assert equal(found, first)
        assert explain.dissect(model, probe, "last", cache=tmp_path, **QUICK).provenance["reused"]
