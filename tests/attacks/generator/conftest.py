"""A generator trained for a few seconds against the digits network, and hand-made ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import attacks
from attacks import MultiTargetGenerator


@pytest.fixture(scope="session")
def unseen() -> tuple[torch.Tensor, torch.Tensor]:
    """Digits to learn from: the fixture ``digits`` holds others."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))[:1400]
    return torch.tensor(data.images / 16, dtype=torch.float32)[order, None], torch.tensor(data.target)[order]


@pytest.fixture(scope="session")
def trained(digits, unseen) -> MultiTargetGenerator:
    """Towards all ten classes, within 0.3."""
    return attacks.train_generator(digits.model, *unseen, epsilon=0.3, steps=250, width=16, blocks=1, seed=0)


@pytest.fixture
def made() -> Callable[..., MultiTargetGenerator]:
    """A generator whose change is the same for all pixels: ``tanh(bias)`` times the budget, whatever image and target."""

    def make(
        bias: float, channels: int = 3, classes: int = 5, epsilon: float = 8 / 255, **options
    ) -> MultiTargetGenerator:
        generator = MultiTargetGenerator(channels, classes, epsilon, width=4, blocks=1, embedding=4, **options).eval()
        with torch.no_grad():
            generator.head.weight.zero_()
            generator.head.bias.fill_(bias)
        return generator.requires_grad_(False)

    return make


class Sums(nn.Module):
    """Two classes by the mean of the pixels: at least ``threshold`` is class 1."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead = 50 * (x.mean((1, 2, 3)) - self.threshold)
        return torch.stack([-lead, lead], 1)
