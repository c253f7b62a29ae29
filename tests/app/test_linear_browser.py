"""The page "Linear" in a real browser: clicks on pixels and pictures, and going back and forth between the pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import BrowserContext, Locator

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE = 60_000  # milliseconds, for whatever computes or starts


def click_pixel(page: Page, row: int, column: int, votes: bool = False) -> None:
    """Point at the middle of a pixel of an 8×8 picture, or of its vote map, and click once the chart says which it is."""
    pair = page.locator(".js-plotly-plot").first
    box = pair.locator(".imagelayer image").nth(int(votes)).bounding_box()
    assert box is not None
    place = box["x"] + (column + 0.5) * box["width"] / 8, box["y"] + (row + 0.5) * box["height"] / 8
    page.mouse.move(*place)
    expect(pair.locator(".hoverlayer")).to_contain_text(f"row {row}, column {column}")
    page.mouse.click(*place)


def settle(page: Page) -> None:
    """Wait until the page is drawn to its end."""
    expect(page.get_by_role("button", name="Download spectrum")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning", timeout=PATIENCE)


def test_a_click_on_a_pixel_and_on_a_picture(context: BrowserContext, server: str) -> None:
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server}/linear?model=digits-mlp&images=digits&n=2")
    expect(page.get_by_role("heading", name="What adds up to the answer?")).to_be_visible(timeout=PATIENCE)
    pair = page.get_by_role("figure", name="digits/test/527 and the votes of its pixels for 1")
    expect(pair.locator(".imagelayer image")).to_have_count(2, timeout=PATIENCE)
    expect(page.get_by_role("alert")).to_have_count(0)
    box = pair.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 900, "seen without scrolling"
    settle(page)
    row, column = page.get_by_label("Row", exact=True), page.get_by_label("Column", exact=True)
    for votes, place in ((False, (6, 2)), (True, (5, 4))):
        click_pixel(page, *place, votes)
        expect(page.get_by_role("figure", name=f"Votes of pixel {place}")).to_be_visible(timeout=PATIENCE)
        expect(row).to_have_value(str(place[0]))
        expect(column).to_have_value(str(place[1]))
    page.get_by_role("radio", name="digits/test/1474").click()
    expect(page.get_by_role("figure", name="digits/test/1474 and the votes")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("radio", name="digits/test/527").click()
    expect(page.get_by_role("figure", name="Votes of pixel (5, 4)")).to_be_visible(timeout=PATIENCE)
    assert errors == []


def test_cancel_leaves_no_trace_and_choices_outlive_a_visit_to_the_other_page(
    context: BrowserContext, server: str, start_and_cancel: Callable[[Locator], None]
) -> None:
    page = context.new_page()
    page.goto(f"{server}/linear?model=shapes-mobilenet&images=shapes&n=1")
    start = page.get_by_role("button", name="Attack this picture")
    expect(start).to_be_enabled(timeout=PATIENCE)
    start_and_cancel(start)
    expect(page.get_by_text("Attacking was stopped before it finished")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("progressbar")).to_have_count(0)
    expect(start).to_be_enabled()
    settle(page)
    page.get_by_text("Tangent", exact=True).click()
    stale = page.get_by_text("have changed since this was made")
    expect(stale).to_be_visible(timeout=PATIENCE)
    page.get_by_role("link", name="Explain").click()
    expect(page.get_by_role("img", name="Saliency map of shapes/test/0/0 for")).to_be_visible(timeout=PATIENCE)
    page.get_by_text("DeconvNet", exact=True).click()
    expect(page.get_by_role("button", name="Run: 1 forward and 3 backward")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("link", name="Linear").click()
    expect(stale).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("radio", name="Tangent")).to_be_checked()
    page.get_by_role("link", name="Explain").click()
    expect(page.get_by_role("checkbox", name="DeconvNet")).to_be_checked(timeout=PATIENCE)
