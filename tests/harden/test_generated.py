"""Training on generated images makes a network harder to fool, by attacks that it never saw too, and costs little accuracy."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

import attacks
import workbench as wb
from workbench.errors import OptionError

LENET = "sample:digits-lenet"


def robust(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    return 1 - float(attacks.attack(model, images, labels, "pgd", epsilon=0.1, steps=20).success.float().mean())


@pytest.mark.slow
def test_a_hardened_network_withstands_pgd_and_keeps_its_accuracy() -> None:
    model, train, test = wb.load(LENET), wb.sample_data("digits", "train"), wb.sample_data("digits", n=200)
    before = copy.deepcopy(model.state_dict())
    found, tuned = (
        wb.harden.generator_training(model, train.images, train.labels, epsilon=0.15, steps=250, share=share)
        for share in (0.5, 0.0)
    )
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in [*model.parameters(), *found.model.parameters()])
    labels = torch.as_tensor(test.labels)
    accuracy = [float((one(test.images).argmax(1) == labels).float().mean()) for one in (model, found.model)]
    assert accuracy[1] >= accuracy[0] - 0.03
    standing = {
        name: robust(one, test.images, labels)
        for name, one in (("before", model), ("hardened", found.model), ("fine-tuned", tuned.model))
    }
    assert standing["hardened"] > max(standing["before"], standing["fine-tuned"]) + 0.1
    assert found.model.digest != model.digest and found.model.classes == model.classes
    frame = found.frame()
    assert frame["fooled"].iloc[-1] < frame["fooled"].max() and "250 steps" in repr(found)


def test_without_a_share_it_is_plain_fine_tuning_step_for_step() -> None:
    model, train = wb.load(LENET), wb.sample_data("digits", "train", n=60)
    found = wb.harden.generator_training(model, train.images, train.labels, steps=4, share=0.0, batch_size=20, seed=3)
    mine = copy.deepcopy(model).requires_grad_(True).to(memory_format=torch.channels_last)
    labels = torch.as_tensor(train.labels)
    optimiser = torch.optim.AdamW(mine.parameters(), 5e-4, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 4)
    random = torch.Generator().manual_seed(3)
    for _ in range(4):
        rows = torch.randperm(60, generator=random)[:20]
        torch.rand(20, 10, generator=random)  # what the targets are drawn from
        optimiser.zero_grad()
        F.cross_entropy(mine(train.images[rows]), labels[rows]).backward()
        torch.nn.utils.clip_grad_norm_(mine.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    for one, two in zip(found.model.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_it_starts_from_a_generator_and_leaves_it_alone() -> None:
    model, train = wb.load(LENET), wb.sample_data("digits", "train", n=40)
    generator = attacks.train_generator(model, train.images, epsilon=0.1, steps=2, width=4)
    before = copy.deepcopy(generator.state_dict())
    found = wb.harden.generator_training(model, train.images, train.labels, steps=2, generator=generator)
    assert all(value.equal(before[name]) for name, value in generator.state_dict().items())
    assert found.generator is not generator
    assert found.generator.config == {**generator.config, "epsilon": pytest.approx(8 / 255)}, "for the budget asked for"


def test_what_makes_no_sense_is_refused() -> None:
    model, train = wb.load(LENET), wb.sample_data("digits", "train", n=4)
    for options in ({"share": 1.5}, {"steps": 0}, {"batch_size": 0}):
        with pytest.raises(OptionError):
            wb.harden.generator_training(model, train.images, train.labels, **options)
    with pytest.raises(attacks.AttackError):
        wb.harden.generator_training(model, train.images, [0, 1])
