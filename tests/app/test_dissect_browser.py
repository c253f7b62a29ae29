"""The page "Dissect" in a real browser: a click on a unit in the chart, Cancel, and going to another page and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

import explain
import workbench as wb

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import BrowserContext, Locator

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE = 60_000  # milliseconds, for whatever computes or starts
# Where the mark of a unit is in the window: plotly names no marks, but knows their places.
PLACE = """(chart, unit) => {
  const box = chart.getBoundingClientRect(), {xaxis, yaxis} = chart._fullLayout;
  for (const trace of chart._fullData) {
    const i = Array.from(trace.customdata || []).indexOf(unit);
    if (i >= 0)
      return [box.x + xaxis._offset + xaxis.l2p(trace.x[i]), box.y + yaxis._offset + yaxis.l2p(trace.y[i])];
  }
}"""


def settle(page: Page) -> None:
    """Wait until the page is drawn to its end."""
    expect(page.get_by_role("button", name="Download concepts")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning", timeout=PATIENCE)


def test_a_click_on_a_unit_shows_its_pictures(context: BrowserContext, server: str) -> None:
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server}/dissect?model=digits-lenet&images=digits&n=2")
    expect(page.get_by_role("heading", name="What does each unit look for?")).to_be_visible(timeout=PATIENCE)
    settle(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    model = wb.load("sample:digits-lenet")
    one = explain.dissect(model, wb.read_probe("shapes", model, n=300), ("relu1", "relu2"))["relu2"]
    best, *others = one.best.argsort(descending=True, stable=True).tolist()
    unit = next(unit for unit in others if one.concept[unit] != one.concept[best])
    expect(page.get_by_role("img", name=f"where unit {best} is active")).to_have_count(9, timeout=PATIENCE)
    figure = page.get_by_role("figure", name="Best IoU of the 50 units of relu2")
    figure.scroll_into_view_if_needed()
    x, y = figure.locator(".js-plotly-plot").evaluate(PLACE, unit)
    page.mouse.move(x, y)
    expect(figure.locator(".hoverlayer")).to_contain_text(f"unit {unit}:")
    page.mouse.click(x, y)
    pictures = page.get_by_role("img", name=f"where unit {unit} is active")
    expect(pictures).to_have_count(9, timeout=PATIENCE)
    expect(page.get_by_role("table", name=f"The best concepts of unit {unit}.")).to_be_visible()
    expect(pictures.first).to_have_js_property("naturalWidth", 256, timeout=PATIENCE)  # it was sent and decoded
    assert errors == []


def test_cancel_leaves_no_trace_and_choices_outlive_a_visit_to_another_page(
    context: BrowserContext, server: str, start_and_cancel: Callable[[Locator], None]
) -> None:
    page = context.new_page()
    page.goto(f"{server}/dissect?model=shapes-mobilenet&images=shapes&n=1")
    settle(page)
    start = page.get_by_role("button", name="Remove each of")
    start_and_cancel(start)
    expect(page.get_by_text("Removing units was stopped before it finished")).to_be_visible(timeout=PATIENCE)
    expect(start).to_be_enabled()
    page.get_by_text("a rotated basis", exact=True).click()
    stale = page.get_by_text("have changed since this was made")
    expect(stale).to_be_visible(timeout=PATIENCE)
    page.get_by_role("link", name="Linear").click()
    expect(page.get_by_role("heading", name="What adds up to the answer?")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("link", name="Dissect").click()
    expect(stale).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("checkbox", name="a rotated basis")).to_be_checked()
