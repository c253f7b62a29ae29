"""The small networks, as fixtures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load(name: str) -> ModuleType:
    """Import a file beside this one; the tests are no package."""
    name, path = f"linear_{name}", Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_WHOLE = _load("whole")
_CATALOGUE = _load("networks")
NETWORKS: dict[str, Any] = _CATALOGUE.catalogue(_load("blocks"), _WHOLE)
GATED = {name: network for name, network in NETWORKS.items() if network.gate}
BATCHED = {name: network for name, network in NETWORKS.items() if network.count > 1}


@pytest.fixture(params=list(NETWORKS.values()), ids=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> Any:
    """Every small network in turn."""
    return request.param


@pytest.fixture(params=list(GATED.values()), ids=list(GATED))
def gated(request: pytest.FixtureRequest) -> Any:
    """Every network of which secant mode freezes everything."""
    return request.param


@pytest.fixture(params=list(BATCHED.values()), ids=list(BATCHED))
def batched(request: pytest.FixtureRequest) -> Any:
    """Every network that treats each image of a batch by itself."""
    return request.param


@pytest.fixture
def networks() -> dict[str, Any]:
    """All small networks by name."""
    return NETWORKS


@pytest.fixture
def drawing() -> Any:
    """A network that draws random numbers in evaluation mode."""
    return _CATALOGUE.Network("Monte Carlo dropout", _WHOLE.Drawn, count=3)
