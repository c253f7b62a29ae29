"""Saliency on networks whose gradient is known."""

from __future__ import annotations

import torch
from torch import nn

import explain


def test_linear_network_gives_its_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4, 5))
    images = torch.rand(3, 2, 3, 4)
    found = explain.explain(model, images, target=[4, 0, 2], methods="saliency")["saliency"]
    weight = model[1].weight.detach()[[4, 0, 2]].reshape(3, 2, 3, 4)
    assert torch.equal(found.values, weight)
    assert torch.equal(found.maps, weight.abs().amax(1))


def test_one_convolution_gives_its_kernel_around_the_pixel_that_is_read() -> None:
    class ReadsOnePixel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)[:, :, 2, 4]

    model = ReadsOnePixel()
    found = explain.explain(model, torch.rand(1, 3, 5, 7), target=1, methods="saliency")["saliency"]
    expected = torch.zeros(5, 7)
    expected[1:4, 3:6] = model.conv.weight.detach()[1].abs().amax(0)
    assert torch.equal(found.maps[0], expected)


def test_target_defaults_to_the_predicted_class() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    images = torch.rand(6, 3, 2, 2)
    found = explain.explain(model, images, methods="saliency")
    assert torch.equal(found.target, model(images).argmax(1))
    assert torch.equal(found.logits, model(images).detach())


def test_gradient_is_that_of_the_score_not_of_the_probability() -> None:
    """With a saturated softmax the gradient of the probability would vanish."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([100.0, -100.0]))
    found = explain.explain(model, torch.rand(1, 3, 2, 2), methods="saliency")["saliency"]
    assert torch.equal(found.maps[0], model[1].weight.detach()[0].reshape(3, 2, 2).abs().amax(0))
