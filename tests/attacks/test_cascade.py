"""Budgets descend, what is found counts wherever it fits, and doubt calls the dear attacks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import attacks
from attacks import registry
from attacks._ball import distance
from attacks._ledger import Ledger

EPSILONS = (0.03, 0.06, 0.1, 0.15)


def ledger(lead: list[float], climbed: list[float], probed: list[float]) -> Ledger:
    n = len(lead)
    logits = torch.tensor([[0.0, -value] for value in lead])
    books = Ledger.open(torch.zeros(n, 1, 1, 1), torch.zeros(n, dtype=torch.long), logits, (0.1, 0.2))
    books.climbed, books.probed = torch.tensor(climbed).double(), torch.tensor(probed).double()
    return books


def test_doubt_is_about_one_image_at_a_time() -> None:
    cases = {
        "gradient did its work": (1.0, -0.5, -0.8, False),
        "gradient moved nothing": (1.0, -1.0, -1.5, True),
        "gradient made it worse": (1.0, -1.4, -torch.inf, True),
        "black box got further": (1.0, -0.5, -0.4, True),
        "all but broken": (1.0, -0.01, -0.8, True),
        "another scale": (1e4, -5e3, -8e3, False),
    }
    books = ledger(*([case[i] for case in cases.values()] for i in range(3)))
    doubtful = books.doubtful(torch.arange(len(cases))).tolist()
    assert doubtful == [i for i, case in enumerate(cases.values()) if case[3]]


def test_an_image_meets_the_largest_budget_first_and_stops_where_it_stands(linear) -> None:
    """On a linear net FGSM is exact: broken at every budget above the distance, standing below."""
    model, x, y = linear(n=40)
    reach = model.distance(x, "linf")
    budgets = tuple(sorted(float(reach.quantile(q)) for q in (0.2, 0.5, 0.8)))
    rob = attacks.evaluate(model, x, y, epsilons=budgets, attacks=("fgsm",), checks=False)
    expected = [1.0, *((reach > epsilon).double().mean().item() for epsilon in budgets)]
    assert rob.curve.robust_accuracy.tolist() == pytest.approx(expected)
    standing = torch.tensor((rob.samples.broken_at == float("inf")).to_numpy())
    assert rob.samples.forwards[standing.numpy()].eq(1 + 1 + 1).all(), "one attack, one verification"
    # Broken everywhere: one attack, then its image, brought to each smaller budget.
    everywhere = (rob.samples.broken_at == budgets[0]).to_numpy()
    assert rob.samples.forwards[everywhere].eq(1 + 2 + 2).all() and rob.samples.backwards[everywhere].eq(1).all()


def test_a_minimal_attack_answers_for_all_budgets(linear) -> None:
    model, x, y = linear(n=40)
    reach = model.distance(x, "l2")
    budgets = tuple(sorted(float(reach.quantile(q)) for q in (0.2, 0.5, 0.8)))
    rob = attacks.evaluate(model, x, y, norm="l2", epsilons=budgets, attacks=("ddn",), checks=False)
    for epsilon in budgets:
        share = rob.curve.set_index("epsilon").robust_accuracy[epsilon]
        assert abs(share - (reach > epsilon).float().mean().item()) <= 0.05
    assert rob.stages.credited.sum() == (rob.samples.attack == "ddn").sum()


def test_stages_add_up(digits) -> None:
    x, y = digits.images[:60], digits.labels[:60]
    rob = attacks.evaluate(digits.model, x, y, epsilons=EPSILONS, attacks=("fgsm", "apgd", "square"), checks=False,
                           options={"square": {"queries": 10}, "apgd": {"steps": 10}})  # fmt: skip
    stages, samples = rob.stages, rob.samples
    assert stages.columns.tolist() == ["attack", "title", "tried", "credited", "forwards", "backwards", "seconds"]
    assert stages.forwards.sum() + len(x) == samples.forwards.sum()
    assert stages.backwards.sum() == samples.backwards.sum()
    for row in stages.itertuples():
        assert row.credited == (samples.attack == row.attack).sum()
    assert stages.tried.iloc[0] == samples.clean_correct.sum() and stages.tried.is_monotonic_decreasing


def test_stored_adversarials_come_first(digits) -> None:
    x, y = digits.images[:40], digits.labels[:40]
    ids = [f"digit {i}" for i in range(40)]
    constant = {"pgd": {"relative_step": 2.5 / 20}}  # small steps, which stored images save many of
    request = {"epsilons": EPSILONS, "attacks": "fast", "options": constant, "checks": False, "ids": ids}
    first = attacks.evaluate(digits.model, x, y, **request)
    stored = first.adversarials()
    assert set(stored) == set(first.samples.id[first.samples.broken_at.between(0, 1, inclusive="right")])
    again = attacks.evaluate(digits.model, x, y, replay={**stored, "somebody else": x[0]}, **request)
    assert (again.samples.broken_at <= first.samples.broken_at).all()
    broken = again.samples.broken_at.between(0, 1, inclusive="right")
    assert (again.samples.attack[broken] == "replay").mean() > 0.9
    assert again.samples.backwards.sum() < 0.9 * first.samples.backwards.sum()
    with pytest.raises(attacks.AttackError, match="does not fit its image: digit 3"):
        attacks.evaluate(digits.model, x, y, replay={"digit 3": x[0, 0]}, **request)
    # A stored image that fools nobody is worth nothing.
    lazy = attacks.evaluate(digits.model, x, y, replay=dict(zip(ids, x, strict=True)), **request)
    assert (lazy.samples.attack != "replay").all() and lazy.curve.equals(first.curve)


def test_results_survive_eight_bits(digits) -> None:
    x = (digits.images[:40] * 255).round() / 255
    y = digits.labels[:40]
    for norm, epsilon in (("linf", 24 / 255), ("l2", 0.8)):
        rob = attacks.evaluate(digits.model, x, y, norm=norm, epsilons=[epsilon], attacks="fast", eight_bit=True)
        levels = rob.images * 255
        assert (levels - levels.round()).abs().max() < 1e-4
        stored = (rob.images * 255).round().to(torch.uint8).float() / 255
        assert digits.model(stored).argmax(1).tolist() == rob.samples.fooled_as.tolist()
        assert (distance(stored, x, norm) <= epsilon + 1e-6).all()
        assert rob.curve.robust_accuracy.iloc[-1] < rob.curve.robust_accuracy.iloc[0]


def test_averaging_over_a_random_model(digits) -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return digits.model(x + 0.3 * torch.randn_like(x))

    x, y = digits.images[:30], digits.labels[:30]
    one = attacks.attack(Noisy(), x, y, "pgd", epsilon=0.1, steps=10, early_stop=False)
    many = attacks.attack(Noisy(), x, y, "pgd", epsilon=0.1, steps=10, early_stop=False, eot=12)
    attacked = many.distance > 0
    assert (many.forwards[attacked] == 12 * (1 + 11 + 1)).all() and (many.backwards[attacked] == 120).all()
    assert many.provenance["eot"] == 12
    with torch.no_grad():
        right = [
            torch.stack([Noisy()(found.images).argmax(1) == y for _ in range(20)]).float().mean()
            for found in (one, many)
        ]
    assert right[1] < right[0], "a gradient averaged over the noise misleads less"


def test_dear_attacks_meet_only_doubtful_images(digits, monkeypatch) -> None:
    seen: list[int] = []

    def watch(victim, x, labels, epsilon, *, norm, targeted):
        seen.append(len(x))
        return x

    spy = dataclasses.replace(registry.ATTACKS["fgsm"], name="spy", function=watch)
    stages = (registry.Stage(registry.ATTACKS["apgd"].configured({"steps": 20})), registry.Stage(spy, doubtful=True))
    monkeypatch.setitem(registry.PRESETS, "watched", stages)
    x, y = digits.images[:60], digits.labels[:60]
    request = {"epsilons": [0.06], "attacks": "watched", "checks": False}
    honest = attacks.evaluate(digits.model, x, y, **request)
    assert honest.stages.tried.iloc[1] < 0.3 * (honest.samples.broken_at > 0.06).sum()
    seen.clear()
    blind = attacks.evaluate(nn.Sequential(_Rounded(), digits.model).eval(), x, y, **request)
    assert sum(seen) == (blind.samples.broken_at > 0.06).sum() > 40, "without a gradient every image is doubtful"


class _Rounded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (15 * x).round() / 15


def test_standard_finds_what_masked_gradients_hide(digits) -> None:
    model, x, y = nn.Sequential(_Rounded(), digits.model).eval(), digits.images[:30], digits.labels[:30]
    options = {"square": {"queries": 150}, "apgd-t": {"steps": 10}, "fab-t": {"steps": 5}}
    fast, standard = (
        attacks.evaluate(model, x, y, epsilons=[0.15], attacks=preset, options=own)
        for preset, own in (("fast", {}), ("standard", options))
    )
    assert standard.curve.robust_accuracy.iloc[-1] < fast.curve.robust_accuracy.iloc[-1]
    assert not fast.trustworthy and not standard.trustworthy
    failed = set(standard.checks.check[~standard.checks.passed])
    assert {"gradients not zero", "white box not weaker than black box"} <= failed
