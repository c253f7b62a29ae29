"""Figures of a dissection: they count what the tables count, say when there is nothing, and run nothing a stranger named."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import explain
import workbench as wb
from explain.dissection import Ablation, AblationCurve, Dissection, LayerDissection, MovedUnits
from workbench.errors import OptionError
from workbench.probes import TensorProbe
from workbench.report import dissection as figures
from workbench.report.figures import PALETTE

HOSTILE = "<a href='javascript:x'>k</a>"


@pytest.fixture(scope="module")
def trained() -> Dissection:
    return explain.dissect(
        wb.load("sample:shapes-vgg"), wb.read_probe("shapes", n=40), ["relu5", "relu6"], replicates=50, permutations=1
    )


@pytest.fixture(scope="module")
def layer(trained: Dissection) -> LayerDissection:
    return trained["relu6"]


@pytest.fixture(scope="module")
def nothing() -> LayerDissection:
    """One dead unit and one that matches badly, with names that a stranger chose."""
    probe = TensorProbe(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.ones(4, 1, 8, 8, dtype=torch.int64), [HOSTILE], [HOSTILE])  # fmt: skip
    net = torch.nn.Conv2d(3, 2, 1)
    net.weight.data[0], net.bias.data = torch.zeros(3, 1, 1), torch.zeros(2)
    found = explain.dissect(torch.nn.Sequential(net), probe, "0", iou_threshold=0.9, permutations=0)
    return found["0"]


def ablation(units: int = 6) -> Ablation:
    margin = torch.linspace(2, -0.5, units, dtype=torch.float64)[:, None].repeat(1, 3)
    margin[:, 2] = torch.nan
    base = torch.tensor([1, 0.9, torch.nan], dtype=torch.float64)
    return Ablation("relu6", margin / 10, margin, base, "linear", 30, {})


def moved(units: int = 6) -> MovedUnits:
    change = -torch.linspace(2, -0.5, units)[:, None].repeat(1, 3)
    labels, fooled = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1])
    return MovedUnits("relu6", change, change.abs(), torch.ones(units), labels, fooled)


def curve() -> AblationCurve:
    rows = []
    for n in (1, 2, 4):
        for kind in ("remove most", "remove random", "remove least", "keep most", "keep random", "keep least"):
            rows.append((n, kind, 0.8, 0.7, 0.9) if "random" in kind else (n, kind, 0.8, 0.8, 0.8))
    return AblationCurve("relu6", 0, 0.95, tuple(rows), {})


def every(trained: Dissection, layer: LayerDissection, nothing: LayerDissection) -> list[go.Figure]:
    named = Dissection({HOSTILE: replace(nothing, layer=HOSTILE)}, (), (), ())
    return [
        figures.category_bars(trained), figures.concept_bars(layer), figures.ceiling_bars(layer),
        figures.units_scatter(layer), figures.layers_figure({"a": trained, HOSTILE: trained}),
        figures.concept_bars(nothing), figures.ceiling_bars(nothing), figures.units_scatter(nothing),
        figures.category_bars(named), figures.layers_figure({HOSTILE: named}, "mean_iou"),
        figures.ablation_figure(curve(), HOSTILE), figures.importance_bars(ablation(), 0, [HOSTILE] * 6, class_name=HOSTILE),
        figures.importance_bars(ablation(), 2), figures.moved_figure(moved(), ablation(), 0),
        figures.moved_figure(moved(), ablation(), 1),
    ]  # fmt: skip


def test_figures_suit_dark_and_light_are_small_and_names_of_strangers_are_text(
    trained: Dissection, layer: LayerDissection, nothing: LayerDissection
) -> None:
    for figure in every(trained, layer, nothing):
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.font.color == PALETTE.text
        text = figure.to_json()
        assert len(text) < 20_000
        assert "<a" not in text
        assert "\\u003ca" not in text


def test_a_category_has_one_colour_whatever_the_probe() -> None:
    first, second = figures.category_colours(("object", "part")), figures.category_colours(("scene", "part", "mood"))
    assert first["part"] == second["part"]
    assert figures.category_colours(("color",))["color"] == figures.category_colours(("colour",))["colour"]
    many = figures.category_colours([f"kind {i}" for i in range(10)])
    assert len(set(many.values())) == 10
    assert second["mood"] not in (second["scene"], second["part"])


def test_bars_count_what_the_tables_count(trained: Dissection, layer: LayerDissection) -> None:
    stacked = figures.category_bars(trained)
    heights = np.sum([bar.y for bar in stacked.data], axis=0)
    assert heights.tolist() == trained.summary()["detectors"].tolist()
    rows = figures.concept_rows(layer)
    frame = trained.frame()
    expected = frame[(frame["layer"] == "relu6") & frame["detector"]].groupby(["category", "concept"]).size()
    assert {(kind, name): n for kind, name, n in rows} == expected.to_dict()
    bars = figures.concept_bars(layer)
    assert sum(sum(bar.x) for bar in bars.data) == int(layer.detectors.sum())
    places = sorted(y for bar in bars.data for y in bar.y)
    assert places == list(range(len(rows)))
    fewer = figures.concept_bars(layer, most=2)
    assert sum(len(bar.y) for bar in fewer.data) == 2
    assert f"2 commonest of {len(rows)}" in fewer.layout.title.subtitle.text


def test_best_ious_stay_inside_their_ceilings(trained: Dissection, layer: LayerDissection) -> None:
    outline, filled = figures.ceiling_bars(layer).data
    assert (np.array(filled.x) <= np.array(outline.x) + 1e-9).all()
    assert list(filled.x) == sorted(filled.x, reverse=True)
    name, _, unit, *_ = filled.customdata[0]
    concept = layer.vocabulary.concepts.index(name)
    assert float(layer.iou[unit, concept]) == filled.x[0] == pytest.approx(float(layer.iou.max()))


def test_nothing_found_says_so(nothing: LayerDissection) -> None:
    (note,) = figures.concept_bars(nothing).layout.annotations
    assert "No unit passes IoU &gt; 0.9" in note.text
    names = [trace.name for trace in figures.units_scatter(nothing).data]
    assert "never active" in names


def test_layers_have_one_line_per_model_with_its_interval(trained: Dissection) -> None:
    figure = figures.layers_figure({"trained": trained, "again": trained}, "detectors")
    first, second = figure.data
    counts = [layer.count() for layer in trained.values()]
    assert list(first.y) == [count.value for count in counts]
    highs = np.array(first.y) + np.array(first.error_y.array)
    assert (highs >= np.array([count.high for count in counts]) - 1e-9).all()
    assert first.x[0] < second.x[0]
    with pytest.raises(OptionError, match="detectors, unique, mean_iou"):
        figures.layers_figure({"trained": trained}, "best")


def test_a_click_on_a_unit_gives_its_number_and_lines_are_where_they_say(layer: LayerDissection) -> None:
    figure = figures.units_scatter(layer)
    points = {unit: y for trace in figure.data for unit, y in zip(trace.customdata, trace.y, strict=True)}
    assert points == {unit: float(value) for unit, value in enumerate(layer.best)}
    lines = [shape.y0 for shape in figure.layout.shapes]
    assert lines == [layer.iou_threshold, layer.chance]
    filled = sum(symbol == "circle" for trace in figure.data for symbol in trace.marker.symbol)
    assert filled == int(layer.detectors.sum())


def test_chance_that_was_not_measured_has_no_line(nothing: LayerDissection) -> None:
    assert math.isnan(nothing.chance)
    assert len(figures.units_scatter(nothing).layout.shapes) == 1


def test_curves_and_importance_say_what_they_were_given() -> None:
    figure = figures.ablation_figure(curve(), "house")
    named = [trace for trace in figure.data if trace.name]
    assert [trace.name for trace in named if trace.line.dash == "solid"] == [
        "remove most", "remove random", "remove least",
    ]  # fmt: skip
    bands = [trace for trace in figure.data if not trace.name]
    assert all(set(band.y) == {0.7, 0.9} for band in bands)
    assert figure.layout.xaxis.tickvals == (1, 2, 4)
    bars = figures.importance_bars(ablation(), 0, [f"c{i}" for i in range(6)], most=3).data[0]
    assert list(bars.x) == pytest.approx([2, 1.5, 1])
    assert list(bars.text) == ["−20.0", "−15.0", "−10.0"]
    assert "No image has this class" in figures.importance_bars(ablation(), 2).layout.annotations[0].text


def test_moved_units_count_fooled_images_of_the_class_only() -> None:
    figure = figures.moved_figure(moved(), ablation(), 0)
    assert list(figure.data[0].customdata) == list(range(6))
    assert "2 fooled images. Rank correlation −1.00." in figure.layout.title.subtitle.text
    assert (
        "No image of this class was fooled" in figures.moved_figure(moved(), ablation(), 1).layout.annotations[0].text
    )


def test_a_region_keeps_its_pixels_and_greys_the_rest() -> None:
    image = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(9, 7, dtype=torch.bool)
    mask[2:5, 2:4] = True
    shown = figures.region(image, mask)
    whole = figures.region(image, torch.ones(9, 7, dtype=torch.bool))
    assert shown.shape == (9, 7, 3)
    assert np.array_equal(shown[2:5, 2:4], whole[2:5, 2:4])
    assert (shown[1, 2:4] == 255).all()
    assert np.ptp(shown[6:], axis=-1).max() == 0
    assert shown[6:].max() < 140
    with pytest.raises(OptionError, match="size of its image"):
        figures.region(image, mask.T)


def test_figures_do_not_import_torch() -> None:
    code = "import sys, workbench.report.dissection; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
