"""Agreement with foolbox on the same attacks, and never weaker."""

from __future__ import annotations

import copy

import foolbox
import pytest
import torch

import attacks

FGM = {"linf": foolbox.attacks.FGSM, "l2": foolbox.attacks.FGM}
PGD = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.8)])
def test_fgsm_returns_the_same_images(digits, norm, epsilon) -> None:
    """In float64, where a sign of the gradient is not a matter of rounding; ours then rounds images to float32."""
    model, x, y = digits
    model = copy.deepcopy(model).double()
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs, _, _ = FGM[norm]()(peer, x.double(), y, epsilons=epsilon)
    ours = attacks.fgsm(model, x, y, epsilon, norm=norm)
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("linf", 0.15), ("l2", 0.7)])
def test_pgd_agrees_and_is_not_weaker(digits, norm, epsilon) -> None:
    """At equal steps outcomes may differ for images at the edge, since starts do: 2 % of 300. Shrinking steps are stronger."""
    model, x, y = digits
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    torch.manual_seed(0)
    _, _, success = PGD[norm](steps=20, rel_stepsize=2.5 / 20)(peer, x, y, epsilons=epsilon)
    request = {"norm": norm, "epsilon": epsilon, "steps": 20}
    alike, ours = (attacks.attack(model, x, y, "pgd", **request, **own) for own in ({"relative_step": 2.5 / 20}, {}))
    assert 0.15 < success.float().mean() < 0.9
    assert (alike.success.float().mean() - success.float().mean()).abs() <= 0.02
    assert ours.success.float().mean() >= success.float().mean()
    assert ours.backwards.sum() < 0.9 * alike.backwards.sum()
    cascade = attacks.evaluate(
        model, x, y, norm=norm, epsilons=[epsilon], options={"pgd": {"restarts": 3}}, attacks="fast"
    )
    assert cascade.curve.robust_accuracy.iloc[-1] <= 1 - success.float().mean().item() + 1e-6
