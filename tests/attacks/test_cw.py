"""C&W-l2: equal to a plain restatement of the paper, nearly optimal where the optimum is known, never farther than foolbox."""

from __future__ import annotations

import copy
import math

import foolbox
import pytest
import torch
from torch import nn

import attacks
from attacks._ball import distance
from attacks._losses import margin
from attacks._victim import Victim
from attacks.cw import cw

QUICK = {"searches": 5, "steps": 40, "initial_const": 0.1, "learning_rate": 0.05}
QUICKER = {**QUICK, "searches": 3, "steps": 25}


def test_linear_network(linear) -> None:
    """Adam's steps are as long as they are: images nearer to the boundary than a few of them are overshot."""
    model, x, y = linear(n=16, shape=(1, 4, 6))
    moved = cw(model, x, y, steps=150)
    assert model(moved).argmax(1).ne(y).all()
    found, best = distance(moved, x, "l2").double(), model.distance(x, "l2")
    far = best > 0.1
    assert far.sum() >= 5 and (found[far] <= 1.05 * best[far]).all()
    assert (found >= 0.9999 * best).all() and (found / best).median() < 1.01


def test_faces_of_the_box_are_in_the_way() -> None:
    """Weights 3 and 1, the heavy number 0.05 short of its face: it goes there, the other does the rest."""

    class Heavy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            lead = 3 * x[:, 0, 0, 0] + x[:, 0, 0, 1] - 3.5
            return torch.stack([torch.zeros_like(lead), lead], 1)

    x = torch.tensor([[[[0.95, 0.2]]]])
    moved = cw(Heavy(), x, torch.tensor([0]), searches=6, steps=100, learning_rate=0.05, initial_const=1.0)
    assert Heavy()(moved).argmax(1).item() == 1 and moved.amax() <= 1
    assert distance(moved, x, "l2").item() == pytest.approx(math.hypot(0.05, 0.3), rel=0.05)


def test_two_classes_leave_one_way(linear) -> None:
    model, x, y = linear(n=12)
    torch.testing.assert_close(cw(model, x, 1 - y, targeted=True, **QUICKER), cw(model, x, y, **QUICKER))


