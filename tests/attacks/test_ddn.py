"""DDN on boundaries that are known, beside foolbox, and what its departures from the paper are worth."""

from __future__ import annotations

import foolbox
import pytest
import torch
from torch import nn

from attacks import AttackError
from attacks._ball import distance
from attacks._victim import Victim
from attacks.ddn import ddn


def right(case, n: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The net with up to n images that it classifies correctly."""
    model, x, y = case
    keep = (model(x).argmax(1) == y).nonzero().flatten()[:n]
    return model, x[keep], y[keep]


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 6), (1, 1, 2)])
@pytest.mark.parametrize("targeted", [False, True])
def test_linear_networks_converge_at_once(linear, shape, targeted) -> None:
    """The first step crosses the boundary, where the gradient is parallel; then the segment is searched."""
    model, x, y = linear(shape=shape)
    victim = Victim.of(model, x)
    found = ddn(victim, x, 1 - y if targeted else y, targeted=targeted, steps=100)
    assert model(found).argmax(1).ne(y).all()
    ratio = distance(found, x, "l2") / model.distance(x, "l2")
    assert ratio.gt(1 - 1e-5).all() and ratio.lt(1.003).all()
    assert victim.forwards.le(5).all() and victim.backwards.le(3).all()


class Ball(nn.Module):
    """Class 1 is the outside of a sphere around ``centre``: the nearest boundary is straight away from the centre."""

    def __init__(self, centre: torch.Tensor, radius: float) -> None:
        super().__init__()
        self.centre, self.radius = centre, radius

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = (x - self.centre).flatten(1).square().sum(1) - self.radius**2
        return torch.stack([-value, value], 1)


def test_curved_boundaries() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 4)
    model = Ball(torch.full(shape, 0.5), 0.4)
    away = torch.randn(30, *shape, generator=generator)
    away = away / away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    depth = 0.05 + 0.3 * torch.rand(30, generator=generator)
    x = 0.5 + depth.view(-1, 1, 1, 1) * away
    inside = ddn(model, x, torch.zeros(30, dtype=torch.long))
    assert model(inside).argmax(1).eq(1).all()
    assert (distance(inside, x, "l2") / (0.4 - depth)).sub(1).abs().lt(2e-3).all()
    x = 0.5 + (0.4 + depth).view(-1, 1, 1, 1) * away
    outside = ddn(model, x.clamp(0, 1), torch.zeros(30, dtype=torch.long), targeted=True)
    assert model(outside).argmax(1).eq(0).all()
    assert (distance(outside, x, "l2") / depth).sub(1).abs().lt(1e-2).all()


def test_as_near_as_a_hundred_steps_of_foolbox(digits) -> None:
    model, x, y = right(digits, 50)
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, theirs, success = foolbox.attacks.DDNAttack(steps=100)(peer, x, y, epsilons=None)
    victim = Victim.of(model, x)
    ours = ddn(victim, x, y)
    assert success.all() and model(ours).argmax(1).ne(y).all() and ours.ge(0).all() and ours.le(1).all()
    ratio = distance(ours, x, "l2") / distance(theirs, x, "l2")
    assert ratio.median() < 1.002 and ratio.mean() < 1.005 and ratio.max() < 1.1
    assert victim.forwards.max() <= 34 and victim.backwards.max() <= 31


def test_the_norm_may_start_far_off() -> None:
    """Logits whose slope at the image tells nothing about the distance: too near by 25 times, or too far."""

    class Warped(nn.Module):
        def __init__(self, power: float) -> None:
            super().__init__()
            self.power = power

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.flatten(1).mean(1)
            value = (mean / 0.7) ** self.power - 1
            return torch.stack([-value, value], 1)

    x = torch.full((1, 1, 4, 5), 0.3)
    for power in (0.02, 6.0):
        found = ddn(Warped(power), x, torch.tensor([0]))
        assert distance(found, x, "l2").item() == pytest.approx(0.4 * 20**0.5, rel=1e-2)


@pytest.mark.parametrize("factor", [1e-3, 30.0])
def test_the_scale_of_logits_does_not_matter(digits, factor) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return factor * model(x)

    model, x, y = right(digits, 20)
    torch.testing.assert_close(ddn(Scaled(), x, y), ddn(model, x, y), rtol=0, atol=1e-3)


def test_targets_and_budgets(digits) -> None:
    model, x, y = right(digits, 30)
    targets = (y + 1 + torch.arange(len(y)) % 9) % 10
    found = ddn(model, x, targets, targeted=True)
    assert model(found).argmax(1).eq(targets).all()
    free = distance(ddn(model, x, y), x, "l2")
    for budget in (0.5, torch.linspace(0.1, 1.5, len(x))):
        victim = Victim.of(model, x)
        within = distance(ddn(victim, x, y, budget), x, "l2") <= budget
        # An image near the edge may end on either side of it.
        assert within[free < 0.99 * budget].all()
        assert victim.forwards[within].float().mean() < 0.6 * victim.forwards[~within].float().mean()


def test_options_that_make_no_sense_are_refused(digits) -> None:
    for options in ({"steps": 0}, {"gamma": 0.0}, {"gamma": 1.0}, {"norm": "linf"}):
        with pytest.raises(AttackError):
            ddn(digits.model, digits.images[:2], digits.labels[:2], **options)
