"""The page "Dissect" without a browser: what it shows and says in every state, and that its numbers are the engine's."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torchvision
from streamlit.testing.v1 import AppTest
from torch import nn

import explain
import workbench as wb
import workbench.models
from workbench.pages import dissect, dissected, removed
from workbench.pages.dissected import Shown

ROOT = Path(__file__).parents[2]
Open = Callable[..., AppTest]
SCRIPT = """
from workbench.pages import dissect, engine, sidebar

chosen = sidebar.draw()
engine.start()
dissect.page(chosen)
"""


@pytest.fixture
def dissection(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open the page in a new session, with these query parameters, and return it after its first run."""
    monkeypatch.setattr(removed, "IMAGES", 40)
    monkeypatch.setattr(removed, "ATTACKED", 6)
    monkeypatch.setattr(dissect, "_DEFAULT_COUNT", 100)

    def open_page(**parameters: str) -> AppTest:
        test = AppTest.from_string(SCRIPT, default_timeout=60)
        for name, value in {"model": "digits-lenet", "n": "2", **parameters}.items():
            test.query_params[name] = value
        return test.run()

    return open_page


def shown(page: AppTest) -> Shown:
    """The result that the page shows."""
    found: Shown = next(reversed(page.session_state["dissections"].values()))
    return found


def said(page: AppTest) -> str:
    """Everything the page says in boxes, captions and HTML, without the backslashes of Markdown."""
    boxes = [*page.error, *page.warning, *page.info, *page.caption, *page.markdown]
    texts = [str(box.value).replace("\\", "") for box in boxes]
    return "\n".join(texts + [element.proto.body for element in page.get("html")])


def button(page: AppTest, label: str) -> Any:
    """The button whose label begins so."""
    return next(b for b in page.button if b.label.startswith(label))


def box(page: AppTest, label: str) -> Any:
    """The selectbox with this label."""
    return next(b for b in page.selectbox if b.label == label)


def chart(page: AppTest, key: str) -> dict[str, Any]:
    """The figure drawn under a key, as plotly gets it."""
    (spec,) = [c.proto.spec for c in page.get("plotly_chart") if f"-dissect {key}" in c.proto.id]
    found: dict[str, Any] = json.loads(spec)
    return found


def table(page: AppTest, column: str) -> pd.DataFrame:
    """The table that has this column."""
    (found,) = [t.value for t in page.table if column in t.value.columns]
    return found


def choose_layers(page: AppTest, *names: str) -> AppTest:
    return page.multiselect[0].set_value(list(names)).run()


# ---- first visit


def test_a_first_result_comes_by_itself_and_is_that_of_the_engine(dissection: Open) -> None:
    page = dissection(model="shapes-vgg")
    assert not page.exception
    assert not page.error
    model = wb.load("sample:shapes-vgg")
    layers = ("relu1", "relu3", "relu5", "relu6")
    assert page.multiselect[0].value == list(layers), "one for each size of map"
    found = explain.dissect(model, wb.read_probe("shapes", model, n=100), layers)
    assert list(shown(page).dissections) == ["trained"], "nobody asked for more"
    pd.testing.assert_frame_equal(shown(page).found.frame(), found.frame())
    total = sum(int(one.detectors.sum()) for one in found.values())
    assert f"{total} of 176 units in 4 layers are detectors" in said(page)
    rows = table(page, "Detectors").map(lambda cell: str(cell).replace("\\", "").replace("*", ""))
    for row, summary in zip(rows.itertuples(), found.summary().itertuples(), strict=True):
        low, high = f"{summary.detectors_low:.0f}", f"{summary.detectors_high:.0f}"
        assert row.Detectors == f"{summary.detectors} [{low}–{high}]"
        assert row.Chance == f"{summary.chance:.3f}"
        assert row.Layer == summary.layer
    assert button(page, "Run").label == "Run: 176 units in 4 layers, 100 forward passes"


