"""The parts of the report against closed forms: pictures, words, the static drawing."""

from __future__ import annotations

import base64
import dataclasses
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attacks
from attacks import Evaluation
from workbench.report import credit, pictures, words
from workbench.report.chart import HEIGHT, WIDTH, chart
from workbench.report.figures import epsilon_text


def size_of(uri: str) -> tuple[int, int]:
    with Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))) as opened:
        return opened.size


@pytest.fixture
def evaluation(small_net: Any, some_images: Any) -> Evaluation:
    images = some_images(4, labels=[0, 1, 2, 0])
    return attacks.evaluate(small_net(), images.images, images.labels, epsilons=(0.01, 0.02, 0.04), attacks=("fgsm",))


@pytest.mark.parametrize(
    ("shape", "longer"),
    [
        ((8, 8), 128),
        ((28, 28), 112),
        ((64, 64), 128),
        ((64, 20), 128),
        ((100, 90), 100),
        ((224, 224), 224),
        ((500, 400), 224),
    ],
)
def test_pictures_are_enlarged_by_whole_factors_and_shrunk_to_the_side(shape: tuple[int, int], longer: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    width, height = size_of(pictures.data_uri(pixels, 224))
    assert max(width, height) == longer
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.01)


def test_pictures_shrink_until_they_fit_and_only_then_are_left_out() -> None:
    noise = [[np.random.default_rng(i).integers(0, 256, (128, 128, 3), dtype=np.uint8)] for i in range(4)]
    full = sum(len(pictures.data_uri(group[0], 128)) for group in noise)
    half = sum(len(pictures.data_uri(group[0], 64)) for group in noise)
    told: list[int] = []

    def encode(budget: int, limit: int) -> list[tuple[int, int]]:
        addresses = pictures.encode(noise, ((128, budget), (64, limit)), lambda done, total, what: told.append(total))
        return [size_of(group[0]) for group in addresses]

    assert encode(full, full) == [(128, 128)] * 4
    assert encode(full - 1, full) == [(64, 64)] * 4
    assert encode(10, half) == [(64, 64)] * 4
    assert encode(10, half - 1) == [(64, 64)] * 3
    assert set(told) == {4}


@pytest.mark.parametrize(
    ("largest", "factor"), [(8 / 255, 10), (1 / 255, 100), (0.5, 1), (0.9, 1), (0.0, 1), (0.25, 2)]
)
def test_magnification_uses_the_range(largest: float, factor: int) -> None:
    differences = [np.full((3, 2, 2), -largest), np.zeros((3, 2, 2))]
    assert pictures.magnification(differences) == factor
    assert pictures.magnification([]) == 1


def test_one_glaring_pixel_does_not_hide_the_other_changes() -> None:
    change = np.full((3, 20, 20), 0.01)
    change[0, 0, 0] = 1.0
    assert pictures.magnification([change]) == 50


def test_difference_is_grey_where_nothing_changed() -> None:
    clean = np.full((1, 1, 3), 0.5)
    shown = pictures.difference(clean, clean + np.array([-0.02, 0.0, 0.03]), 10)
    np.testing.assert_allclose(shown, [[[0.3, 0.5, 0.8]]])


def test_places_are_named_from_the_mass_of_the_map() -> None:
    names = {
        (0, 0): "strongest in the upper left",
        (4, 4): "strongest in the centre",
        (4, 8): "strongest in the middle right",
        (8, 4): "strongest in the lower centre",
    }
    for (row, column), name in names.items():
        values = np.zeros((9, 9))
        values[row, column] = -1.0
        assert pictures.where(values) == name
    assert pictures.where(np.zeros((9, 9))) == "empty"
    assert pictures.where(np.ones((1, 2))) == "strongest in the upper left"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0 %"), (0.0004, "< 0.1 %"), (0.0006, "0.1 %"), (0.5, "50.0 %"), (0.9999, "> 99.9 %"), (1.0, "100.0 %")],
)
def test_probabilities_never_read_as_more_certain_than_they_are(value: float, text: str) -> None:
    assert words.percent(value) == text


def test_the_verdict_counts(evaluation: Evaluation) -> None:
    standing = round(evaluation.curve["robust_accuracy"].iloc[-1] * 4)
    stay = "stays" if standing == 1 else "stay"
    assert evaluation.trustworthy
    said = words.headline(evaluation, (3, 4))
    assert said == f"3 of 4 images right. {standing} of 4 {stay} right when every pixel may change by up to 0.04."
    assert words.share(30, 120) == "30 of 120 (25%)"
    euclidean = dataclasses.replace(evaluation, norm="l2")
    assert words.headline(euclidean, None).endswith("when the image may change by a Euclidean length of up to 0.04.")


