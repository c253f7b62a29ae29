"""APGD on networks whose optimum is known, its losses re-derived, its schedule and what it costs."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import attacks
from attacks._ball import distance
from attacks._frozen import frozen_view
from attacks._losses import dlr, dlr_targeted, likeliest_others, log_odds
from attacks._victim import Victim
from attacks.apgd import _checkpoints

ALL = {"apgd": attacks.apgd, "apgd-dlr": attacks.apgd_dlr, "apgd-t": attacks.apgd_t}


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 6), (1, 1, 2)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", ALL)
def test_breaks_exactly_the_images_within_reach(linear, name, norm, shape) -> None:
    model, x, y = linear(n=40, shape=shape)
    w = model.w.detach()
    dual = {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}[norm]
    reach = model.margin(x).abs() / dual
    epsilon = float(reach.sort().values[19:21].mean())
    found = attacks.attack(model, x, y, name, norm=norm, epsilon=epsilon)
    assert not found.success[reach > epsilon].any()
    # In l1 the whole budget belongs into one number, which signs of many numbers approach as they grow sparser.
    sure = {"linf": 1.0, "l2": 0.999, "l1": 0.97}[norm]
    assert found.success[reach < sure * epsilon].all()


@pytest.mark.parametrize("name", ["apgd", "apgd-dlr"])
def test_a_target_is_reached_where_it_can_be(linear, name) -> None:
    model, x, y = linear(n=30)
    reach = model.distance(x, "linf")
    epsilon = float(reach.median()) * 1.001
    found = attacks.attack(model, x, y, name, epsilon=epsilon, targets=1 - y)
    assert found.success.equal(reach <= epsilon)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_budget_and_box_are_kept_and_the_batch_does_not_matter(digits, norm) -> None:
    model, x, y = digits.model, digits.images[:12], digits.labels[:12]
    epsilon = torch.linspace(0.02, 0.2, 12) * {"linf": 1, "l2": 5, "l1": 30}[norm]
    for function in ALL.values():
        found = function(model, x, y, epsilon, norm=norm, steps=12)
        assert (distance(found, x, norm) <= epsilon + 1e-6 * epsilon.clamp(min=1)).all()
        assert found.min() >= 0 and found.max() <= 1
        alone = torch.cat(
            [function(model, x[i : i + 1], y[i : i + 1], epsilon[i], norm=norm, steps=12) for i in (0, 7)]
        )
        if norm == "l1":  # which numbers are the largest is decided by a bit, so only the outcome is comparable
            broken = [model(images).argmax(1) != y[[0, 7]] for images in (found[[0, 7]], alone)]
            assert broken[0].equal(broken[1])
        else:
            torch.testing.assert_close(found[[0, 7]], alone, rtol=0, atol=1e-4)


def test_checkpoints_are_those_of_the_paper() -> None:
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), at ceil(p_j N)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    expected = [round(100 * share) for share in shares[1:] if round(100 * share) < 100]
    assert list(_checkpoints(100)) == expected
    assert list(_checkpoints(3)) == [1, 2]


def test_ratios_are_those_of_the_paper_and_blind_to_scale_and_shift() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5, -1.0, 0.5], [0.0, 4.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0])
    expected = torch.tensor([-(3 - 2.5) / (3 - 1), -(0.0 - 4) / (4 - 2)], dtype=torch.float64)
    torch.testing.assert_close(dlr(logits, labels), expected)
    pairs = torch.tensor([[0, 1], [0, 3]])
    expected = torch.tensor([-(3 - 1) / (3 - (1 + 0.5) / 2), -(0.0 - 2) / (4 - (2 + 1) / 2)], dtype=torch.float64)
    torch.testing.assert_close(dlr_targeted(logits, pairs), expected)
    for function, aim in ((dlr, labels), (dlr_targeted, pairs)):
        torch.testing.assert_close(function(1e4 * logits - 7, aim), function(logits, aim))


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes(classes) -> None:
    logits = torch.randn(6, classes, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = logits.argmax(1)
    others = likeliest_others(logits, labels, 9)
    assert others.shape == (6, classes - 1) and (others != labels[:, None]).all()
    ordered = logits.gather(1, others)
    assert (ordered[:, :-1] >= ordered[:, 1:]).all()
    for value in (dlr(logits, labels), dlr_targeted(logits, torch.stack([labels, others[:, 0]], 1))):
        (gradient,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        assert value.isfinite().all() and gradient.isfinite().all()
        assert (gradient.gather(1, labels[:, None]) < 0).all(), "the label's logit must fall"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, classes))
        x = torch.rand(8, 1, 2, 3)
    y = model(x).argmax(1)
    for name in ALL:
        found = attacks.attack(model, x, y, name, epsilon=1.0, steps=10)
        assert found.images.isfinite().all() and (found.success.any() or classes == 2)


def test_the_ratio_is_not_flattened_by_large_logits(digits) -> None:
    x, y = digits.images[:40], digits.labels[:40]
    scaled = nn.Sequential(digits.model, _Times(2.0**13)).eval()
    for name in ("apgd-dlr", "apgd-t"):
        plain, large = (attacks.attack(model, x, y, name, epsilon=0.08, steps=10) for model in (digits.model, scaled))
        assert (plain.success == large.success).float().mean() >= 0.97


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def test_an_image_without_gradient_leaves_at_once(digits) -> None:
    class Rounded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return digits.model((15 * x).round() / 15)

    x, y = digits.images[:5], digits.labels[:5]
    found = attacks.attack(Rounded(), x, digits.model(x).argmax(1), "apgd", epsilon=0.01)
    assert found.backwards.tolist() == [1] * 5 and found.images.isfinite().all()
    assert attacks.attack(Rounded(), x, y, "apgd", norm="l1", epsilon=0.1).backwards.max() <= 3


def test_a_broken_image_leaves_at_once_and_nothing_costs_more_than_it_says(digits) -> None:
    x, y = digits.images[:60], digits.labels[:60]
    for name, options in (
        ("apgd", {"steps": 15, "restarts": 2}),
        ("apgd-t", {"steps": 15, "target_classes": 4}),
        ("apgd-t", {"steps": 15, "target_classes": 4, "finalists": 2, "scouting": 5}),
    ):
        entry = attacks.ATTACKS[name].configured(options)
        victim = Victim(frozen_view(digits.model), [str(i) for i in range(60)])
        found = entry.function(victim, x, y, 0.1, norm="linf", targeted=False)
        broken = digits.model(found).argmax(1) != y
        assert victim.forwards.max() == entry.passes(entry.options)
        assert victim.forwards[broken].float().mean() < 0.6 * victim.forwards[~broken].float().mean()


def test_finalists_are_the_targets_that_came_nearest(digits, monkeypatch) -> None:
    module = sys.modules["attacks.apgd"]
    runs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def watched(victim, ball, rows, pairs, loss, broken, best, stream, steps, rho, climb=module._climb) -> None:
        climb(victim, ball, rows, pairs, loss, broken, best, stream, steps, rho)
        runs.append((rows, pairs[:, 1], best.loss[rows]))

    monkeypatch.setattr(module, "_climb", watched)
    x = digits.images[:20]
    attacks.apgd_t(digits.model, x, digits.model(x).argmax(1), 0.03, steps=8, finalists=1, scouting=4)
    *scouts, (rows, chosen, _) = runs
    assert len(scouts) == 9 and len(rows) > 10
    for row, target in zip(rows.tolist(), chosen.tolist(), strict=True):
        losses = {int(targets[seen == row]): float(loss[seen == row]) for seen, targets, loss in scouts}
        assert target == max(losses, key=losses.__getitem__)


@pytest.mark.parametrize("norm", ["linf", "l2", pytest.param("l1", marks=pytest.mark.slow)])
def test_at_least_as_strong_as_pgd_and_the_loss_of_failures_is_higher(digits, norm) -> None:
    n = 25 if norm == "l1" else 100  # the peer goes image by image
    x, y = digits.images[:n], digits.labels[:n]
    epsilon = {"linf": 0.08, "l2": 0.5, "l1": 1.0}[norm]
    apgd = attacks.attack(digits.model, x, y, "apgd", norm=norm, epsilon=epsilon, steps=40)
    peer = "foolbox:SparseL1DescentAttack" if norm == "l1" else "pgd"
    pgd = attacks.attack(digits.model, x, y, peer, norm=norm, epsilon=epsilon, steps=40)
    assert apgd.success.sum() >= pgd.success.sum() - 1
    both = ~apgd.success & ~pgd.success
    with torch.no_grad():
        higher = log_odds(digits.model(apgd.images[both]), y[both]) - log_odds(digits.model(pgd.images[both]), y[both])
    assert len(higher) and higher.median() > -0.01


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("apgd", {"steps": 0}, "at least one of steps: 0"),
        ("apgd-t", {"target_classes": 0}, "at least one of target_classes"),
        ("apgd-dlr", {"rho": 1.5}, "share between 0 and 1: 1.5"),
        ("apgd-t", {"finalists": -1}, "cannot be negative: -1"),
    ],
)
def test_refuses(digits, name, options, what) -> None:
    with pytest.raises(attacks.AttackError, match=what):
        attacks.attack(digits.model, digits.images[:2], digits.labels[:2], name, **options)
    with pytest.raises(attacks.AttackError, match="cannot aim"):
        attacks.attack(digits.model, digits.images[:2], digits.labels[:2], "apgd-t", targets=[0, 1])
