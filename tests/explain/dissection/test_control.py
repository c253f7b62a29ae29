"""The untrained twin: other weights, statistics of the images it is shown, and the original as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import explain


class Normalised(nn.Module):
    """A network behind its preprocessing, with a buffer of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / 0.25)


def trained(model: nn.Module) -> nn.Module:
    """Anything but what is drawn before training."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(1, 2)
    return model


def same_weights(one: nn.Module, other: nn.Module) -> list[str]:
    pairs = zip(one.named_parameters(), other.parameters(), strict=True)
    return [name for (name, a), b in pairs if torch.equal(a, b)]


@pytest.mark.parametrize("training", [True, False])
def test_the_original_stays_as_it_was(training: bool, module_net: Any, look: Any) -> None:
    model = module_net().train(training)
    model.head.weight.requires_grad_(False)
    model.head.bias.grad = torch.ones(5)
    images = torch.rand(4, 3, 12, 16)
    before, pixels = look(model), images.clone()
    twin = explain.randomised(model, images)
    assert look(model) == before
    assert torch.equal(images, pixels)
    assert not any(module.training for module in twin.modules())
    mine = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    assert not mine & {tensor.data_ptr() for tensor in (*twin.parameters(), *twin.buffers())}


def test_nothing_is_left_behind_by_images_that_do_not_fit(module_net: Any, look: Any) -> None:
    model, images = module_net(), torch.rand(4, 1, 12, 16)
    before = look(model)
    with pytest.raises(Exception):  # noqa: B017 - see below for which
        explain.randomised(model, images)
    assert look(model) == before


def test_weights_are_drawn_anew_and_only_the_seed_decides(small_net: Any) -> None:
    model, images = trained(small_net()), torch.rand(8, 3, 12, 16)
    twin = explain.randomised(model, images, seed=3)
    assert same_weights(model, twin) == []
    torch.manual_seed(77)
    again = explain.randomised(model, images, seed=3)
    assert len(same_weights(twin, again)) == len(list(twin.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(twin.buffers(), again.buffers(), strict=True))
    assert not torch.equal(explain.randomised(model, images, seed=4).head.weight, twin.head.weight)
    # torch's own law for a convolution: uniform within one over the root of the inputs, here 4 · 9
    assert twin.last.weight.abs().max() <= 1 / 6 < 1
    assert twin.last.weight.std().item() == pytest.approx(1 / 6 / 3**0.5, rel=0.15)
    assert (twin.norm.weight == 1).all() and (twin.norm.bias == 0).all()
    # seeds are those of torch
    torch.manual_seed(3)
    fresh = copy.deepcopy(model)
    for module in fresh.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert torch.equal(fresh.head.weight, twin.head.weight)


@pytest.mark.parametrize("wrapped", [False, True])
def test_statistics_are_those_of_the_images(wrapped: bool, module_net: Any) -> None:
    inner = trained(module_net())
    images = torch.rand(16, 3, 12, 16) * 0.2 + 0.7
    model: nn.Module = Normalised(inner) if wrapped else inner
    twin = explain.randomised(model, images)
    norms = {name: module for name, module in twin.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert len(norms) == 2
    outputs: dict[str, Tensor] = {}
    for name, norm in norms.items():
        norm.register_forward_hook(lambda module, given, output, name=name: outputs.__setitem__(name, output.clone()))
        assert norm.momentum == 0.1
    with torch.no_grad():
        twin(images)
    for output in outputs.values():  # the first is exact, the next ones sit on others that count n instead of n - 1
        torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-2)
        torch.testing.assert_close(output.var((0, 2, 3)), torch.ones(8), rtol=0, atol=2e-2)
    if wrapped:
        assert torch.equal(twin.mean, model.mean)


def test_networks_without_normalisation(functional_net: Any) -> None:
    model = functional_net()
    twin = explain.randomised(model, torch.rand(1, 3, 12, 16), seed=5)
    assert same_weights(model, twin) == []
    assert explain.dissection.randomised is explain.randomised


def test_a_network_that_cannot_draw_weights() -> None:
    with pytest.raises(explain.ModelError):
        explain.randomised(nn.Sequential(nn.Flatten(), nn.ReLU()), torch.rand(2, 3, 4, 4))


@pytest.mark.parametrize("kind", ["vit", "swin", "attention"])
def test_no_trained_weight_is_left_in_a_transformer(kind: str) -> None:
    builders: dict[str, Any] = {
        "vit": lambda: torchvision.models.VisionTransformer(8, 4, 1, 2, 8, 12, num_classes=3),
        "swin": lambda: torchvision.models.SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=3),
        "attention": lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
    }
    model = trained(builders[kind]())
    images = torch.rand(2, 3, 8, 8) if kind != "attention" else torch.rand(2, 5, 8)
    assert same_weights(model, explain.randomised(model, images)) == []


@pytest.mark.parametrize("kind", ["weight norm", "pruned"])
def test_no_trained_weight_is_left_in_a_layer_with_computed_weights(kind: str) -> None:
    conv = nn.Conv2d(3, 4, 3, bias=False)
    model = nn.Sequential(
        parametrizations.weight_norm(conv) if kind == "weight norm" else conv, nn.Flatten(), nn.ReLU()
    )
    if kind == "pruned":
        prune.l1_unstructured(conv, "weight", 0.5)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():  # after a forward pass without gradients a pruned layer can be copied
        expected = model.eval()(images)
        assert not torch.allclose(explain.randomised(model, images)(images), expected)


def test_the_mode_of_the_model_does_not_matter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4))
    images = torch.rand(8, 3, 8, 8)
    one, other = (explain.randomised(model.train(mode), images)[2].running_var for mode in (False, True))
    assert torch.equal(one, other)


@pytest.mark.parametrize("images", [torch.rand(1, 3, 3, 3), torch.rand(2, 1, 8, 8), torch.rand(8, 8)])
def test_images_that_do_not_fit_are_refused_by_name(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(explain.ExplainError):
        explain.randomised(model, images)
