"""The page "Explain" in a real browser: what only a browser can tell. Synchronised on what a person sees, never on time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

import workbench as wb

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import BrowserContext, Locator

pytestmark = pytest.mark.browser

PATIENCE = 60_000  # milliseconds, for whatever computes or starts
HOSTILE = "<img src=x onerror=document.title=1> [l](http:evil.example) www.evil.example.pth"


def choose(page: Page, what: str, option: str) -> None:
    """Pick an option in the sidebar."""
    page.get_by_role("combobox", name=what, exact=True).click()
    page.get_by_role("option", name=option).click()


def upload(page: Page, what: str, label: str, file: Any) -> None:
    """Choose to upload in the sidebar, and hand a file to the uploader once the page asks for it."""
    choose(page, what, "Upload")
    expect(page.get_by_text("in the sidebar", exact=False)).to_be_visible(timeout=PATIENCE)
    uploader = page.get_by_test_id("stFileUploader").filter(has_text=label)
    uploader.locator("input[type=file]").set_input_files(file)


def expect_first_picture(page: Page) -> None:
    """Wait for the maps that come without a click."""
    expect(page.get_by_role("img", name="Grad-CAM++ map of shapes/test/0/0 for")).to_be_visible(timeout=PATIENCE)


def test_a_first_picture_comes_without_an_upload(context: BrowserContext, server: str) -> None:
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server)
    expect(page.get_by_role("heading", name="Why does it decide so?")).to_be_visible(timeout=PATIENCE)
    expect_first_picture(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    picture = page.get_by_role("img", name="Saliency map of shapes/test/0/0 for")
    box = picture.bounding_box()
    assert box is not None and box["y"] < 900, "seen without scrolling"
    expect(picture).to_have_js_property("naturalWidth", 256, timeout=60_000)  # it was sent and decoded
    assert errors == []


@pytest.mark.slow
def test_an_unknown_checkpoint_and_a_photo_give_a_map(page: Page, files: Path) -> None:
    expect_first_picture(page)
    upload(page, "Model", "Checkpoint", files / "unknown.pth")
    expect(page.get_by_text("10 classes")).to_be_visible(timeout=PATIENCE)
    photo = wb.sample_photos()[0]
    upload(page, "Images", "Photos", photo)
    page.get_by_role("button", name="Run: 1 forward and 2 backward passes for 1 image", exact=True).click()
    expect(page.get_by_role("img", name=f"Grad-CAM++ map of {photo.name} for")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("have changed since")).to_have_count(0)


@pytest.mark.slow
def test_a_hostile_pickle_is_refused_and_its_payload_does_not_run(page: Page, files: Path) -> None:
    expect_first_picture(page)
    title = page.title()
    data = (files / "hostile.pth").read_bytes()
    upload(page, "Model", "Checkpoint", {"name": HOSTILE, "mimeType": "application/octet-stream", "buffer": data})
    refusal = page.get_by_role("alert")
    expect(refusal).to_contain_text("For safety only tensors are read", timeout=PATIENCE)
    assert not (files / "ran").exists(), "the payload ran"
    # The name is shown as it is: no picture, no link, no script.
    assert HOSTILE in refusal.inner_text().replace("\N{WORD JOINER}", "")
    expect(refusal.locator("a")).to_have_count(0)
    expect(page.locator("img[src=x]")).to_have_count(0)
    assert page.title() == title
    # The server lives: this session goes on with a sample.
    choose(page, "Model", "Digits MLP")
    page.get_by_role("button", name="Run: 1 forward and 2 backward passes for 8 images").click()
    expect(page.get_by_role("img", name="Saliency map of digits/").first).to_be_visible(timeout=PATIENCE)


@pytest.mark.slow
def test_the_report_opens_offline(page: Page, context: BrowserContext, server: str, tmp_path: Path) -> None:
    page.goto(f"{server}/?model=digits-lenet&images=digits&n=2")
    page.get_by_role("button", name="Measure robustness").click(timeout=PATIENCE)
    expect(page.get_by_text("All sanity checks of the attacks passed")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible(timeout=PATIENCE)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the report").click()
    file = tmp_path / "report.html"
    download.value.save_as(file)

    requests: list[str] = []
    context.set_offline(True)
    report = context.new_page()
    report.on("request", lambda request: requests.append(request.url))
    report.goto(file.as_uri())
    expect(report.locator(".main-svg").first).to_be_visible(timeout=PATIENCE)
    expect(report.get_by_text("sample:digits-lenet").first).to_be_visible()
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_cancel_stops_the_job_and_leaves_no_trace(
    page: Page, server: str, start_and_cancel: Callable[[Locator], None]
) -> None:
    page.goto(f"{server}/?n=24")  # enough to be at it for a while
    expect_first_picture(page)
    start_and_cancel(page.get_by_role("button", name="Measure robustness"))
    expect(page.get_by_text("Measuring robustness was stopped before it finished")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("progressbar")).to_have_count(0)
    expect(page.get_by_role("button", name="Measure robustness")).to_be_enabled()
    # The session goes on: what was there is there, and the next job runs to its end.
    expect_first_picture(page)
    page.get_by_text("DeconvNet", exact=True).click()
    page.get_by_role("button", name="Run: 1 forward and 3 backward").click()
    expect(page.get_by_role("img", name="DeconvNet map of shapes/test/0/0 for")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("was stopped before it finished")).to_have_count(0)


@pytest.mark.slow
def test_two_tabs_do_not_mix(context: BrowserContext, server: str, files: Path) -> None:
    one, other = context.new_page(), context.new_page()
    one.goto(f"{server}/?model=shapes-vgg&images=shapes&n=1")
    other.goto(f"{server}/?model=digits-lenet&images=digits&n=1")
    expect_first_picture(one)
    expect(other.get_by_role("img", name="Saliency map of digits/")).to_have_count(1, timeout=PATIENCE)
    upload(one, "Model", "Checkpoint", files / "unknown.pth")
    expect(one.get_by_text("resnet (basic, 1-1-1-1)")).to_be_visible(timeout=PATIENCE)
    # A click in the other tab redraws it: still its own model, its own images, and nothing of the first one's.
    other.get_by_text("DeconvNet", exact=True).click()
    expect(other.get_by_role("button", name="Run: 1 forward and 3 backward")).to_be_visible(timeout=PATIENCE)
    expect(other.get_by_text("sample:digits-lenet").first).to_be_visible()
    expect(other.get_by_text("resnet")).to_have_count(0)
