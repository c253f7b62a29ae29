"""DeepFool and SuperDeepFool where the answer is known, against a slow reading of the paper, and beside foolbox."""

from __future__ import annotations

import copy
import sys

import foolbox
import pytest
import torch
from torch import nn

from attacks import AttackError
from attacks._ball import distance
from attacks._victim import Victim
from attacks.deepfool import deepfool
from attacks.superdeepfool import superdeepfool


@pytest.fixture
def thorough(monkeypatch) -> None:
    """All classes at every step."""
    module = sys.modules["attacks.deepfool"]
    monkeypatch.setattr(module, "_FIRST", 9)
    monkeypatch.setattr(module, "_FOLLOWED", 9)


def right(case, n: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The net with up to n images that it classifies correctly."""
    model, x, y = case
    keep = (model(x).argmax(1) == y).nonzero().flatten()[:n]
    return model, x[keep], y[keep]


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 6), (1, 1, 2)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("overshoot", [0.02, 0.5])
def test_linear_networks_take_one_step_of_known_length(linear, norm, shape, boxed, targeted, overshoot) -> None:
    model, x, y = linear(shape=shape)
    victim = Victim.of(model, x)
    options = {"norm": norm, "boxed": boxed, "targeted": targeted, "overshoot": overshoot}
    found = deepfool(victim, x, 1 - y if targeted else y, **options)
    assert model(found).argmax(1).ne(y).all()
    expected = (1 + overshoot) * model.distance(x, norm) + 1e-5
    torch.testing.assert_close(distance(found, x, norm).double(), expected, rtol=1e-4, atol=1e-6)
    assert victim.forwards.eq(3).all() and victim.backwards.eq(1).all()


class Classes(nn.Module):
    """A linear network with K classes."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(torch.Size(shape).numel(), classes)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(self.layer.weight.shape, generator=generator))
            self.layer.bias.copy_(-0.5 * self.layer.weight.sum(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("classes", [2, 3, 12])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_nearest_of_many_classes_is_taken(classes, norm) -> None:
    model = Classes((2, 3, 5), classes)
    x = 0.5 + 0.2 * (torch.rand(40, 2, 3, 5, generator=torch.Generator().manual_seed(1)) - 0.5)
    logits, y = model(x), model(x).argmax(1)
    weights = model.layer.weight.detach()
    lengths = torch.linalg.vector_norm(weights[:, None] - weights[None], 2 if norm == "l2" else 1, dim=2)[y]
    away = (logits.amax(1, keepdim=True) - logits).detach() / lengths.masked_fill(lengths == 0, torch.nan)
    expected = 1.02 * away.nan_to_num(torch.inf).amin(1) + 1e-5
    found = deepfool(model, x, y, norm=norm, candidates=classes)
    torch.testing.assert_close(distance(found, x, norm), expected, rtol=1e-3, atol=1e-6)
    victim = Victim.of(model, x)
    few = deepfool(victim, x, y, norm=norm, candidates=2)
    assert victim.backwards.eq(1).all() and (distance(few, x, norm) > 0.999 * expected).all()


def plainly(model: nn.Module, x: torch.Tensor, y: int, norm: str, steps: int = 50) -> torch.Tensor:
    """Algorithm 2 of the paper with overshoot on the sum, one image, all classes, in float64."""
    total = torch.zeros_like(x)
    for _ in range(steps):
        at = (x + 1.02 * total).requires_grad_()
        logits = model(at)[0]
        if int(logits.argmax()) != y:
            break
        best = torch.inf
        for k in (k for k in range(len(logits)) if k != y):
            (w,) = torch.autograd.grad(logits[k] - logits[y], at, retain_graph=True)
            size = w.norm() if norm == "l2" else w.abs().sum()
            away = float((logits[y] - logits[k]).detach() / size)
            if away < best:
                best, step = away, w / size if norm == "l2" else w.sign()
        total = total + (best + 1e-5 / 1.02) * step
    return (x + 1.02 * total).detach()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_without_the_box_and_lazy_classes_it_is_the_algorithm_of_the_paper(digits, norm, thorough) -> None:
    model, x, y = right(digits, 6)
    model, x = copy.deepcopy(model).double(), x.double()
    expected = torch.cat([plainly(model, x[row : row + 1], int(y[row]), norm) for row in range(len(x))])
    assert expected.amax() > 1 and expected.amin() < 0
    found = deepfool(model, x, y, norm=norm, boxed=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_lazy_classes_change_few_images_and_no_median(digits, norm, request) -> None:
    model, x, y = right(digits, 100)
    lazy, full = Victim.of(model, x), Victim.of(model, x)
    found = [deepfool(lazy, x, y, norm=norm)]
    request.getfixturevalue("thorough")
    found.append(deepfool(full, x, y, norm=norm))
    assert 3 * lazy.backwards.sum() < full.backwards.sum()
    lengths = torch.stack([distance(images, x, norm) for images in found])
    assert lengths[0].median().item() == pytest.approx(lengths[1].median().item(), rel=1e-3)
    assert torch.isclose(lengths[0], lengths[1], rtol=1e-2).float().mean() > 0.95


@pytest.mark.parametrize(
    ("norm", "attack"), [("l2", foolbox.attacks.L2DeepFoolAttack), ("linf", foolbox.attacks.LinfDeepFoolAttack)]
)
def test_medians_agree_with_foolbox(digits, norm, attack) -> None:
    model, x, y = right(digits, 40)
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, theirs, success = attack(steps=50, candidates=10, overshoot=0.02)(peer, x, y, epsilons=None)
    ours = deepfool(model, x, y, norm=norm)
    assert success.all() and model(ours).argmax(1).ne(y).all()
    ratio = distance(ours, x, norm).median() / distance(theirs, x, norm).median()
    # Each of their steps goes 1e-4 further, which adds up: the median is 0.1 in linf.
    assert (0.999 if norm == "l2" else 0.99) < ratio < 1.001


def test_superdeepfool_is_nearer_than_deepfool_and_as_near_as_ddn_of_foolbox(digits) -> None:
    model, x, y = right(digits, 40)
    lengths = [distance(attack(model, x, y), x, "l2") for attack in (superdeepfool, deepfool)]
    assert lengths[0].median() < 0.98 * lengths[1].median() and lengths[0].lt(1.02 * lengths[1]).all()
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, theirs, _ = foolbox.attacks.DDNAttack(steps=100)(peer, x, y, epsilons=None)
    assert lengths[0].median() < 1.03 * distance(theirs, x, "l2").median()


def test_targets_are_reached(digits) -> None:
    model, x, y = right(digits, 50)
    targets = (y + 1 + torch.arange(len(y)) % 9) % 10
    for attack, norm in ((deepfool, "l2"), (deepfool, "linf"), (superdeepfool, "l2")):
        found = attack(model, x, targets, norm=norm, targeted=True)
        assert model(found).argmax(1).eq(targets).float().mean() > 0.98
        assert found.ge(0).all() and found.le(1).all()


def test_options_that_make_no_sense_are_refused(digits) -> None:
    model, x, y = digits
    for options in ({"steps": 0}, {"overshoot": -0.1}, {"overshoot": float("nan")}, {"candidates": 1}):
        with pytest.raises(AttackError):
            deepfool(model, x[:2], y[:2], **options)
    for options in ({"steps": 0}, {"walk": 0}, {"norm": "linf"}, {"candidates": 1}):
        with pytest.raises(AttackError):
            superdeepfool(model, x[:2], y[:2], **options)
