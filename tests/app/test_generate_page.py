"""The page "Generate" without a browser: it shows what the generator makes, trains one, and has no dead ends."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

import attacks
import workbench as wb
from workbench.pages import versions
from workbench.pages.versions import Shown

Open = Callable[..., AppTest]
SCRIPT = """
from workbench.pages import engine, generate, sidebar

chosen = sidebar.draw()
engine.start()
generate.page(chosen)
"""


@pytest.fixture
def generate() -> Open:
    """Open the page in a new session, with these query parameters, and return it after its first run."""

    def open_page(**parameters: str) -> AppTest:
        test = AppTest.from_string(SCRIPT, default_timeout=60)
        for name, value in {"model": "digits-lenet", "n": "2", **parameters}.items():
            test.query_params[name] = value
        return test.run()

    return open_page


def shown(page: AppTest) -> Shown:
    """The result that the page shows."""
    found: Shown = next(reversed(page.session_state["versions"].values()))
    return found


def said(page: AppTest) -> str:
    """Everything the page says, without the backslashes of its Markdown."""
    boxes = [*page.error, *page.warning, *page.info, *page.caption, *page.markdown]
    return "\n".join(str(box.value).replace("\\", "") for box in boxes)


def pictures(page: AppTest) -> list[str]:
    """Alternative texts of the pictures on the page."""
    return [picture.alt for element in page.get("image") for picture in element.proto.imgs]


def box(page: AppTest, label: str) -> Any:
    """The widget whose label begins so."""
    widgets = [*page.selectbox, *page.number_input, *page.checkbox, *page.select_slider]
    return next(widget for widget in widgets if widget.label.startswith(label))


def test_all_versions_come_by_themselves_and_are_those_of_the_generator(generate: Open) -> None:
    page = generate()
    assert not page.exception and not page.error
    model, generator = wb.load("sample:digits-lenet"), wb.load_generator("sample:digits-lenet")
    image = wb.sample_data("digits", n=2).subset([0])
    expected = generator.every(image.images)[0]
    result = shown(page)
    torch.testing.assert_close(result.versions, expected)
    seen = model(expected).argmax(1).tolist()
    predicted = int(model(image.images).argmax())
    reached = sum(one == target for target, one in enumerate(seen) if target != predicted)
    assert f"Of 9 versions for other classes it takes **{reached}** for the class wanted" in said(page)
    for target, one in enumerate(seen):
        assert f"version for {target}, seen as {one}" in pictures(page)


def test_dragging_shows_another_version(generate: Open) -> None:
    page = generate()
    name = wb.sample_data("digits", n=2).ids[0]
    slider = box(page, "Make it see")
    slider.set_value(slider.options[-1] if isinstance(slider.value, str) else 9).run()
    assert any(
        re.fullmatch(rf"change of {name} to 9, magnified \d+ times; grey is unchanged", alt) for alt in pictures(page)
    )


def test_the_script_does_it_again(generate: Open) -> None:
    page = generate()
    box(page, "Budget, in steps").set_value(40.0).run()
    box(page, "Round").check().run()
    result = shown(page)
    assert result.request == versions.Request(0, "digits-lenet (sample)", 40 / 255, True)
    assert (result.versions - result.image.images).abs().max() <= 40 / 255 + 1e-6
    (script,) = [code.value for code in page.code if "load_generator" in code.value]
    scope: dict[str, Any] = {}
    exec(script, scope)
    torch.testing.assert_close(scope["versions"][0], result.versions)


def test_a_generator_for_another_network_says_so(generate: Open) -> None:
    page = generate(model="digits-mlp")
    assert "trained against another network: what it reaches here is transfer" in said(page)
    assert "transfer" not in said(generate(model="digits-lenet"))


def test_where_there_is_none_it_is_trained_here(generate: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.pages import generate as module

    monkeypatch.setattr(module, "_samples", dict)
    page = generate()
    assert "No generator fits sample:digits-lenet yet" in said(page)
    box(page, "Steps").set_value(10).run()
    next(button for button in page.button if button.label.startswith("Train: 640 pictures")).click().run()
    assert not page.exception and not page.error
    assert box(page, "Generator").value == "sample:digits-lenet, 76.5/255, 10 steps"
    generator = shown(page).generator
    assert generator.epsilon == pytest.approx(0.3) and generator.history[-1]["step"] == 10
    assert "transfer" not in said(page)
    trainings = Path(os.environ["WORKBENCH_CACHE"]) / "trainings"
    assert not list(trainings.iterdir()), "what is done needs no state"


def test_files_taken_home_hold_what_is_shown(generate: Open, tmp_path: Path) -> None:
    page = generate()
    result = shown(page)
    arrays = np.load(io.BytesIO(versions._numpy(result)))
    np.testing.assert_array_equal(arrays["images"], result.versions.numpy())
    assert arrays["targets"].tolist() == list(range(10))
    zipfile.ZipFile(io.BytesIO(versions._archive(result.generator))).extractall(tmp_path)
    again = attacks.load_generator(tmp_path / "generator")
    assert again(result.image.images, 3).equal(result.generator(result.image.images, 3))
    assert json.loads((tmp_path / "generator.json").read_text())["model"] == "sample:digits-lenet"


def test_of_many_classes_the_likeliest_are_shown() -> None:
    probabilities = torch.rand(1000).softmax(0)
    few = versions._shown(tuple(range(1000)), probabilities)
    assert len(few) == 24 and list(few) == sorted(probabilities.topk(24).indices.tolist())
    assert versions._shown((3, 5), probabilities) == (3, 5)
