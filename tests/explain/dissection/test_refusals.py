"""What is refused, and how: every refusal says what happened and what to do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import explain

QUICK: dict[str, Any] = {"quantile": 0.05, "batch_size": 2, "permutations": 2, "replicates": 20}
MEMORY = pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "streaming"])


def refused(kind: type[explain.ExplainError], *args: Any, **options: Any) -> explain.ExplainError:
    with pytest.raises(kind) as caught:
        explain.dissect(*args, **{**QUICK, **options})
    assert caught.value.what and not caught.value.what.endswith(".") and caught.value.fix.endswith(".")
    return caught.value


def test_arguments_that_make_no_sense(small_net: Any, make_probe: Any, probe_of: Any) -> None:
    model, probe = small_net(), make_probe()
    refused(explain.InputError, model, torch.rand(3, 3, 8, 8))
    refused(explain.InputError, model, probe_of([], []))
    for quantile in (-0.1, 1, 1.5, float("nan"), float("inf")):
        refused(explain.InputError, model, probe, quantile=quantile)
    for option in ("permutations", "replicates", "top", "batch_size"):
        for value in (-1, 1.5, "many"):
            refused(explain.InputError, model, probe, **{option: value})
    refused(explain.ModelError, lambda x: x, probe)


@pytest.mark.parametrize("names", [((), ()), (("red",), ("colour", "colour"))])
def test_concepts_without_names(names: Any, small_net: Any, make_probe: Any, probe_of: Any) -> None:
    probe = make_probe()
    refused(explain.InputError, small_net(), probe_of(probe.images, probe.annotations, *names))


@pytest.mark.parametrize(
    "options",
    [
        {"quantile": "half"},
        {"quantile": None},
        {"iou_threshold": "much"},
        {"iou_threshold": float("nan")},
        {"seed": "much"},
        {"memory": "much"},
        {"layers": ()},
        {"basis": {"last": [[1.0] * 6]}},
        {"basis": {"last": torch.ones(0, 6)}},
    ],
    ids=str,
)
def test_other_options_that_make_no_sense(options: dict[str, Any], small_net: Any, make_probe: Any) -> None:
    refused(explain.InputError, small_net(), make_probe(), **{"layers": "last", **options})


def test_layers_that_cannot_be_dissected(small_net: Any, make_probe: Any) -> None:
    class Net(small_net):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.pair = nn.Conv2d(3, 3, 1), Pair()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.pair(x)[0])

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    model, probe = Net(), make_probe()
    error = refused(explain.LayerError, model, probe, "lsat")
    assert "last" in str(error)
    refused(explain.LayerError, model, probe, ("last", "layer9"))
    refused(explain.NotApplicable, model, probe, "spare")
    refused(explain.NotApplicable, model, probe, "pair")
    with pytest.raises(explain.LayerError, match="last"):
        explain.dissect(model, probe, "last", **QUICK)["first"]


def test_networks_that_fail(small_net: Any, make_probe: Any) -> None:
    model, probe = small_net(), make_probe()
    for value in (float("nan"), float("inf")):
        broken = copy.deepcopy(model)
        broken.first.weight.data[0, 0, 0, 0] = value
        for memory in (1 << 30, 0):
            assert "first" in str(refused(explain.ModelError, broken, probe, "first", memory=memory))
    assert "3 channels" in str(refused(explain.ModelError, model, make_probe(channels=1)))


def test_bases_that_do_not_fit(small_net: Any, make_probe: Any) -> None:
    model, probe = small_net(), make_probe()
    for shape in ((6,), (2, 5), (6, 2), (1, 6, 6)):
        assert "6 units" in str(refused(explain.InputError, model, probe, "last", basis={"last": torch.rand(shape)}))
    refused(explain.InputError, model, probe, "last", basis={"first": torch.eye(4)})
    refused(explain.LayerError, model, probe, "last", basis={"nowhere": torch.eye(4)})


@pytest.mark.parametrize("label", [9, -1, 65_539, 2**40 + 3])
def test_labels_without_a_name(label: int, small_net: Any, make_probe: Any) -> None:
    """Nor may a number of another width wrap around to one that has a name."""
    for part in ("maps", "whole"):
        probe = make_probe()
        one = probe.annotations[4]
        maps = one.maps.clone()
        maps[0, 2, 3] = label if part == "maps" else 0
        probe.annotations[4] = explain.Annotation(maps, (label,) if part == "whole" else ())
        for memory in (1 << 30, 0):
            refused(explain.ProbeError, small_net(), probe, "last", memory=memory)


@pytest.mark.parametrize(
    "maps, whole",
    [((1, 16, 24), (0,)), ((16, 24), ()), ((1, 0, 0), ()), ((0, 0, 0), (3,))],
    ids=["no label of the whole image", "no layers", "no pixels", "no pixels, no layers"],
)
def test_annotations_that_make_no_sense(maps: Any, whole: Any, small_net: Any, make_probe: Any) -> None:
    probe = make_probe()
    probe.annotations[4] = explain.Annotation(torch.zeros(maps, dtype=torch.int64), whole)
    refused(explain.ProbeError, small_net(), probe, "last")


@pytest.mark.parametrize("wrong", ["uint8", "range"])
def test_images_that_make_no_sense(wrong: str, small_net: Any, make_probe: Any) -> None:
    probe = make_probe()
    image = probe.images[4] * 255
    probe.images[4] = {"uint8": image.to(torch.uint8), "range": image}[wrong]
    refused(explain.ExplainError, small_net(), probe, "last")


@MEMORY
@pytest.mark.parametrize("what", ["broken_images", "broken_annotations"])
def test_nothing_can_be_read(memory: int, what: str, small_net: Any, make_probe: Any) -> None:
    probe = make_probe()
    setattr(probe, what, set(range(6)))
    refused(explain.ProbeError, small_net(), probe, "last", memory=memory)
