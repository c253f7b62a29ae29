"""The page "Generate" in a real browser: drag over classes, see all of them, stop a training and go on with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE = 60_000  # milliseconds, for whatever computes or starts


def settled(page: Page) -> None:
    """Wait until the page is drawn: while it is drawn anew, what it showed before stays."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning", timeout=PATIENCE)


def test_a_person_drags_over_classes_and_trains(
    context: BrowserContext, server: str, start_and_cancel: Callable[[Locator], None], tmp_path: Path
) -> None:
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server}/generate?model=digits-lenet&n=2")
    expect(page.get_by_role("img", name="version for 9, seen as")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("img", name="version for")).to_have_count(10)
    slider = page.get_by_test_id("stSlider").filter(has_text="Make it see").get_by_role("slider")
    slider.focus()
    page.keyboard.press("End")
    expect(page.get_by_role("img", name="to 9, magnified").first).to_be_visible(timeout=PATIENCE)
    settled(page)
    with page.expect_download() as file:
        page.get_by_role("button", name="Download all (NumPy)").click()
    file.value.save_as(tmp_path / "versions.npz")
    assert np.load(tmp_path / "versions.npz")["images"].shape == (10, 1, 8, 8)
    # A training that is stopped goes on from where it was.
    steps = page.get_by_role("spinbutton", name="Steps", exact=True)
    steps.fill("60")
    steps.press("Enter")
    start = page.get_by_role("button", name="Train: 3,840 pictures")
    expect(start).to_be_enabled(timeout=PATIENCE)
    start_and_cancel(start)
    expect(page.get_by_text("what was learnt is kept: the same choices go on from there")).to_be_visible(
        timeout=PATIENCE
    )
    expect(page.get_by_role("progressbar")).to_have_count(0)
    start.click()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(1, timeout=PATIENCE)
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0, timeout=PATIENCE)
    chosen = page.get_by_role("combobox", name="Generator")
    expect(chosen).to_have_value("sample:digits-lenet, 76.5/255, 60 steps", timeout=PATIENCE)
    assert errors == []
