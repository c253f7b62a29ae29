"""The page of a dissection: what it prints is what the tables say, and it is safe and quiet in a browser."""

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
from workbench.dissecting import Findings, investigate
from workbench.errors import OptionError
from workbench.probes import TensorProbe
from workbench.report.dissection_cards import MOST_UNITS
from workbench.report.dissection_page import dissection_page

HOSTILE = (
    "<script>window.run=1</script>",
    "\"><img src=x onerror='window.run=1'>",
    "</script><script>window.run=1",
)


@pytest.fixture(scope="module")
def found() -> Findings:
    probe = wb.read_probe("shapes", n=40)
    labels = wb.sample_data("shapes", n=40).labels
    return investigate(
        wb.load("sample:shapes-vgg"), probe, ["relu3", "relu6"], against={"random": None}, labels=labels, ablate=True,
        permutations=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(found: Findings) -> str:
    return dissection_page(found, sources=("sample:shapes-vgg", "shapes"), command="workbench dissect x").html


@pytest.fixture(scope="module")
def strange() -> Findings:
    """Whatever has a name has a bad one; one image is tiny and grey, and no unit detects anything."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 48, 2))
    model = wb.load(net, input_size=(1, 8, 6), name=HOSTILE[0], classes=HOSTILE[:2])
    labels = torch.randint(1, 4, (6, 1, 8, 6), generator=torch.Generator().manual_seed(0))
    probe = TensorProbe(torch.rand(6, 1, 8, 6), labels, HOSTILE, HOSTILE, [f"{HOSTILE[1]}{i}" for i in range(6)])
    return investigate(
        model,
        probe,
        ["1"],
        labels=torch.tensor([0, 1] * 3),
        ablate=True,
        attack=True,
        iou_threshold=0.9,
        permutations=0,
    )


def test_numbers_on_the_page_are_those_of_the_tables(
    found: Findings, whole: str, read_page: Callable[[str], Any]
) -> None:
    page = read_page(whole)
    last = found.dissection.summary().iloc[-1]
    assert f"{last['detectors']} of {last['units']} units of relu6 detect a concept; the commonest is" in page.text
    for row in found.dissection.summary().to_dict("records"):
        assert f"{row['detectors']} {row['detectors_low']:.0f} to {row['detectors_high']:.0f}" in page.text
        assert f"{row['mean_iou']:.3f} {row['mean_iou_low']:.3f} to {row['mean_iou_high']:.3f}" in page.text
    best = found.dissection.frame().query("layer == 'relu6'").sort_values("iou", ascending=False).iloc[0]
    said = f"IoU {best['iou']:.3f} [{best['low']:.3f} to {best['high']:.3f}] of at most {best['ceiling']:.2f}, p = "
    assert said in page.text
    assert "The same network, untrained: " in page.text
    assert "40 images are few" in page.text


def test_pictures_and_figures_are_all_there(found: Findings, whole: str, read_page: Callable[[str], Any]) -> None:
    page = read_page(whole)
    counts = [int(layer.detectors.sum()) for layer in found.dissection.values()]
    assert len(page.classed("unit")) == sum(min(count, MOST_UNITS) for count in counts)
    assert len(page.all("img")) == 6 * len(page.classed("unit"))
    assert all(attrs["alt"] and attrs["src"].startswith("data:image/webp") for attrs in page.all("img"))
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', whole, re.S)[1])  # type: ignore[index]
    numbers = [int(attrs["data-figure"]) for attrs in page.all("figure") if "data-figure" in attrs]
    assert numbers == list(range(len(figures))) == list(range(3 + 2 * 3 + 3))
    assert len(page.all("svg")) == len(figures)
    assert whole.count('id="plotly-gzip"') == 1
    assert len(whole) < 5_000_000
    assert not re.search(r'(src|href)="(?!data:|#|https://arxiv\.org/abs/1704\.05796)', whole)
    assert [attrs["id"] for attrs in page.all("section")] == [
        "overview", "terms", "layers", "concepts", "without", "method",
    ]  # fmt: skip
    opened = [("open" in attrs) for attrs in page.all("details")]
    assert opened == [True, False]


def test_the_call_on_the_page_runs_and_finds_the_same(
    found: Findings, whole: str, read_page: Callable[[str], Any]
) -> None:
    names: dict[str, Any] = {}
    exec(read_page(whole).code("python-call"), names)
    assert names["units"]["relu6"].both.equal(found.last.both)
    assert names["units"].provenance["probe_digest"] == found.dissection.provenance["probe_digest"]
    assert "workbench dissect x" in whole


def test_what_was_not_asked_for_leaves_nothing_empty(found: Findings, read_page: Callable[[str], Any]) -> None:
    bare = Findings(found.model, found.probe, found.dissection, {}, None, (), None, None, None, ("Not removed.",), 0)
    page = read_page(dissection_page(bare).html)
    assert "Without units" not in page.text
    assert "Not removed." in page.text
    assert "path/to/probe" in page.code("python-call")
    assert "Fill in where your files are" in page.text


def test_a_layer_that_detects_nothing_and_hostile_names(strange: Findings, read_page: Callable[[str], Any]) -> None:
    html = dissection_page(strange).html
    page = read_page(html)
    assert "No unit of 1 detects a concept" in page.text
    assert "No unit of this layer is a detector" in page.text
    assert "chance was not measured" in page.text
    assert len(page.all("script")) == 3
    assert all("onerror" not in attrs for attrs in page.all("img"))
    assert "nan" not in page.text.lower().split()


def test_images_that_cannot_be_seen_are_refused(found: Findings) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 6 * 4, 2))
    model = wb.load(net, input_size=(2, 8, 6), preset={"mean": (0.5, 0.5), "std": (0.5, 0.5)})
    probe = TensorProbe(torch.rand(3, 2, 8, 6), torch.ones(3, 1, 8, 6, dtype=torch.int64), ["a"], "thing")
    with pytest.raises(OptionError, match="cannot be shown"):
        dissection_page(investigate(model, probe, ["0"]))


WINDOWS = [
    {"viewport": {"width": 1280, "height": 800}},
    pytest.param({"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}, marks=pytest.mark.slow),
]


@pytest.mark.browser
@pytest.mark.parametrize("window", WINDOWS, ids=["desktop", "dark phone"])
def test_a_browser_draws_it_offline_without_a_word(
    chromium: Any, tmp_path: Path, strange: Findings, whole: str, window: dict[str, Any]
) -> None:
    context = chromium.new_context(**window)
    context.set_offline(True)
    for html in (dissection_page(strange).html, whole):
        path = tmp_path / "index.html"
        path.write_text(html)
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda call, asked=asked: asked.append(call.url) if "data:" not in call.url[:5] else None)
        page.goto(path.as_uri())
        page.locator("[data-figure='0']").scroll_into_view_if_needed()
        page.wait_for_selector("[data-figure='0'] .live svg.main-svg", state="attached")
        assert page.locator("[data-figure='0'] .static").is_hidden()
        assert page.evaluate("window.run") is None
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert said == []
        assert [url for url in asked if not url.startswith("blob:")] == [path.as_uri()]
    context.close()
