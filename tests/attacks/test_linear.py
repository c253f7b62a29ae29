"""On a linear network the best attack is known in closed form, so attacks must break exactly what can be broken."""

from __future__ import annotations

import pytest
import torch

import attacks

NORMS = ("linf", "l2")


def middle(distances: torch.Tensor, share: float = 0.5) -> float:
    """A budget that breaks about ``share`` of the images, halfway between two of them."""
    ordered = distances.sort().values
    index = int(share * len(ordered))
    return float(ordered[index - 1 : index + 1].mean())


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 6), (1, 1, 2)])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_breaks_exactly_the_images_within_reach(linear, name, norm, shape) -> None:
    model, x, y = linear(shape=shape)
    reach = model.distance(x, norm)
    epsilon = middle(reach)
    found = attacks.attack(model, x, y, name, norm=norm, epsilon=epsilon)
    assert not found.success[reach > epsilon].any()
    # A random start leaves l2-PGD a rest at right angles that shrinks by 1 / (1 + alpha / epsilon) per step: after 20 steps
    # it reaches more than 0.99 of the distance. All else is exact.
    sure = 0.99 if (name, norm) == ("pgd", "l2") else 1.0
    assert found.success[reach < sure * epsilon].all()
    assert 0.4 < found.success.float().mean() < 0.6


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_from_the_image_is_exact(linear, norm) -> None:
    model, x, y = linear()
    reach = model.distance(x, norm)
    epsilon = middle(reach)
    assert attacks.attack(model, x, y, norm=norm, epsilon=epsilon, random_start=False).success.equal(reach < epsilon)


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_moves_the_margin_by_epsilon_times_the_dual_norm(linear, norm) -> None:
    model, x, y = linear()
    epsilon = 0.05
    moved = attacks.fgsm(model, x, y, epsilon, norm=norm)
    dual = model.w.abs().sum() if norm == "linf" else model.w.norm()
    expected = model.margin(x) - (2 * y - 1) * epsilon * dual.item()
    torch.testing.assert_close(model.margin(moved), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_targeted_attacks_reach_the_target_and_only_within_reach(linear, name, norm) -> None:
    model, x, y = linear()
    reach = model.distance(x, norm)
    epsilon = middle(reach)
    found = attacks.attack(model, x, y, name, norm=norm, epsilon=epsilon, targets=1 - y)
    assert found.success.equal(reach < epsilon)
    assert model(found.images[found.success]).argmax(1).equal((1 - y)[found.success])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
@pytest.mark.parametrize("targeted", [False, True])
def test_an_image_already_there_is_returned_untouched(linear, name, norm, targeted) -> None:
    model, x, y = linear(n=8)
    request = {"targets": y} if targeted else {}
    found = attacks.attack(model, x, y if targeted else 1 - y, name, norm=norm, epsilon=0.01, **request)
    assert found.success.all()
    assert found.images.equal(x)
    assert found.distance.eq(0).all()
    assert found.forwards.eq(1).all() and found.backwards.eq(0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_curve_is_the_distribution_of_distances(linear, norm) -> None:
    model, x, y = linear()
    reach = model.distance(x, norm)
    budgets = [middle(reach, share) for share in (0.2, 0.5, 0.8)]
    rob = attacks.evaluate(model, x, y, norm=norm, epsilons=budgets, attacks="fast")
    expected = [1.0] + [(reach > epsilon).double().mean().item() for epsilon in budgets]
    assert rob.curve.robust_accuracy.tolist() == pytest.approx(expected, abs=1e-12)
    for reached, broken_at in zip(reach.tolist(), rob.samples.broken_at, strict=True):
        assert broken_at == next((epsilon for epsilon in budgets if epsilon > reached), float("inf"))
    assert rob.trustworthy, rob.checks


def test_each_image_can_have_its_own_budget(linear) -> None:
    """Later cascades attack one image at several budgets in one batch."""
    model, x, y = linear()
    reach = model.distance(x, "linf").float()
    factor = torch.where(torch.arange(len(x)) % 2 == 0, 0.98, 1.02)
    for attack in (attacks.fgsm, attacks.pgd):
        moved = attack(model, x, y, reach * factor)
        assert model(moved).argmax(1).ne(y).equal(factor > 1)
