"""A real browser opens the report from disk with the network gone: it draws, decodes, asks for nothing, and is quiet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import workbench as wb
from workbench.images import ImageSet

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose names try to run code."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    images = wb.sample_data("shapes", n=3)
    hostile = (
        "<script>window.run=1</script>",
        "\"><img src=x onerror='window.run=1'>",
        "</script><script>window.run=1",
    )
    model = wb.load("sample:shapes-vgg", classes=[*hostile, *images.classes[3:]])
    wb.report(model, ImageSet.of(images.images, images.labels, hostile), path, epsilons=(4 / 255, 8 / 255))
    return path


@pytest.fixture
def opened(chromium: Any, written: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The page in a window without a network, with what it said on the console and what it asked for."""
    context = chromium.new_context(**getattr(request, "param", {}))
    context.set_offline(True)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda call: asked.append(call.url) if call.url.startswith(("http", "ws", "file")) else None)
    page.goto(written.as_uri())
    yield page, said, asked
    context.close()


WINDOWS = [
    {"viewport": {"width": 1280, "height": 800}},
    pytest.param({"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("opened", WINDOWS, indirect=True, ids=["desktop", "dark phone"])
def test_it_draws_offline_without_a_word(opened: tuple[Any, list[str], list[str]], written: Path) -> None:
    page, said, asked = opened
    page.wait_for_selector("#curve .live svg.main-svg .scatterlayer path.js-line", state="attached")
    assert page.locator("#curve .static").is_hidden()
    pictures = page.evaluate("Promise.all([...document.images].map(async i => (await i.decode(), i.naturalWidth)))")
    assert len(pictures) >= 3 * 6
    assert min(pictures) >= 64
    assert page.evaluate("window.run") is None
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert said == []
    assert asked == [written.as_uri()]


@pytest.mark.parametrize("opened", WINDOWS, indirect=True, ids=["light", "dark"])
def test_text_stands_out_from_its_background(opened: tuple[Any, list[str], list[str]]) -> None:
    page, _, _ = opened

    def luminance(colour: str) -> float:
        values = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def colour(selector: str, name: str = "color") -> float:
        return luminance(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}"))

    background = colour("body", "backgroundColor")
    for selector in ("h1", ".muted", ".good", "a", ".eyebrow", "dt"):
        lighter, darker = sorted((colour(selector), background), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, selector  # WCAG 2 AA


@pytest.mark.parametrize("opened", [{"permissions": ["clipboard-read", "clipboard-write"]}], indirect=True, ids=[""])
def test_the_call_can_be_copied(opened: tuple[Any, list[str], list[str]]) -> None:
    page, _, _ = opened
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#python-call").text_content()


@pytest.mark.parametrize("opened", [{"java_script_enabled": False}], indirect=True, ids=[""])
def test_without_scripts_the_static_drawing_stays(opened: tuple[Any, list[str], list[str]]) -> None:
    page, _, _ = opened
    assert page.locator("#curve .static svg").is_visible()
    assert page.locator("#curve .live").is_hidden()
    assert page.get_by_role("button").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("opened", [{}], indirect=True, ids=[""])
def test_on_paper_the_static_drawing_takes_over(opened: tuple[Any, list[str], list[str]]) -> None:
    page, _, _ = opened
    page.wait_for_selector("#curve .live svg.main-svg")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#curve .static svg").is_visible()
    assert page.locator("#curve .live").is_hidden()
    assert page.locator("nav").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.slow
def test_the_lite_page_draws_too(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "lite.html"
    images = ImageSet.of(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    wb.report("sample:shapes-vgg", images, path, epsilons=(8 / 255,), lite=True)
    page = chromium.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    assert page.locator("#curve .static svg").is_visible()
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert said == []
    page.close()
