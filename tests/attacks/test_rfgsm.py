"""R+FGSM: how far the random step goes, what the gradient step adds, and what becomes of a start that is broken."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import attacks
from attacks._random import normal
from attacks._victim import Victim
from attacks.rfgsm import rfgsm

NORMS = ("linf", "l2")


def length(delta: torch.Tensor, norm: str) -> torch.Tensor:
    return delta.flatten(1).norm(torch.inf if norm == "linf" else 2, dim=1)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_without_a_random_step_it_is_fgsm(digits, norm, targeted) -> None:
    model, x, y = digits
    y = (y + 1) % 10 if targeted else y
    ours = rfgsm(model, x, y, 0.1, norm=norm, targeted=targeted, alpha=0.0)
    expected = attacks.fgsm(model, x, y, 0.1, norm=norm, targeted=targeted)
    already = (model(x).argmax(1) == y) == targeted
    assert already.any()
    assert ours[~already].equal(expected[~already]) and ours[already].equal(x[already])


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_network_the_margin_moves_by_both_steps(linear, norm) -> None:
    """The box is out of reach, so the random step adds its inner product with w, the gradient step its dual norm."""
    model, x, y = linear()
    epsilon, alpha = 0.02, 0.3
    victim = Victim.of(model, x)
    noise = normal(victim.seed, victim.ids, x.shape[1:], "rfgsm").double()
    unit = noise.sign() if norm == "linf" else noise / length(noise, "l2").view(-1, 1, 1, 1)
    start = model.margin(x) + alpha * epsilon * (unit * model.w.detach()).flatten(1).sum(1)
    dual = model.w.abs().sum() if norm == "linf" else model.w.norm()
    expected = start - (2 * y - 1) * (1 - alpha) * epsilon * dual.item()
    standing = (start > 0).long() == y
    moved = model.margin(rfgsm(victim, x, y, epsilon, norm=norm, alpha=alpha))
    torch.testing.assert_close(moved[standing], expected[standing], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moved[~standing], start[~standing], rtol=1e-5, atol=1e-5)
    assert standing.float().mean() > 0.8


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_never_beats_the_optimum(linear, norm, targeted) -> None:
    model, x, y = linear()
    reach = model.distance(x, norm)
    epsilon = reach.median().item()
    moved = rfgsm(model, x, 1 - y if targeted else y, epsilon, norm=norm, targeted=targeted)
    broken = model(moved).argmax(1) != y
    assert broken.any() and not broken[reach > epsilon * 1.0001].any()
    assert broken[reach < 0.4 * epsilon].all()  # half the budget along the gradient, the random half at right angles


def reference(model: nn.Module, image: torch.Tensor, label: int, noise: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The paper's two lines for one image, with cross-entropy and plain autograd."""
    start = (image + epsilon / 2 * noise.sign()).clamp(0, 1).requires_grad_()
    logits = model(start[None])
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.tensor([label])), start)
    if logits.argmax() != label:
        return start.detach()
    return (start + epsilon / 2 * gradient.sign()).detach().clamp(0, 1)


def test_agrees_with_the_papers_formula(digits) -> None:
    """In float64, where a sign of the gradient is not a matter of rounding."""
    model, x, y = copy.deepcopy(digits.model).double(), digits.images[:40].double(), digits.labels[:40]
    victim = Victim.of(model, x)
    noise = normal(victim.seed, victim.ids, x.shape[1:], "rfgsm").double()
    expected = torch.stack([reference(model, x[i], int(y[i]), noise[i], 0.15) for i in range(len(x))])
    torch.testing.assert_close(rfgsm(victim, x, y, 0.15), expected, rtol=0, atol=1e-12)


class Hill(nn.Module):
    """Class 1 on a thin shell around brightness 0.5, at 0.09 to 0.11 from it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        brightness = x.flatten(1).mean(1)
        margin = 0.01 - ((brightness - 0.5).abs() - 0.1).abs() + 0 * brightness
        return torch.stack([torch.zeros_like(margin), margin], 1)


def test_a_start_that_is_broken_is_kept() -> None:
    """A random step of 0.095 lands on the shell, from where the gradient step would fall off on the other side."""
    x = torch.full((6, 1, 1, 1), 0.5)
    moved = rfgsm(Hill(), x, torch.zeros(6, dtype=torch.int64), 0.19, alpha=0.5)
    assert Hill()(moved).argmax(1).eq(1).all()
    torch.testing.assert_close((moved - x).abs(), torch.full_like(x, 0.095))


@pytest.mark.parametrize("norm", NORMS)
def test_where_the_gradient_is_zero_only_the_random_step_remains(norm) -> None:
    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2) + 0 * x.flatten(1).sum(1, keepdim=True)

    x = torch.rand(5, 1, 3, 4) * 0.2 + 0.4
    moved = rfgsm(Flat(), x, torch.zeros(5, dtype=torch.int64), 0.1, norm=norm, alpha=0.25)
    torch.testing.assert_close(length(moved - x, norm), torch.full((5,), 0.025), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 6), (1, 1, 2)])
def test_ball_box_and_batches(linear, norm, shape) -> None:
    model, x, y = linear(n=8, shape=shape)
    x[0], x[1] = 0, 1  # on the faces of the box
    epsilon = torch.linspace(0.05, 0.6, 8)
    moved = rfgsm(model, x, y, epsilon, norm=norm)
    assert moved.amin() >= 0 and moved.amax() <= 1
    assert (length(moved - x, norm) <= epsilon + 1e-6).all()
    for i in range(8):
        torch.testing.assert_close(rfgsm(model, x[i : i + 1], y[i : i + 1], epsilon[i : i + 1], norm=norm)[0], moved[i])


def test_logits_that_are_not_numbers_do_no_harm() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2] * torch.tensor([[torch.nan, torch.inf]])

    assert rfgsm(Broken(), torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64), 0.1).isfinite().all()


def test_costs_one_forward_and_one_backward(digits) -> None:
    victim = Victim.of(digits.model, digits.images)
    rfgsm(victim, digits.images, digits.labels, 0.1)
    assert victim.forwards.eq(1).all() and victim.backwards.eq(1).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.0, float("nan")])
def test_a_random_step_that_leaves_no_budget_is_refused(digits, alpha) -> None:
    with pytest.raises(attacks.AttackError, match=r"alpha=0\.5"):
        rfgsm(digits.model, digits.images, digits.labels, 0.1, alpha=alpha)
