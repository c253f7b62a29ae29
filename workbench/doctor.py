"""``workbench doctor``: is this installation able to do its job, and if not, what is missing?"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
import time
from dataclasses import dataclass

_PACKAGES = (
    "torch",
    "torchvision",
    "safetensors",
    "pillow",
    "plotly",
    "streamlit",
    "pandas",
    "scikit-learn",
    "foolbox",
)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, what was found, whether that is good, and what to do if not."""

    name: str
    found: str
    ok: bool = True
    fix: str = ""


def checkup() -> list[Check]:
    """Look at versions, devices, disk and cache, and run a small model end to end (about two seconds)."""
    return [
        Check(
            "python",
            platform.python_version(),
            sys.version_info >= (3, 11),
            "" if sys.version_info >= (3, 11) else "Use 3.11.",
        ),
        *(_package(name) for name in _PACKAGES),
        _torch(),
        _cache(),
        _browser(),
        _self_test(),
    ]


def browser() -> str | None:
    """Return the path of Chromium or Chrome, which only the project's own tests need."""
    return next((path for name in _BROWSERS if (path := shutil.which(name))), None)


def _package(name: str) -> Check:
    try:
        return Check(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "not installed", False, f"pip install {name}")


def _torch() -> Check:
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found = ", ".join(devices) if devices else f"CPU only, {torch.get_num_threads()} threads"
    return Check("device", found)


def _cache() -> Check:
    from .models.convert import cache_folder

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("cache", f"{folder}: {error}", False, "Set WORKBENCH_CACHE to a folder that can be written.")
    used = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    fix = "" if free > 2**30 else "Free some disk space, or set WORKBENCH_CACHE to another disk."
    return Check("cache", f"{folder}, {used / 2**20:.0f} MiB used, {free / 2**30:.1f} GiB free", free > 2**30, fix)


def _browser() -> Check:
    return Check("browser for tests", browser() or "none: browser tests would be skipped (apt-get install chromium)")


def _self_test() -> Check:
    import attacks
    import explain

    from . import load, sample_data

    begin = time.perf_counter()
    try:
        model, images = load("sample:digits-lenet"), sample_data("digits", n=8)
        assert images.labels is not None
        explain.explain(model, images.images, methods=("gradcam++", "guided_backprop"))
        attacks.attack(model, images.images, images.labels, "pgd", epsilon=0.1)
    except Exception as error:  # whatever it is, this is the place to show it
        return Check("self-test", f"{type(error).__name__}: {error}", False, "Install the workbench again.")
    return Check("self-test", f"explained and attacked 8 images in {time.perf_counter() - begin:.1f} s")
