"""Checkpoints to upload, the app without a browser (AppTest), and the app in a real one (Chromium)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from streamlit.testing.v1 import AppTest

import workbench as wb

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

ROOT = Path(__file__).parents[2]


@pytest.fixture
def app() -> Callable[..., AppTest]:
    """Open the app in a new session, with these query parameters, and return it after its first run."""

    def open_app(**parameters: str) -> AppTest:
        test = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
        for name, value in parameters.items():
            test.query_params[name] = value
        return test.run()

    return open_app


class Payload:
    """Pickles to a call that creates the file ``marker``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what people upload: an honest checkpoint without a word on its architecture, and a hostile one.

    The hostile one would create ``ran`` in this folder.
    """
    folder = tmp_path_factory.mktemp("uploads")
    model = wb.load("sample:shapes-resnet")
    weights = {f"module.{key}": tensor for key, tensor in model.network.state_dict().items()}
    torch.save({"state_dict": weights, "classes": list(model.classes), "epoch": 3}, folder / "unknown.pth")
    torch.save({"state_dict": {"a": torch.zeros(3)}, "extra": Payload(folder / "ran")}, folder / "hostile.pth")
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``workbench serve`` on a free port, started somewhere else than in the repository; its address."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench", "serve", "--port", str(port)],
            cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            # As the tests themselves: threads of several processes on few cores spend their time waiting for each other.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(address, process, log)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.05)
    pytest.fail(f"the server did not answer: {log.read_text()}")


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser window of its own."""
    with chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True) as context:
        context.set_default_timeout(60_000)
        yield context


@pytest.fixture
def start_and_cancel() -> Callable[[Locator], None]:
    """Click on a button that starts a job, and on Cancel in the very moment in which it appears.

    A click by Playwright comes some frames later, when a short job may have ended.
    """

    def click(start: Locator) -> None:
        start.evaluate(
            """() => {
                const observer = new MutationObserver(() => {
                    const cancel = [...document.querySelectorAll("button")].find(one => one.innerText.includes("Cancel"));
                    if (cancel) { observer.disconnect(); cancel.click(); }
                });
                observer.observe(document.body, { childList: true, subtree: true });
            }"""
        )
        start.click()

    return click


@pytest.fixture
def page(context: BrowserContext, server: str) -> Page:
    """The app, just opened by a link to a single image."""
    page = context.new_page()
    page.goto(f"{server}/?n=1")
    return page
