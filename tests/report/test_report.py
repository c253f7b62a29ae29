"""The report says what the results say, to every reader, in one file that runs nothing a stranger named."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import re
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from plotly.offline import get_plotlyjs
from torch import nn

import attacks
import explain
import workbench as wb
from workbench.images import ImageSet


def picture(uri: str) -> np.ndarray:
    with Image.open(BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,")))) as opened:
        return np.asarray(opened.convert("RGB"))


@pytest.fixture(scope="module")
def shapes_page() -> str:
    return wb.report("sample:shapes-vgg", wb.sample_data("shapes", n=3), epsilons=(4 / 255, 8 / 255)).html


def test_one_file_holds_everything_and_asks_for_nothing(shapes_page: str, read_page: Any) -> None:
    page = read_page(shapes_page)
    assert 1_900_000 < len(shapes_page.encode()) < 2_500_000
    addresses = [value for _, attrs in page.elements for key, value in attrs.items() if key in ("src", "href")]
    assert {a for a in addresses if not a.startswith(("data:", "#", "https://arxiv.org/abs/"))} == set()
    assert {name for name, attrs in page.elements if (attrs.get("href") or "").startswith("https:")} == {"a"}
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"] for attrs in page.all("a") if attrs["href"][0] == "#"} <= {f"#{name}" for name in ids}
    style = shapes_page[: shapes_page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_plotly_is_inside_once_and_compressed(shapes_page: str, read_page: Any) -> None:
    _, packed, _ = read_page(shapes_page).scripts
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()


def test_policy_is_the_one_that_was_tried(shapes_page: str, read_page: Any) -> None:
    metas = read_page(shapes_page).all("meta")
    assert next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy") == (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:; "
        "connect-src data: blob:"
    )


def test_it_says_what_a_person_wants_to_know(shapes_page: str, read_page: Any) -> None:
    page = read_page(shapes_page)
    model, images = wb.load("sample:shapes-vgg"), wb.sample_data("shapes", n=3)
    for said in (
        "3 of 3 images right.", "sample:shapes-vgg was shown 3 images", "239,450", "64 × 64 pixels, RGB",
        str(model.preset), model.preset.source, model.digest, images.digest, *images.ids,
        *(images.classes[int(label)] for label in images.labels),
        *(method.description for method in explain.METHODS.values()), "at layer relu6",
        *(attacks.ATTACKS[name].description for name in ("fgsm", "pgd")), "steps 20", "Two passes over 3 images",
        f"torch {torch.__version__}", "95 % interval", "Seed 0",
    ):  # fmt: skip
        assert " ".join(said.split()) in page.text.replace(" ", " "), said
    assert len(page.classed("card")) == 3
    assert "Do not trust" not in page.text


def test_every_picture_has_its_words(shapes_page: str, read_page: Any) -> None:
    page = read_page(shapes_page)
    images = page.all("img")
    assert len(images) >= 3 * 6
    assert all(attrs["alt"] and attrs["src"].startswith("data:image/webp;base64,") for attrs in images)
    assert sum("Grad-CAM++ map of shapes/test/0/1 for blue-roof house" in attrs["alt"] for attrs in images) == 1
    maps = {attrs["alt"] for attrs in images if " map of " in attrs["alt"]}
    assert len([alt for alt in maps if " the attack for " not in alt]) == 3 * 5
    (drawing,) = page.all("svg")
    assert drawing["aria-label"].startswith("Share of images by budget. 0: 100%, 4/255: ")


def test_numbers_are_those_of_the_evaluation(small_net: Any, some_images: Any, read_page: Any) -> None:
    model, images = small_net(), some_images(6, labels=[0, 1, 2, 0, 1, 2])
    evaluation = attacks.evaluate(
        model, images.images, images.labels, epsilons=(1 / 255, 120 / 255), ids=images.ids, attacks="fast"
    )
    text = read_page(wb.report(model, images, evaluation=evaluation, lite=True).html).text
    for name, (_, row) in zip(("unchanged", "1/255", "120/255"), evaluation.curve.iterrows(), strict=True):
        share, low, high = (f"{100 * row[key]:.1f}" for key in ("robust_accuracy", "low", "high"))
        assert f"{name} {round(row.robust_accuracy * 6)} of 6 {share} % {low} – {high} %" in text
    right = int(evaluation.samples["clean_correct"].sum())
    assert 0 < right < 6
    assert f"classified {right} of 6 correctly" in text
    fallen = evaluation.samples[evaluation.samples["broken_at"].between(1e-9, 1)]
    assert len(fallen)
    for _, sample in fallen.iterrows():
        assert f"then seen as class {sample.fooled_as}" in text


def test_wrong_answers_are_marked_in_words(small_net: Any, some_images: Any, quick: Any, read_page: Any) -> None:
    model, images = small_net(classes=2), some_images(4)
    wrong = ImageSet.of(images.images, 1 - model(images.images).argmax(1))
    page = read_page(wb.report(model, wrong, lite=True, **quick).html)
    assert len(page.classed("wrong")) == 4
    assert page.text.count("✗ Wrong: it is class") == 4
    assert "✓ Right" not in page.text
    assert "0 of 4 images right" in page.text
    assert "nothing to attack" in page.text
    assert len(re.findall(r"class [01] true", page.text)) == 4


def test_without_labels_survival_is_called_survival(
    small_net: Any, some_images: Any, quick: Any, read_page: Any
) -> None:
    made = wb.report(small_net(), some_images(), **quick).html
    text = read_page(made).text
    assert "share of images whose predicted class survives" in text
    assert re.search(r"\d of 3 predictions survive when every pixel may change by up to 8/255", text)
    assert "without known labels" in text
    assert "Right" not in text
    assert "Wrong" not in text
    assert "surviving predictions" in made[made.index("curve-figure") :]


def test_digits_are_enlarged_pixel_by_pixel_and_cams_refused_by_name(read_page: Any) -> None:
    images = wb.sample_data("digits", n=2)
    page = read_page(wb.report("sample:digits-mlp", images, epsilons=(8 / 255,), lite=True).html)
    assert "Not applicable to this network Grad-CAM: " in page.text
    assert "Grad-CAM++: " in page.text
    shown = picture(next(attrs["src"] for attrs in page.all("img") if "as the model saw it" in attrs["alt"]))
    true = (images.images[0, 0].numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(shown, true.repeat(16, 0).repeat(16, 1)[..., None].repeat(3, 2))


def test_one_image_two_classes_and_a_thousand_without_names(
    small_net: Any, some_images: Any, quick: Any, read_page: Any
) -> None:
    one = read_page(wb.report(small_net(classes=2), some_images(1), lite=True, **quick).html)
    assert "was shown 1 image without" in one.text
    assert "1 image is few" in one.text
    many = read_page(wb.report(small_net(classes=1000), some_images(1), lite=True, **quick).html)
    assert "1,000, without names" in many.text
    assert len(many.classed("percent")) == 3


def test_target_is_named_where_it_is_not_the_prediction(
    small_net: Any, some_images: Any, quick: Any, read_page: Any
) -> None:
    model, images = small_net(), some_images(3)
    predicted = model(images.images).argmax(1)
    other = (predicted + torch.tensor([0, 1, 2])) % 3
    page = read_page(wb.report(model, images, target=other, lite=True, **quick).html)
    assert page.text.count("Maps explain class") == 2
    assert f"Saliency map of image-1 for class {int(other[1])}" in page.source


def test_empty_map_is_called_empty(some_images: Any, quick: Any, read_page: Any) -> None:
    class Blind(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 0).mean((2, 3))[:, :2] + torch.tensor([0.0, 2.0])

    model = wb.load(Blind(), name="blind", input_size=(3, 16, 12))
    page = read_page(wb.report(model, some_images(1), lite=True, **quick).html)
    assert "Saliency empty map" in page.text


HOSTILE = ("<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>'", "</script><script>alert(2)</script>")


@pytest.mark.parametrize("lite", [True, False])
def test_names_of_strangers_stay_text(lite: bool, small_net: Any, some_images: Any, quick: Any, read_page: Any) -> None:
    model = small_net(classes=HOSTILE, name=HOSTILE[2])
    images = some_images(
        4,
        ids=(*HOSTILE, "lone \udcff surrogate"),
        labels=[0, 1, 2, 0],
        notices=(HOSTILE[0],),
        skipped=((HOSTILE[1], HOSTILE[2]),),
    )
    evaluation = attacks.evaluate(model, images.images, images.labels, epsilons=(0.5,), attacks=("fgsm",))
    checks = pd.DataFrame({"check": HOSTILE, "passed": False, "value": 0.0, "detail": HOSTILE})
    evaluation = dataclasses.replace(evaluation, checks=checks)
    made = wb.report(model, images, evaluation=evaluation, title=HOSTILE[1], methods="saliency", lite=lite)
    page = read_page(made.html)
    assert len(page.all("script")) == (0 if lite else 3)
    assert not [key for _, attrs in page.elements for key in attrs if key.startswith("on")]
    assert {attrs["src"][:5] for attrs in page.all("img")} == {"data:"}
    for name in HOSTILE:
        assert page.text.count(name) >= 5
    assert "lone ? surrogate" in page.text
    assert sum("<" in script for script in page.scripts[:2]) == 0


def test_a_curve_that_the_checks_do_not_back_carries_a_banner(small_net: Any, some_images: Any, read_page: Any) -> None:
    model, images = small_net(), some_images(3)
    unchecked = attacks.evaluate(model, images.images, epsilons=(0.1,), ids=images.ids, checks=False, attacks="fast")
    page = read_page(wb.report(model, images, evaluation=unchecked, lite=True).html)
    assert len(page.classed("banner")) == 2
    assert "checks of the attack were not run" in page.text
    rows = [("a", True, 1.0, "fine."), ("b", False, 0.0, "Broken."), ("c", True, float("nan"), "Not tested: no image.")]
    checks = pd.DataFrame(rows, columns=["check", "passed", "value", "detail"])
    failed = dataclasses.replace(unchecked, checks=checks)
    text = read_page(wb.report(model, images, evaluation=failed, lite=True).html).text
    assert "1 sanity check of the attack failed: b." in text
    assert "a ✓ passed Fine. b ✗ failed Broken. c – not tested No image." in text
    assert "survive when" not in text


def test_more_images_than_shown_is_said(small_net: Any, some_images: Any, quick: Any, read_page: Any) -> None:
    page = read_page(wb.report(small_net(), some_images(5), max_images=2, lite=True, **quick).html)
    assert len(page.classed("card")) == 2
    assert "The first 2 of 5 images are shown" in page.text
    assert "5 of 5" in page.text


def test_lite_page_is_small_and_runs_nothing(read_page: Any) -> None:
    model = wb.load("sample:shapes-resnet")
    images = wb.read_images(wb.sample_photos()[:5], model)
    made = wb.report(model, images, lite=True, epsilons=(8 / 255,), attacks=("fgsm",))
    page = read_page(made.html)
    assert made.size < 300_000
    assert page.all("script") == page.all("button") == []
    assert "script-src" not in made.html
    assert len(page.all("svg")) == 1
    assert len(page.all("circle")) == 2
    assert made.draw_lite is None


@pytest.mark.slow
def test_the_fullest_page_stays_under_five_megabytes(small_net: Any) -> None:
    noise = torch.rand(24, 3, 224, 224, generator=torch.Generator().manual_seed(0))  # nothing compresses worse
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 9)
    )
    model = wb.load(net, name="noise", input_size=(3, 224, 224))
    made = wb.report(model, noise, epsilons=(8 / 255,), attacks=("fgsm",))
    assert made.html.count("<article class=") == 24 + made.html.count('class="fooled"')
    assert 3_000_000 < made.size < 5_000_000
