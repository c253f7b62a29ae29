"""Every refusal is one paragraph that says what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attacks

X = torch.full((3, 1, 2, 2), 0.5)
Y = torch.tensor([0, 1, 2])


def net(classes: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))


class Returns(nn.Module):
    """A model that returns whatever it is told to."""

    def __init__(self, what) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: torch.Tensor) -> object:
        return self.what(x)


BAD_IMAGES = [
    (X * 255, r"\[0, 1\]: found \[127.5, 127.5\]", "divided by 255"),
    (X - 1, r"\[0, 1\]", "normalisation"),
    (X * torch.nan, "NaN", "division"),
    (X / 0, "infinity", "division"),
    (X[0], r"\(N, C, H, W\): \(1, 2, 2\)", r"images\[None\]"),
    (X[:0], r"\(0, 1, 2, 2\)", "at least one"),
    ((X * 255).byte(), "floating point", "Divide"),
    (X.numpy(), "Tensor: ndarray", "as_tensor"),
]
BAD_LABELS = [
    (None, "labels are missing", "Pass one class"),
    (Y[:2], r"do not fit the images: \(2,\)", r"\(3,\)"),
    (Y[:, None], r"do not fit the images: \(3, 1\)", "shape"),
    (torch.tensor([0, 1, 3]), "does not have: 3", "numbered 0 to 2"),
    (torch.tensor([0, -1, 2]), "does not have: -1", "numbered 0 to 2"),
    (Y.float(), "whole numbers: torch.float32", "long"),
    (Y > 0, "whole numbers: torch.bool", "long"),
    (["cat", "dog", "cow"], "not numbers: list", "class numbers"),
]
BAD_EPSILONS = [
    ([], "no epsilon", "1/255"),
    ([0.1, 0], "positive and finite: 0", "Clean accuracy"),
    ([-0.1], "positive and finite: -0.1", "Clean"),
    ([float("nan")], "positive and finite", "Clean"),
    ([float("inf")], "positive and finite", "Clean"),
    ([8.0], "largest possible linf distance, 1: 8.0", r"0\.03137"),
    (["a"], "must be numbers", "1/255"),
    (None, "must be numbers", "1/255"),
]


@pytest.mark.parametrize(("images", "what", "fix"), BAD_IMAGES)
def test_images(images, what, fix) -> None:
    for call in (attacks.attack, attacks.evaluate):
        with pytest.raises(attacks.AttackError, match=what) as caught:
            call(net(), images, Y)
        assert caught.match(fix)


@pytest.mark.parametrize(("labels", "what", "fix"), BAD_LABELS)
def test_labels_and_targets(labels, what, fix) -> None:
    with pytest.raises(attacks.AttackError, match=what) as caught:
        attacks.attack(net(), X, labels)
    assert caught.match(fix)
    if labels is not None:
        with pytest.raises(attacks.AttackError, match=what.replace("labels", "targets")):
            attacks.attack(net(), X, Y, targets=labels)
        with pytest.raises(attacks.AttackError, match=what):
            attacks.evaluate(net(), X, labels, attacks="fast")


@pytest.mark.parametrize(("epsilons", "what", "fix"), BAD_EPSILONS)
def test_epsilons(epsilons, what, fix) -> None:
    with pytest.raises(attacks.AttackError, match=what) as caught:
        attacks.evaluate(net(), X, Y, epsilons=epsilons, attacks="fast")
    assert caught.match(fix)


def test_epsilons_are_sorted_and_unique_and_l2_has_its_own_limit() -> None:
    assert attacks.evaluate(net(), X, Y, epsilons=[0.2, 0.1, 0.2], checks=False, attacks="fast").epsilons == (0.1, 0.2)
    assert attacks.evaluate(net(), X, Y, norm="l2", epsilons=[2.0], checks=False, attacks="fast").epsilons == (2.0,)
    with pytest.raises(attacks.AttackError, match=r"largest possible l2 distance, 2: 2\.1"):
        attacks.evaluate(net(), X, Y, norm="l2", epsilons=[2.1], attacks="fast")


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        ({"name": "pdg"}, "Unknown attack: 'pdg'. Did you mean 'pgd'"),
        ({"norm": "l7"}, "Unknown norm: 'l7'. Choose one of linf, l2"),
        ({"stpes": 3}, "no such option: stpes. Did you mean 'steps'"),
        ({"name": "fgsm", "steps": 3}, "FGSM has no such option: steps. It has none"),
        ({"steps": 0}, "at least one of steps: 0"),
        ({"steps": 2.5}, "this value of steps: 2.5. Pass a whole number"),
        ({"restarts": True}, "this value of restarts: True. Pass a whole number"),
        ({"random_start": 1}, "this value of random_start: 1. Pass True or False"),
        ({"relative_step": "big"}, "this value of relative_step: 'big'. Pass a number"),
        ({"relative_step": -1.0}, "must be positive: -1.0"),
        ({"restarts": 2, "random_start": False}, "Restarts without a random start"),
        ({"batch_size": 0}, "batch size must be a whole number of at least 1: 0"),
        ({"ids": ["a", "b"]}, "one id per image: 2 ids, 3 images"),
        ({"ids": ["a", "b", "a"]}, "Ids must be unique: a"),
    ],
)
def test_options(request_, what) -> None:
    with pytest.raises(attacks.AttackError, match=what):
        attacks.attack(net(), X, (net()(X).argmax(1)), **request_)


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        ({"attacks": "fats"}, "Unknown preset: 'fats'. Did you mean 'fast'"),
        ({"attacks": "pgd"}, r"For a single attack pass attacks=\('pgd',\)"),
        ({"attacks": ()}, "empty"),
        ({"attacks": ("pgd", "pgd")}, "repeats itself"),
        ({"attacks": ("pgd", "apdg")}, "Unknown attack: 'apdg'. Did you mean 'apgd'"),
        ({"attacks": "fast", "norm": "l0"}, "No attack of the preset 'fast' has a form for this norm: l0"),
        ({"attacks": ("pgd",), "norm": "l1"}, "PGD has no form for this norm: l1"),
        ({"attacks": ("fgsm",), "options": {"pgd": {"steps": 3}}}, "does not run: pgd"),
        ({"attacks": "fast", "options": {"pgd": {"step": 3}}}, "no such option: step"),
        ({"eot": 0}, "eot.* must be a whole number of at least 1: 0"),
        ({"batch_size": 0}, "batch size must be a whole number"),
    ],
)
def test_cascades(request_, what) -> None:
    with pytest.raises(attacks.AttackError, match=what):
        attacks.evaluate(net(), X, Y, **{"epsilons": [0.1], **request_})


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (lambda x: x, "needs a torch.nn.Module: function"),
        (net(1), r"K of at least 2; for 3 images it returned: \(3, 1\)"),
        (Returns(lambda x: x), r"it returned: \(3, 1, 2, 2\)"),
        (Returns(lambda x: (x, x)), "it returned: tuple"),
        (Returns(lambda x: x.flatten(1)[:1]), r"it returned: \(1, 4\)"),
        (Returns(lambda x: x.flatten(1) * torch.nan), "NaN to clean images: 3 of 3 images"),
        (nn.Conv2d(3, 2, 1), r"fails on these images: shape \(3, 1, 2, 2\)"),
    ],
)
def test_models(model, what) -> None:
    for call in (attacks.attack, attacks.evaluate):
        with pytest.raises(attacks.AttackError, match=what):
            call(model, X, Y)


def test_errors_read_as_one_paragraph() -> None:
    error = attacks.AttackError("Something is wrong", 3, "Do this.")
    assert str(error) == "Something is wrong: 3. Do this."
    assert (error.what, error.value, error.fix) == ("Something is wrong", 3, "Do this.")
    assert str(attacks.AttackError("Something is wrong")) == "Something is wrong."
    assert isinstance(error, ValueError)
