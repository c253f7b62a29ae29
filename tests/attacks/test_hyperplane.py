"""Projections onto hyperplanes within the box against other solvers; and attacks where the boundary is made of them."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from attacks._ball import distance, length
from attacks._hyperplane import nearest_on_hyperplane
from attacks._losses import lead
from attacks._nearest import Nearest, shorten
from attacks._victim import Victim
from attacks.ddn import ddn
from attacks.deepfool import deepfool
from attacks.fab import fab, fab_t
from attacks.superdeepfool import superdeepfool

NORMS = ("linf", "l2", "l1")
SHORT = {deepfool: {}, superdeepfool: {}, ddn: {}, fab: {"steps": 15}, fab_t: {"steps": 15}}
ATTACKS = [
    *((deepfool, norm) for norm in ("l2", "linf")),
    *((attack, "l2") for attack in (superdeepfool, ddn)),
    *((attack, norm) for attack in (fab, fab_t) for norm in NORMS),
]
each_attack = pytest.mark.parametrize(
    "attack",
    [functools.partial(attack, norm=norm, **SHORT[attack]) for attack, norm in ATTACKS],
    ids=[f"{attack.__name__}-{norm}" for attack, norm in ATTACKS],
)


def problems(n: int, shape: tuple[int, int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, many of whose numbers are at a face of the box, normals with some zeros, and gaps within reach, both ways."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, *shape, generator=generator) * 1.6 - 0.3).clamp(0, 1)
    w = torch.randn(n, *shape, generator=generator) * (torch.rand(n, *shape, generator=generator) > 0.1)
    up = (torch.where(w > 0, 1 - x, -x) * w).flatten(1).sum(1)
    down = (torch.where(w > 0, -x, 1 - x) * w).flatten(1).sum(1)
    share = torch.rand(n, generator=generator)
    return x, w, torch.where(torch.arange(n) % 2 == 0, share * up, share * down)


def gained(x: torch.Tensor, moved: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return ((moved.double() - x.double()) * w.double()).flatten(1).sum(1)


def least_by_programming(x: torch.Tensor, w: torch.Tensor, gap: float, norm: str) -> float:
    """Length of the shortest move as a linear program: moves up and down, and for linf their common bound."""
    size = x.numel()
    cost = np.ones(2 * size) if norm == "l1" else np.r_[np.zeros(2 * size), 1.0]
    gains = np.r_[w.flatten().numpy(), -w.flatten().numpy()]
    bounds = [*((0, 1 - v) for v in x.flatten().tolist()), *((0, v) for v in x.flatten().tolist())]
    above = below = None
    if norm == "linf":
        gains, bounds = np.r_[gains, 0.0], [*bounds, (0, 1)]
        above, below = np.c_[np.eye(2 * size), -np.ones(2 * size)], np.zeros(2 * size)
    found = linprog(cost, A_ub=above, b_ub=below, A_eq=gains[None], b_eq=[gap], bounds=bounds)
    assert found.success
    return float(found.fun)


def by_bisection(x: torch.Tensor, w: torch.Tensor, gap: torch.Tensor, norm: str) -> torch.Tensor:
    """``clip(x + s w)`` (l2) or ``clip(x + s sign(w))`` (linf), with the s that bisection finds, in float64."""
    x, w = x.double(), w.double()
    pace = w.sign() if norm == "linf" else w
    low, high = -1e4 * torch.ones(len(x)).double(), 1e4 * torch.ones(len(x)).double()
    for _ in range(100):
        middle = (low + high) / 2
        over = gained(x, (x + middle.view(-1, 1, 1, 1) * pace).clamp(0, 1), w) > gap
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return (x + high.view(-1, 1, 1, 1) * pace).clamp(0, 1)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_no_linear_program_finds_a_shorter_way(norm) -> None:
    x, w, gap = problems(6, (1, 3, 4))
    moved = nearest_on_hyperplane(x, w, gap, norm)
    torch.testing.assert_close(gained(x, moved, w), gap.double(), rtol=1e-5, atol=1e-5)
    best = [least_by_programming(*problem, norm) for problem in zip(x, w, gap.tolist(), strict=True)]
    torch.testing.assert_close(distance(moved, x, norm), torch.tensor(best), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 6), (1, 1, 2)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bisection_finds_the_same_point(norm, shape) -> None:
    """The optimum is the clipped step along w (l2) or its signs (linf), long enough."""
    x, w, gap = problems(200, shape)
    moved = nearest_on_hyperplane(x, w, gap, norm)
    torch.testing.assert_close(moved, by_bisection(x, w, gap, norm).float(), rtol=0, atol=2e-5)
    assert moved.ge(0).all() and moved.le(1).all() and moved[w == 0].equal(x[w == 0])


@pytest.mark.parametrize("norm", NORMS)
def test_out_of_reach_it_goes_to_the_face_nearest_to_the_hyperplane(norm) -> None:
    x, w, gap = problems(40, (1, 4, 6))
    for factor in (100, torch.inf):
        moved = nearest_on_hyperplane(x, w, gap * factor, norm)
        up = (w * gap.view(-1, 1, 1, 1)).sign()
        assert moved.equal(torch.where(up > 0, 1.0, torch.where(up < 0, 0.0, x)))


@pytest.mark.parametrize("norm", NORMS)
def test_extremes(norm) -> None:
    x, w, gap = problems(12, (2, 3, 4))
    moved = nearest_on_hyperplane(x, w, gap, norm)
    rows = torch.cat([nearest_on_hyperplane(*(t[row : row + 1] for t in (x, w, gap)), norm) for row in range(12)])
    torch.testing.assert_close(rows, moved, rtol=0, atol=1e-6)
    for scale in (1e-35, 1e30):
        torch.testing.assert_close(nearest_on_hyperplane(x, w * scale, gap * scale, norm), moved, rtol=0, atol=1e-5)
    for still in ((x, w, 0 * gap), (x, w, gap * torch.nan), (x, 0 * w, gap)):
        assert nearest_on_hyperplane(*still, norm).equal(x)


@pytest.mark.parametrize("norm", NORMS)
def test_photographs_lose_no_precision(norm) -> None:
    """Running sums over 150528 numbers would."""
    x, w, gap = problems(2, (3, 224, 224))
    moved = nearest_on_hyperplane(x, w, gap, norm)
    torch.testing.assert_close(gained(x, moved, w), gap.double(), rtol=1e-5, atol=1e-3)


class Curved(nn.Module):
    """Two classes apart by ``mean(x)^3 = level``."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = x.flatten(1).mean(1) ** 3 - self.level
        return torch.stack([-value, value], 1)


