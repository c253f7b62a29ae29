"""The budget is exact, any shape goes through, and each image is changed by itself."""

from __future__ import annotations

import pytest
import torch

from attacks import AttackError, MultiTargetGenerator
from attacks.generator.network import CONDITIONINGS, suited_to


@pytest.mark.parametrize("bias", [-30.0, 0.7, 30.0])
def test_the_change_is_the_budget_times_tanh_clipped_to_the_box(made, bias) -> None:
    images = torch.rand(3, 3, 12, 20)
    found = made(bias)(images, 1)
    expected = (images.double() + 8 / 255 * torch.tensor(bias, dtype=torch.float64).tanh()).clamp(0, 1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("eight_bit", [False, True])
def test_no_pixel_moves_further_than_the_budget(made, epsilon, eight_bit) -> None:
    images = torch.rand(4, 3, 9, 9)
    images[0], images[1] = 0, 1
    if eight_bit:
        images = (images * 255).round() / 255
    for bias in (-40.0, 40.0):
        found = made(bias, epsilon=epsilon)(images, 0, eight_bit=eight_bit)
        assert (found - images).abs().max() <= epsilon + 1e-6
        assert found.min() >= 0 and found.max() <= 1
        assert (found - images).abs().max() >= epsilon - 1 / 255 - 1e-6, "and the budget is used"
        if eight_bit:
            torch.testing.assert_close(found * 255, (found * 255).round(), rtol=0, atol=1e-4)


def test_another_budget_scales_the_change(made) -> None:
    images = 0.3 + 0.4 * torch.rand(2, 3, 8, 8)
    generator = made(0.5, epsilon=0.2)
    change, half = (generator(images, 0, epsilon=epsilon) - images for epsilon in (None, 0.1))
    torch.testing.assert_close(half, change / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize(("shape", "options"), [
    ((1, 8, 8), {"patch": 2, "depth": 1}), ((1, 28, 28), {}), ((3, 33, 47), {}), ((4, 5, 3), {"patch": 1, "depth": 1}),
    ((3, 224, 224), {"patch": 4}), ((3, 1, 1), {}),
])  # fmt: skip
def test_any_size_and_number_of_channels_goes_through(shape, options, conditioning) -> None:
    torch.manual_seed(0)
    generator = MultiTargetGenerator(shape[0], 2, 0.1, width=4, blocks=1, conditioning=conditioning, **options).eval()
    images = torch.rand(1, *shape)
    found = generator(images, [1])
    assert found.shape == images.shape and found.isfinite().all() and not found.equal(images)
    assert (found - images).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_target_reaches_every_layer(conditioning) -> None:
    torch.manual_seed(0)
    generator = MultiTargetGenerator(3, 4, 0.1, width=4, conditioning=conditioning).eval()
    seen: dict[str, list[torch.Tensor]] = {}
    layers = {name: module for name, module in generator.named_modules() if type(module).__name__ == "Merge"}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, []).append(out))
    image = torch.rand(1, 3, 16, 16)
    for layer in layers.values():  # only the class: whatever the maps are, the class alone must change what comes out
        layer.register_forward_pre_hook(lambda _, given: (torch.ones_like(given[0]), given[1]))
    generator(image, 0), generator(image, 3)
    assert len(layers) == 1 + 2 + 4 + 2
    assert all(not first.equal(second) for first, second in seen.values())


def test_images_do_not_know_of_each_other(trained, digits) -> None:
    images, targets = digits.images[:7], torch.arange(7)
    together = trained(images, targets)
    alone = torch.cat([trained(images[i : i + 1], targets[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(trained(images, targets, batch_size=2), together, rtol=0, atol=1e-5)


def test_every_version_is_what_asking_for_each_gives(trained, digits) -> None:
    images = digits.images[:3]
    versions = trained.every(images)
    assert versions.shape == (3, 10, 1, 8, 8)
    for target in range(10):
        torch.testing.assert_close(versions[:, target], trained(images, target), rtol=0, atol=1e-5)


def test_what_makes_no_sense_is_refused(made) -> None:
    generator, images = made(0.0), torch.rand(2, 3, 8, 8)
    for given, told in (
        ((images[:, :1], 0), "generator was made for images of 3"),
        ((images, 5), "numbered 0 to 4"),
        ((images, [0]), "One class number per image|one class number per image"),
        ((images * 2, 0), "must lie in \\[0, 1\\]"),
    ):
        with pytest.raises(AttackError, match=told):
            generator(*given)
    with pytest.raises(AttackError, match="budget must lie"):
        generator(images, 0, epsilon=1.5)
    for options, told in (
        ({"epsilon": 8.0}, "budget lies in"), ({"width": 0}, "cannot have this width"), ({"width": 10**9}, "width"),
        ({"conditioning": "magic"}, "no such conditioning"), ({"depth": 2.0}, "depth"),
    ):  # fmt: skip
        with pytest.raises(AttackError, match=told):
            MultiTargetGenerator(3, 5, **{"epsilon": 0.1, **options})


def test_the_size_chosen_suits_the_image() -> None:
    for side, smallest in ((8, 2), (28, 4), (32, 4), (64, 8), (96, 12), (112, 7), (224, 14)):
        chosen = suited_to(side, side + 50)
        assert -(-side // (chosen["patch"] * 2 ** chosen["depth"])) == smallest
