"""Training learns what there is to learn, goes on after a stop to the same weights, and leaves everything else alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attacks
from attacks import AttackError, train_generator
from attacks.generator.trainer import LOSSES, other_targets
from attacks.generator.views import view

QUICK = {"epsilon": 0.3, "width": 8, "blocks": 1, "embedding": 8}


def weights(generator: nn.Module) -> list[torch.Tensor]:
    return list(generator.state_dict().values())


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(a.equal(b) for a, b in zip(weights(one), weights(two), strict=True))


def test_it_reaches_most_of_what_pgd_reaches_on_images_that_it_never_saw(trained, digits) -> None:
    found = attacks.evaluate_generator(
        trained, digits.model, digits.images[:60], digits.labels[:60], rivals={"pgd": {"steps": 40}}
    )
    ours, theirs = found.summary()["success"]
    assert theirs > 0.9 and ours > 0.8 * theirs


@pytest.mark.parametrize("loss", ["hinge", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("ce", "miss"))])
def test_on_a_linear_network_it_comes_close_to_the_optimum(linear, loss) -> None:
    # Two classes apart by w.x + b: an image can be moved across if its margin is below epsilon times the l1 norm of w.
    case = linear(n=260, shape=(1, 8, 8))
    distance = case.model.distance(case.images, "linf")
    epsilon = float(distance.median())
    learnt, kept = case.images[:200], slice(200, None)
    generator = train_generator(case.model, learnt, case.labels[:200], epsilon=epsilon, steps=250, width=8, loss=loss)
    found = generator(case.images[kept], 1 - case.labels[kept])
    crossed = case.model(found).argmax(1) != case.labels[kept]
    assert not (crossed & (distance[kept] > epsilon * (1 + 1e-5))).any(), "no one can"
    assert crossed[distance[kept] < 0.9 * epsilon].all()


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_what_they_say(loss) -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 9.0, -1.0], [3.0, 3.2, 0.0]])
    value = LOSSES[loss](logits, torch.tensor([2, 1, 1]))
    entropy = logits.double().logsumexp(1) - torch.tensor([0.5, 9.0, 3.2], dtype=torch.float64)
    if loss == "ce":
        expected = entropy
    elif loss == "miss":
        expected = 1 - (-entropy).exp()
    else:
        expected = torch.tensor([2.0 - 0.5 + 0.3, 0.0, 3.0 - 3.2 + 0.32])
    torch.testing.assert_close(value.double(), expected.double(), rtol=1e-6, atol=1e-6)


class Stop(Exception):  # noqa: N818
    pass


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(digits, unseen, tmp_path) -> None:
    images, labels = unseen[0][:200], unseen[1][:200]
    options = {**QUICK, "steps": 25, "batch_size": 32, "augment": True, "curriculum": 2.0}
    whole = train_generator(digits.model, images, labels, **options)

    def run(until: int | None) -> attacks.MultiTargetGenerator:
        asked = []

        def progress(done: int, total: int, what: str) -> None:
            asked.append(done)
            if done == until:
                raise Stop

        generator = train_generator(
            digits.model, images, labels, **options, checkpoint=tmp_path / "state", progress=progress
        )
        assert asked[0] in (9, 17, 25) or until == 9
        return generator

    for until in (9, 17):
        with pytest.raises(Stop):
            run(until)
    finished = run(None)
    assert same(finished, whole)
    assert [one["success"] for one in finished.history] == [one["success"] for one in whole.history]
    again = run(None)
    assert same(again, whole) and len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_serves_only_its_own_training(digits, unseen, tmp_path) -> None:
    images, labels = unseen[0][:40], unseen[1][:40]
    options = {**QUICK, "steps": 2, "checkpoint": tmp_path / "state"}
    train_generator(digits.model, images, labels, **options)
    for other in ({"seed": 1}, {"epsilon": 0.2}, {"steps": 3}, {"classes": [1, 2]}):
        with pytest.raises(AttackError, match="belongs to another training"):
            train_generator(digits.model, images, labels, **{**options, **other})
    with pytest.raises(AttackError, match="belongs to another training"):
        train_generator(digits.model, images.flip(3), labels, **options)
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:500])
    with pytest.raises(AttackError, match=r"cannot be read.*starts anew"):
        train_generator(digits.model, images, labels, **options)


def test_nothing_but_the_seed_decides(digits, unseen) -> None:
    images, labels = unseen[0][:100], unseen[1][:100]
    one, two, other = (train_generator(digits.model, images, labels, **QUICK, steps=4, seed=s) for s in (0, 0, 1))
    assert same(one, two) and not same(one, other)


def test_the_network_attacked_and_the_random_state_are_left_alone(digits, unseen, fingerprint) -> None:
    before = fingerprint(digits.model)
    generator = train_generator(digits.model, unseen[0][:40], **QUICK, steps=2)
    assert fingerprint(digits.model) == before
    assert not generator.training and not any(parameter.requires_grad for parameter in generator.parameters())

    def fail(done: int, total: int, what: str) -> None:
        if done:
            raise Stop

    with pytest.raises(Stop):
        train_generator(digits.model, unseen[0][:40], **QUICK, steps=2, progress=fail)
    assert fingerprint(digits.model) == before


def test_images_kept_aside_are_never_learnt_from(digits, unseen) -> None:
    images = unseen[0][:100].clone()
    learning: set[float] = set()
    measuring: set[float] = set()
    images[:, 0, 0, 0] = torch.arange(100) / 1000

    original = attacks.MultiTargetGenerator.propose

    def propose(self, x, targets, epsilon=None):
        (learning if self.training else measuring).update(x[:, 0, 0, 0].tolist())
        return original(self, x, targets, epsilon)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attacks.MultiTargetGenerator, "propose", propose)
        train_generator(digits.model, images, unseen[1][:100], **QUICK, steps=20, batch_size=45)
    assert len(learning) == 90 and len(measuring) == 10 and not learning & measuring


def test_targets_are_drawn_evenly_from_the_other_classes() -> None:
    labels = torch.arange(4).repeat(6000)
    reach = torch.tensor([0, 1, 3])
    targets = other_targets(labels, reach, torch.Generator().manual_seed(0))
    assert not (targets == labels).any() and set(targets.tolist()) == {0, 1, 3}
    for label, choices in ((0, 2), (2, 3)):
        shares = torch.bincount(targets[labels == label], minlength=4) / 6000
        assert shares[shares > 0].sub(1 / choices).abs().max() < 0.03  # five standard deviations


def test_only_the_classes_asked_for_are_measured(digits, unseen) -> None:
    records = []
    generator = train_generator(
        digits.model, unseen[0][:60], **QUICK, steps=2, classes=[7, 3, 3], measured=records.append
    )
    assert generator.targets == (3, 7) and records == generator.history
    assert [k for k, share in enumerate(records[-1]["per_target"]) if share is not None] == [3, 7]
    assert generator.frame().columns.tolist() == ["step", "loss", "success", "seconds"]


def test_patience_ends_a_training_and_the_best_weights_are_kept(digits, unseen) -> None:
    images, labels = unseen[0][:100], unseen[1][:100]
    generator = train_generator(
        digits.model, images, labels, **QUICK, steps=200, batch_size=16, rate=0.9, patience=2
    )  # at this rate training falls apart
    shares = [record["success"] for record in generator.history]
    assert len(shares) < 20 and shares.index(max(shares)) == len(shares) - 3


@pytest.mark.slow
def test_several_networks_are_attacked_together(digits, unseen) -> None:
    torch.manual_seed(3)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images, labels = unseen[0][:300], unseen[1][:300]
    optimiser = torch.optim.Adam(other.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(other(images), labels).backward()
        optimiser.step()
    options = {**QUICK, "steps": 120}
    both = train_generator([digits.model, other], images, labels, **options)
    alone = train_generator(digits.model, images, labels, **options)
    targets = (digits.labels[:100] + 3) % 10
    reached = [(other(one(digits.images[:100], targets)).argmax(1) == targets).float().mean() for one in (both, alone)]
    assert reached[0] > reached[1] + 0.1


def test_a_training_goes_on_from_another_generator_and_leaves_it_alone(trained, digits, unseen) -> None:
    before = [value.clone() for value in weights(trained)]
    images, labels = unseen[0][:200], unseen[1][:200]
    smaller = train_generator(digits.model, images, labels, epsilon=0.2, steps=1, rate=1e-6, start=trained, width=99)
    assert all(one.equal(two) for one, two in zip(weights(trained), before, strict=True))
    assert smaller.config == {**trained.config, "epsilon": 0.2} and not any(
        p.requires_grad for p in trained.parameters()
    )
    found, scaled = smaller(digits.images[:40], 3), trained(digits.images[:40], 3, epsilon=0.2)
    assert (found - scaled).abs().mean() < 0.01, "one tiny step further"
    fresh = train_generator(digits.model, images, labels, epsilon=0.2, steps=1, rate=1e-6, width=16, blocks=1)
    assert smaller.history[-1]["success"] > fresh.history[-1]["success"] + 0.2
    with pytest.raises(AttackError, match="go on from does not fit"):
        train_generator(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), images, start=trained)


def test_views_keep_the_box_leave_some_alone_and_can_be_climbed() -> None:
    images = torch.rand(200, 3, 12, 9, requires_grad=True)
    seen = view(images, torch.Generator().manual_seed(0))
    assert seen.shape == images.shape and seen.min() >= 0 and seen.max() <= 1
    kept = torch.isclose(seen, images, atol=1e-5).flatten(1).all(1).float().mean()
    assert 0.15 < kept < 0.45
    seen.sum().backward()
    assert images.grad.abs().sum() > 0
    assert seen.equal(view(images, torch.Generator().manual_seed(0)))


def test_what_makes_no_sense_is_refused(digits, unseen) -> None:
    images = unseen[0][:10]
    for options, told in (
        ({"steps": 0}, "number of steps"), ({"loss": "l2"}, "Unknown loss"), ({"classes": [10]}, "numbered 0 to 9"),
        ({"rate": 0.0}, "learning rate"), ({"patience": 0}, "patience"), ({"epsilon": 8.0}, "budget"),
        ({"curriculum": 0.0}, "curriculum"), ({"classes": []}, "no such classes"), ({"batch_size": True}, "batch size"),
    ):  # fmt: skip
        with pytest.raises(AttackError, match=told):
            train_generator(digits.model, images, **options)
    with pytest.raises(AttackError, match="kept aside"):
        train_generator(digits.model, images[:1])
    with pytest.raises(AttackError, match="no model"):
        train_generator([], images)
    two = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(AttackError, match="different numbers of classes"):
        train_generator([digits.model, two], images)


@pytest.mark.parametrize(("count", "height", "width"), [(2, 1, 1), (2, 5, 7), (3, 4, 3)])
def test_two_images_and_two_classes_are_enough(count, height, width) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(height * width, 2))
    images = torch.rand(count, 1, height, width)
    generator = train_generator(model, images, steps=2, width=4, blocks=1)
    assert generator(images[:1], [1]).shape == (1, 1, height, width)


def test_images_of_the_only_class_to_reach_are_left_out(digits, unseen) -> None:
    images, labels = unseen[0][:60], unseen[1][:60]
    with pytest.raises(AttackError, match="already have the only class"):
        train_generator(digits.model, images, [3] * 60, steps=2, classes=[3])
    train_generator(digits.model, images, labels, steps=2, classes=[3], width=4, batch_size=4)


def test_a_training_that_falls_apart_says_so() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :3] / 0

    with pytest.raises(AttackError, match="fallen apart"):
        train_generator(Broken(), torch.rand(10, 1, 8, 8), [0] * 10, steps=2, loss="ce")
