"""The page "Linear" without a browser: what it shows and says in every state, and that its numbers add up."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

import attacks
import explain
import workbench as wb
import workbench.models
from workbench import interpretation
from workbench.pages import apart
from workbench.pages.apart import Shown
from workbench.report import clickable

ROOT = Path(__file__).parents[2]
Open = Callable[..., AppTest]
HOSTILE = '<img src=x onerror="alert(1)"> [l](http:evil.example) :red[x] $x^2$'
SCRIPT = """
from workbench.pages import engine, linear, sidebar

chosen = sidebar.draw()
engine.start()
linear.page(chosen)
"""


@pytest.fixture
def linear() -> Open:
    """Open the page in a new session, with these query parameters, and return it after its first run."""

    def open_page(**parameters: str) -> AppTest:
        test = AppTest.from_string(SCRIPT, default_timeout=60)
        for name, value in {"model": "digits-mlp", "n": "2", **parameters}.items():
            test.query_params[name] = value
        return test.run()

    return open_page


def shown(page: AppTest) -> Shown:
    """The result that the page shows."""
    found: Shown = next(reversed(page.session_state["linear results"].values()))
    return found


def said(page: AppTest) -> str:
    """Everything the page says in boxes, captions and HTML, without the backslashes of Markdown."""
    boxes = [*page.error, *page.warning, *page.info, *page.caption, *page.markdown]
    texts = [str(box.value).replace("\\", "") for box in boxes]
    return "\n".join(texts + [element.proto.body for element in page.get("html")])


def button(page: AppTest, label: str) -> Any:
    """The button whose label begins so."""
    return next(b for b in page.button if b.label.startswith(label))


def choose(page: AppTest, index: int) -> AppTest:
    """Click a thumbnail."""
    thumbnails = page.get("button_group")[0]
    return thumbnails.set_value(index).run()


def chart(page: AppTest, key: str) -> dict[str, Any]:
    """The figure drawn under a key, as plotly gets it."""
    (spec,) = [c.proto.spec for c in page.get("plotly_chart") if f"-linear {key}" in c.proto.id]
    return json.loads(spec)


def pixel(page: AppTest) -> tuple[Any, Any]:
    """The boxes with row and column of the chosen pixel."""
    row, column = (box for box in page.number_input if box.label in ("Row", "Column"))
    return row, column


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def choose_class(page: AppTest, index: int | None) -> AppTest:
    box = next(box for box in page.selectbox if box.label == "Class to explain")
    return box.select(-1 if index is None else index).run()


# ---- first visit


def test_a_first_result_comes_by_itself_and_is_that_of_the_engine(linear: Open) -> None:
    page = linear(model="shapes-vgg", n="2")
    assert not page.exception
    assert not page.error
    model, images = wb.load("sample:shapes-vgg"), wb.sample_data("shapes", n=2)
    lens = explain.linear_interpreter(model, images.images)
    found = shown(page).found
    torch.testing.assert_close(found.votes, lens.votes(), rtol=1e-4, atol=1e-5)
    assert found.attack is None, "nobody asked for one"
    assert "shapes/test/0/0" in said(page)
    assert "raw pixels in [0, 1]" in said(page)
    labels = page.get("button_group")[0].options
    assert [label.split("]")[0].replace("\\", "") for label in labels] == [f"![{name}" for name in images.ids]


def test_the_shell_paints_before_torch() -> None:
    """With an engine that never gets ready, title and sidebar are there and torch is not."""
    code = f"""
import sys
import streamlit as st
from streamlit.testing.v1 import AppTest
from workbench.pages import engine
engine.start = lambda: None
engine.wait = st.stop
page = AppTest.from_string({SCRIPT!r}, default_timeout=60).run()
assert not page.exception, page.exception
assert page.title[0].value == "What adds up to the answer?" and len(page.selectbox) == 2, page
assert any("Starting the engine" in box.value for box in page.markdown)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_nothing_chosen_yet_is_said(linear: Open) -> None:
    page = linear(n="1")
    page.selectbox(key="model").select("upload").run()
    assert "Upload a checkpoint in the sidebar" in page.info[0].value
    page.selectbox(key="model").select("digits-mlp").run()
    page.selectbox(key="images").select("upload").run()
    assert "Upload photos in the sidebar" in page.info[0].value
    assert not page.exception


# ---- numbers


