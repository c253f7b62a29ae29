"""The cascade, the books, verification, and the promise that batches, order and shards change nothing."""

from __future__ import annotations

import copy
import dataclasses

import pandas as pd
import pytest
import torch

import attacks
from attacks import registry
from attacks._ball import distance
from attacks.results import wilson

EPSILONS = (0.03, 0.08, 0.15)


@pytest.fixture(scope="module")
def evaluation(digits) -> attacks.Evaluation:
    return attacks.evaluate(digits.model, digits.images[:120], digits.labels[:120], epsilons=EPSILONS, attacks="fast")


def test_curve_starts_clean_falls_and_counts(digits, evaluation) -> None:
    curve, samples = evaluation.curve, evaluation.samples
    assert curve.columns.tolist() == ["epsilon", "robust_accuracy", "low", "high", "n"]
    assert curve.epsilon.tolist() == [0.0, *EPSILONS]
    assert curve.robust_accuracy.is_monotonic_decreasing
    assert curve.robust_accuracy.iloc[0] == samples.clean_correct.mean()
    assert curve.robust_accuracy.iloc[0] > 0.9 > 0.5 > curve.robust_accuracy.iloc[-1]
    for row in curve.itertuples():
        assert row.robust_accuracy == (samples.broken_at > row.epsilon).mean()
        assert 0 <= row.low <= row.robust_accuracy <= row.high <= 1


def test_samples_tell_the_whole_story(digits, evaluation) -> None:
    y, samples = digits.labels[:120], evaluation.samples
    names = "id label predicted clean_correct broken_at attack distance forwards backwards fooled_as"
    assert samples.columns.tolist() == names.split()
    assert samples.label.tolist() == y.tolist()
    assert set(samples.attack) == {"clean", "fgsm", "pgd", ""}
    wrong, standing = samples[~samples.clean_correct], samples[samples.attack == ""]
    assert (wrong.broken_at == 0).all() and (wrong.distance == 0).all() and (wrong.attack == "clean").all()
    assert (wrong.forwards == 1).all() and (wrong.backwards == 0).all()
    assert (standing.broken_at == float("inf")).all() and (standing.distance == float("inf")).all()
    # 1 clean, FGSM 1 + 1 verification, PGD 20 + 1 + 1 verification; smaller epsilons need no attack then.
    assert (standing.forwards == 1 + 2 + 22).all() and (standing.backwards == 1 + 20).all()


def test_images_are_the_proof(digits, evaluation) -> None:
    x, samples = digits.images[:120], evaluation.samples
    answers = digits.model(evaluation.images).argmax(1)
    assert answers.tolist() == samples.fooled_as.tolist()
    broken = torch.tensor(samples.broken_at.lt(float("inf")))
    assert answers[broken].ne(digits.labels[:120][broken]).all()
    assert evaluation.images[~broken].equal(x[~broken])
    budget = torch.tensor(samples.broken_at)[broken]
    lengths = distance(evaluation.images.double(), x.double(), "linf")[broken]
    assert (lengths <= budget + 1e-6).all()
    assert lengths.tolist() == pytest.approx(samples.distance[samples.broken_at.lt(float("inf"))].tolist(), abs=1e-6)
    assert evaluation.images.min() >= 0 and evaluation.images.max() <= 1


def test_all_budgets_together_find_what_each_finds_alone(digits, evaluation) -> None:
    for epsilon in EPSILONS:
        alone = attacks.evaluate(
            digits.model, digits.images[:120], digits.labels[:120], epsilons=[epsilon], attacks="fast", checks=False
        )
        apart = (evaluation.samples.broken_at <= epsilon) != (alone.samples.broken_at <= epsilon)
        assert apart.sum() <= 1


def test_batch_size_order_and_shards_change_nothing(digits) -> None:
    model, x, y = digits.model, digits.images[:40], digits.labels[:40]
    request = {"epsilons": EPSILONS, "seed": 5}
    bare = {**request, "checks": False}
    whole = attacks.evaluate(model, x, y, batch_size=64, **bare, attacks="fast").samples.set_index("id")
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    runs = {
        "one by one": [attacks.evaluate(model, x, y, batch_size=1, **bare, attacks="fast")],
        "sevens": [attacks.evaluate(model, x, y, batch_size=7, **request, attacks="fast")],
        "shuffled": [attacks.evaluate(model, x[order], y[order], batch_size=16, **request, attacks="fast")],
        "shards": [attacks.evaluate(model, x[part], y[part], **bare, attacks="fast") for part in order.split(23)],
    }
    for name, parts in runs.items():
        samples = pd.concat([part.samples for part in parts]).set_index("id").loc[whole.index]
        pd.testing.assert_frame_equal(samples, whole, obj=name, check_exact=False, atol=1e-5)
    assert runs["sevens"][0].checks.passed.tolist() == runs["shuffled"][0].checks.passed.tolist()