def reference(model: nn.Module, x: torch.Tensor, label: int, confidence: float) -> torch.Tensor:
    """The paper for one image: torch's Adam and autograd through tanh, bisection, and the stop of a stalled descent."""
    nearest, shortest, low, high, const = x, math.inf, 0.0, math.inf, 0.1
    for _ in range(5):
        w = (0.999999 * (2 * x - 1)).atanh().requires_grad_()
        adam = torch.optim.Adam([w], lr=0.05)
        hit, losses = False, []
        for step in range(40):
            moved = (w.tanh() + 1) / 2
            logits = model(moved[None])[0]
            lead = torch.cat([logits[:label], logits[label + 1 :]]).max() - logits[label]
            away = (moved - x).norm()
            loss = (moved - x).square().sum() + const * torch.relu(confidence - lead)
            if lead > 0 and lead >= confidence:
                hit = True
                if away < shortest:
                    nearest, shortest = moved.detach(), away.item()
            losses.append(loss.item())
            if step and step % 10 == 0 and not min(losses) < 0.9999 * min(losses[:-10]):
                break
            adam.zero_grad()
            loss.backward(inputs=[w])
            adam.step()
        low, high = (low, const) if hit else (const, high)
        const = (low + high) / 2 if hit or high < math.inf else 10 * const
    return nearest


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_agrees_with_the_paper_one_image_at_a_time(digits, confidence) -> None:
    """In float64."""
    model = copy.deepcopy(digits.model).double()
    standing = model(digits.images.double()).argmax(1) == digits.labels
    x, y = digits.images[standing][:2].double(), digits.labels[standing][:2]
    expected = torch.stack([reference(model, x[i], int(y[i]), confidence) for i in range(len(x))])
    ours = cw(model, x, y, confidence=confidence, **QUICK)
    assert (ours != x).flatten(1).any(1).float().mean() > 0.6
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_is_not_farther_than_foolbox(digits) -> None:
    """foolbox returns black images where it finds nothing: those do not count as found."""
    standing = digits.model(digits.images[:26]).argmax(1) == digits.labels[:26]
    model, x, y = digits.model, digits.images[:26][standing], digits.labels[:26][standing]
    peer = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=5, steps=40, stepsize=0.05, confidence=0, initial_const=0.1
    )
    _, theirs, _ = peer(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    ours = cw(model, x, y, **QUICK)
    found, peers = distance(ours, x, "l2"), distance(theirs, x, "l2")
    found[model(ours).argmax(1) == y] = torch.inf
    peers[(model(theirs).argmax(1) == y) | (theirs == 0).flatten(1).all(1)] = torch.inf
    assert peers.isfinite().float().mean() > 0.9 and found.isfinite().sum() >= peers.isfinite().sum()
    assert found.median() <= 1.01 * peers.median()


def test_confidence_is_the_lead_of_what_is_returned(digits) -> None:
    confidence = 1.0
    model, x, y = digits.model, digits.images[:12], digits.labels[:12]
    standing = model(x).argmax(1) == y
    x, y = x[standing], y[standing]
    lead = margin(model(cw(model, x, y, confidence=confidence, **QUICK)), y)
    found = lead > 0
    assert found.float().mean() > 0.7 and (lead[found] >= confidence - 1e-4).all()
    assert lead[found].median() < confidence + 0.5
    target = (y + 1) % 10
    lead = -margin(model(cw(model, x, target, targeted=True, confidence=confidence, **QUICK)), target)
    assert (lead > 0).float().mean() > 0.6 and (lead[lead > 0] >= confidence - 1e-4).all()


def test_near_enough_leaves_the_search(digits) -> None:
    model, x, y = digits.model, digits.images[:16], digits.labels[:16]
    full, short = Victim.of(model, x), Victim.of(model, x)
    nearest = distance(cw(full, x, y, **QUICKER), x, "l2")
    epsilon = torch.where(torch.arange(16) % 2 == 0, 1.1, 0.9) * nearest
    found = distance(cw(short, x, y, epsilon, **QUICKER), x, "l2")
    easy = (torch.arange(16) % 2 == 0) & (nearest > 0)
    assert (found[easy] <= epsilon[easy]).all()
    assert (short.forwards[easy] < full.forwards[easy]).all()
    torch.testing.assert_close(found[1::2], nearest[1::2])


def test_a_batch_is_its_images(digits) -> None:
    model, x, y = digits.model, digits.images[:3], digits.labels[:3]
    together = cw(model, x, y, 0.6, **QUICKER)
    for i in range(3):
        alone = cw(model, x[i : i + 1], y[i : i + 1], 0.6, **QUICKER)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-4)


@pytest.mark.parametrize("targeted", [False, True])
def test_images_already_there_stay_untouched_at_one_forward(linear, targeted) -> None:
    model, x, y = linear(n=5)
    victim = Victim.of(model, x)
    assert cw(victim, x, y if targeted else 1 - y, targeted=targeted).equal(x)
    assert victim.forwards.eq(1).all() and victim.backwards.eq(0).all()


@pytest.mark.parametrize("factors", [(0.0, 0.0), (torch.nan, 1.0), (1.0, torch.inf)])
def test_no_gradient_and_no_numbers_do_no_harm(factors) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2] * torch.tensor(factors) + torch.tensor([0.1, 0.0])

    x = torch.linspace(0, 1, 24).view(3, 1, 2, 4).flip(3)
    victim = Victim.of(Odd(), x)
    moved = cw(victim, x, torch.zeros(3, dtype=torch.int64))
    assert moved.isfinite().all()
    if factors == (0.0, 0.0):
        assert moved.equal(x) and victim.forwards.max() < 9 * 32


@pytest.mark.parametrize(
    "options",
    [{"searches": 0}, {"steps": 0}, {"learning_rate": 0.0}, {"confidence": -1.0}, {"initial_const": float("inf")}],
)
def test_senseless_options_are_refused(digits, options) -> None:
    with pytest.raises(attacks.AttackError, match=r"C&W"):
        cw(digits.model, digits.images, digits.labels, **options)
