"""The page "Explain" without a browser: what it shows and says in every state."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from streamlit.testing.v1 import AppTest

import explain
import workbench as wb
import workbench.models
from workbench.pages import loading, recipe, uploads
from workbench.pages.gallery import Shown
from workbench.pages.sidebar import ModelChoice
from workbench.pages.text import plain

ROOT = Path(__file__).parents[2]
App = Callable[..., AppTest]
HOSTILE = '<img src=x onerror="alert(1)"> [link](http:evil.example) www.evil.example :red[x] $x^2$.pth'


def shown(app: AppTest) -> Shown:
    """The result that the page shows."""
    found: Shown = next(reversed(app.session_state["results"].values()))
    return found


def pictures(app: AppTest) -> list[str]:
    """Alternative texts of the pictures on the page."""
    return [picture.alt for element in app.get("image") for picture in element.proto.imgs]


def said(app: AppTest) -> str:
    """Everything the page says in boxes, captions and HTML."""
    boxes = [*app.error, *app.warning, *app.info, *app.caption, *app.markdown]
    return "\n".join([str(box.value) for box in boxes] + [element.proto.body for element in app.get("html")])


def button(app: AppTest, label: str) -> Any:
    """The button whose label begins so."""
    return next(b for b in app.button if b.label.startswith(label))


def upload(app: AppTest, name: str, data: bytes) -> AppTest:
    """Upload a checkpoint."""
    app.selectbox(key="model").select("upload").run()
    return app.file_uploader(key="checkpoint").set_value((name, data, "application/octet-stream")).run()


def png(colour: str, size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def bytes_of(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def active(markdown: str) -> list[str]:
    """Punctuation that no backslash takes its meaning from."""
    return re.findall(r"[!-/:-@\[-`{-~]", re.sub(r"\\[!-/:-@\[-`{-~]", "", markdown))


# ---- first visit


def test_a_first_picture_comes_by_itself(app: App) -> None:
    page = app()
    assert not page.exception
    assert not page.error
    methods = [explain.METHODS[name].title for name in shown(page).found]
    ids = wb.sample_data("shapes", n=8).ids
    # One picture and one map per method for each image, each with an alternative text that says what it is.
    assert len(pictures(page)) == len(ids) * (1 + len(methods))
    for image in ids:
        assert f"{image}, as the model saw it" in pictures(page)
        for method in methods:
            assert any(text.startswith(f"{method} map of {image} for ") for text in pictures(page))


def test_maps_are_those_of_the_engine(app: App) -> None:
    found = shown(app()).found
    model, images = wb.load("sample:shapes-vgg"), wb.sample_data("shapes", n=8)
    expected = explain.explain(model, images.images, methods=tuple(found))
    for name in expected:
        torch.testing.assert_close(found[name].maps, expected[name].maps)


def test_the_shell_paints_before_torch() -> None:
    """With an engine that never gets ready, title and sidebar are there and torch is not."""
    code = f"""
import sys
import streamlit as st
from streamlit.testing.v1 import AppTest
from workbench.pages import engine
engine.start = lambda: None
engine.wait = st.stop
page = AppTest.from_file({str(ROOT / "app.py")!r}, default_timeout=60).run()
assert not page.exception, page.exception
assert page.title[0].value and len(page.selectbox) == 2, page
assert "Starting the engine" in page.markdown[-1].value or "Starting the engine" in page.markdown[0].value
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


# ---- choosing samples


def test_another_sample_makes_the_result_stale_until_it_is_run(app: App) -> None:
    page = app()
    before = shown(page)
    page.selectbox(key="model").select("shapes-resnet").run()
    assert shown(page) is before
    assert "have changed since this was made" in page.warning[0].value
    button(page, "Run").click().run()
    assert not page.warning
    assert shown(page).model.name == "sample:shapes-resnet"
    # What was computed once is there at once when its choices come back.
    page.selectbox(key="model").select("shapes-vgg").run()
    assert shown(page) is before
    assert not page.warning


