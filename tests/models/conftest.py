from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from workbench.models import _reader, convert
from workbench.models.meta import build_torchvision


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """``save(obj, name="m.pth")`` writes a checkpoint as torch.save would and returns its path."""

    def write(obj: Any, name: str = "model.pth", **options: Any) -> Path:
        buffer = io.BytesIO()
        torch.save(obj, buffer, **options)
        path = tmp_path / name
        path.write_bytes(buffer.getvalue())
        return path

    return write


@pytest.fixture
def reader_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare each test the start of a child process; that the child is isolated is test_convert's subject."""
    monkeypatch.setattr(_reader, "limit_resources", lambda _size: None)
    monkeypatch.setattr(convert, "_run_reader", lambda path, target, *_: _reader.main(str(path), str(target)))


@pytest.fixture
def small_resnet() -> ResNet:
    """An unnamed family member that builds in milliseconds."""
    torch.manual_seed(0)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7).eval()


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fill a network built on the meta device with weights that make every layer matter."""
    generator = torch.Generator().manual_seed(seed)
    network = network.to_empty(device="cpu")
    fresh = network.state_dict()  # with the versions that some modules insist on
    for key, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            fresh[key] = torch.zeros_like(tensor) if tensor.ndim == 0 else tensor
        elif key.endswith("running_var"):
            fresh[key] = torch.rand(tensor.shape, generator=generator) + 0.5
        else:
            fan_in = max(tensor[0].numel(), 1) if tensor.ndim > 1 else 1
            fresh[key] = torch.randn(tensor.shape, generator=generator) / fan_in**0.5
    network.load_state_dict(fresh)
    return network.eval()


@pytest.fixture
def random_network() -> Callable[..., nn.Module]:
    """``random_network("resnet18", num_classes=7)``: a torchvision classifier with random weights and statistics."""

    def make(name: str, **options: Any) -> nn.Module:
        integers = {  # index tables are computed by constructors, not learnt: take them from a real construction
            key: tensor
            for key, tensor in build_torchvision(name, **options).state_dict().items()
            if not tensor.is_floating_point() and tensor.device.type == "cpu"
        }
        network = randomise(build_torchvision(name, **options))
        state = network.state_dict()
        state.update(integers)
        network.load_state_dict(state)
        return network

    return make