def test_groups_that_do_not_fit_into_memory_change_nothing(digits, monkeypatch) -> None:
    request = (digits.model, digits.images[:30], digits.labels[:30])
    whole = attacks.evaluate(*request, epsilons=EPSILONS, batch_size=8, attacks="fast")
    monkeypatch.setattr("attacks._session._GROUP", 1)
    split = attacks.evaluate(*request, epsilons=EPSILONS, batch_size=8, attacks="fast")
    pd.testing.assert_frame_equal(split.samples, whole.samples, check_exact=False, atol=1e-5)


def test_ids_carry_the_randomness(digits) -> None:
    request = {"epsilon": 0.02, "early_stop": False, "steps": 1, "relative_step": 0.1}
    x, y = digits.images[:20], digits.labels[:20]
    a = attacks.attack(digits.model, x, y, ids=[f"a{i}" for i in range(20)], **request)
    again = attacks.attack(digits.model, x, y, ids=[f"a{i}" for i in range(20)], **request)
    b = attacks.attack(digits.model, x, y, ids=[f"b{i}" for i in range(20)], **request)
    other = attacks.attack(digits.model, x, y, ids=[f"a{i}" for i in range(20)], seed=1, **request)
    assert again.images.equal(a.images)
    for changed in (b, other):
        assert (changed.images != a.images).flatten(1).any(1)[a.distance > 0].all()


def test_equal_images_without_ids_have_equal_results(digits) -> None:
    x = digits.images[:3].repeat(2, 1, 1, 1)
    found = attacks.attack(digits.model, x, digits.labels[:3].repeat(2), epsilon=0.1)
    assert found.ids[:3] == found.ids[3:]
    assert found.images[:3].equal(found.images[3:])


def test_broken_images_leave_pgd_at_once(digits) -> None:
    x, y = digits.images[:60], digits.labels[:60]
    found = attacks.attack(digits.model, x, y, epsilon=0.12, steps=30)
    assert found.forwards.max() == 1 + 31 + 1 and found.backwards.max() == 30
    assert found.backwards[found.success].float().mean() < 15
    slow = attacks.attack(digits.model, x, y, epsilon=0.12, steps=30, early_stop=False)
    attacked = slow.distance > 0
    assert slow.backwards[attacked].eq(30).all()
    # It saw every attempt of the other and more, up to rounding of batches.
    assert slow.success.float().mean() >= found.success.float().mean()


def test_restarts_only_see_what_is_standing_and_only_help(digits) -> None:
    x, y = digits.images[:100], digits.labels[:100]
    one = attacks.attack(digits.model, x, y, epsilon=0.08, steps=4)
    five = attacks.attack(digits.model, x, y, epsilon=0.08, steps=4, restarts=5)
    assert (five.success | ~one.success).all()
    assert five.backwards[one.success].equal(one.backwards[one.success])
    assert five.backwards[~five.success].eq(20).all()


def test_restarts_start_elsewhere(digits) -> None:
    """With hardly a step taken, the best of several starts is seldom the first."""
    request = {"epsilon": 0.01, "steps": 1, "relative_step": 1e-3, "early_stop": False}
    one = attacks.attack(digits.model, digits.images[:50], digits.labels[:50], **request)
    five = attacks.attack(digits.model, digits.images[:50], digits.labels[:50], restarts=5, **request)
    moved = (one.images != five.images).flatten(1).any(1)
    assert 0.5 < moved.float().mean() < 1


def test_labels_may_be_the_models_own(digits) -> None:
    rob = attacks.evaluate(digits.model, digits.images[:30], epsilons=[0.05], attacks="fast")
    assert rob.curve.robust_accuracy.iloc[0] == 1
    assert rob.provenance["labels"] == "model predictions"
    assert rob.samples.label.equals(rob.samples.predicted)


def test_progress_moves_forward_ends_full_and_cancels(digits) -> None:
    seen = []
    rob = attacks.evaluate(
        digits.model,
        digits.images[:40],
        digits.labels[:40],
        epsilons=EPSILONS,
        batch_size=16,
        progress=lambda *a: seen.append(a),
        attacks="fast",
    )
    dones, totals, whats = zip(*seen, strict=True)
    assert list(dones) == sorted(dones) and dones[0] == 0 and dones[-1] == totals[-1] and len(set(totals)) == 1
    assert whats[0] == "clean images" and "FGSM at linf 0.15" in whats and whats[-1] == "sanity checks"
    assert len(set(dones)) > 20
    assert rob.trustworthy

    class Cancelled(Exception):  # noqa: N818
        pass

    def cancel(done: int, total: int, what: str) -> None:
        if what.startswith("PGD"):
            raise Cancelled

    with pytest.raises(Cancelled):
        attacks.evaluate(
            digits.model, digits.images[:40], digits.labels[:40], epsilons=EPSILONS, progress=cancel, attacks="fast"
        )
    seen.clear()
    attacks.attack(digits.model, digits.images, digits.labels, epsilon=0.1, progress=lambda *a: seen.append(a[:2]))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]


