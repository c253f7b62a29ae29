"""Agreement with captum where captum is right (networks of ``nn.ReLU`` modules), and difference where it is known to fail."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import Deconvolution, GuidedBackprop, LayerGradCam, Saliency
from torch import Tensor, nn

import explain


def vgg() -> nn.Module:
    features = torchvision.models.vgg.make_layers([16, "M", 32, "M", 64, 64, "M"])
    return nn.Sequential(
        features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(True), nn.Linear(32, 7)
    )


def resnet() -> nn.Module:
    return torchvision.models.resnet18(num_classes=7)


def quietly(work: Callable[[], Tensor]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum warns on every call that it sets hooks
        return work().detach()


def agree(found: Tensor, expected: Tensor) -> bool:
    assert expected.abs().max() > 0
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.mark.parametrize("build", [vgg, resnet])
@pytest.mark.parametrize(
    "method, peer",
    [
        ("saliency", lambda model, x, target: Saliency(model).attribute(x, target, abs=False)),
        ("guided_backprop", lambda model, x, target: GuidedBackprop(model).attribute(x, target)),
        ("deconvnet", lambda model, x, target: Deconvolution(model).attribute(x, target)),
    ],
)
def test_pixel_methods(build: Callable[[], nn.Module], method: str, peer, randomised) -> None:
    model, images, target = randomised(build()).eval(), torch.rand(2, 3, 48, 64), torch.tensor([1, 6])
    found = explain.explain(model, images, target, methods=method)[method]
    assert agree(found.values, quietly(lambda: peer(model, images.clone().requires_grad_(), target)))


@pytest.mark.parametrize("build, layer", [(vgg, "0.9"), (resnet, "layer4"), (resnet, "layer2.0.conv1")])
def test_gradcam(build: Callable[[], nn.Module], layer: str, randomised) -> None:
    model, images, target = randomised(build()).eval(), torch.rand(2, 3, 48, 64), torch.tensor([1, 6])
    found = explain.explain(model, images, target, methods="gradcam", layer=layer)["gradcam"]
    peer = LayerGradCam(model, model.get_submodule(layer))
    expected = quietly(lambda: peer.attribute(images, target, relu_attributions=True))
    assert agree(found.cam, expected[:, 0])
    large = F.interpolate(expected, size=(48, 64), mode="bilinear", align_corners=False)
    assert agree(found.maps, large[:, 0])


def test_on_functional_networks_the_peer_returns_the_plain_gradient(functional_net) -> None:
    """If this fails, captum sees functional ReLUs now, and belongs into the agreement above."""
    model, images = functional_net().eval(), torch.rand(1, 3, 12, 20)
    peer = quietly(lambda: GuidedBackprop(model).attribute(images.clone().requires_grad_(), 1))
    found = explain.explain(model, images, 1, methods=("saliency", "guided_backprop"))
    assert agree(peer, found["saliency"].values)
    assert not agree(peer, found["guided_backprop"].values)