@pytest.mark.parametrize("space", ["raw", "normalised"])
def test_what_is_printed_adds_up_for_every_picture(linear: Open, space: str) -> None:
    page = linear(n="3")
    page.radio(key="linear space").set_value(space).run()
    if space == "normalised":
        button(page, "Run").click().run()
    found = shown(page).found
    assert found.lens.space == space
    logits = wb.load("sample:digits-mlp")(wb.sample_data("digits", n=3).images)
    for index in range(3):
        page = choose(page, index)
        logit, pixels, bias, lead, lead_pixels, lead_bias = (number(metric.value) for metric in page.metric)
        assert logit == pytest.approx(pixels + bias, abs=1e-9), "to the last digit"
        assert lead == pytest.approx(lead_pixels + lead_bias, abs=1e-9)
        first, second = logits[index].topk(2).values.tolist()
        assert logit == pytest.approx(first, abs=0.006)
        assert lead == pytest.approx(first - second, abs=0.006)
        assert pixels == pytest.approx(float(found.votes[index].sum()), abs=0.011)
        assert bias == pytest.approx(float(found.terms.values[index].sum()), abs=0.011)


def test_the_bars_of_a_pixel_are_its_gradient(linear: Open) -> None:
    """The network is piecewise linear, so a column of A is a column of its Jacobian, found here by another way."""
    page = choose(linear(), 1)
    row, column = pixel(page)
    assert (row.value, column.value) == divmod(int(shown(page).found.votes[1].abs().argmax()), 8), "the loudest pixel"
    row.set_value(6)
    column.set_value(2).run()
    model, image = wb.load("sample:digits-mlp"), wb.sample_data("digits", n=2).images[1]
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], image)[:, 0, 6, 2].double()
    assert image[0, 6, 2] > 0
    bars = chart(page, "pixel")["data"][0]
    np.testing.assert_allclose(bars["x"], jacobian * image[0, 6, 2], rtol=1e-4, atol=1e-5)
    page.get("button_group")[1].set_value("brighter").run()
    bars = chart(page, "pixel")["data"][0]
    np.testing.assert_allclose(bars["x"], jacobian * 0.1, rtol=1e-4, atol=1e-6)
    assert bars["customdata"][3] == [model.class_name(3), 3]


def test_channels_of_a_pixel_vote_together(linear: Open) -> None:
    page = linear(model="shapes-vgg", n="1")
    found = shown(page).found
    row, column = (box.value for box in pixel(page))
    bars = chart(page, "pixel")["data"][0]["x"]
    assert bars[int(found.target[0])] == pytest.approx(float(found.votes[0, row, column]), rel=1e-4)


def test_a_zero_pixel_says_that_it_casts_no_vote(linear: Open) -> None:
    page = linear(n="1")
    assert "casts no vote; see" not in said(page)
    row, column = pixel(page)
    row.set_value(0)
    column.set_value(0).run()
    assert wb.sample_data("digits", n=1).images[0, 0, 0, 0] == 0
    assert "casts no vote; see" in said(page)
    assert set(chart(page, "pixel")["data"][0]["x"]) == {0}


def test_the_choice_of_a_pixel_belongs_to_its_picture(linear: Open) -> None:
    page = linear()
    pixel(page)[0].set_value(1).run()
    other = pixel(choose(page, 1))[0].value
    assert other == int(shown(page).found.votes[1].abs().argmax()) // 8
    assert pixel(choose(page, 0))[0].value == 1


def test_another_class_is_taken_apart_as_chosen(linear: Open) -> None:
    page = choose_class(linear(n="1"), 7)
    assert "have changed since this was made" in page.warning[0].value
    button(page, "Run").click().run()
    assert not page.warning
    assert shown(page).found.target.tolist() == [7]
    assert "taken apart: <b>7</b>" in said(page)
    assert page.metric[0].label.startswith("Logit of 7")
    assert number(page.metric[3].value) < 0, "it does not lead"
    # What was computed once is there at once when its choices come back.
    page = choose_class(page, None)
    assert not page.warning
    assert "taken apart" not in said(page)


def test_tangents_give_the_jacobian_and_secants_say_how_far_they_are_from_it(linear: Open) -> None:
    page = linear(model="shapes-mobilenet", n="1")
    ratio, cosine = (float(value) for value in (shown(page).found.gap.ratio, shown(page).found.gap.cosine))
    assert ratio > 0.01
    assert f"A is not the Jacobian J: |J−A|/|A| is {ratio:.2g}, their cosine {cosine:.2f}" in said(page)
    page.radio(key="linear mode").set_value("tangent").run()
    button(page, "Run").click().run()
    assert "A is the Jacobian, the gradient of every logit" in said(page)


