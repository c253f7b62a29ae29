"""FAB against a slow reading of its algorithm, its targets, restarts and budgets."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from attacks import AttackError
from attacks._ball import distance
from attacks._hyperplane import nearest_on_hyperplane
from attacks._losses import likeliest_others
from attacks._victim import Victim
from attacks.fab import fab, fab_t

NORMS = ("linf", "l2", "l1")
DUALS = {"linf": 1, "l2": 2, "l1": torch.inf}


def right(case, n: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The net with up to n images that it classifies correctly."""
    model, x, y = case
    keep = (model(x).argmax(1) == y).nonzero().flatten()[:n]
    return model, x[keep], y[keep]


def plainly(model: nn.Module, image: torch.Tensor, y: int, norm: str, steps: int, rivals: list[int]) -> torch.Tensor:
    """Algorithm 1 of the paper for one image ``(1, C, H, W)``, without restarts and final search."""
    x, best, shortest = image, image, torch.inf
    for _ in range(steps):
        at = x.clone().requires_grad_()
        logits = model(at)[0]
        nearest = torch.inf
        for k in rivals:
            (w,) = torch.autograd.grad(logits[k] - logits[y], at, retain_graph=True)
            value = (logits[k] - logits[y]).detach()
            away = float(value.abs() / torch.linalg.vector_norm(w.flatten(), DUALS[norm]))
            if away < nearest:
                nearest, normal, gap = away, w, -value
        d1 = nearest_on_hyperplane(x, normal, gap.view(1), norm) - x
        back = (normal * (x - image)).sum()
        d0 = nearest_on_hyperplane(image, normal, (gap + back).view(1), norm) - image
        a1, a0 = (float(distance(d, 0 * d, norm)) for d in (d1, d0))
        alpha = min(a1 / (a1 + a0), 0.1)
        x = ((1 - alpha) * (x + 1.05 * d1) + alpha * (image + 1.05 * d0)).clamp(0, 1)
        if int(model(x).argmax()) != y:
            if float(distance(x, image, norm)) < shortest:
                best, shortest = x, float(distance(x, image, norm))
            x = image + 0.9 * (x - image)
    return best


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [fab, fab_t])
def test_it_is_the_algorithm_of_the_paper(digits, norm, attack, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["attacks.fab"], "_SEARCH", 0)
    model, x, y = right(digits, 3)
    model, x, steps = copy.deepcopy(model).double(), x.double(), 8
    expected = []
    for row, others in enumerate(likeliest_others(model(x), y, 9).tolist()):
        aims = [others] if attack is fab else [[k] for k in others[:3]]
        ends = [plainly(model, x[row : row + 1], int(y[row]), norm, steps, aim) for aim in aims]
        lengths = [float(distance(end, x[row : row + 1], norm)) or torch.inf for end in ends]
        expected.append(ends[lengths.index(min(lengths))])
    options = {} if attack is fab else {"target_classes": 3}
    found = attack(model, x, y, norm=norm, steps=steps, **options)
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_linear_networks(linear, norm, targeted) -> None:
    model, x, y = linear(n=20)
    found = fab(model, x, 1 - y if targeted else y, norm=norm, targeted=targeted, steps=5)
    assert model(found).argmax(1).ne(y).all()
    nearest = nearest_on_hyperplane(x.double(), model.w.detach().expand(20, -1, -1, -1), -model.margin(x), norm)
    ratio = distance(found, x, norm) / distance(nearest, x, norm)
    assert ratio.gt(1 - 1e-5).all() and ratio.lt(1.003).all()
    for attack in (fab, fab_t):
        assert attack(model, x, 1 - y if targeted else y, norm=norm, targeted=targeted, steps=5).equal(found)


@pytest.mark.parametrize("norm", NORMS)
def test_more_work_only_brings_nearer(digits, norm, monkeypatch) -> None:
    model, x, y = right(digits, 12)
    options = {"norm": norm, "steps": 8, "target_classes": 2}
    plain = distance(fab_t(model, x, y, **options), x, norm)
    for more in ({"restarts": 2}, {"target_classes": 4}):
        assert (distance(fab_t(model, x, y, **options | more), x, norm) <= 1.01 * plain).all()
    monkeypatch.setattr(sys.modules["attacks.fab"], "_SEARCH", 0)
    without = distance(fab_t(model, x, y, **options), x, norm)
    assert (plain <= without).all() and plain.mean() < 0.999 * without.mean()


class Recorder(nn.Module):
    """Keeps what a network is asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(x.detach().clone())
        return self.model(x)


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_begin_within_half_the_distance_and_belong_to_the_image(digits, norm) -> None:
    model, x, y = right(digits, 6)

    def starts(order: torch.Tensor, seed: int) -> torch.Tensor:
        recorder = Recorder(model)
        victim = Victim(recorder, [f"image {row}" for row in order.tolist()], seed=seed)
        fab_t(victim, x[order], y[order], norm=norm, steps=1, target_classes=1, restarts=2)
        return recorder.asked[3]  # after clean images, and gradient and verdict of the first start

    forwards, backwards = torch.arange(len(x)), torch.arange(len(x)).flip(0)
    first = starts(forwards, 0)
    assert first.equal(starts(backwards, 0).flip(0)) and not first.equal(starts(forwards, 1))
    farthest = torch.maximum(x, 1 - x)
    assert (distance(first, x, norm) <= distance(farthest, 0 * x, norm) / 2 + 1e-5).all()
    assert first.ge(0).all() and first.le(1).all() and distance(first, x, norm).gt(0).all()


def test_costs(digits) -> None:
    model, x, y = right(digits, 8)
    victim = Victim.of(model, x)
    fab(victim, x, y, steps=6)
    assert victim.forwards.le(2 * 6 + 4).all() and victim.backwards.eq(6 * 9).all()
    victim = Victim.of(model, x)
    fab_t(victim, x, y, steps=6, target_classes=3, restarts=2)
    assert victim.forwards.le(2 * 6 * 3 * 2 + 4).all() and victim.backwards.eq(6 * 3 * 2).all()
    victim = Victim.of(model, x)
    budget = 2 * distance(fab_t(model, x, y, steps=6), x, "linf")
    found = fab_t(victim, x, y, budget, steps=100)
    assert (distance(found, x, "linf") <= budget).all()
    # Those within reach left with the first target, the others never started the rest.
    assert victim.forwards.le(1 + 2 * 100).all() and victim.forwards.float().mean() < 20


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, classes)).requires_grad_(False)
        x = torch.rand(10, 1, 3, 4)
    model[3].bias -= model(x).mean(0)
    y = model(x).argmax(1)
    assert len(y.unique()) == classes
    for attack in (fab, fab_t):
        for norm in NORMS:
            victim = Victim.of(model, x)
            found = attack(victim, x, y, norm=norm, steps=10)
            assert model(found).argmax(1).ne(y).float().mean() > 0.8
            assert victim.backwards.max() <= 10 * (classes - 1)


def test_options_that_make_no_sense_are_refused(digits) -> None:
    x, y = digits.images[:2], digits.labels[:2]
    for options in ({"steps": 0}, {"restarts": 0}, {"alpha_max": 1.5}, {"beta": 1.0}, {"eta": -1.0}):
        for attack in (fab, fab_t):
            with pytest.raises(AttackError):
                attack(digits.model, x, y, **options)
    with pytest.raises(AttackError):
        fab_t(digits.model, x, y, target_classes=0)
