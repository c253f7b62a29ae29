"""The page "Attack" in a real browser: a photo of one's own, an attack that is stopped, and one that ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

import workbench as wb

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import BrowserContext, Locator

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE = 60_000  # milliseconds, for whatever computes or starts


def choose(page: Page, what: str, option: str) -> None:
    page.get_by_role("combobox", name=what, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_a_photo_is_attacked_with_progress_and_cancel(
    context: BrowserContext, server: str, start_and_cancel: Callable[[Locator], None], tmp_path: Path
) -> None:
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server}/attack?model=shapes-resnet&images=shapes&n=1")
    expect(page.get_by_role("img", name="shapes/test/0/0, attacked, seen as")).to_be_visible(timeout=PATIENCE)
    choose(page, "Images", "Upload photos")
    photo = wb.sample_photos()[0]
    uploader = page.get_by_test_id("stFileUploader").filter(has_text="Photos")
    uploader.locator("input[type=file]").set_input_files(photo)
    expect(page.get_by_text("have changed since this was made")).to_be_visible(timeout=PATIENCE)
    # With so small a budget it takes thousands of passes; Cancel ends it.
    choose(page, "Attack", "Square")
    budget = page.get_by_role("spinbutton", name="Budget, in steps of 1/255")
    budget.fill("0.25")
    budget.press("Enter")
    start = page.get_by_role("button", name="Attack: at most 5,004 forward passes")
    expect(start).to_be_enabled(timeout=PATIENCE)
    start_and_cancel(start)
    expect(page.get_by_text("Attacking was stopped before it finished")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("progressbar")).to_have_count(0)
    # The next one runs to its end.
    choose(page, "Attack", "DDN · looks for the nearest")
    page.get_by_role("button", name="Attack: at most").click()
    expect(page.get_by_role("img", name=f"{photo.name}, attacked, seen as")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("Fooled:")).to_be_visible()
    expect(page.get_by_role("img", name=f"Saliency map of {photo.name} after the attack")).to_be_visible(
        timeout=PATIENCE
    )
    # While a page is drawn anew, what it showed before stays below; a click then meets two of everything.
    download = page.get_by_role("button", name="Download picture")
    expect(download).to_have_count(1, timeout=PATIENCE)
    with page.expect_download() as picture:
        download.click()
    picture.value.save_as(tmp_path / "attacked.png")
    with page.expect_download() as tensor:
        page.get_by_role("button", name="Download tensor (NumPy)").click()
    tensor.value.save_as(tmp_path / "attacked.npy")
    pixels = np.load(tmp_path / "attacked.npy")
    shown = np.asarray(Image.open(tmp_path / "attacked.png"))
    np.testing.assert_array_equal(shown, (np.moveaxis(pixels, 0, -1) * 255).round())
    assert errors == []
