"""The page of the linear interpreter: its sums are sums, it names what x is, and it is safe and quiet in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.errors import OptionError
from workbench.images import ImageSet
from workbench.interpretation import interpret
from workbench.report.linear_cards import Subject
from workbench.report.linear_page import linear_page

HOSTILE = (
    "<script>window.run=1</script>",
    "\"><img src=x onerror='window.run=1'>",
    "</script><script>window.run=1",
)


def make(model: nn.Module, images: ImageSet, **options: Any) -> str:
    found = interpret(model, images, **options)
    return linear_page(Subject.of(found, images, model), model).html


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


@pytest.fixture(scope="module")
def digits() -> str:
    return make(wb.load("sample:digits-lenet"), wb.sample_data("digits", n=3))


def test_every_printed_sum_is_one(digits: str) -> None:
    cells = re.findall(r"<b>([−\d.,]+)</b><bdi>(logit|lead|behind).*?<b>([−\d.,]+)</b>pixels.*?sign\">([+−])</b>.*?<b>([\d.,]+)</b>bias", digits, re.S)  # fmt: skip # noqa: E501
    assert [what for _, what, *_ in cells] == ["logit", "lead"] * 3
    for total, _, pixels, sign, bias in cells:
        places = len(total.partition(".")[2])
        right = number(pixels) + (number(bias) if sign == "+" else -number(bias))
        assert round(right - number(total), places + 2) == 0
    rows = re.findall(r'<td class="number">([−\d.,]+)</td>' * 3, digits)
    assert len(rows) == 3
    for logit, pixels, bias in rows:
        assert round(number(pixels) + number(bias) - number(logit), 6) == 0


def test_it_says_what_x_is_how_exact_and_explains_its_terms(digits: str, read_page: Callable[[str], Any]) -> None:
    page = read_page(digits)
    text = page.text
    for said in ("raw pixels in [0, 1]", "secant", "one part in", "|J − A| / |A|", "MB in memory"):
        assert said in text
    for term in ("Decision (gate)", "Votes", "Bias", "Radius", "Pattern"):
        assert f"{term} " in text
    assert [attrs["id"] for attrs in page.all("section")] == ["overview", "terms", "images", "method"]
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert len(page.all("img")) == 3 * (3 + 3 + 2)


def test_it_holds_one_plotly_and_all_figures_and_asks_for_nothing(digits: str, read_page: Callable[[str], Any]) -> None:
    page = read_page(digits)
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', digits, re.S)[1])  # type: ignore[index]
    numbers = [int(attrs["data-figure"]) for attrs in page.all("figure") if "data-figure" in attrs]
    assert numbers == list(range(len(figures))) == list(range(3 * 4))
    assert digits.count('id="plotly-gzip"') == 1
    assert len(digits) < 2_500_000
    assert not re.search(r'(src|href)="(?!data:|#|https://arxiv\.org/abs/1908\.05168)', digits)
    assert len(page.all("svg")) == len(figures)


def test_patterns_of_a_complete_spectrum_add_up_to_the_pixels() -> None:
    """Each card shows what a pattern adds: for two classes there are two, so their sum is the pixels' part."""
    torch.manual_seed(0)
    net = wb.load(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 4, 2)), input_size=(3, 8, 6)
    )
    images = ImageSet.of(torch.rand(1, 3, 8, 6))
    html = make(net, images, attack=False)
    added = [number(text) for text in re.findall(r"<b>\d: ([+−][\d.,]+)</b>amplified", html)]
    assert len(added) == 2
    pixels = number(re.search(r"<b>([−\d.,]+)</b>pixels", html)[1])  # type: ignore[index]
    assert sum(added) == pytest.approx(pixels, rel=0.02, abs=0.01)


def test_without_an_attack_nothing_is_left_empty(
    small_net: Any, some_images: Any, read_page: Callable[[str], Any]
) -> None:
    html = make(small_net(), some_images(2), attack=False)
    page = read_page(html)
    assert "attack found" not in page.text.replace("Attack found:", "")
    assert "What the attack changed" not in page.text
    assert "no attack" in page.text
    assert len(page.all("img")) == 2 * 6


def test_a_network_that_decides_nothing_and_one_without_bias(read_page: Callable[[str], Any]) -> None:
    net = wb.load(nn.Sequential(nn.Flatten(), nn.Linear(48, 2, bias=False)), input_size=(3, 4, 4))
    page = read_page(make(net, ImageSet.of(torch.full((1, 3, 4, 4), 0.5))))
    assert "decides nothing" in page.text
    assert "Whose decisions agree" not in page.text
    assert "nan" not in page.text.lower().split()


def test_another_class_is_said_to_be_another(read_page: Callable[[str], Any]) -> None:
    model, images = wb.load("sample:digits-lenet"), wb.sample_data("digits", n=1)
    predicted = int(model(images.images).argmax())
    page = read_page(make(model, images, target=(predicted + 1) % 10, attack=False))
    assert f"Explained is {(predicted + 1) % 10} ; the model answers {predicted} ." in page.text.replace("  ", " ") or (
        f"Explained is {(predicted + 1) % 10}; the model answers {predicted}." in page.text
    )
    assert f"behind {predicted}" in page.text
    assert "is for predicted classes" in page.text
    assert f"target={(predicted + 1) % 10}" in page.code("python-call")


def test_many_images_are_cut_and_say_so(small_net: Any, some_images: Any, read_page: Callable[[str], Any]) -> None:
    page = read_page(make(small_net(), some_images(26), attack=False))
    assert "The first 24 of 26 images are shown" in page.text
    assert len(page.classed("system")) == 24
    assert len(page.classed("meter")) == 26


def test_images_that_cannot_be_seen_are_refused(small_net: Any, some_images: Any) -> None:
    with pytest.raises(OptionError, match="cannot be shown"):
        make(small_net(channels=2, input_size=(2, 16, 12), preset={"mean": (0.5, 0.5), "std": (0.5, 0.5)}), some_images(1, 2), attack=False)  # fmt: skip # noqa: E501


def test_the_call_on_the_page_runs(digits: str, read_page: Callable[[str], Any]) -> None:
    names: dict[str, Any] = {}
    exec(read_page(digits).code("python-call"), names)
    assert len(names["found"]) == 3


WINDOWS = [
    {"viewport": {"width": 1280, "height": 800}},
    pytest.param({"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}, marks=pytest.mark.slow),
]


@pytest.mark.browser
@pytest.mark.parametrize("window", WINDOWS, ids=["desktop", "dark phone"])
def test_a_browser_draws_it_offline_without_a_word(chromium: Any, tmp_path: Path, window: dict[str, Any]) -> None:
    images = wb.sample_data("shapes", n=2)
    model = wb.load("sample:shapes-vgg", classes=[*HOSTILE, *images.classes[3:]])
    path = tmp_path / "index.html"
    path.write_text(make(model, ImageSet.of(images.images, images.labels, HOSTILE[:2]), attack=False))
    context = chromium.new_context(**window)
    context.set_offline(True)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda call: asked.append(call.url) if call.url.startswith(("http", "ws", "file")) else None)
    page.goto(path.as_uri())
    page.locator("[data-figure='0']").scroll_into_view_if_needed()
    page.wait_for_selector("[data-figure='0'] .live svg.main-svg .barlayer path", state="attached")
    assert page.locator("[data-figure='0'] .static").is_hidden()
    assert page.evaluate("window.run") is None
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert said == []
    assert asked == [path.as_uri()]
    context.close()