def test_widgets_do_not_wipe_the_result(app: App) -> None:
    page = app()
    before = shown(page)
    page.checkbox(key="method gradcam").check().run()
    assert shown(page) is before
    assert button(page, "Run").label == "Run: 1 forward and 2 backward passes for 8 images"
    page.checkbox(key="method deconvnet").check().run()
    assert button(page, "Run").label == "Run: 1 forward and 3 backward passes for 8 images"


def test_methods_that_cannot_work_are_disabled_with_the_reason(app: App) -> None:
    page = app(model="digits-mlp", n="1")
    assert list(shown(page).found) == ["saliency", "guided_backprop"]
    boxes = {box.label: box.disabled for box in page.checkbox}
    assert [title for title, disabled in boxes.items() if disabled] == ["Grad-CAM", "Grad-CAM++"]
    assert "Grad-CAM, Grad-CAM++: not for this network, no layer of the network has a spatial output" in re.sub(
        r"\\", "", said(page)
    )
    assert len(page.selectbox) == 3, "no layer to choose"


def test_small_digits_are_enlarged_pixel_by_pixel(app: App) -> None:
    result = shown(app(model="digits-lenet", n="2"))
    picture = Image.open(io.BytesIO(result.pictures[(0,)]))
    assert picture.size == (256, 256)
    small = picture.resize((8, 8), Image.Resampling.NEAREST)
    assert small.resize((256, 256), Image.Resampling.NEAREST).tobytes() == picture.tobytes()


def test_sample_images_of_another_size_are_fitted_and_said_so(app: App) -> None:
    page = app(model="digits-lenet", images="shapes", n="2")
    assert shown(page).photos.images.images.shape == (2, 1, 8, 8)
    assert shown(page).photos.images.labels is None
    assert "3×64×64" in said(page)


def test_class_and_layer_are_explained_as_chosen(app: App) -> None:
    page = app(n="2")
    digest = shown(page).model.digest
    page.selectbox(key=f"class {digest}").select(3).run()
    page.selectbox(key=f"layer {digest}").select("relu3").run()
    button(page, "Run").click().run()
    found = shown(page).found
    assert found.target.tolist() == [3, 3]
    assert found["gradcam++"].layer == "relu3"
    assert "at relu3" in said(page)


def test_many_images_come_in_pages(app: App) -> None:
    page = app(n="12")
    assert len(shown(page).photos.images) == 12
    assert len({text.split(",")[0] for text in pictures(page) if text.endswith("saw it")}) == 8


# ---- links


def test_a_link_restores_the_choice(app: App) -> None:
    page = app(model="digits-lenet", images="digits", n="3")
    assert shown(page).model.name == "sample:digits-lenet"
    assert len(shown(page).photos.images) == 3


@pytest.mark.parametrize("wrong", [{"model": "../etc"}, {"images": "upload"}, {"n": "9999"}, {"n": "-1"}, {"n": "x"}])
def test_a_wrong_link_gives_the_default(app: App, wrong: dict[str, str]) -> None:
    page = app(**wrong)
    assert not page.exception
    assert page.query_params == {"model": "shapes-vgg", "images": "shapes", "n": "8"}


def test_the_address_follows_the_choice(app: App) -> None:
    page = app()
    page.selectbox(key="model").select("digits-lenet").run()
    assert page.query_params == {"model": "digits-lenet", "images": "digits", "n": "8"}
    page.selectbox(key="model").select("upload").run()
    assert "model" not in page.query_params


# ---- uploads


def test_an_unknown_checkpoint_is_identified_and_explained(app: App, files: Path) -> None:
    page = upload(app(), "unknown.pth", (files / "unknown.pth").read_bytes())
    assert not page.error
    assert "10 classes · 3×224×224" in said(page)
    assert "`module.`" in said(page), "what was inferred is said"
    page.slider(key="count photos").set_value(1).run()
    button(page, "Run").click().run()
    assert shown(page).model.name == "unknown"
    assert not page.warning


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"just text\n", "text file"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_paragraph(app: App, data: bytes, sentence: str) -> None:
    page = upload(app(n="1"), "model.pth", data)
    assert not page.exception
    assert len(page.error) == 1
    assert sentence in page.error[0].value.replace("\\", "")
    assert "Traceback" not in page.error[0].value