def test_the_words_are_explained_and_everything_has_an_alternative_text(dissection: Open) -> None:
    page = dissection()
    for word in ("Unit", "IoU", "Detector", "Ceiling", "Chance"):
        assert f"<b>{word}</b>" in said(page)
    alternatives = [c.proto.alt for c in page.get("plotly_chart")]
    assert len(alternatives) == 5
    assert all(alternatives)
    pictures = [picture.alt for element in page.get("image") for picture in element.proto.imgs]
    assert len(pictures) >= 9
    assert all(pictures)


def test_the_shell_paints_before_torch() -> None:
    code = f"""
import sys
import streamlit as st
from streamlit.testing.v1 import AppTest
from workbench.pages import engine
engine.start = lambda: None
engine.wait = st.stop
page = AppTest.from_string({SCRIPT!r}, default_timeout=60).run()
assert not page.exception, page.exception
assert page.title[0].value == "What does each unit look for?" and len(page.selectbox) == 2, page
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_without_a_layer_there_is_nothing_to_run(dissection: Open) -> None:
    page = choose_layers(dissection())
    assert "Choose at least one layer." in said(page)
    assert not any(b.label.startswith("Run") for b in page.button)
    assert "have changed since this was made, with sample:digits-lenet on 100 generated pictures" in said(page)
    assert page.get("plotly_chart"), "what was there stays"


# ---- a unit


def test_a_unit_shows_its_pictures_and_its_rivals(dissection: Open) -> None:
    page = dissection(model="shapes-vgg")
    model, one = shown(page).model, shown(page).found["relu6"]
    assert box(page, "Unit").value == int(one.best.argmax()), "at first the best"
    page = box(page, "Unit").select(7).run()
    number = int(one.concept[7])
    kind = int(one.vocabulary.kind[number])
    assert [metric.value for metric in page.metric] == [
        f"{float(one.best[7]):.3f}", f"{float(one.low[7, kind]):.2f}–{float(one.high[7, kind]):.2f}",
        f"{float(one.attainable[7, number]):.3f}", f"{float(one.p_value[7]):.2g}",
    ]  # fmt: skip
    rivals = table(page, "What unit 7 may look for")
    values, concepts = one.iou[7].topk(4)
    assert rivals.iloc[:, 0].tolist() == [one.vocabulary.concepts[i] for i in concepts]
    assert rivals["IoU"].tolist() == [f"{value:.3f}" for value in values]
    (top,) = explain.top_images(model, shown(page).probe, shown(page).found, "relu6", [7], 9)
    drawn = [picture.alt for element in page.get("image") for picture in element.proto.imgs]
    assert drawn[:9] == [f"{name}, where unit 7 is active" for name in top.ids]
    ring = chart(page, "units")["data"][-1]
    assert (ring["x"], ring["y"]) == ([1 + one.best.argsort(descending=True).tolist().index(7)], [float(one.best[7])])


def test_another_layer_has_units_of_its_own(dissection: Open) -> None:
    page = dissection(model="shapes-vgg")
    layer = next(b for b in page.get("button_group") if "relu5" in str(b.options))
    page = layer.set_value("relu5").run()
    one = shown(page).found["relu5"]
    assert box(page, "Unit").value == int(one.best.argmax())
    assert len(box(page, "Unit").options) == 64
    assert not page.warning, "the result is the same"


def test_the_detectors_that_fire_are_those_of_the_engine(dissection: Open) -> None:
    page = dissection(model="shapes-vgg")
    model, images = shown(page).model, wb.sample_data("shapes", n=2)
    thumbnails = next(b for b in page.get("button_group") if len(b.options) == 2)
    page = thumbnails.set_value(1).run()
    found = explain.fired(model, images.images[1:], shown(page).found, "relu6", ids=images.ids[1:]).frame()
    detectors = int(shown(page).found["relu6"].detectors.sum())
    assert f"On {images.ids[1]}, **{len(found)} of {detectors} detectors** of relu6 fire" in said(page)
    drawn = [picture.alt for element in page.get("image") for picture in element.proto.imgs][9:]
    assert drawn == [
        f"{images.ids[1]}, where {row.concept} (unit {row.unit}) fires" for row in found.head(12).itertuples()
    ]


# ---- comparisons


@pytest.mark.slow
def test_an_untrained_network_and_a_rotated_basis_stand_beside_it(dissection: Open) -> None:
    page = choose_layers(dissection(model="shapes-vgg"), "relu6")
    page.checkbox(key="dissect control").check()
    page.checkbox(key="dissect rotated").check().run()
    assert "have changed since this was made" in page.warning[0].value
    start = button(page, "Run")
    assert start.label == "Run: 64 units in 1 layer, 300 forward passes", "three networks"
    page = start.click().run()
    assert not page.warning
    assert not page.error
    model = wb.load("sample:shapes-vgg")
    probe = wb.read_probe("shapes", model, n=100)
    few = torch.stack([probe.image(i) for i in range(64)])
    untrained = explain.dissect(explain.randomised(model, few), probe, "relu6")
    rotated = explain.dissect(model, probe, "relu6", basis={"relu6": explain.random_rotation(64)})
    counts = [int(one["relu6"].detectors.sum()) for one in (untrained, rotated)]
    assert f"The same network untrained has {counts[0]}. In a rotated basis there are {counts[1]}." in said(page)
    assert table(page, "Network")["Network"].tolist() == ["trained", "untrained", "rotated basis"]
    assert [trace["name"] for trace in chart(page, "comparison")["data"]] == ["trained", "untrained", "rotated basis"]
    assert dissected.layers(shown(page))["model"].tolist() == ["trained", "untrained", "rotated basis"]


# ---- removing and attacking


@pytest.mark.slow
def test_units_are_removed_and_attacked(dissection: Open) -> None:
    page = choose_layers(dissection(model="shapes-vgg"), "relu6")
    page = button(page, "Run").click().run()
    start = button(page, "Remove each of")
    assert start.label == "Remove each of 64 units of relu6: the layers after it, 64 times, for 40 pictures"
    page = start.click().run()
    assert not page.error
    model = wb.load("sample:shapes-vgg")
    train, test = (wb.sample_data("shapes", split, n=40) for split in ("train", "test"))
    ablation = explain.ablate(model, train.images, train.labels, "relu6")
    removal = shown(page).removals["relu6"]
    torch.testing.assert_close(removal.ablation.margin, ablation.margin)
    curve = explain.ablation_curve(model, test.images, test.labels, ablation)
    pd.testing.assert_frame_equal(removal.curves[None].frame(), curve.frame())
    page = box(page, "Class").select_index(4).run()
    expected = ablation.margin[:, 3].sort(descending=True).values[:12]
    torch.testing.assert_close(torch.tensor(chart(page, "importance")["data"][0]["x"]), expected, check_dtype=False)
    assert not [c for c in page.get("plotly_chart") if "-dissect curve" in c.proto.id], "not yet for this class"
    page = button(page, "Remove 1, 2, 4").click().run()
    assert removal.curves[3].label == 3
    assert chart(page, "curve")

    page = button(page, "Attack 6 generated pictures").click().run()
    assert not page.error
    moved_units = shown(page).removals["relu6"].moved
    assert moved_units is not None
    fooled = int((moved_units.labels != moved_units.fooled_as).sum())
    assert f"{fooled} of 6 pictures fooled." in said(page)
    relation = moved_units.relation(ablation)
    ratio = relation["source_top"].mean() / relation["source_rest"].mean()
    assert f"{ratio:.1f}× the others" in [metric.value for metric in page.metric]
    assert chart(page, "moved")
    (frame,) = page.dataframe
    assert len(frame.value) == fooled

    # All of it can be had without the app.
    result = shown(page)
    script = next(block.value for block in page.code if "explain.dissect" in block.value)
    names: dict[str, Any] = {}
    exec(script, names)
    pd.testing.assert_frame_equal(names["found"].frame(), result.found.frame())
    torch.testing.assert_close(names["ablation"].margin, result.removals["relu6"].ablation.margin)
    assert names["curve"].frame().equals(result.removals["relu6"].curves[3].frame())
    torch.testing.assert_close(names["moved"].change, moved_units.change)


def test_a_model_of_other_classes_answers_for_itself(dissection: Open) -> None:
    """Grey digits of 8×8 pixels: the generated pictures are made so, and its own answers count as right."""
    page = dissection(model="digits-lenet")
    assert page.multiselect[0].value == ["relu1", "relu2"]
    assert shown(page).probe.image(0).shape == (1, 8, 8)
    assert "so its own answers count as right" in said(page)
    page = button(page, "Remove each of 50 units").click().run()
    assert not page.error
    answers = removed.labelled(shown(page).model, "train")
    assert torch.equal(answers.labels, shown(page).model(answers.images).argmax(1))
    known = sorted(set(answers.labels.tolist()))
    assert len(known) < 10
    assert box(page, "Class").options == ["All classes on average", *(f"{i}: {i}" for i in known)]
    page = button(page, "Attack 6").click().run()
    assert not page.error
    assert not page.exception


def test_layers_without_space_have_units_too(dissection: Open) -> None:
    page = dissection(model="digits-mlp")
    assert not page.error
    assert page.multiselect[0].value == ["fc1", "relu1", "fc2", "relu2"]
    one = shown(page).found["relu2"]
    assert one.size == (1, 1)
    dead = one.dead.nonzero().flatten().tolist()
    assert dead
    page = box(page, "Unit").select(dead[0]).run()
    assert "active nowhere" in page.info[0].value
    assert not page.exception


# ---- to take home


@pytest.mark.parametrize("parameters", [{}, pytest.param({"images": "shapes"}, marks=pytest.mark.slow)])
def test_copy_as_python_computes_the_same(dissection: Open, parameters: dict[str, str]) -> None:
    page = choose_layers(dissection(**parameters), "conv2")
    page.checkbox(key="dissect control").check()
    page.checkbox(key="dissect rotated").check()
    page.number_input(key="dissect threshold").set_value(0.02)
    page.selectbox(key="dissect quantile").select(0.05).run()
    page = button(page, "Run").click().run()
    assert not page.error
    script = next(block.value for block in page.code if "explain.dissect" in block.value)
    names: dict[str, Any] = {}
    exec(script, names)
    result = shown(page)
    assert names["model"].digest == result.model.digest
    for name, key in (("found", "trained"), ("untrained", "untrained"), ("rotated", "rotated basis")):
        pd.testing.assert_frame_equal(names[name].frame(), result.dissections[key].frame())
    assert names["found"]["conv2"].quantile == 0.05
    assert len(names["images"]) == 2


def test_tables_to_download(dissection: Open) -> None:
    page = dissection()
    labels = [element.proto.label for element in page.get("download_button")]
    assert labels == [f"Download {name} (CSV)" for name in ("units", "layers", "concepts")]
    found = shown(page).found
    for frame in (found.frame, lambda: dissected.layers(shown(page)), found.concepts):
        read = pd.read_csv(io.BytesIO(dissected._csv(frame)()))
        assert list(read.columns) == list(frame().columns)
        assert len(read) == len(frame())


# ---- other networks, and when something cannot be done


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[wb.VisionModel], None]]:
    """Let the sample that is loaded be another network."""

    def put(model: wb.VisionModel) -> None:
        monkeypatch.setattr(workbench.models, "load", lambda source, **options: model)
        workbench.pages.loading._shared.clear()

    yield put
    workbench.pages.loading._shared.clear()


def test_a_transformer_is_dissected_block_by_block(dissection: Open, instead: Callable[..., None]) -> None:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 6, 2, 16, 32, num_classes=10)
    nn.init.normal_(network.heads.head.weight)
    instead(wb.load(network, preset={"crop": (32, 32)}))
    page = dissection()
    assert not page.error
    blocks = [f"encoder.layers.encoder_layer_{i}" for i in (0, 2, 3, 5)]
    assert page.multiselect[0].value == blocks
    assert shown(page).found[blocks[0]].size == (4, 4)
    assert "encoder.layers.encoder_layer_5 (16 units, 17 tokens)" in page.multiselect[0].options


class Flat(nn.Module):
    """Gives a cube for every image: no channels that could be told from the rest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x), 2, 4, 2, 4)


