"""Shared by all tests: a private cache, one thread, no network."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)  # the suite runs one process per core


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted checkpoints of the tests go into a folder of their own."""
    before = os.environ.get("WORKBENCH_CACHE")
    os.environ["WORKBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("WORKBENCH_CACHE")
    if before is not None:
        os.environ["WORKBENCH_CACHE"] = before