def test_numbers_that_do_not_add_up_are_not_trusted(linear: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    page = linear(n="1")
    assert "does not add up" not in said(page)
    monkeypatch.setattr(shown(page).found.lens, "residual", torch.tensor([0.02]))
    page.run()
    assert "It does not add up" in page.warning[0].value
    assert "2.0%" in page.warning[0].value


def test_all_figures_and_patterns_are_there_with_alternative_texts(linear: Open) -> None:
    page = linear(n="1")
    alternatives = [c.proto.alt for c in page.get("plotly_chart")]
    assert len(alternatives) == 5
    assert all(alternatives)
    pictures = [picture.alt for element in page.get("image") for picture in element.proto.imgs]
    assert len(pictures) == 4
    for rank, text in enumerate(pictures):
        assert re.fullmatch(rf"pattern {rank + 1}: for \d.*", text), "its strongest class gains"


# ---- many, and large


def test_of_many_images_the_first_sixteen_are_taken_apart(linear: Open) -> None:
    page = linear(n="24")
    assert shown(page).photos.images.ids == wb.sample_data("digits", n=24).ids[:16]
    assert "The first 16 of the 24 images" in said(page)
    assert button(page, "Run").label == "Run: about 36 forward and backward passes for 16 images"
    assert "images = images.subset(slice(16))" in shown(page).recipe


def test_a_large_picture_has_a_grid_that_can_be_drawn() -> None:
    votes = torch.randn(150, 300, generator=torch.Generator().manual_seed(0))
    figure = clickable.picture_and_votes(torch.rand(3, 150, 300), votes, 1.0, (140, 290), ("<b>a", "b"))
    pictures, grids = figure.data[::2], figure.data[1::2]
    assert [trace.type for trace in (*pictures, *grids)] == ["image"] * 2 + ["scatter"] * 2
    for grid in grids:
        assert len(grid.x) == 60 * 30, "every fifth pixel of every fifth row"
        assert grid.x.max() < 300
        assert grid.y.max() < 150
        np.testing.assert_array_equal(grid.customdata, votes.numpy()[grid.y, grid.x])
    assert figure.layout.annotations[0].text == "&lt;b&gt;a"
    for frame in figure.layout.shapes:
        assert (frame.x0 + frame.x1, frame.y0 + frame.y1) == (580, 280), "around the chosen pixel"


def test_of_many_classes_the_strongest_are_drawn_in_order() -> None:
    numbers = torch.linspace(-1, 1, 1000)
    figure = clickable.class_bars(numbers, (), "Votes", most=4)
    assert [number for _, number in figure.data[0].customdata] == [0, 999, 1, 998]
    assert "The 4 strongest of 1,000 classes." in figure.layout.title.subtitle.text


# ---- the attack


def test_the_attack_is_split_into_terms_that_add_up(linear: Open) -> None:
    page = choose(choose_class(linear(), 7), 1)
    images = wb.sample_data("digits", n=2)
    start = button(page, "Attack this picture")
    passes = sum(one.passes(one.options) + 2 for one in (attacks.ATTACKS[name] for name in ("ddn", "superdeepfool")))
    assert start.label == f"Attack this picture and split the change: at most {passes} forward and backward passes"
    start.click().run()
    assert not page.exception
    assert not page.error
    found = shown(page).fooled[1]
    assert found.attack is not None
    assert bool(found.attack.success[0])
    predicted, fooled_as = int(found.target[0]), int(found.attack.fooled_as[0])
    model = wb.load("sample:digits-mlp")
    clean, fooled = model(images.images[1:]), model(found.attack.images)
    assert predicted == int(clean.argmax()), "what it leaves is what the model predicts, not what is taken apart"
    assert fooled_as == int(fooled.argmax()) != predicted
    # As drawn: pixels, decisions and bias lead to the whole change of the lead, measured by two forward passes.
    *steps, whole = chart(page, "change")["data"][0]["y"]
    assert sum(steps) == pytest.approx(whole, abs=1e-4)
    lead = (fooled - clean)[0, predicted] - (fooled - clean)[0, fooled_as]
    assert whole == pytest.approx(float(lead), abs=1e-4)
    radius, reached, ratio = (metric.value for metric in page.metric[-3:])
    distance = float((found.attack.images - images.images[1:]).norm())
    assert float(reached) == pytest.approx(distance, rel=0.01)
    assert float(radius) == pytest.approx(float(found.radius[0]), rel=0.01)
    assert ratio == f"{distance / float(found.radius[0]):.2g}×"
    assert len(chart(page, "agreement")["data"][0]["x"]) == 2, "one mark per ReLU"
    # The other picture has not been attacked, and this one stays so.
    assert "Attack this picture" in str(choose(page, 0).button)
    assert "Attack this picture" not in str(choose(page, 1).button)


# ---- to take home


@pytest.mark.parametrize("parameters", [{}, {"images": "shapes"}])
def test_copy_as_python_computes_the_same(linear: Open, parameters: dict[str, str]) -> None:
    page = choose_class(linear(**parameters), 3)
    page.radio(key="linear space").set_value("normalised").run()
    button(page, "Run").click().run()
    result = shown(page)
    assert result.recipe in [block.value for block in page.code]
    names: dict[str, Any] = {}
    exec(result.recipe, names)
    assert names["model"].digest == result.model.digest
    assert names["images"].digest == result.photos.images.digest
    torch.testing.assert_close(names["found"].votes, result.found.votes)
    assert names["found"].target.tolist() == [3, 3]


def test_tables_to_download(linear: Open) -> None:
    page = linear()
    found = shown(page).found
    assert [element.proto.label for element in page.get("download_button")] == [
        f"Download {name} (CSV)" for name in ("shares", "bias", "spectrum")
    ]
    for table in (found, found.terms, found.spectrum):
        read = pd.read_csv(io.BytesIO(apart._csv(table)()))
        assert list(read.columns) == list(table.frame().columns)
        assert len(read) == len(table.frame())
        assert set(read["image"]) == set(wb.sample_data("digits", n=2).ids)


# ---- when something cannot be done, or breaks


def replace_model(monkeypatch: pytest.MonkeyPatch, change: Callable[[wb.VisionModel], Any]) -> None:
    """Let the sample that is loaded next be another network."""
    load = workbench.models.load
    monkeypatch.setattr(workbench.models, "load", lambda source, **options: change(load(source, **options)))
    workbench.pages.loading._shared.clear()


@pytest.fixture
def fresh_models() -> Any:
    yield
    workbench.pages.loading._shared.clear()


class Odd(torch.nn.Module):
    """A network that ends in a function nobody has a rule for."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.erfc(self.network(x))


@pytest.mark.parametrize(
    ("wrap", "sentences"),
    [
        (lambda network: torch.nn.Sequential(network, torch.nn.Softmax(1)), ["softmax", "without its last layer"]),
        (Odd, ["leaves no linear map to look at", "erfc", "The page Explain works without."]),
    ],
    ids=["softmax head", "unknown operator"],
)
@pytest.mark.usefixtures("fresh_models")
def test_a_network_without_a_linear_map_is_refused_in_one_paragraph(
    linear: Open, monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Any], Any], sentences: list[str]
) -> None:
    def change(model: wb.VisionModel) -> wb.VisionModel:
        model.network = wrap(model.network)
        return model

    replace_model(monkeypatch, change)
    page = linear(n="1")
    assert not page.exception
    assert len(page.error) == 1
    text = page.error[0].value.replace("\\", "")
    for sentence in sentences:
        assert sentence in text
    assert "Traceback" not in text
    assert not page.get("plotly_chart")


@pytest.mark.usefixtures("fresh_models")
def test_hostile_class_names_are_shown_as_text(linear: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(model: wb.VisionModel) -> wb.VisionModel:
        model.classes = tuple(f"{i} {HOSTILE}" for i in range(10))
        return model

    replace_model(monkeypatch, change)
    page = linear(n="1")
    assert not page.exception
    assert shown(page).model.classes[0].endswith(HOSTILE)
    specs = [c.proto.spec for c in page.get("plotly_chart")]
    assert not any("<img" in text for text in [*specs, *(element.proto.body for element in page.get("html"))])
    for label in (page.metric[0].label, page.metric[3].label, *(box.value for box in page.caption)):
        assert not re.search(r"(?<!\\)(<img|\]\(|\$x|:red\[)", label)


def test_a_defect_of_ours_shows_no_path_and_is_logged(
    linear: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = choose_class(linear(n="1"), 2)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, logger="workbench.pages"):
        broken = RuntimeError("at /srv/secret/x.py")
        patch.setattr(interpretation, "interpret", lambda *a, **k: (_ for _ in ()).throw(broken))
        button(page, "Run").click().run()
    assert not page.exception
    assert "Something went wrong on our side" in page.error[0].value
    assert "secret" not in said(page)
    assert "secret" in caplog.text
    button(page, "Run").click().run()
    assert not page.error, "and the page works again"
