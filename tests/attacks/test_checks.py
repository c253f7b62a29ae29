"""Networks that are broken on purpose must raise their flag, and honest ones must not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import attacks
from attacks import registry

EPSILONS = (0.05, 0.12)


class Wrapped(nn.Module):
    """A network with something done to its input or output."""

    def __init__(self, model: nn.Module, before=lambda x: x, after=lambda z: z) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.model(self.before(x)))


@pytest.fixture
def checked(digits):
    def run(model: nn.Module | None = None, **request) -> tuple[attacks.Evaluation, dict]:
        request = {"attacks": "fast", "epsilons": EPSILONS, **request}
        rob = attacks.evaluate(model or digits.model, digits.images[:60], digits.labels[:60], **request)
        return rob, rob.checks.set_index("check").to_dict("index")

    return run


@pytest.mark.parametrize(("norm", "epsilons"), [("linf", EPSILONS), ("l2", (0.3, 0.8))])
def test_an_honest_network_passes_every_check(checked, norm, epsilons) -> None:
    rob, checks = checked(norm=norm, epsilons=epsilons)
    assert list(checks) == [
        "outputs are logits",
        "deterministic model",
        "images are judged alone",
        "gradients not zero",
        "huge epsilon breaks all",
        "success grows with epsilon",
        "many steps not weaker than one",
        "white box not weaker than black box",
        "more steps do not help",
    ]
    assert rob.trustworthy and rob.checks.passed.all()
    assert not rob.checks.detail.str.startswith("Not tested").any()
    assert rob.checks.value.notna().all()


def failed(checks: dict) -> set[str]:
    return {name for name, row in checks.items() if not row["passed"]}


def test_saturated_logits_raise_the_gradient_flag_but_do_not_stop_the_attack(checked, digits) -> None:
    honest, _ = checked()
    rob, checks = checked(Wrapped(digits.model, after=lambda z: z * 1e4))
    assert "gradients not zero" in failed(checks) and not rob.trustworthy
    assert checks["gradients not zero"]["value"] > 0.9
    assert "zero" in checks["gradients not zero"]["detail"]
    # Climbing log-odds instead of cross-entropy, the attack is as strong as on the honest network.
    assert rob.curve.robust_accuracy.iloc[-1] == pytest.approx(honest.curve.robust_accuracy.iloc[-1], abs=0.02)


def test_quantised_activations_and_cut_graphs_raise_the_gradient_flag(checked, digits) -> None:
    for before in (lambda x: (x * 15).round() / 15, lambda x: x.detach()):
        rob, checks = checked(Wrapped(digits.model, before=before))
        assert "gradients not zero" in failed(checks) and not rob.trustworthy
        assert checks["gradients not zero"]["value"] == 1


def test_a_gradient_of_nan_is_flagged_and_poisons_nothing(checked, digits) -> None:
    """The root of zero has an infinite slope, and infinity times zero is NaN."""
    broken = Wrapped(digits.model, before=lambda x: x + 0 * (x - x.detach()).abs().sqrt())
    rob, checks = checked(broken)
    assert "gradients not zero" in failed(checks) and checks["gradients not zero"]["value"] == 1
    assert rob.images.isfinite().all()
    assert attacks.pgd(broken, digits.images[:5], digits.labels[:5], 0.1, early_stop=False).isfinite().all()
    start = attacks.pgd(broken, digits.images[:5], digits.labels[:5], 0.1, steps=1, early_stop=False)
    assert start.ne(digits.images[:5]).flatten(1).any(1).all()  # a random start is all that is left


def test_a_random_network_raises_the_determinism_flag(checked, digits) -> None:
    noisy = Wrapped(digits.model, before=lambda x: x + 0.05 * torch.randn_like(x))
    rob, checks = checked(noisy)
    assert "deterministic model" in failed(checks) and not rob.trustworthy


def test_probabilities_are_flagged_and_log_probabilities_are_not(checked, digits) -> None:
    rob, checks = checked(Wrapped(digits.model, after=lambda z: z.softmax(1)))
    assert "outputs are logits" in failed(checks) and not rob.trustworthy
    assert "softmax" in checks["outputs are logits"]["detail"]
    _, checks = checked(Wrapped(digits.model, after=lambda z: z.log_softmax(1)))
    assert not failed(checks)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_batch_statistics_are_flagged(checked, batch_size) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(144, 10)
    )
    rob, checks = checked(model, batch_size=batch_size)
    assert "images are judged alone" in failed(checks) and not rob.trustworthy


def test_an_attack_that_cannot_win_with_any_budget_is_flagged() -> None:
    class Stubborn(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0]]) + 0 * x.flatten(1)[:, :2]

    rob = attacks.evaluate(Stubborn(), torch.full((20, 1, 2, 2), 0.5), [0] * 20, epsilons=[0.1], attacks="fast")
    checks = rob.checks.set_index("check")
    assert not checks.passed["huge epsilon breaks all"] and checks.value["huge epsilon breaks all"] == 0
    assert not rob.trustworthy


class Trap(nn.Module):
    """One pixel decides. At the image the slope points to the boundary, 0.095 away; all between points back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = (x.flatten(1)[:, 0] - 0.5) / 0.1
        margin = torch.where(t.abs() < 1e-6, -t + 1, torch.where(t < 0.95, 1 + t, -torch.ones_like(t)))
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def test_misleading_gradients_are_flagged() -> None:
    """One step of FGSM jumps over the trap that holds PGD: FGSM must not be the stronger attack."""
    x = torch.full((20, 1, 1, 1), 0.5)
    rob = attacks.evaluate(
        Trap(),
        x,
        [0] * 20,
        epsilons=[0.1],
        ids=map(str, range(20)),
        options={"pgd": {"random_start": False, "relative_step": 2.5 / 20}},
        attacks="fast",
    )
    checks = rob.checks.set_index("check")
    assert (rob.samples.attack == "fgsm").all()
    assert not checks.passed["many steps not weaker than one"] and checks.value["many steps not weaker than one"] == 0


