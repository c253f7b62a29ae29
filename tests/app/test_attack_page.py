"""The page "Attack" without a browser: it does what the engine does, and says what it cannot do."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest

import attacks
import explain
import workbench as wb
from workbench.pages import attacked
from workbench.pages.attacked import Shown

Open = Callable[..., AppTest]
SCRIPT = """
from workbench.pages import attack, engine, sidebar

chosen = sidebar.draw()
engine.start()
attack.page(chosen)
"""
HOSTILE = '<img src=x onerror="alert(1)"> [l](http:evil.example) :red[x]'


@pytest.fixture
def attack() -> Open:
    """Open the page in a new session, with these query parameters, and return it after its first run."""

    def open_page(**parameters: str) -> AppTest:
        test = AppTest.from_string(SCRIPT, default_timeout=60)
        for name, value in {"model": "digits-mlp", "n": "2", **parameters}.items():
            test.query_params[name] = value
        return test.run()

    return open_page


def shown(page: AppTest) -> Shown:
    """The result that the page shows."""
    found: Shown = next(reversed(page.session_state["attacked"].values()))
    return found


def said(page: AppTest) -> str:
    """Everything the page says, without the backslashes of its Markdown."""
    boxes = [*page.error, *page.warning, *page.info, *page.caption, *page.markdown]
    return "\n".join(
        [str(box.value).replace("\\", "") for box in boxes] + [element.proto.body for element in page.get("html")]
    )


def pictures(page: AppTest) -> list[str]:
    """Alternative texts of the pictures on the page."""
    return [picture.alt for element in page.get("image") for picture in element.proto.imgs]


def run(page: AppTest) -> AppTest:
    next(button for button in page.button if button.label.startswith("Attack: ")).click().run()
    assert not page.exception
    assert not page.error
    return page


def box(page: AppTest, label: str) -> Any:
    """The widget whose label begins so."""
    widgets = [*page.selectbox, *page.number_input, *page.radio, *page.checkbox]
    return next(widget for widget in widgets if widget.label.startswith(label))


def test_a_first_attack_comes_by_itself_and_is_that_of_the_engine(attack: Open) -> None:
    page = attack()
    assert not page.exception
    assert not page.error
    model, images = wb.load("sample:digits-mlp"), wb.sample_data("digits", n=2).subset([0])
    expected = attacks.attack(
        model, images.images, model(images.images).argmax(1), "pgd", epsilon=8 / 255, ids=images.ids
    )
    result = shown(page)
    torch.testing.assert_close(result.found.images, expected.images)
    torch.testing.assert_close(result.after, model(expected.images).softmax(1)[0])
    name = images.ids[0]
    after = model.class_name(int(expected.fooled_as[0]))
    assert f"{name}, attacked, seen as {after}" in pictures(page)
    assert any(
        re.fullmatch(rf"change of {name}, magnified \d+ times; grey is unchanged", alt) for alt in pictures(page)
    )
    assert [metric.value for metric in page.metric][1] == f"{int(expected.forwards[0])} + {int(expected.backwards[0])}"


def test_the_script_does_it_again(attack: Open) -> None:
    page = attack()
    box(page, "Attack").select("apgd").run()
    box(page, "Measure").set_value("l2").run()
    box(page, "Budget").set_value(0.9).run()
    box(page, "Make it see").select(4).run()
    box(page, "Round").check().run()
    result = shown(run(page))
    assert result.request == attacked.Request(0, "apgd", "l2", 0.9, 4, True)
    (script,) = [code.value for code in page.code if "attacks.attack" in code.value]
    scope: dict[str, Any] = {}
    exec(script, scope)
    torch.testing.assert_close(scope["found"].images, result.found.images)
    assert result.found.targets is not None


def test_what_cannot_be_chosen_is_there_with_the_reason(attack: Open) -> None:
    page = attack()
    assert "ℓ1, ℓ0: PGD has no form for it" in said(page)
    box(page, "Attack").select("apgd-t").run()
    assert box(page, "Make it see").disabled
    assert "APGD-T cannot aim at a class" in said(page)
    box(page, "Attack").select("fmn").run()
    assert box(page, "Attack").format_func("fmn") == "FMN · looks for the nearest"
    assert box(page, "Budget").disabled
    assert "Needs none: it looks for the nearest picture" in said(page)
    box(page, "Stop within").check().run()
    assert not box(page, "Budget").disabled
    assert "has no form for it" not in said(page)


def test_a_minimal_attack_finds_the_nearest_without_a_budget(attack: Open) -> None:
    page = attack()
    box(page, "Attack").select("ddn").run()
    result = shown(run(page))
    assert result.found.epsilon is None
    assert page.metric[0].label == "ℓ2 distance"
    distance = float((result.found.images - result.image.images).norm())
    assert page.metric[0].value == f"{distance:.3g}"
    assert "**Fooled:** it sees" in said(page)


def test_an_attack_that_fails_and_one_with_nothing_to_do_say_so(attack: Open) -> None:
    page = attack()
    box(page, "Budget").set_value(1.0).run()
    run(page)
    assert (
        "**Not fooled:** no picture seen as something else was found where every pixel may change by up to 1/255"
        in said(page)
    )
    assert "Below is the strongest attempt" in said(page)
    predicted = shown(page).classes[0]
    box(page, "Make it see").select(predicted).run()
    run(page)
    assert f"**Nothing to do:** it already sees {predicted}" in said(page)
    assert not any("map of" in alt for alt in pictures(page))


def test_a_changed_choice_is_said_and_an_old_result_comes_back(attack: Open) -> None:
    page = attack()
    first = shown(page)
    box(page, "Attack").select("ddn").run()
    assert "have changed since this was made, with sample:digits-mlp on" in said(page)
    run(page)
    assert "have changed since" not in said(page)
    box(page, "Attack").select("pgd").run()
    assert shown(page) is first
    assert page.query_params == {"model": "digits-mlp", "images": "digits", "n": "2"}


def test_maps_before_and_after_are_the_engines_by_any_method(attack: Open) -> None:
    page = attack(model="digits-lenet", images="digits")
    box(page, "Attack").select("ddn").run()
    result = shown(run(page))
    was, seen = result.classes
    assert was != seen
    name, model = result.image.ids[0], result.model
    for method in ("guided_backprop", "gradcam"):
        page.selectbox(key="attack method").select(method).run()
        both = torch.cat([result.image.images, result.found.images])
        expected = explain.explain(model, both, [was, seen], (method,))[method]
        torch.testing.assert_close(result.maps[method, was, seen].maps, expected.maps)
        title = explain.METHODS[method].title
        assert f"{title} map of {name} before the attack for {model.class_name(was)}" in pictures(page)
        assert f"{title} map of {name} after the attack for {model.class_name(seen)}" in pictures(page)
    page.button_group(key="attack maps of").set_value("the first answer in both").run()
    assert f"Grad-CAM map of {name} after the attack for {model.class_name(was)}" in pictures(page)


def test_methods_that_cannot_work_are_said(attack: Open) -> None:
    page = attack()
    assert page.selectbox(key="attack method").options == ["Saliency", "Guided backpropagation", "DeconvNet"]
    assert "Grad-CAM: not for this network" in said(page)


def test_files_hold_the_attacked_picture(attack: Open) -> None:
    result = shown(attack())
    image = result.found.images[0]
    torch.testing.assert_close(torch.from_numpy(np.load(io.BytesIO(attacked._numpy(result)))), image)
    torch.testing.assert_close(torch.load(io.BytesIO(attacked._torch(result)), weights_only=True), image)
    picture = np.asarray(Image.open(io.BytesIO(attacked._picture(result))))[..., 0]
    np.testing.assert_array_equal(picture, (image[0] * 255).round().to(torch.uint8).numpy())
    seen = result.model(torch.from_numpy(picture / 255).float().view(1, 1, 8, 8)).argmax(1)
    assert attacked._as_file(result).startswith("In the PNG, rounded to 256 levels per colour, it")
    assert f"sees {int(seen)}." in attacked._as_file(result)


def test_names_of_strangers_stay_text(attack: Open) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    model = wb.load(network, name="mine", input_size=(1, 8, 8), classes=tuple(f"{HOSTILE} {i}" for i in range(10)))
    result = shown(attack())
    images = result.image.images
    found = attacks.attack(model, images, model(images).argmax(1), "ddn")
    assert bool(found.success[0])
    foreign = dataclasses.replace(result, model=model, found=found)
    for text in (attacked._verdict(foreign), attacked._as_file(foreign)):
        assert "alert" in text
        assert not re.search(r"(?<!\\)(<img|\[l|\[x)", text)
