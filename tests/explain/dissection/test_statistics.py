"""Intervals, the level of chance, detectors that were planted, and the tables."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import explain


class Pixels(nn.Module):
    """A network whose units are the channels of the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv.weight.data = torch.eye(channels)[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


def scenes(probe_of: Any, count: int, units: int, share: float = 0.1, seed: int = 0, side: int = 16) -> Any:
    """Images with a thing in a rectangle, and noise in [0, 0.5) for units to look at; half of them have a colour as well."""
    draw = torch.Generator().manual_seed(seed)
    images, annotations = [], []
    for n in range(count):
        maps = torch.zeros(2, side, side, dtype=torch.int64)
        height = max(1, round(share * side * side / 4))
        top = int(torch.randint(side - height + 1, (), generator=draw))
        left = int(torch.randint(side - 3, (), generator=draw))
        maps[0, top : top + height, left : left + 4] = 1
        if n % 2:
            maps[1] = torch.randint(0, 3, (side, side), generator=draw).clamp(min=1) + 1
        images.append(torch.rand(units, side, side, generator=draw) / 2)
        annotations.append(explain.Annotation(maps))
    return probe_of(images, annotations, ("thing", "red", "blue"), ("object", "colour", "colour"))


@pytest.mark.parametrize("share, quantile", [(0.1, 0.03), (0.1, 0.1), (0.05, 0.2)])
def test_a_planted_detector_reaches_the_ceiling(share: float, quantile: float, probe_of: Any) -> None:
    """A unit that is greatest on a concept of share f, at the quantile q: IoU = min(q, f) / max(q, f), counted in pixels."""
    probe = scenes(probe_of, 12, 20, share)
    for image, one in zip(probe.images, probe.annotations, strict=True):
        image[7] += 0.5 * (one.maps[0] == 1)
    found = explain.dissect(Pixels(20), probe, "conv", quantile=quantile, permutations=5)["conv"]
    pixels, thing = 12 * 256, sum(int((one.maps[0] == 1).sum()) for one in probe.annotations)
    active = math.floor(quantile * pixels + 1e-9)
    assert (int(found.area[7, 0]), int(found.labels[0]), int(found.annotated[0])) == (active, thing, pixels)
    assert int(found.both[7, 0]) == min(active, thing)
    assert float(found.iou[7, 0]) == pytest.approx(min(active, thing) / max(active, thing), abs=1e-12)
    assert found.name(7) == "thing" and bool(found.detectors[7])
    expected = min(quantile, thing / pixels) / max(quantile, thing / pixels)
    assert float(found.ceiling[0]) == pytest.approx(expected, rel=1e-6)
    assert float(found.iou[7, 0]) == pytest.approx(float(found.ceiling[0]), abs=0.01)
    assert float(found.p_value[7]) == found.p_value.min() == pytest.approx(1 / 101)
    assert (found.p_value.argmin(), found.best.argmax()) == (7, 7)


def test_only_images_with_the_category_count(probe_of: Any) -> None:
    probe = scenes(probe_of, 10, 4)
    found = explain.dissect(Pixels(4), probe, "conv", quantile=0.1)["conv"]
    coloured = torch.stack(probe.images[1::2]) > found.thresholds[:, None, None]
    assert torch.equal(found.area[:, 1], coloured.sum((0, 2, 3)))
    assert found.annotated.tolist() == [2560, 1280] and int(found.labels[1:].sum()) == 1280
    assert torch.equal(found.both[:, 1] + found.both[:, 2], found.area[:, 1])
    assert found.share.tolist() == pytest.approx([float(found.labels[0]) / 2560, *(found.labels[1:] / 1280).tolist()])


def test_identical_images_leave_no_doubt(probe_of: Any) -> None:
    """Every sample of the images is the same sample, and every other image's annotation the same annotation."""
    one = scenes(probe_of, 2, 6).take([1])
    images = [one.images[0].clone() for _ in range(9)]
    probe = probe_of(images, one.annotations * 9, one.concepts, one.categories)
    found = explain.dissect(Pixels(6), probe, "conv", quantile=0.05, replicates=50, permutations=4)["conv"]
    torch.testing.assert_close(found.low, found.best_by_category, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.high, found.best_by_category, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.replicates.double(), found.best.expand(50, -1), rtol=0, atol=1e-7)
    assert found.null.shape == (4, 6)
    torch.testing.assert_close(found.null.double(), found.best.expand(4, -1), rtol=0, atol=1e-7)
    reached = (found.best[:, None] <= found.best + 1e-12).sum(1)  # by units, in each of four permutations
    assert found.p_value.tolist() == pytest.approx(((1 + 4 * reached) / 25).tolist())


def test_identical_annotations_of_different_images(probe_of: Any) -> None:
    """Dealing them out to other images changes nothing at all: chance is what is found."""
    probe = scenes(probe_of, 9, 6)
    probe.annotations = [probe.annotations[1]] * 9
    found = explain.dissect(Pixels(6), probe, "conv", quantile=0.05, permutations=3)["conv"]
    assert torch.equal(found.null.double(), found.best.to(found.null.dtype).double().expand(3, -1))


def test_p_values_of_units_that_detect_nothing(probe_of: Any) -> None:
    """Images and annotations are independent: p-values are about uniform."""
    values = []
    for seed in range(4):
        probe = scenes(probe_of, 24, 30, seed=seed)
        values.append(explain.dissect(Pixels(30), probe, "conv", quantile=0.05, permutations=9, seed=seed)["conv"])
    p = torch.cat([one.p_value for one in values])
    assert 0.4 < float(p.mean()) < 0.6
    for level in (0.1, 0.25, 0.5, 0.75):
        assert abs(float((p <= level).double().mean()) - level) < 4 * (level * (1 - level) / len(p)) ** 0.5 + 0.02
    assert all(0 <= float((one.best > one.chance).double().mean()) < 0.25 for one in values)


def test_formulas_of_chance(probe_of: Any) -> None:
    """p = (1 + #{null ≥ best}) / (1 + #null), pooled over the layer; chance is the 95th percentile."""
    found = explain.dissect(Pixels(8), scenes(probe_of, 10, 8), "conv", quantile=0.05, permutations=7)["conv"]
    null = found.null.double().flatten().numpy()
    expected = [(1 + int((null >= best).sum())) / (1 + len(null)) for best in found.best.tolist()]
    assert found.p_value.tolist() == pytest.approx(expected)
    assert found.chance == pytest.approx(float(np.quantile(null, 0.95)))
    without = explain.dissect(Pixels(8), scenes(probe_of, 10, 8), "conv", quantile=0.05, permutations=0)["conv"]
    assert without.null.shape == (0, 8) and without.p_value.isnan().all() and math.isnan(without.chance)


def test_intervals_against_a_bootstrap_by_hand(probe_of: Any) -> None:
    """Images are drawn with replacement, thresholds and each unit's concept held fixed; 2.5 % lie beyond on each side."""
    count = 40
    probe = scenes(probe_of, count, 5)
    for n, (image, one) in enumerate(zip(probe.images, probe.annotations, strict=True)):
        image[2] += 0.5 * (one.maps[0] == 1) * (n % 3 == 0)  # sees a third of the things
    found = explain.dissect(Pixels(5), probe, "conv", quantile=0.05, replicates=4000)["conv"]
    masks = (torch.stack(probe.images) > found.thresholds[:, None, None]).numpy()
    labels = torch.stack([one.maps for one in probe.annotations]).numpy()
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), 20_000)
    for unit in range(5):
        for kind, layer in ((0, 0), (1, 1)):
            concept = int(found.concept_by_category[unit, kind])
            seen = labels[:, layer] == concept + 1
            known = (labels[:, layer] > 0).any((1, 2))
            both = (masks[:, unit] & seen).sum((1, 2))
            union = np.where(known, (masks[:, unit] | seen).sum((1, 2)), 0)
            low, high = np.quantile((weights @ both) / np.maximum(weights @ union, 1), [0.025, 0.975])
            assert float(found.low[unit, kind]) == pytest.approx(low, abs=0.15 * (high - low))
            assert float(found.high[unit, kind]) == pytest.approx(high, abs=0.15 * (high - low))
    kind = found.vocabulary.kind[found.concept][:, None]
    torch.testing.assert_close(
        found.replicates.double().quantile(0.025, dim=0), found.low.gather(1, kind)[:, 0], rtol=0, atol=1e-6
    )


