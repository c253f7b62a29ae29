"""Networks whose answer is known, a small trained one, and a way to see whether a model was touched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Linear(nn.Module):
    """Two classes apart by ``w.x + b``; the distance to the boundary is known in closed form."""

    def __init__(self, shape: tuple[int, int, int], seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.w = nn.Parameter(w)
        self.b = nn.Parameter(-0.5 * w.sum())

    def margin(self, x: torch.Tensor) -> torch.Tensor:
        """``w.x + b`` per image."""
        return (x.double() * self.w.detach()).flatten(1).sum(1) + self.b.detach()

    def distance(self, x: torch.Tensor, norm: str) -> torch.Tensor:
        """Distance to the boundary where the box is out of reach: the margin over the dual norm of w."""
        w = self.w.detach()
        dual = w.abs().sum() if norm == "linf" else w.norm()
        return self.margin(x).abs() / dual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = (x * self.w).flatten(1).sum(1) + self.b
        return torch.stack([-margin, margin], 1) / 2


class Case(NamedTuple):
    """A model with images and their true classes."""

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor


@pytest.fixture
def linear() -> Callable[..., Case]:
    """Linear two-class nets with n correctly classified images around the boundary, far from the faces of the box."""

    def make(n: int = 60, shape: tuple[int, int, int] = (3, 5, 7), seed: int = 0) -> Case:
        model = Linear(shape, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        images = 0.5 + 0.1 * (torch.rand(n, *shape, generator=generator) - 0.5)
        images = images + 0.1 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5) * model.w.detach().sign().float()
        return Case(model, images, (model.margin(images) > 0).long())

    return make


@pytest.fixture(scope="session")
def digits() -> Case:
    """A CNN trained for two seconds on 8x8 digits, with 300 images that it has not seen."""
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 16, 10)),
        )
        optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
        for _ in range(6):
            for batch in torch.randperm(1400).split(64):
                optimiser.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimiser.step()
    model.eval()
    return Case(model, images[1400:1700], labels[1400:1700])


@pytest.fixture
def fingerprint() -> Callable[[nn.Module], str]:
    """Digest of all that an attack must leave alone: values, flags, gradients, hooks, and the global random state."""

    def take(model: nn.Module) -> str:
        sha = hashlib.sha256(torch.get_rng_state().numpy().tobytes())
        for name, module in model.named_modules():
            hooks = [len(value) for key, value in sorted(vars(module).items()) if key.endswith("hooks")]
            sha.update(repr((name, id(module), module.training, hooks, sorted(vars(module)))).encode())
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            state = (name, id(tensor), tensor.requires_grad, tensor.grad is None, tensor._version)
            sha.update(repr(state).encode() + tensor.detach().numpy().tobytes())
        return sha.hexdigest()

    return take