def test_an_attack_that_fails_with_more_budget_is_flagged(digits, monkeypatch) -> None:
    """An attack that walks past the boundary: fine at a small budget, lost at a large one."""

    def brittle(model, x, labels, epsilon, *, norm, targeted):
        return attacks.fgsm(model, x, labels, torch.where(epsilon < 0.1, epsilon, 0 * epsilon), norm=norm)

    fake = dataclasses.replace(registry.ATTACKS["fgsm"], name="brittle", function=brittle)
    monkeypatch.setitem(registry.ATTACKS, "brittle", fake)
    request = {"epsilons": (0.08, 0.2), "attacks": ("brittle",)}
    rob = attacks.evaluate(digits.model, digits.images[:60], digits.labels[:60], **request)
    assert not rob.checks.set_index("check").passed["success grows with epsilon"]


def test_nothing_to_test_says_so_and_passes(digits) -> None:
    y = (digits.model(digits.images[:5]).argmax(1) + 1) % 10  # all wrong from the start
    rob = attacks.evaluate(digits.model, digits.images[:5], y, epsilons=[0.05], attacks="fast")
    rows = rob.checks.set_index("check")
    for name in (
        "gradients not zero",
        "huge epsilon breaks all",
        "success grows with epsilon",
        "many steps not weaker than one",
    ):
        assert rows.detail[name].startswith("Not tested") and rows.passed[name]
    assert rob.curve.robust_accuracy.eq(0).all()


def test_without_checks_nothing_is_trustworthy(checked) -> None:
    rob, checks = checked(checks=False)
    assert not checks and not rob.trustworthy
    assert "not run" in repr(rob)
    assert list(rob.checks.columns) == ["check", "passed", "value", "detail"]