def test_intervals_hold_the_value_and_shrink(probe_of: Any) -> None:
    widths = []
    for count in (12, 192):
        found = explain.dissect(Pixels(30), scenes(probe_of, count, 30), "conv", quantile=0.05, replicates=300)["conv"]
        inside = (found.low <= found.best_by_category) & (found.best_by_category <= found.high)
        assert float(inside.double().mean()) > 0.9
        widths.append(float((found.high - found.low).mean()))
    assert 0.15 < widths[1] / widths[0] < 0.45  # √(12 / 192) = 1 / 4


@pytest.mark.parametrize("count, replicates", [(1, 100), (5, 0)])
def test_no_interval_where_there_is_none(count: int, replicates: int, probe_of: Any) -> None:
    found = explain.dissect(Pixels(4), scenes(probe_of, count, 4), "conv", quantile=0.05, replicates=replicates)
    one = found["conv"]
    assert one.low.isnan().all() and one.high.isnan().all() and one.replicates.shape == (0, 4)
    assert found.frame()[["low", "high"]].isna().all(axis=None)
    assert found.summary()[["detectors_low", "mean_iou_high"]].isna().all(axis=None)
    assert math.isnan(one.count().low) and one.count().value == int(one.detectors.sum())


@pytest.fixture
def table(make_probe: Any, small_net: Any) -> explain.Dissection:
    """A dissection whose counts are written by hand: IoU = b / (200 - b), so 8 is a detector and 7 is none."""
    found = explain.dissect(small_net(units=4), make_probe(), "last", quantile=0.05, permutations=1, replicates=10)
    both = torch.zeros(4, 8, dtype=torch.int64)
    red, cat, kitchen, dog = (found.vocabulary.concepts.index(name) for name in ("red", "cat", "kitchen", "dog"))
    both[0, red], both[0, cat] = 50, 20
    both[1, red], both[1, dog], both[1, kitchen] = 40, 30, 7
    both[2, cat], both[2, kitchen] = 8, 7
    hundreds = {"area": torch.full((4, 3), 100), "labels": torch.full((8,), 100), "annotated": torch.full((3,), 1000)}
    one = dataclasses.replace(found["last"], both=both, **hundreds)
    return dataclasses.replace(found, results={"last": one})