def test_segments_are_searched_up_to_the_boundary() -> None:
    model = Curved(0.2)
    start, end = torch.zeros(3, 1, 2, 3), torch.full((3, 1, 2, 3), 0.9)
    end[1] = 0.6
    labels, rows = torch.zeros(3, dtype=torch.long), torch.arange(3)
    victim = Victim.of(model, start)
    leads = (lead(model(start), labels, False), lead(model(end), labels, False))
    found = shorten(victim, start, end, leads, labels, rows, False, 1e-3, 30)
    assert model(found).argmax(1).eq(1).all()
    assert ((found.amax((1, 2, 3)) - 0.2 ** (1 / 3)) / 0.2 ** (1 / 3)).lt(2.1e-3).all()
    assert victim.forwards.lt(30).all()
    # One round less far, no round no change; what is just beyond the boundary stays.
    assert shorten(victim, start, end, leads, labels, rows, False, 1e-3, 0).equal(end)
    assert shorten(victim, start, found, (leads[0], leads[0].abs() * 1e-9), labels, rows, False, 1e-3, 9).equal(found)


def test_the_nearest_is_kept() -> None:
    x = torch.full((3, 1, 1, 2), 0.5)
    nearest = Nearest(x, torch.tensor([0.1, 0.3, 0.0]), "linf")
    rows, yes = torch.tensor([0, 1]), torch.tensor([True, True])
    for step, broken in ((0.2, yes), (0.25, yes), (0.05, ~yes)):
        nearest.offer(rows, x[rows] + step, torch.ones(2), broken)
    torch.testing.assert_close(nearest.distance, torch.tensor([0.2, 0.2, torch.inf]))
    torch.testing.assert_close(nearest.images, x + torch.tensor([0.2, 0.2, 0]).view(-1, 1, 1, 1))
    assert nearest.near_enough(torch.arange(3)).tolist() == [False, True, False]


