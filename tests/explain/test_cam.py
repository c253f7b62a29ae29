"""Grad-CAM and Grad-CAM++ against closed forms and a slow re-derivation in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import explain


class Weighted(nn.Module):
    """A ReLU layer and a score that weighs each of its activations by a given number: A and dS/dA are known."""

    def __init__(self, gradient: Tensor, signed: bool = False) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, gradient.shape[1], 1), nn.Identity() if signed else nn.ReLU())
        self.gradient = nn.Parameter(gradient)

    def forward(self, x: Tensor) -> Tensor:
        activation = self.layer(x)
        return torch.einsum("nkhw,ckhw->nc", activation, self.gradient)


def eq_19(activation: Tensor, gradient: Tensor) -> np.ndarray:
    """Eq. 19 and 20 as printed, in loops and float64, exp(S) left out."""
    channels, height, width = activation.shape
    a, g = activation.double().numpy(), gradient.double().numpy()
    cam = np.zeros((height, width))
    for k in range(channels):
        total = sum(a[k, i, j] for i in range(height) for j in range(width))
        weight = 0.0
        for i in range(height):
            for j in range(width):
                if g[k, i, j] != 0:
                    alpha = g[k, i, j] ** 2 / (2 * g[k, i, j] ** 2 + total * g[k, i, j] ** 3)
                    weight += alpha * max(g[k, i, j], 0)
        cam += weight * a[k]
    return np.maximum(cam, 0)


# The last scale makes g² about 1e-10: an absolute epsilon in the denominator would show.
@pytest.mark.parametrize("scale", [10.0, 1.0, 1e-2, 1e-5])
def test_gradcam_plus_plus_is_eq_19(scale: float) -> None:
    gradient = torch.randn(3, 4, 5, 6) * scale
    gradient[:, :, 0] = 0
    model = Weighted(gradient)
    images = torch.rand(2, 1, 5, 6)
    found = explain.explain(model, images, target=[2, 0], methods="gradcam++", layer="layer")["gradcam++"]
    activation = model.layer(images).detach()
    for one, target in enumerate([2, 0]):
        expected = eq_19(activation[one], gradient[target])
        assert expected.max() > 0
        assert np.abs(found.cam[one].numpy() - expected).max() <= 1e-6 * expected.max()
    assert found.notes == ()


def test_gradcam_plus_plus_on_a_deep_network_is_eq_19(module_net) -> None:
    """A and g are taken with a hook and autograd, by hand."""
    model = module_net().eval()
    images = torch.rand(2, 3, 12, 16)
    kept: list[Tensor] = []
    handle = model.last.register_forward_hook(lambda _, __, out: kept.append(out.relu()) or kept[-1])
    model(images)[:, 3].sum().backward(inputs=kept)
    handle.remove()
    found = explain.explain(model, images, target=3, methods="gradcam++")["gradcam++"]
    for one in range(2):
        expected = eq_19(kept[0][one].detach(), kept[0].grad[one])
        assert np.abs(found.cam[one].numpy() - expected).max() <= 1e-6 * expected.max()


def test_signed_activations_are_guarded_and_flagged() -> None:
    """g = 1 and ΣA = −2, so that 2 + g·ΣA = 0: α would be infinite. The sum counts as zero: α = 1/2, w = 2."""
    model = Weighted(torch.ones(2, 1, 2, 2), signed=True)
    with torch.no_grad():
        model.layer[0].weight.fill_(4)
        model.layer[0].bias.fill_(-3.5)
    images = torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]]])
    found = explain.explain(model, images, target=0, methods="gradcam++", layer="layer")["gradcam++"]
    assert torch.equal(found.cam, torch.tensor([[[0.0, 1.0], [1.0, 1.0]]]))
    assert "negative activations" in found.notes[0]


def test_gradcam_is_cam_on_global_average_pooling_and_one_linear_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU())
            self.fc = nn.Linear(7, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.features(x).mean((2, 3)))

    model = Net()
    images = torch.rand(3, 3, 8, 11)
    found = explain.explain(model, images, target=[1, 2, 3], methods="gradcam")["gradcam"]
    activation = model.features(images)
    height, width = activation.shape[2:]
    cam = torch.einsum("nk,nkhw->nhw", model.fc.weight[[1, 2, 3]], activation).relu().detach() / (height * width)
    assert found.layer == "features"
    torch.testing.assert_close(found.cam, cam, rtol=1e-5, atol=1e-8)
    large = F.interpolate(cam[:, None], size=(8, 11), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found.maps, large, rtol=1e-5, atol=1e-8)


def test_sharing_a_backward_with_pixel_methods_changes_no_map(module_net) -> None:
    model, images = module_net(), torch.rand(2, 3, 12, 16)
    together = explain.explain(model, images, methods=tuple(explain.METHODS))
    for name, one in together.items():
        alone = explain.explain(model, images, methods=name)[name]
        torch.testing.assert_close(one.maps, alone.maps, rtol=1e-5, atol=0)


def test_each_batch_costs_one_forward_and_stops_at_the_layer(module_net, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = module_net(), torch.rand(4, 3, 12, 16)
    forwards: list[int] = []
    model.stem.register_forward_hook(lambda _, __, out: forwards.append(int(out.requires_grad)))
    asked: list[int] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda out, inputs, **o: asked.append(len(inputs)) or grad(out, inputs, **o)
    )
    explain.explain(model, images, methods=("gradcam", "gradcam++"), layer="last", batch_size=2)
    assert forwards == [0, 0]  # no graph before the layer
    assert asked == [1, 1]
    forwards.clear()
    asked.clear()
    explain.explain(model, images, methods=tuple(explain.METHODS), layer="last")
    assert forwards == [1]
    assert asked == [2, 1, 1]  # pixels and layer together, then one per rule


def test_a_zero_map_stays_zero() -> None:
    model = Weighted(-torch.ones(2, 1, 3, 3))
    found = explain.explain(model, torch.rand(1, 1, 3, 3), target=0, methods=("gradcam", "gradcam++"), layer="layer")
    for one in found.values():
        assert not one.maps.any()
        assert not explain.normalise(one.maps).any()


def test_normalise_is_relative_to_each_map() -> None:
    maps = torch.tensor([[[1e-30, 2e-30]], [[-3.0, 1.0]], [[0.0, 0.0]]])
    torch.testing.assert_close(explain.normalise(maps), torch.tensor([[[0.5, 1.0]], [[-1.0, 1 / 3]], [[0.0, 0.0]]]))
