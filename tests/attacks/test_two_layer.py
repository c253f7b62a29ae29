"""Every minimal attack on two-layer ReLU networks whose boundary bends, and whose nearest point is known in closed form.

With linear pieces ``u_k = a_k.x + b_k`` two layers can state

- "or": class 1 leads by ``max(u_1, u_2) = u_1 + relu(u_2 - u_1)``, and class 2 by ``|u_3| - c``. Class 0 owns a convex
  polytope, so the nearest way out is through the nearest of its four facets. All a_k are one vector with its numbers
  shuffled: they are equally long in every norm, so that the facet nearest in value is nearest in distance.
- "and": class 1 leads by ``min(u_1, u_2) = u_1 - relu(u_1 - u_2)``, where u_1 sees the left half of an image and u_2 the
  right one. Both must rise to zero, each in its own half, so the nearest way is the nearest way to each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

import attacks

SHAPE, SIZE, N = (1, 4, 6), 24, 12
CALLS = [(name, norm) for name, attack in attacks.ATTACKS.items() if attack.minimal for norm in attack.norms]
# FAB's pull towards the image undoes one half while the step makes up for the other: it can close in from outside forever.
MISSES = {("fab", "l1"), ("fab-t", "l1")}


class Bent(NamedTuple):
    """A network that takes all images for class 0, and how far they are from leaving it, per norm."""

    model: nn.Module
    images: torch.Tensor
    distance: Callable[[str], torch.Tensor]


def network(first: torch.Tensor, bias: torch.Tensor, second: torch.Tensor, constant: torch.Tensor) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIZE, len(first)), nn.ReLU(), nn.Linear(len(first), len(second)))
    for layer, weight, shift in ((model[1], first, bias), (model[3], second, constant)):
        layer.weight.data, layer.bias.data = weight.double(), shift.double()
    return model


def images(generator: torch.Generator) -> torch.Tensor:
    return 0.5 + 0.1 * (torch.rand(N, *SHAPE, generator=generator) - 0.5)


def reach(a: torch.Tensor, short: torch.Tensor, x: torch.Tensor, norm: str) -> torch.Tensor:
    """Distance from which ``a.x`` gains ``short`` ``(n,)``, faces of the box out of reach except in l0."""
    if norm != "l0":
        return short / a.norm({"linf": 1, "l2": 2, "l1": torch.inf}[norm])
    room = torch.where(a > 0, 1 - x.flatten(1), x.flatten(1)).double()
    gains = (a.abs() * room).sort(1, descending=True).values.cumsum(1)
    return (gains < short.unsqueeze(1)).sum(1) + 1.0


def either() -> Bent:
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(SIZE, generator=generator).double()
    a = torch.stack([vector[torch.randperm(SIZE, generator=generator)] for _ in range(3)])
    b = torch.tensor([-0.6, -0.7, 0.1]) - 0.5 * a.sum(1)
    x, c = images(generator), 0.65
    mix = torch.tensor([[1, 0, 0], [-1, 0, 0], [-1, 1, 0], [0, 0, 1], [0, 0, -1]]).double()
    out = torch.tensor([[0, 0, 0, 0, 0], [1, -1, 1, 0, 0], [0, 0, 0, 1, 1]])
    model = network(mix @ a, mix @ b, out, torch.tensor([0, 0, -c]))
    u = x.double().flatten(1) @ a.T + b

    def distance(norm: str) -> torch.Tensor:
        facets = ((a[0], -u[:, 0]), (a[1], -u[:, 1]), (a[2], c - u[:, 2]), (-a[2], c + u[:, 2]))
        return torch.stack([reach(normal, short, x, norm) for normal, short in facets]).amin(0)

    return Bent(model, x, distance)


def both() -> Bent:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(2, *SHAPE, generator=generator).double()
    a[0, ..., 3:], a[1, ..., :3] = 0, 0
    a = a.flatten(1)
    b = torch.tensor([-0.5, -0.7]) - 0.5 * a.sum(1)
    x = images(generator)
    mix = torch.tensor([[1, 0], [-1, 0], [1, -1]]).double()
    model = network(mix @ a, mix @ b, torch.tensor([[0, 0, 0], [1, -1, -1]]), torch.zeros(2))
    u = x.double().flatten(1) @ a.T + b

    def distance(norm: str) -> torch.Tensor:
        halves = torch.stack([reach(a[k], -u[:, k], x, norm) for k in (0, 1)])
        return halves.norm({"linf": torch.inf, "l2": 2, "l1": 1, "l0": 1}[norm], dim=0)

    return Bent(model, x, distance)


@pytest.mark.parametrize("make", [either, both])
@pytest.mark.parametrize(("name", "norm"), CALLS)
def test_reaches_the_optimum(make, name, norm) -> None:
    model, x, distance = make()
    y = torch.zeros(N, dtype=torch.int64)
    assert model(x.double()).argmax(1).eq(0).all()
    options = {"steps": 100} if name == "cw" else {}  # for speed
    moved = attacks.ATTACKS[name].function(model, x, y, None, norm=norm, **options)
    broken = model(moved.double()).argmax(1) != 0
    assert broken.all() or ((name, norm) in MISSES and make is both and broken.sum() >= N - 1)
    found = (moved - x)[broken].double().flatten(1)
    found = found.norm({"linf": torch.inf, "l2": 2, "l1": 1, "l0": 0}[norm], dim=1)
    best = distance(norm)[broken]
    assert (found >= 0.9999 * best).all()
    assert (found <= (best + 1 if norm == "l0" else 1.05 * best)).all()