class Walls(nn.Module):
    """Class 1 is everything beyond either of two hyperplanes, whose normals are equally long in every norm.

    Two layers: ``max(u, v) = v + relu(u - v)``. The nearer hyperplane is the nearest boundary of class 0.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        w = torch.randn(torch.Size(shape).numel(), generator=generator)
        self.shape = shape
        self.first = nn.Linear(len(w), 2)
        with torch.no_grad():
            self.first.weight.copy_(torch.stack([w, w.flip(0) * torch.randn(len(w), generator=generator).sign()]))
            room = 0.1 * w.abs().sum() * torch.tensor([1.0, 1.2])
            self.first.bias.copy_(-0.5 * self.first.weight.sum(1) - room)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, v = self.first(x.flatten(1)).unbind(1)
        value = v + (u - v).relu()
        return torch.stack([-value, value], 1)

    def distances(self, x: torch.Tensor, norm: str) -> torch.Tensor:
        """Of both walls, ``(n, 2)``."""
        values = self.first(x.flatten(1)).detach()
        ways = []
        for value, w in zip(values.unbind(1), self.first.weight.detach(), strict=True):
            normal = w.view(1, *self.shape).expand_as(x)
            moved = nearest_on_hyperplane(x, normal, -value, norm)
            assert torch.allclose(gained(x, moved, normal).float(), -value, atol=1e-4)
            ways.append(distance(moved, x, norm))
        return torch.stack(ways, 1)


def behind_walls(shape: tuple[int, int, int], n: int = 40) -> tuple[Walls, torch.Tensor, torch.Tensor]:
    """A net with images of class 0, some with numbers at the faces of the box, and labels."""
    model = Walls(shape)
    x = (torch.rand(n, *shape, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.1).clamp(0, 1)
    x = x[model(x).argmax(1) == 0]
    return model, x, torch.zeros(len(x), dtype=torch.long)


@each_attack
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 6)])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_nearest_boundary_is_found_and_the_box_respected(attack, shape, targeted) -> None:
    model, x, y = behind_walls(shape)
    norm = attack.keywords["norm"]
    # The box may put the wall nearer that no gradient shows at the image.
    seen = model.first(x.flatten(1)).argmax(1) == model.distances(x, norm).argmin(1)
    x, y = x[seen], y[seen]
    found = attack(model, x, 1 - y if targeted else y, targeted=targeted)
    assert len(x) > 15 and model(found).argmax(1).eq(1).all()
    assert found.ge(0).all() and found.le(1).all()
    ratio = distance(found, x, norm) / model.distances(x, norm).amin(1)
    assert ratio.gt(1 - 1e-4).all() and ratio.lt(1.05).all() and ratio.median() < 1.025


@each_attack
def test_an_image_is_attacked_alike_in_any_batch(attack) -> None:
    model, x, y = behind_walls((1, 4, 6), 5)
    attack = functools.partial(attack, steps=5)
    together = attack(model, x, y)
    alone = torch.cat([attack(model, x[row : row + 1], y[:1]) for row in range(len(x))])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)
    assert attack(model, x, y).equal(together)


@each_attack
def test_what_is_near_enough_leaves_the_search(attack) -> None:
    model, x, y = behind_walls((1, 4, 6))
    norm = attack.keywords["norm"]
    reach = model.distances(x, norm).amin(1)
    for epsilon in (1.5 * reach, float(1.5 * reach.max())):
        victim, thorough = Victim.of(model, x), Victim.of(model, x)
        found = attack(victim, x, y, epsilon)
        attack(thorough, x, y)
        assert model(found).argmax(1).eq(1).all() and (distance(found, x, norm) <= epsilon).all()
        assert (victim.forwards <= thorough.forwards).all()
        assert attack.func is deepfool or victim.forwards.sum() < 0.9 * thorough.forwards.sum()


class Blind(nn.Module):
    """Constant logits, of which one may be NaN or infinite: no gradient."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.logits) + 0 * x.flatten(1).sum(1, keepdim=True)


@each_attack
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("logits", [(1.0, 0.0), (1.0, 0.0, -1.0, 0.5), (1.0, torch.nan), (torch.inf, 0.0, -torch.inf)])
def test_without_a_gradient_the_image_stays_and_costs_little(attack, logits, targeted) -> None:
    x = torch.rand(3, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    victim = Victim.of(Blind(*logits), x)
    found = attack(victim, x, torch.full((3,), int(targeted)), targeted=targeted)
    assert found.equal(x)
    assert victim.forwards.le(8 * 3).all()


@each_attack
def test_broken_images_are_returned_untouched(attack) -> None:
    model, x, y = behind_walls((1, 4, 6), 8)
    for request in ({}, {"epsilon": 0.1}):
        assert attack(model, x, 1 - y, **request).equal(x)
        assert attack(model, x, y, targeted=True, **request).equal(x)


@each_attack
def test_double_nets_and_images(attack, linear) -> None:
    model, x, y = linear(n=10, shape=(1, 3, 4))
    single = attack(model, x, y)
    double = attack(model, x.double(), y)
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    norm = attack.keywords["norm"]
    reach = model.distance(x, norm) if norm != "l1" else model.margin(x).abs() / model.w.detach().abs().max()
    for found in (single, double):
        assert model(found).argmax(1).ne(y).all()
        assert (length((found - x).double(), norm) < 1.02 * reach + 2e-5).all()