def test_both_ways_to_count_what_is_unique(table: explain.Dissection) -> None:
    one = table["last"]
    assert one.iou[0, 0] == 1 / 3 and one.best.tolist() == pytest.approx([1 / 3, 1 / 4, 8 / 192, 0])
    assert one.detectors.tolist() == [True, True, True, False]
    assert one.unique_best == 2  # red, red, cat
    assert one.unique_by_category == 3  # red and cat, red and dog, cat
    assert one.count().value == 3 and one.unique().value == 2
    assert one.mean_iou().value == pytest.approx((1 / 3 + 1 / 4 + 8 / 192) / 4)
    assert table.summary().loc[0, ["detectors", "unique_best", "unique_by_category"]].tolist() == [3, 2, 3]
    counts = table.categories().set_index("category")
    assert counts["detectors"].to_dict() == {"colour": 2, "object": 1, "scene": 0}
    assert counts["unique"].to_dict() == {"colour": 1, "object": 1, "scene": 0}
    concepts = table.concepts().set_index("concept")
    assert concepts.loc["red", ["best_unit", "detectors", "pixels"]].tolist() == [0, 2, 100]
    assert concepts.loc["dog", ["best_unit", "detectors"]].tolist() == [1, 0]
    assert concepts.loc["cat", "best_iou"] == pytest.approx(20 / 180)


COLUMNS = {
    "frame": "layer unit threshold category concept iou low high ceiling p_value detector dead",
    "summary": "layer units detectors detectors_low detectors_high unique_best unique_by_category mean_iou mean_iou_low "
    "mean_iou_high max_iou chance above_chance dead",
    "categories": "layer category detectors unique",
    "concepts": "concept category pixels share ceiling best_iou best_layer best_unit detectors",
}


