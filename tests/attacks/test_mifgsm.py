"""MI-FGSM: exact on linear networks, equal to a plain restatement of the paper's loop, momentum that carries on."""

from __future__ import annotations

import copy

import foolbox
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import attacks
from attacks._victim import Victim
from attacks.mifgsm import mifgsm

NORMS = ("linf", "l2")


def length(delta: torch.Tensor, norm: str) -> torch.Tensor:
    return delta.flatten(1).norm(torch.inf if norm == "linf" else 2, dim=1)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 6), (1, 1, 2)])
def test_breaks_exactly_the_images_within_reach(linear, shape, norm, targeted) -> None:
    model, x, y = linear(shape=shape)
    reach = model.distance(x, norm)
    epsilon = reach.sort().values[29:31].mean().item()
    moved = mifgsm(model, x, 1 - y if targeted else y, epsilon, norm=norm, targeted=targeted)
    assert model(moved).argmax(1).ne(y).equal(reach < epsilon)


@pytest.mark.parametrize("norm", NORMS)
def test_one_step_is_fgsm(digits, norm) -> None:
    model, x, y = digits
    standing = model(x).argmax(1) == y
    ours = mifgsm(model, x, y, 0.1, norm=norm, steps=1)
    expected = attacks.fgsm(model, x, y, 0.1, norm=norm)
    # Signs are exact; in l2 the momentum is divided by its l1 norm first, which rounds once more.
    torch.testing.assert_close(ours[standing], expected[standing], rtol=0, atol=0 if norm == "linf" else 2e-7)
    assert ours[~standing].equal(x[~standing])


def reference(model: nn.Module, x: torch.Tensor, label: int, epsilon: float, norm: str, mu: float) -> torch.Tensor:
    """The paper's algorithm 1 for one image, on cross-entropy and with plain autograd; its last image."""
    target, moved, momentum = torch.tensor([label]), x[None], torch.zeros_like(x)[None]
    for _ in range(10):
        moved = moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), target), moved)
        momentum = mu * momentum + gradient / gradient.abs().sum()
        step = momentum.sign() if norm == "linf" else momentum / momentum.norm()
        moved = (moved + epsilon / 10 * step).clamp(0, 1)
    return moved[0].detach()


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.08), ("l2", 0.5)])
def test_agrees_with_the_papers_algorithm(digits, norm, epsilon, mu) -> None:
    """In float64. Without early stop the strongest attempt is returned, which is the last one or beats it."""
    model, x, y = copy.deepcopy(digits.model).double(), digits.images[:30].double(), digits.labels[:30]
    theirs = torch.stack([reference(model, x[i], int(y[i]), epsilon, norm, mu) for i in range(len(x))])
    ours = mifgsm(model, x, y, epsilon, norm=norm, mu=mu, early_stop=False)
    same = (ours - theirs).flatten(1).abs().amax(1) < 1e-9
    assert same.float().mean() > 0.8
    loss, their_loss = (F.cross_entropy(model(images), y, reduction="none") for images in (ours, theirs))
    assert (loss >= their_loss - 1e-9).all() and (loss[~same] > their_loss[~same]).all()


class Ridge(nn.Module):
    """One number x: the loss rises towards 0.6, falls until 0.62, and rises again; broken from 0.7 on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)[:, 0]
        rise = x - 0.7 - 2 * (x - 0.6).clamp(0, 0.02)
        return torch.stack([torch.zeros_like(rise), rise + 0.04], 1)


def test_momentum_carries_over_a_dip_that_stops_plain_steps() -> None:
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    epsilon, steps = 0.305, 20
    assert Ridge()(mifgsm(Ridge(), x, y, epsilon, steps=steps)).argmax(1).item() == 1
    assert Ridge()(mifgsm(Ridge(), x, y, epsilon, steps=steps, mu=0.0)).argmax(1).item() == 0


def test_broken_images_leave_at_once_and_cost_nothing_more(digits) -> None:
    model, x, y = digits
    stopping, climbing = Victim.of(model, x), Victim.of(model, x)
    first, strong = mifgsm(stopping, x, y, 0.15), mifgsm(climbing, x, y, 0.15, early_stop=False)
    assert climbing.forwards.eq(11).all() and climbing.backwards.eq(10).all()
    broken = model(first).argmax(1) != y
    assert broken.equal(model(strong).argmax(1) != y)
    assert 0.3 < broken.float().mean() < 1
    assert stopping.forwards[~broken].eq(11).all() and stopping.forwards[broken].float().mean() < 9
    loss, strongest = (F.cross_entropy(model(images), y, reduction="none") for images in (first, strong))
    assert (strongest >= loss - 1e-6).all() and strongest.mean() > 1.2 * loss.mean()


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.7)])
def test_is_not_weaker_than_foolbox(digits, norm, epsilon) -> None:
    """foolbox adds gradients up without the paper's division by their l1 norm, so outcomes differ a little."""
    model, x, y = digits
    peers = foolbox.attacks.mi_fgsm
    peer = {
        "linf": peers.LinfMomentumIterativeFastGradientMethod,
        "l2": peers.L2MomentumIterativeFastGradientMethod,
    }[norm](rel_stepsize=0.1, steps=10)
    _, _, success = peer(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=epsilon)
    ours = model(mifgsm(model, x, y, epsilon, norm=norm)).argmax(1) != y
    assert 0.15 < success.float().mean() < 0.9
    assert ours.float().mean() >= success.float().mean() - 0.01


@pytest.mark.parametrize("norm", NORMS)
def test_ball_box_and_batches(linear, norm) -> None:
    model, x, y = linear(n=8, shape=(1, 4, 6))
    x[0], x[1] = 0, 1  # on the faces of the box
    epsilon = torch.linspace(0.01, 0.6, 8)
    moved = mifgsm(model, x, y, epsilon, norm=norm)
    assert moved.amin() >= 0 and moved.amax() <= 1
    assert (length(moved - x, norm) <= epsilon + 1e-6).all()
    for i in range(8):
        alone = mifgsm(model, x[i : i + 1], y[i : i + 1], epsilon[i : i + 1], norm=norm)
        torch.testing.assert_close(alone[0], moved[i])


@pytest.mark.parametrize("weight", [0.0, 1e-38, 1e38])
def test_gradients_of_any_size(weight) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            total = x.flatten(1).sum(1)
            return torch.stack([torch.zeros_like(total), (total - 2.2) * weight], 1)

    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.int64)
    moved = mifgsm(Scaled(), x, y, 0.1)
    torch.testing.assert_close(moved, x if weight == 0 else x + 0.06, atol=1e-6, rtol=0)


def test_logits_that_are_not_numbers_do_no_harm() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2] * torch.tensor([[torch.nan, torch.inf]])

    x = torch.full((3, 1, 2, 2), 0.5)
    assert mifgsm(Broken(), x, torch.zeros(3, dtype=torch.int64), 0.1).equal(x)


@pytest.mark.parametrize("options", [{"steps": 0}, {"mu": -1.0}, {"mu": float("inf")}, {"mu": float("nan")}])
def test_senseless_options_are_refused(digits, options) -> None:
    with pytest.raises(attacks.AttackError, match="MI-FGSM"):
        mifgsm(digits.model, digits.images, digits.labels, 0.1, **options)