def test_the_runner_believes_no_attack(digits, monkeypatch) -> None:
    """Out of the ball, out of the box, or NaN: no attempt at all. A lie about success is found by verification."""
    model, x, y = digits.model, digits.images[:20], digits.labels[:20]
    correct = model(x).argmax(1) == y
    cheats = {
        "far": lambda model, x, labels, epsilon, *, norm, targeted: 1 - x,
        "outside": lambda model, x, labels, epsilon, *, norm, targeted: x - epsilon.view(-1, 1, 1, 1),
        "nan": lambda model, x, labels, epsilon, *, norm, targeted: x * torch.nan,
        "idle": lambda model, x, labels, epsilon, *, norm, targeted: x.clone(),
    }
    for name, cheat in cheats.items():
        fake = dataclasses.replace(registry.ATTACKS["fgsm"], name=name, function=cheat)
        monkeypatch.setitem(registry.ATTACKS, name, fake)
        found = attacks.attack(model, x, y, name, epsilon=0.05)
        assert not found.success[correct].any()
        assert found.images.equal(x) and found.distance.eq(0).all()
        rob = attacks.evaluate(model, x, y, epsilons=[0.05], attacks=(name,))
        assert rob.curve.robust_accuracy.iloc[-1] == correct.float().mean().item()
        # With a budget of 1 "far" keeps within the rules; the others still break nothing, which gives them away.
        assert rob.trustworthy == (name == "far")


def test_results_print_in_one_line_and_frame_tidily(digits, evaluation) -> None:
    found = attacks.attack(digits.model, digits.images[:4], digits.labels[:4], epsilon=0.1, targets=[0, 1, 2, 3])
    for result in (found, evaluation):
        assert "\n" not in repr(result) and len(repr(result)) < 200
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.norm = "l2"
    frame = found.frame()
    assert frame.target.tolist() == [0, 1, 2, 3]
    assert frame.id.tolist() == list(found.ids) and (frame.epsilon == 0.1).all()
    assert frame.success.tolist() == found.success.tolist()
    assert "target" not in attacks.attack(digits.model, digits.images[:1], digits.labels[:1]).frame()
    assert evaluation.frame().columns.tolist() == [*evaluation.curve.columns, "norm", "trustworthy"]


def test_provenance_names_everything_asked_for(digits) -> None:
    a = attacks.attack(digits.model, digits.images[:3], digits.labels[:3], epsilon=0.1, steps=7, seed=3).provenance
    assert a["options"]["steps"] == 7 and a["seed"] == 3 and a["epsilon"] == 0.1 and a["targeted"] is False
    assert len(a["model"]) == len(a["images"]) == 64
    b = attacks.attack(digits.model, digits.images[1:4], digits.labels[1:4]).provenance
    assert b["model"] == a["model"] and b["images"] != a["images"]
    changed = copy.deepcopy(digits.model)
    with torch.no_grad():
        changed[0].bias[0] += 1e-3
    c = attacks.attack(changed, digits.images[:3] / 2, digits.labels[:3], ids="abc").provenance
    d = attacks.attack(changed, digits.images[:3], digits.labels[:3], ids="abc").provenance
    assert c["model"] == d["model"] != a["model"] and c["images"] != d["images"]
    changed.digest = "as the model says"
    assert attacks.attack(changed, digits.images[:3], digits.labels[:3]).provenance["model"] == "as the model says"
    rob = attacks.evaluate(
        digits.model, digits.images[:3], digits.labels[:3], options={"pgd": {"steps": 2}}, attacks="fast"
    )
    assert rob.provenance["attacks"] == "fast" and rob.provenance["labels"] == "given"
    assert rob.provenance["options"] == {"pgd": {"steps": 2}} and rob.provenance["stages"][1][1]["steps"] == 2


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (50, 100, 0.403832, 0.596168), (1, 1, 0.206549, 1.0)],
)
def test_wilson_interval_by_hand(count, n, low, high) -> None:
    """(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964."""
    assert wilson(count, n) == pytest.approx((low, high), abs=1e-6)