def test_tables_agree_with_each_other(make_probe: Any, small_net: Any) -> None:
    model, probe = small_net(), make_probe(8)
    model.last.weight.data[5], model.last.bias.data[5] = 0, 1  # dead
    found = explain.dissect(model, probe, ("last", "first"), quantile=0.1)
    for name, columns in COLUMNS.items():
        assert list(getattr(found, name)().columns) == columns.split()
    frame, summary, categories, concepts = (getattr(found, name)() for name in COLUMNS)
    assert (len(frame), len(summary), len(categories), len(concepts)) == (10, 2, 6, 8)
    assert frame["layer"].tolist() == ["last"] * 6 + ["first"] * 4 and list(frame["unit"]) == [*range(6), *range(4)]
    for layer, rows in frame.groupby("layer", sort=False):
        one, row = found[str(layer)], summary.set_index("layer").loc[layer]
        kinds = categories[categories["layer"] == layer]
        assert rows["threshold"].tolist() == one.thresholds.tolist() and rows["iou"].tolist() == one.best.tolist()
        assert row["units"] == len(rows) == len(one)
        assert row["detectors"] == rows["detector"].sum() == (rows["iou"] > 0.04).sum() == kinds["detectors"].sum()
        assert row["unique_best"] == rows[rows["detector"]]["concept"].nunique() == kinds["unique"].sum()
        assert row["mean_iou"] == pytest.approx(rows["iou"].mean()) and row["max_iou"] == rows["iou"].max()
        assert row["above_chance"] == (rows["iou"] > row["chance"]).sum() and row["dead"] == rows["dead"].sum()
    gone = frame[frame["dead"]]
    assert gone["unit"].tolist() == [5] and gone[["category", "concept"]].isna().all(axis=None)
    assert (gone["iou"] == 0).all() and not gone["detector"].any() and found["last"].name(5) == ""
    alive = frame[~frame["dead"]]
    assert alive["category"].tolist() == [
        dict(zip(probe.concepts, probe.categories, strict=True))[c] for c in alive["concept"]
    ]
    assert concepts["detectors"].sum() == summary["detectors"].sum()
    assert concepts["best_iou"].max() == summary["max_iou"].max()
    assert concepts["pixels"].tolist() == found["last"].labels.tolist() == found["first"].labels.tolist()
    best = alive.loc[alive["iou"].idxmax()]
    top = concepts.set_index("concept").loc[best["concept"]]
    assert (top["best_layer"], top["best_unit"], top["best_iou"]) == (best["layer"], best["unit"], best["iou"])
    assert repr(found).startswith("Dissection(8 images; detectors: last ") and len(repr(found).splitlines()) == 1
    assert repr(found["last"]).startswith("LayerDissection('last': 6 units, ")


@pytest.mark.parametrize("name", ["share", "ceiling", "p_value"])
def test_double_precision(name: str, table: explain.Dissection) -> None:
    assert getattr(table["last"], name).dtype == torch.float64


def test_most_activating_images(make_probe: Any, small_net: Any) -> None:
    """One position per image, the greatest first; never more than there are images."""
    model, probe = small_net().eval(), make_probe(7)
    found = explain.dissect(model, probe, "last", top=3, batch_size=1)["last"]
    with torch.no_grad():
        maps = [model.last(torch.relu(model.norm(model.first(image[None]))))[0].amax((1, 2)) for image in probe.images]
    values, images = torch.stack(maps, 1).topk(3)
    assert torch.equal(found.top_values, values) and torch.equal(found.top_images, images)
    assert explain.dissect(model, probe, "last", top=50)["last"].top_values.shape[0] == 6


def test_no_unit_exceeds_what_its_size_allows(make_probe: Any, small_net: Any) -> None:
    found = explain.dissect(small_net(), make_probe(), ("first", "last"), quantile=0.05, permutations=0, replicates=0)
    for one in found.values():
        assert (one.iou <= one.attainable + 1e-12).all()
        share = (one.labels / one.area[:, one.vocabulary.kind].clamp(min=1)).double()
        smaller = torch.where(share > 1, 1 / share, share) * (one.area[:, one.vocabulary.kind] > 0)
        torch.testing.assert_close(one.attainable, smaller, rtol=1e-6, atol=1e-9)
        assert found.frame().query("layer == @one.layer")["ceiling"].tolist() == pytest.approx(
            [float(one.attainable[u, c]) for u, c in enumerate(one.concept.tolist())]
        )
