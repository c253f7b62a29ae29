"""FMN: nearly optimal where the optimum is known, in all four norms and with the box in the way."""

from __future__ import annotations

import foolbox
import pytest
import torch
from torch import nn

import attacks
from attacks._ball import distance, length
from attacks._nearest import Nearest
from attacks._victim import Victim
from attacks.fmn import _record, _Search, _undo, fmn

NORMS = ("l0", "l1", "l2", "linf")


def optimum(model: nn.Module, x: torch.Tensor, norm: str) -> torch.Tensor:
    """Distance to the boundary of a linear network within the box, in closed form or by bisection, in float64."""
    w = model.w.detach().flatten().expand(len(x), -1)
    pull, gap = -model.margin(x).sign().unsqueeze(1) * w, model.margin(x).abs()
    room = torch.where(pull > 0, 1 - x.double().flatten(1), x.double().flatten(1))
    if norm in ("l0", "l1"):
        rank = (pull.abs() * room if norm == "l0" else pull.abs()).argsort(1, descending=True)
        slope, room = pull.abs().gather(1, rank), room.gather(1, rank)
        before = (slope * room).cumsum(1) - slope * room
        if norm == "l0":
            return (before < gap.unsqueeze(1)).sum(1).double()
        return torch.minimum(((gap.unsqueeze(1) - before) / slope).clamp(min=0), room).sum(1)
    pace = torch.ones_like(pull) if norm == "linf" else pull.abs()
    low, high = torch.zeros(len(x), 1).double(), torch.full((len(x), 1), 1e6).double()
    for _ in range(100):
        middle = (low + high) / 2
        short = (pull.abs() * torch.minimum(middle * pace, room)).sum(1, keepdim=True) < gap.unsqueeze(1)
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return torch.minimum(high * pace, room).norm(torch.inf if norm == "linf" else 2, dim=1)