def test_layers_without_units_are_not_offered(dissection: Open, instead: Callable[..., None]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Flat(), nn.Flatten(), nn.Linear(64, 10))
    instead(wb.load(network, preset={"crop": (8, 8), "mean": (0.5,), "std": (0.5,)}))
    page = dissection()
    assert not page.exception
    assert [label.partition(" ")[0] for label in page.multiselect[0].options] == ["1", "2"]


def test_a_layer_that_turns_out_to_have_no_units_is_refused_in_one_paragraph(
    dissection: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = choose_layers(dissection(), "relu2")

    def refuse(*_: Any, **__: Any) -> None:
        raise explain.NotApplicable("the 7 tokens of layer 'relu2' form no grid", None, "Choose another layer.")

    monkeypatch.setattr(explain, "dissect", refuse)
    page = button(page, "Run").click().run()
    assert page.error[0].value.replace("\\", "") == "the 7 tokens of layer 'relu2' form no grid. Choose another layer."
    assert "have changed since this was made" in page.warning[0].value, "and the older result is still there"


def test_a_result_of_another_model_stays_and_does_not_look_at_the_pictures(dissection: Open) -> None:
    page = dissection()
    page.selectbox(key="model").select("digits-mlp").run()
    assert not page.exception
    assert "with sample:digits-lenet on 100 generated pictures" in page.warning[0].value.replace("\\", "")
    assert "The model in the sidebar is another one now" in said(page)
    script = next(block.value for block in page.code if "explain.dissect" in block.value)
    assert "explain.fired" not in script
    page = button(page, "Run").click().run()
    assert not page.warning
    assert shown(page).model.name == "sample:digits-mlp"


def test_a_defect_of_ours_shows_no_path_and_is_logged(
    dissection: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = choose_layers(dissection(), "relu2")
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, logger="workbench.pages"):
        broken = RuntimeError("at /srv/secret/x.py")
        patch.setattr(explain, "dissect", lambda *a, **k: (_ for _ in ()).throw(broken))
        page = button(page, "Run").click().run()
    assert not page.exception
    assert "Something went wrong on our side" in page.error[0].value
    assert "secret" not in said(page)
    assert "secret" in caplog.text
    page = button(page, "Run").click().run()
    assert not page.error, "and the page works again"


def test_names_of_strangers_are_shown_as_text(dissection: Open, instead: Callable[..., None]) -> None:
    model = wb.load("sample:digits-lenet")
    model.classes = tuple(f"{i} <img src=x> [l](http:evil.example) :red[x]" for i in range(10))
    instead(model)
    page = button(dissection(), "Remove each of").click().run()
    assert not page.exception
    page = box(page, "Class").select_index(1).run()
    specs = [c.proto.spec for c in page.get("plotly_chart")]
    assert not any("<img" in text for text in [*specs, *(element.proto.body for element in page.get("html"))])
    for text in (str(block.value) for block in (*page.markdown, *page.caption)):
        assert not re.search(r"(?<!\\)(<img|\]\(http|:red\[)", text)


def test_moved_says_when_nothing_was_fooled(dissection: Open) -> None:
    page = button(dissection(), "Attack 6").click().run()
    removal = shown(page).removals["relu2"]
    assert removal.moved is not None
    removal.moved.fooled_as[:] = removal.moved.labels
    page.run()
    assert "The attack fooled the network on none of 6 pictures." in said(page)


def test_a_model_that_always_answers_the_same_is_no_dead_end(dissection: Open, instead: Callable[..., None]) -> None:
    model = wb.load("sample:digits-lenet")
    with torch.no_grad():
        model.network.fc2.bias[3] += 1000
    instead(model)
    page = dissection()
    page = button(page, "Remove each of").click().run()
    assert not page.exception
    assert "the same to all of them" in said(page)
    page = button(page, "Attack 6").click().run()
    assert not page.exception
    assert "fooled the network on none of 6 pictures" in said(page)
