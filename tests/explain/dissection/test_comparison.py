"""Dissections side by side, made by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch

import explain
from explain.dissection.field import Axis, Field
from explain.dissection.results import Dissection, LayerDissection
from explain.dissection.tally import Vocabulary

CONCEPTS = ("red", "cat", "blue")
CATEGORIES = ("colour", "object", "colour")


def layer(name: str, units: list[tuple[str, float] | None], concepts: tuple[str, ...] = CONCEPTS) -> LayerDissection:
    """Units by best concept and IoU, of a hundred pixels each; ``None`` is dead."""
    count, nan = len(units), float("nan")
    both = torch.zeros(count, 3, dtype=torch.int64)
    for unit, one in enumerate(units):
        if one is not None:
            # both / (100 + 100 - both) = IoU
            both[unit, concepts.index(one[0])] = round(200 * one[1] / (1 + one[1]))
    dead = torch.tensor([one is None for one in units])
    return LayerDissection(
        layer=name,
        size=(4, 4),
        field=Field(Axis(0, 4), Axis(0, 4), True),
        vocabulary=Vocabulary.of(concepts, CATEGORIES),
        quantile=0.005,
        iou_threshold=0.04,
        thresholds=torch.zeros(count),
        peak=(~dead).float(),
        floor=-torch.ones(count),
        both=both,
        area=torch.full((count, 2), 100) * ~dead[:, None],
        labels=torch.tensor([100, 100, 100]),
        annotated=torch.tensor([1000, 1000]),
        low=torch.full((count, 2), nan),
        high=torch.full((count, 2), nan),
        replicates=torch.empty(0, count),
        null=torch.empty(0, count),
        top_values=torch.zeros(count, 1),
        top_images=torch.zeros(count, 1, dtype=torch.int64),
    )


def made(*layers: LayerDissection, probe: str = "p") -> Dissection:
    return Dissection({one.layer: one for one in layers}, ("a", "b"), (), (), {"probe_digest": probe})


BEFORE = made(layer("x", [("red", 0.5), ("red", 0.5), ("cat", 0.2), ("red", 0.01), ("red", 0.01), None, None]))
AFTER = made(layer("x", [("red", 0.3), ("blue", 0.3), ("cat", 0.01), ("cat", 0.4), ("blue", 0.02), ("cat", 0.4), None]))


def test_what_became_of_each_unit() -> None:
    found = explain.compare({"before": BEFORE, "after": AFTER}).frame()
    assert found["change"].tolist() == ["kept", "moved", "lost", "gained", "none", "gained", "none"]
    assert list(found) == ["layer", "unit", "model", "concept_before", "concept", "iou_before", "iou", "change"]
    assert (
        found["unit"].tolist() == list(range(7)) and set(found["model"]) == {"after"} and set(found["layer"]) == {"x"}
    )
    assert found["concept_before"].tolist()[:5] == ["red", "red", "cat", "red", "red"]
    assert found["concept"].tolist()[:4] == ["red", "blue", "cat", "cat"]
    assert found["concept_before"].isna().tolist() == [False] * 5 + [True] * 2
    assert found["iou_before"].tolist() == pytest.approx([0.5, 0.5, 0.2, 0.01, 0.01, 0, 0], abs=0.005)
    assert found["iou"].tolist() == pytest.approx([0.3, 0.3, 0.01, 0.4, 0.02, 0.4, 0], abs=0.005)
    back = explain.compare({"after": AFTER, "before": BEFORE}).frame()
    assert back["change"].tolist() == ["kept", "moved", "gained", "lost", "none", "lost", "none"]


def test_everything_is_compared_with_the_first() -> None:
    found = explain.compare({"a": BEFORE, "b": AFTER, "c": BEFORE}).frame()
    assert found["model"].tolist() == ["b"] * 7 + ["c"] * 7
    assert found.query("model == 'c'")["change"].tolist() == ["kept"] * 3 + ["none"] * 4


def test_tables_below_each_other() -> None:
    compared = explain.compare({"before": BEFORE, "after": AFTER})
    assert repr(compared) == "Comparison(before, after)"
    summary, kinds = compared.summary(), compared.categories()
    assert summary[["model", "layer", "units", "detectors", "unique_best", "dead"]].to_numpy().tolist() == [
        ["before", "x", 7, 3, 2, 2],
        ["after", "x", 7, 4, 3, 1],
    ]
    assert kinds.to_numpy().tolist() == [
        ["before", "x", "colour", 2, 1],
        ["before", "x", "object", 1, 1],
        ["after", "x", "colour", 2, 2],
        ["after", "x", "object", 2, 1],
    ]
    for name, one in (("before", BEFORE), ("after", AFTER)):
        part = summary[summary["model"] == name].drop(columns="model").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, one.summary())
    assert "model" not in BEFORE.summary()


def test_layers_and_units_that_one_of_them_lacks() -> None:
    wide = made(layer("x", [("red", 0.5)] * 3), layer("y", [("cat", 0.5)]))
    narrow = made(layer("x", [("red", 0.5)] * 2), layer("z", [("cat", 0.5)]))
    found = explain.compare({"wide": wide, "narrow": narrow}).frame()
    assert found[["layer", "unit", "change"]].to_numpy().tolist() == [["x", 0, "kept"], ["x", 1, "kept"]]
    apart = explain.compare({"one": made(layer("y", [None])), "other": narrow}).frame()
    assert len(apart) == 0 and list(apart) == list(found)
    assert len(explain.compare({"wide": wide, "narrow": narrow}).summary()) == 4


def test_layers_that_not_all_have_are_left_out() -> None:
    wide = made(layer("x", [("red", 0.5)]), layer("y", [("cat", 0.5)]))
    narrow = made(layer("x", [("red", 0.5)]))
    assert set(explain.compare({"a": wide, "b": wide, "c": narrow}).frame()["layer"]) == {"x"}


def test_a_concept_is_a_name_in_a_category() -> None:
    """As in Broden, where street is a scene and an object."""
    names = ("red", "street", "street")
    one = layer("x", [("red", 0.5), None], names)
    other = layer("x", [("red", 0.5), None], names)
    one.both[1, 1], other.both[1, 2] = 50, 50
    for each in (one, other):
        each.area[1], each.peak[1] = 100, 1.0
    found = explain.compare({"a": made(one), "b": made(other)}).frame()
    assert found["change"].tolist() == ["kept", "moved"]


@pytest.mark.parametrize("given", [{}, {"one": BEFORE}])
def test_fewer_than_two(given: dict[str, Any]) -> None:
    with pytest.raises(explain.InputError, match="two"):
        explain.compare(given)


def test_different_probes_are_refused(small_net: Any, make_probe: Any) -> None:
    with pytest.raises(explain.InputError, match="probes"):
        explain.compare({"a": BEFORE, "b": made(layer("x", [None]), probe="q")})
    model, options = small_net(), {"replicates": 5, "quantile": 0.05}
    one, same, other = (explain.dissect(model, make_probe(seed=seed), "last", **options) for seed in (0, 0, 1))
    assert set(explain.compare({"a": one, "b": same}).frame()["change"]) <= {"kept", "none"}
    with pytest.raises(explain.InputError, match="probes"):
        explain.compare({"a": one, "b": other})