def assert_close_to_optimum(model, x, y, moved, norm) -> None:
    assert model(moved).argmax(1).ne(y).all()
    assert moved.amin() >= 0 and moved.amax() <= 1
    found, best = distance(moved, x, norm).double(), optimum(model, x, norm)
    assert (found >= 0.9999 * best).all()
    if norm == "l0":
        assert found.equal(best)
    else:
        assert (found <= 1.01 * best).all()


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 6), (1, 1, 2)])
@pytest.mark.parametrize("norm", NORMS)
def test_linear_network(linear, norm, shape) -> None:
    model, x, y = linear(n=16, shape=shape)
    assert_close_to_optimum(model, x, y, fmn(model, x, y, norm=norm, steps=50), norm)


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 10, 12)])
@pytest.mark.parametrize("norm", NORMS)
def test_linear_network_with_many_numbers_on_faces_of_the_box(linear, norm, shape) -> None:
    model = linear(shape=shape).model
    x = (torch.rand(12, *shape, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.3).clamp(0, 1)
    y = (model.margin(x) > 0).long()
    assert ((x == 0) | (x == 1)).float().mean() > 0.3
    assert_close_to_optimum(model, x, y, fmn(model, x, y, norm=norm, steps=50), norm)


@pytest.mark.parametrize("norm", NORMS)
def test_two_classes_leave_one_way(linear, norm) -> None:
    model, x, y = linear(n=12)
    left, reached = fmn(model, x, y, norm=norm, steps=10), fmn(model, x, 1 - y, norm=norm, steps=10, targeted=True)
    torch.testing.assert_close(reached, left)


@pytest.mark.parametrize("norm", NORMS)
def test_targets_are_reached(digits, norm) -> None:
    model, x, y = digits.model, digits.images[:24], digits.labels[:24]
    target = (y + 1) % 10
    moved = fmn(model, x, target, norm=norm, steps=25, targeted=True)
    assert model(moved).argmax(1).equal(target)
    free = fmn(model, x, y, norm=norm, steps=25)
    assert distance(free, x, norm).median() < distance(moved, x, norm).median()


@pytest.mark.parametrize(("norm", "ratio"), [("l0", 1.0), ("l1", 0.999), ("l2", 0.7), ("linf", 1.001)])
def test_is_nearer_than_foolbox_at_equal_steps(digits, norm, ratio) -> None:
    model, x, y = digits.model, digits.images[:32], digits.labels[:32]
    peer = {
        "l0": foolbox.attacks.L0FMNAttack,
        "l1": foolbox.attacks.L1FMNAttack,
        "l2": foolbox.attacks.L2FMNAttack,
        "linf": foolbox.attacks.LInfFMNAttack,
    }[norm](steps=40)
    _, theirs, _ = peer(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    ours = fmn(model, x, y, norm=norm, steps=40)
    assert model(ours).argmax(1).ne(y).all()
    found, peers = distance(ours, x, norm), distance(theirs, x, norm)
    peers[model(theirs).argmax(1) == y] = torch.inf
    assert found.median() <= 1.02 * peers.median()
    standing = model(x).argmax(1) == y
    assert (found / peers)[standing].median() <= ratio


@pytest.mark.parametrize("norm", NORMS)
def test_near_enough_leaves_the_search(digits, norm) -> None:
    """Every second image asks for less than the nearest found, the others for more: those are searched to the end."""
    model = digits.model
    standing = model(digits.images[:24]).argmax(1) == digits.labels[:24]
    x, y = digits.images[:24][standing], digits.labels[:24][standing]
    full, short = Victim.of(model, x), Victim.of(model, x)
    nearest = distance(fmn(full, x, y, norm=norm, steps=30), x, norm)
    easy = torch.arange(len(x)) % 2 == 0
    epsilon = torch.where(easy, 1.5, 0.5) * nearest
    found = distance(fmn(short, x, y, epsilon, norm=norm, steps=30), x, norm)
    assert (found[easy] <= epsilon[easy]).all()
    assert short.forwards[easy].float().mean() < 0.3 * full.forwards[easy].float().mean()
    torch.testing.assert_close(found[~easy], nearest[~easy])
    assert short.forwards[~easy].equal(full.forwards[~easy])


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_is_its_images(digits, norm) -> None:
    model, x, y = digits.model, digits.images[:4], digits.labels[:4]
    epsilon = {"l0": 3.0, "l1": 1.5, "l2": 0.5, "linf": 0.1}[norm]
    together = fmn(model, x, y, epsilon, norm=norm, steps=15)
    for i in range(4):
        alone = fmn(model, x[i : i + 1], y[i : i + 1], epsilon, norm=norm, steps=15)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize("targeted", [False, True])
def test_images_already_there_stay_untouched_at_one_forward(linear, targeted) -> None:
    model, x, y = linear(n=5)
    victim = Victim.of(model, x)
    assert fmn(victim, x, y if targeted else 1 - y, targeted=targeted).equal(x)
    assert victim.forwards.eq(1).all()


@pytest.mark.parametrize("norm", NORMS)
def test_costs_a_forward_a_step_and_five_more_in_l0(digits, norm) -> None:
    victim = Victim.of(digits.model, digits.images[:12])
    fmn(victim, digits.images[:12], digits.labels[:12], norm=norm, steps=8)
    assert victim.forwards.max() <= (14 if norm == "l0" else 9) and victim.backwards.max() == 8


def test_l0_takes_back_the_smallest_changes_that_are_not_needed() -> None:
    """The third number alone breaks the image; of four changes the two smallest and then the first one go."""

    class Third(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            third = x.flatten(1)[:, 2] - 0.6
            return torch.stack([torch.zeros_like(third), third], 1)

    x, y = torch.full((2, 1, 1, 6), 0.5), torch.zeros(2, dtype=torch.int64)
    victim, nearest = Victim.of(Third(), x), Nearest(x, torch.tensor([1.0, 2.0]), "l0")
    widest = length(torch.maximum(x, 1 - x), "l0")
    changed = torch.tensor([0.8, 0.5, 0.9, 0.6, 0.5, 0.4]).expand_as(x)
    search = _Search(torch.arange(2), x, y, changed, widest, widest)
    _record(nearest, search, victim.logits(search.x_adv, search.rows), targeted=False)
    _undo(victim, nearest, search, targeted=False)
    assert distance(nearest.images, x, "l0").tolist() == [1, 2]  # two are near enough for the second image
    assert Third()(nearest.images).argmax(1).eq(1).all()


def test_one_changed_number_is_as_few_as_it_gets(linear) -> None:
    model, x, y = linear(n=10, shape=(1, 1, 2))
    victim = Victim.of(model, x)
    moved = fmn(victim, x, y, norm="l0")
    one = distance(moved, x, "l0") == 1
    assert one.any() and victim.forwards[one].max() < 20


class Scaled(nn.Module):
    """The mean's distance from 0.6, times a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead = (x.flatten(1).mean(1) - 0.6) * self.weight
        return torch.stack([torch.zeros_like(lead), lead], 1)


@pytest.mark.parametrize("weight", [1e-30, 1e30])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_any_size(norm, weight) -> None:
    x, y = torch.full((2, 1, 2, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    found = distance(fmn(Scaled(weight), x, y, norm=norm, steps=30), x, norm)
    expected = {"l0": 2.0, "l1": 0.8, "l2": 0.1 * 8**0.5, "linf": 0.1}[norm]
    torch.testing.assert_close(found, torch.full((2,), expected), rtol=0.01, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_gradient_an_image_cannot_move(norm) -> None:
    x, y = torch.full((2, 1, 2, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    victim = Victim.of(Scaled(0.0), x)
    assert fmn(victim, x, y, norm=norm).equal(x)
    assert victim.forwards.eq(1).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factors", [(torch.nan, 1.0), (1.0, torch.inf), (torch.nan, torch.nan)])
def test_logits_that_are_not_numbers_do_no_harm(norm, factors) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.flatten(1)[:, :2] - 0.4) * torch.tensor(factors)

    x = torch.linspace(0, 1, 24).view(3, 1, 2, 4)
    moved = fmn(Broken(), x, torch.zeros(3, dtype=torch.int64), norm=norm, steps=10)
    assert moved.isfinite().all() and moved.amin() >= 0 and moved.amax() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_where_nothing_breaks_the_clean_image_is_returned(norm) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            brightness = x.flatten(1).mean(1)
            return torch.stack([brightness + 0.1, 1.01 * brightness], 1)

    x = torch.rand(3, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    assert fmn(Stubborn(), x, torch.zeros(3, dtype=torch.int64), norm=norm, steps=10).equal(x)


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"alpha": 0.0}, {"alpha": float("inf")}, {"gamma": 0.0}, {"gamma": 2}]
)
def test_senseless_options_are_refused(digits, options) -> None:
    with pytest.raises(attacks.AttackError, match="FMN"):
        fmn(digits.model, digits.images, digits.labels, **options)
