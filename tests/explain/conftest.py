"""Small networks in every style that people write, and an independent account of what a model looks like from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ModuleNet(nn.Module):
    """Module style: in-place ReLU modules, one of them used twice, batch normalisation, a skip connection."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 12, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        x = self.relu(self.norm(self.conv(x)) + x)
        x = self.relu(self.last(x))
        return self.head(self.drop(x.mean((2, 3))))


class FunctionalNet(nn.Module):
    """Functional style: no ReLU module at all, every way of calling ReLU, a ReLU6, a skip around a ReLU."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv4 = nn.Conv2d(8, 12, 3, padding=1)
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x), inplace=True)
        y = self.conv2(F.max_pool2d(x, 2))
        y = y + torch.relu(y)
        y = F.relu6(3 * self.conv3(y)).relu()
        y = F.relu(self.conv4(y))
        return self.fc(torch.relu_(y.mean((2, 3))))


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch normalisation statistics and shifts that are not the neutral ones of a fresh network."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return model


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the process that a call must leave as it was."""
    seen: dict[str, Any] = {"rng": torch.get_rng_state().tolist(), "grad mode": torch.is_grad_enabled()}
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            grad = None if tensor.grad is None else tensor.grad.tolist()
            seen[f"{kind} {name}"] = (id(tensor), tensor.data_ptr(), tensor.tolist(), tensor.requires_grad, grad)
    for name, module in model.named_modules():
        hooks = {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks")}
        flags = {key: value for key, value in vars(module).items() if isinstance(value, bool)}
        seen[f"module {name}"] = (id(module), type(module), sorted(vars(module)), hooks, flags)
    return seen


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def module_net() -> Callable[..., nn.Module]:
    """Builder of the module-style network."""
    return lambda **options: randomise(ModuleNet(**options))


@pytest.fixture
def functional_net() -> Callable[..., nn.Module]:
    """Builder of the functional-style network."""
    return FunctionalNet


@pytest.fixture
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Function that randomises batch normalisation."""
    return randomise


@pytest.fixture
def look() -> Callable[[nn.Module], dict[str, Any]]:
    """Function that takes a model's fingerprint."""
    return fingerprint