def test_a_hostile_pickle_is_refused_and_does_not_run(app: App, files: Path) -> None:
    page = upload(app(n="1"), HOSTILE, (files / "hostile.pth").read_bytes())
    text = page.error[0].value
    assert "For safety only tensors are read" in text
    assert not (files / "ran").exists()
    assert plain(HOSTILE) in text
    assert not active(re.sub(r"`[^`]*`", "", text)), "nothing in the name is markup"


def test_hostile_class_names_are_shown_as_text(app: App) -> None:
    model = wb.load("sample:shapes-resnet")
    state = {"state_dict": model.network.state_dict(), "classes": ["<script>alert(1)</script>"] * 10}
    page = upload(app(n="1"), "named.pth", bytes_of(state))
    page.slider(key="count photos").set_value(1).run()
    button(page, "Run").click().run()
    assert shown(page).model.classes[0] == "<script>alert(1)</script>"
    bodies = [element.proto.body for element in page.get("html")]
    assert any("&lt;script&gt;alert(1)&lt;/script&gt;" in body for body in bodies)
    assert not any("<script" in body for body in bodies)


def test_a_refusal_is_remembered_and_a_repeat_costs_nothing(
    app: App, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    load = workbench.models.load
    monkeypatch.setattr(workbench.models, "load", lambda *a, **k: (calls.append(a), load(*a, **k))[1])
    page = upload(app(n="1"), "model.pth", b"just text")
    page.run()
    assert len(page.error) == 1
    assert len([call for call in calls if isinstance(call[0], Path)]) == 1


def test_nothing_of_an_upload_stays_on_disk(
    app: App, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    upload(app(n="1"), "unknown.pth", (files / "unknown.pth").read_bytes())
    assert list(tmp_path.iterdir()) == []


def test_the_size_limit_holds_on_the_server(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_CHECKPOINT", uploads.MEBIBYTE)
    page = upload(app(n="1"), "model.pth", bytes(uploads.MEBIBYTE + 1))
    assert "larger than the app accepts" in page.error[0].value


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\net.pth", "net.pth"),
        ("..", "upload"),
        ("", "upload"),
        ("a\nb\0c.pth", "abc.pth"),
        ("x" * 300 + ".pth", "x" * 96 + ".pth"),
        ("\ud800a.pth", "a.pth"),
    ],
)
def test_file_names_are_made_safe(given: str, kept: str) -> None:
    name = uploads.safe_name(given)
    assert name == kept
    name.encode()


def test_what_the_file_does_not_say_is_asked(app: App) -> None:
    network = torchvision.models.resnet18(num_classes=3)
    network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    page = upload(app(n="1"), "small.pth", bytes_of(network.state_dict()))
    assert "stem" in page.error[0].value
    question = next(box for box in page.selectbox if box.label == "First layer of the ResNet")
    question.select("cifar")
    button(page, "Apply").click().run()
    assert not page.error
    assert "3 classes · 3×32×32" in said(page)


def test_preprocessing_that_the_network_cannot_take_is_said_and_can_be_taken_back(app: App) -> None:
    page = app(model="shapes-vgg", n="1")
    next(box for box in page.number_input if "height" in box.label).set_value(80)
    button(page, "Apply").click().run()
    assert "cannot process an image of this size" in page.error[0].value
    button(page, "Back").click().run()
    assert not page.error
    assert "3×64×64" in said(page)


def test_preprocessing_can_be_overridden_and_taken_back(app: App) -> None:
    page = app(model="shapes-resnet", n="1")
    next(box for box in page.number_input if "height" in box.label).set_value(80)
    next(box for box in page.text_input if box.label.startswith("Mean")).set_value("0.5 0.5 0.5")
    button(page, "Apply").click().run()
    assert "3×80×64" in said(page)
    assert "have changed" in page.warning[0].value
    button(page, "Run").click().run()
    assert shown(page).photos.images.images.shape == (1, 3, 80, 64)
    assert shown(page).model.preset.mean == (0.5, 0.5, 0.5)
    assert "preset={'crop': (80, 64), 'mean': (0.5, 0.5, 0.5)}" in shown(page).recipe
    button(page, "Back").click().run()
    assert "3×64×64" in said(page)


@pytest.mark.parametrize("text", ["0.5", "a b c", "", "1 2 3 4"])
def test_a_wrong_mean_is_refused(app: App, text: str) -> None:
    page = app(n="1")
    next(box for box in page.text_input if box.label.startswith("Mean")).set_value(text)
    button(page, "Apply").click().run()
    assert "one per channel" in page.error[0].value
    assert "3×64×64" in said(page)


def test_a_bad_photo_among_good_ones_is_named_and_left_out(app: App) -> None:
    page = app(n="1")
    page.selectbox(key="images").select("upload").run()
    assert "Upload photos in the sidebar" in page.info[0].value
    page.file_uploader(key="photos").set_value(
        [("red.png", png("red"), "image/png"), ("<b>broken.png", b"nothing", "image/png")]
    ).run()
    assert "1 of the photos were left out" in page.warning[0].value
    assert r"\<b\>broken" in page.warning[0].value
    button(page, "Run").click().run()
    assert shown(page).photos.images.ids == ("red.png",)


def test_too_many_or_too_large_photos_are_left_out_by_name(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_PHOTOS", 2)
    monkeypatch.setattr(uploads, "MAX_PHOTO", uploads.MEBIBYTE)
    noise = io.BytesIO()
    Image.effect_noise((1200, 1200), 90).save(noise, "PNG")
    photos = [("big.png", noise.getvalue())] + [(f"{c}.png", png(c)) for c in ("red", "green", "blue")]
    page = app(n="1")
    page.selectbox(key="images").select("upload").run()
    page.file_uploader(key="photos").set_value([(name, data, "image/png") for name, data in photos]).run()
    text = page.warning[0].value
    assert "2 of the photos" in text
    assert r"big\.png" in text
    assert r"blue\.png" in text


@pytest.mark.slow
def test_a_thousand_classes_without_names(app: App) -> None:
    network = torchvision.models.squeezenet1_1()
    page = upload(app(n="1"), "big.pth", bytes_of(network.state_dict()))
    assert "1,000 classes" in said(page)
    digest_box = next(box for box in page.selectbox if box.label == "Class to explain")
    assert len(digest_box.options) == 1001
    assert digest_box.options[-1] == "class 999"


def test_a_torchvision_network_waits_for_a_click_before_it_downloads(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def offline(source: Any, **options: Any) -> None:
        asked.append(source)
        raise wb.ModelError("The weights are not on this machine", source, "Connect to the internet.")

    page = app(n="1")
    monkeypatch.setattr(workbench.models, "load", offline)
    page.selectbox(key="model").select("torchvision").run()
    page.selectbox(key="network").select("resnet18").run()
    assert "47 MB" in page.info[0].value
    assert asked == []
    button(page, "Load it").click().run()
    assert asked == ["resnet18"]
    assert "Connect to the internet" in page.error[0].value


# ---- sessions


def test_two_sessions_do_not_mix(app: App, files: Path) -> None:
    one = upload(app(n="1"), "unknown.pth", (files / "unknown.pth").read_bytes())
    other = app(model="digits-lenet", n="2")
    assert "unknown" in said(one.run())
    assert "unknown" not in said(other.run())
    assert list(one.session_state["results"]) != list(other.session_state["results"])


# ---- results


def test_copy_as_python_makes_the_same_maps(app: App) -> None:
    for parameters in (
        {"n": "2"},
        {"model": "digits-lenet", "images": "shapes", "n": "2"},
        {"images": "photos", "n": "1"},
    ):
        result = shown(app(**parameters))
        lines = [line for line in result.recipe.splitlines() if not line.startswith("wb.report")]
        names: dict[str, Any] = {}
        exec("\n".join(lines), names)
        assert names["model"].digest == result.model.digest
        assert names["images"].digest == result.photos.images.digest
        for name, one in result.found.items():
            torch.testing.assert_close(names["maps"][name].maps, one.maps)


def test_names_in_the_recipe_stay_strings() -> None:
    name = "'); import os; os.system('x'); ('.pth"
    photos = loading.Photos(wb.sample_data("shapes", n=1), ("images = None",))
    model = wb.load("sample:shapes-vgg")
    choice = ModelChoice(upload=SimpleNamespace(name=name))  # type: ignore[arg-type]
    script = recipe.python(choice, (), model, photos, ("saliency",), None, None)
    assert f"wb.load({uploads.safe_name(name)!r})" in script
    compile(script, "recipe", "exec")


def test_robustness_and_the_report(app: App) -> None:
    page = app(model="digits-lenet", n="4")
    start = button(page, "Measure robustness")
    assert start.label.endswith("at most 97 forward and backward passes for 4 images")
    start.click().run()
    assert not page.exception
    assert not page.error
    measured = shown(page).measured
    assert measured is not None
    assert measured.evaluation.curve["n"].tolist() == [4] * 5
    assert shown(page).model.digest.encode() in measured.report
    assert len(page.get("plotly_chart")) == 1
    assert len(page.get("download_button")) == 1
    stages = measured.evaluation.stages
    credit = page.dataframe[0].value
    assert credit["Attack"].tolist() == ["FGSM", "PGD"]
    assert credit["Broke"].tolist() == stages["credited"].tolist()
    assert "All sanity checks of the attacks passed" in said(page)
    # A failed check stands above the curve, and what it saw below.
    checks = measured.evaluation.checks.copy()
    checks.loc[3, ["passed", "detail"]] = [False, "4 of 4 images have no gradient."]
    shown(page).measured = replace(measured, evaluation=replace(measured.evaluation, checks=checks))
    page.run()
    assert "**Do not trust these numbers.** 1 sanity check of the attack failed" in said(page)
    assert "4 of 4 images have no gradient" in said(page).replace("\\", "")
    assert "remains open" in said(page)
    assert "checks of the attacks passed" not in said(page)


# ---- when something breaks


def test_a_defect_of_ours_shows_no_path_and_is_logged(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = app(n="1")
    monkeypatch.setattr(explain, "explain", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("at /srv/secret/x.py")))
    page.checkbox(key="method gradcam").check().run()
    with caplog.at_level(logging.ERROR, logger="workbench.pages"):
        button(page, "Run").click().run()
    assert not page.exception
    assert "Something went wrong on our side" in page.error[0].value
    assert "secret" not in said(page)
    assert "secret" in caplog.text
    monkeypatch.undo()
    button(page, "Run").click().run()
    assert not page.error, "and the page works again"


@pytest.mark.parametrize(
    "name",
    [HOSTILE, "# heading", "- item", "1. item", "**bold** _it_ ~~s~~", "a|b\n-|-", "    code", ":smile: :material/x:"],
)
def test_names_are_escaped_for_markdown(name: str) -> None:
    text = plain(name)
    assert not active(text)
    assert text.replace("\\", "").replace("\N{WORD JOINER}", "").split() == name.split()


def test_code_in_our_own_sentences_stays_code_and_cannot_be_left() -> None:
    assert plain("Run `torch.save(x)` now.") == r"Run `torch.save(x)` now\."
    assert plain("a` <b> `c") == "a` <b> `c", "a name can only begin a code span, where nothing is markup"
    assert plain("``` <b>") == r"\`\`\` \<b\>"
