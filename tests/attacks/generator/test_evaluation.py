"""Every figure is what a slow loop finds, and the generator takes part in evaluations without weakening them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attacks
from attacks import AttackError
from attacks.generator.attack import generated

from .conftest import Sums


@pytest.fixture(scope="module")
def ignorant() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


@pytest.fixture(scope="module")
def found(trained, digits, ignorant) -> attacks.GeneratorEvaluation:
    return attacks.evaluate_generator(
        trained, digits.model, digits.images[:12], digits.labels[:12], others={"ignorant": ignorant},
        rivals={"pgd": {"steps": 5}, "apgd": {"steps": 5}}, name="mine", batch_size=17,
    )  # fmt: skip


def test_every_answer_is_what_a_loop_finds(found, trained, digits, ignorant) -> None:
    x, y = digits.images[:12], digits.labels[:12]
    assert found.attacks == ("generator", "pgd", "apgd") and found.models == ("mine", "ignorant")
    for i in range(12):
        for target in range(10):
            if target == int(y[i]):
                assert found.answers[:, 0, i, target].eq(digits.model(x[i : i + 1]).argmax(1)).all()
                continue
            images = trained(x[i : i + 1], target)
            for m, model in enumerate((digits.model, ignorant)):
                assert found.answers[0, m, i, target] == model(images).argmax(1)


def test_rivals_are_the_attacks_of_the_registry(found, digits, ignorant) -> None:
    x, y = digits.images[:12], digits.labels[:12]
    for target in (0, 7):
        rows = (y != target).nonzero().flatten()
        keys = [f"{found.ids[row]} to {target}" for row in rows.tolist()]
        images = attacks.attack(
            digits.model, x[rows], y[rows], "pgd", epsilon=0.3, targets=[target] * len(rows), steps=5, ids=keys,
            early_stop=False,
        ).images  # fmt: skip
        for m, model in enumerate((digits.model, ignorant)):
            assert found.answers[1, m, rows, target].equal(model(images).argmax(1))


def test_tables_add_up(found, digits) -> None:
    frame, y = found.frame(), digits.labels[:12]
    assert len(frame) == 3 * 2 * 10
    mine = frame[(frame["attack"] == "generator") & (frame["model"] == "mine")].set_index("target")
    for target in range(10):
        said = found.answers[0, 0, y != target, target]
        assert (mine.loc[target, "n"], mine.loc[target, "reached"]) == (len(said), int((said == target).sum()))
        assert mine.loc[target, "low"] <= mine.loc[target, "success"] <= mine.loc[target, "high"]
    summary = found.summary()
    assert summary.loc[0, "success"] == pytest.approx(mine["reached"].sum() / mine["n"].sum())
    assert (summary["error"] >= summary["success"] - 1e-9).all() and (summary["seconds"] > 0).all()
    confusion = found.confusion()
    torch.testing.assert_close(torch.tensor(confusion.sum(axis=1).to_numpy()), torch.ones(10, dtype=torch.float64))
    assert [confusion.loc[t, t] for t in range(10)] == pytest.approx(mine["success"].tolist())
    assert found.confusion("pgd", "ignorant").shape == (10, 10)
    assert "generator" in repr(found) and "12 images x 10 targets" in repr(found)
    with pytest.raises(AttackError, match="did not run"):
        found.confusion("square")
    with pytest.raises(AttackError, match="did not look"):
        found.confusion(model="yours")


def test_batches_are_only_speed(found, trained, digits, ignorant) -> None:
    again = attacks.evaluate_generator(
        trained, digits.model, digits.images[:12], digits.labels[:12], others={"ignorant": ignorant}, name="mine"
    )
    assert again.answers[0].equal(found.answers[0])


def test_a_hand_made_generator_has_the_success_that_it_must_have(made) -> None:
    # All pixels rise by epsilon whatever the target: those that then pass the threshold are seen as 1, none as 0.
    images = torch.linspace(0.2, 0.5, 31).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    model, generator = Sums(0.452), made(40.0, channels=1, classes=2, epsilon=0.1)
    labels = (images.mean((1, 2, 3)) > 0.452).long()
    found = attacks.evaluate_generator(generator, model, images, labels)
    risen = (images.mean((1, 2, 3)) + 0.1 > 0.452) & (labels == 0)
    frame = found.frame().set_index("target")
    assert frame.loc[1, "reached"] == int(risen.sum()) and frame.loc[0, "reached"] == 0
    smaller = attacks.evaluate_generator(generator, model, images, labels, epsilon=0.05)
    assert smaller.frame().set_index("target").loc[1, "reached"] == int(
        ((images.mean((1, 2, 3)) + 0.05 > 0.452) & (labels == 0)).sum()
    )


def test_asking_for_a_few_targets_and_grey_levels(trained, digits) -> None:
    found = attacks.evaluate_generator(trained, digits.model, digits.images[:5], targets=[8, 2], eight_bit=True)
    assert found.targets.tolist() == [2, 8] and found.answers.shape == (1, 1, 5, 2)
    assert found.confusion().index.tolist() == [2, 8]


def test_in_a_cascade_it_takes_the_place_that_its_cost_gives_it(trained, digits) -> None:
    x, y = digits.images[:60], digits.labels[:60]
    plain = attacks.evaluate(digits.model, x, y, epsilons=(0.1, 0.3), attacks="fast")
    helped = attacks.evaluate(digits.model, x, y, epsilons=(0.1, 0.3), attacks="fast", generator=trained)
    assert helped.stages["attack"].tolist() == ["fgsm", "generator", "pgd"]
    assert (helped.curve["robust_accuracy"] <= plain.curve["robust_accuracy"]).all()
    assert helped.trustworthy == plain.trustworthy
    alone = attacks.evaluate(digits.model, x, y, epsilons=(0.3,), attacks=("square",), generator=trained,
                             options={"square": {"queries": 20}, "generator": {"target_classes": 2}})  # fmt: skip
    assert alone.stages["attack"].tolist() == ["generator", "square"]
    assert alone.stages["credited"][0] > 30
    broken = alone.samples["attack"] == "generator"
    images = alone.images[torch.tensor(broken.to_numpy())]
    assert (digits.model(images).argmax(1) != y[torch.tensor(broken.to_numpy())]).all()
    assert (alone.samples.loc[broken, "forwards"] <= 1 + 3 + 1).all(), "clean, three of its own, one that verifies"
    assert "MultiTargetGenerator" in str(alone.provenance["stages"])


def test_a_generator_is_no_search_that_the_gradient_should_have_beaten(trained, digits) -> None:
    # It runs before PGD and breaks nearly all: no sign of masked gradients.
    found = attacks.evaluate(
        digits.model, digits.images[:40], digits.labels[:40], epsilons=(0.3,), attacks=("pgd",), generator=trained
    )
    row = found.checks.set_index("check").loc["white box not weaker than black box"]
    assert found.stages["credited"][0] > 20 and row["passed"]


def test_as_an_attack_it_keeps_to_each_budget_and_tries_the_likeliest_first(trained, digits) -> None:
    x, y = digits.images[:30], digits.labels[:30]
    budgets = torch.linspace(0.02, 0.3, 30)
    images = generated(digits.model, x, y, budgets, generator=trained)
    assert ((images - x).abs().amax((1, 2, 3)) <= budgets + 1e-6).all()
    second = digits.model(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    one = generated(digits.model, x, y, 0.3, generator=trained, target_classes=1)
    assert one.equal(trained(x, second))
    aimed = generated(digits.model, x, (y + 1) % 10, 0.3, generator=trained, targeted=True)
    assert aimed.equal(trained(x, (y + 1) % 10))


def test_an_evaluation_with_a_generator_goes_on_from_its_journal(trained, digits, tmp_path) -> None:
    x, y = digits.images[:20], digits.labels[:20]
    options = {"epsilons": (0.3,), "attacks": ("pgd",), "checks": False, "journal": tmp_path}
    first = attacks.evaluate(digits.model, x, y, generator=trained, **options)
    again = attacks.evaluate(digits.model, x, y, generator=trained, **options)
    assert again.provenance["journal"]["executed"] == 0 and again.samples.equals(first.samples)
    with torch.no_grad():
        other = attacks.MultiTargetGenerator(**trained.config).eval()
    third = attacks.evaluate(digits.model, x, y, generator=other, **options)
    assert third.provenance["journal"]["executed"] > 0, "another generator, other results"


def test_what_does_not_fit_is_refused(trained, digits, made) -> None:
    x, y = digits.images[:4], digits.labels[:4]
    two = made(0.0, channels=1, classes=2)
    for call, told in (
        (lambda: attacks.evaluate(digits.model, x, y, generator=two), "model of so many classes"),
        (lambda: attacks.evaluate(digits.model, x, y, generator=made(0.0)), "images of 3"),
        (lambda: attacks.evaluate(digits.model, x, y, generator="mine"), "no generator"),
        (lambda: attacks.evaluate(digits.model, x, y, norm="l2", generator=trained), "no form for this norm"),
        (lambda: attacks.evaluate_generator(two, digits.model, x, y), "model of so many classes"),
        (lambda: attacks.evaluate_generator(trained, digits.model, x, rivals=["deepfol"]), "Unknown attack"),
        (lambda: attacks.evaluate_generator(trained, digits.model, x, rivals=["apgd-t"]), "cannot aim"),
        (lambda: attacks.evaluate_generator(trained, digits.model, x, targets=[10]), "numbered 0 to 9"),
        (lambda: attacks.evaluate_generator(trained, digits.model, x, others={"model": digits.model}), "one name"),
    ):
        with pytest.raises(AttackError, match=told):
            call()