def test_one_budget_makes_a_sentence_too(small_net: Any, some_images: Any) -> None:
    one = attacks.evaluate(small_net(), some_images(2).images, epsilons=(1 / 255,), attacks=("fgsm",))
    assert "Under attack, " in words.summary(one, "net", None)[1]
    assert words.summary(one, "net", None)[1].endswith("of 2 kept their predicted class at 1/255.")


def test_the_static_drawing_is_the_curve(evaluation: Evaluation) -> None:
    drawn = chart(evaluation)
    x, y = zip(*drawn.dots, strict=True)
    curve = evaluation.curve
    # Both axes are linear: differences are proportional to differences.
    scale = (x[-1] - x[0]) / 0.04
    np.testing.assert_allclose(np.array(x) - x[0], scale * curve["epsilon"], atol=0.11)
    (bottom, _), *_, (top, _) = drawn.y_ticks
    np.testing.assert_allclose(y, bottom + (top - bottom) * curve["robust_accuracy"], atol=0.11)
    band = [tuple(map(float, point.split(","))) for point in drawn.band.split()]
    assert len(band) == 8
    assert all(0 <= a <= WIDTH and 0 <= b <= HEIGHT for a, b in band)
    for (_, low), (_, high), (_, at) in zip(band[::-1], band, drawn.dots, strict=False):
        assert high <= at <= low  # SVG counts downwards
    assert [text for _, text in drawn.x_ticks] == ["0", "0.01", "0.02", "0.04"]
    assert drawn.trusted
    assert not chart(dataclasses.replace(evaluation, checks=evaluation.checks[:0])).trusted


def test_those_fooled_are_the_weakest_images_first(small_net: Any, some_images: Any, read_page: Any) -> None:
    import workbench as wb

    model, images = small_net(), some_images(8)
    found = attacks.evaluate(model, images.images, epsilons=(0.2, 0.4, 0.9), ids=images.ids, attacks="fast")
    fallen = found.samples[found.samples["broken_at"] < np.inf].sort_values("broken_at", kind="stable")["id"].tolist()
    assert len(fallen) > 4
    made = wb.report(model, images, evaluation=found, methods="saliency", lite=True)
    page = read_page(made.html)
    assert len(page.classed("fooled")) == 4
    shown = [attrs["alt"] for attrs in page.all("img") if "magnified" in attrs["alt"]]
    assert [alt.split(",")[0].removeprefix("change of ") for alt in shown] == fallen[:4]
    change = (found.images - images.images)[[images.ids.index(i) for i in fallen[:4]]]
    factor = pictures.magnification(list(change.numpy()))
    assert page.text.count(f"Difference × {factor}") == 4
    # Both answers of each are explained, as the engine does, on one scale.
    samples = found.samples.set_index("id").loc[fallen[:4]]
    for image, row in samples.iterrows():
        for when, seen in (("before", row["predicted"]), ("after", row["fooled_as"])):
            alt = f"Saliency map of {image} {when} the attack for class {seen}, "
            assert sum(attrs["alt"].startswith(alt) for attrs in page.all("img")) == 1
        assert f"{image} fooled at {epsilon_text(row['broken_at'], 'linf')} by " in page.text
    assert torch.equal(found.images, found.images.clamp(0, 1))


def test_credit_is_that_of_the_stages(small_net: Any, some_images: Any, read_page: Any) -> None:
    import workbench as wb

    model, images = small_net(), some_images(8)
    squares = {"options": {"square": {"queries": 20}}}
    first = attacks.evaluate(
        model, images.images, epsilons=(0.2, 0.4), ids=images.ids, attacks="standard", checks=False, **squares
    )
    found = attacks.evaluate(
        model,
        images.images,
        epsilons=(0.2, 0.4),
        ids=images.ids,
        attacks="standard",
        replay=dict([*first.adversarials().items()][:2]),
        **squares,
    )
    told = credit.credits_of(found)
    assert [one.credited for one in told[1:]] == found.stages["credited"].tolist()
    assert told[0].credited == int((found.samples["attack"] == "replay").sum()) > 0
    assert sum(one.credited for one in told) == len(found.adversarials())
    for one, row in zip(told[1:], found.stages.to_dict("records"), strict=True):
        assert one.attack.startswith(row["title"])
        assert one.tried == row["tried"]
        if row["tried"]:
            assert one.forwards * row["tried"] == pytest.approx(row["forwards"])
        else:
            assert one.passes == "–"
    titles = credit.stage_titles(found)
    twice = [title for title in titles if title.startswith("APGD-T")]
    assert len(set(twice)) == len(twice) == 2, "told apart by their options"
    page = read_page(wb.report(model, images, evaluation=found, methods="saliency", lite=True).html)
    for one in told:
        assert f"{one.attack} {'–' if one.tried is None else one.tried} {one.credited} {one.passes}" in page.text
    assert credit.cost(found) in page.text
    assert "only where the gradient may not have told all" in page.text
    assert "by a stored adversarial" in page.text
