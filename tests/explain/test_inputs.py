"""What is refused, with the value and what to do."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

import explain

GOOD = torch.rand(2, 3, 8, 8)


def model_that_returns(function) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> object:
            return function(self.conv(x).mean((2, 3)))

    return Net()


@pytest.mark.parametrize(
    "images, words",
    [
        (GOOD.numpy(), "not a tensor: ndarray"),
        (GOOD[0], r"four dimensions.*\(3, 8, 8\).*images\[None\]"),
        (GOOD[:0], r"no image to explain: \(0, 3, 8, 8\)"),
        ((GOOD * 255).byte(), r"not floating point: torch\.uint8.*255"),
        (GOOD * 2, r"in \[0, 1\].*before normalisation"),
        (GOOD - 0.5, r"in \[0, 1\]"),
        (GOOD.where(GOOD < 0.9, torch.nan), r"in \[0, 1\]: \[nan, nan\]"),
        (GOOD[:, :1], "first convolution, conv, takes 3 channels; the images have 1"),
        (GOOD[..., :2], r"fails on images of shape \(1, 3, 8, 2\).*Check that their size"),
    ],
)
def test_images(images, words: str) -> None:
    with pytest.raises(explain.ExplainError, match=words) as caught:
        explain.explain(model_that_returns(lambda x: x), images)
    assert caught.value.what and caught.value.fix


def test_rounding_just_outside_the_range_is_let_through() -> None:
    images = GOOD.clone()
    images[0, 0, 0, 0] = 1 + 1e-4
    explain.explain(model_that_returns(lambda x: x), images)


def test_channels_that_the_model_declares() -> None:
    model = model_that_returns(lambda x: x)
    model.input_size = (3, 8, 8)
    with pytest.raises(explain.InputError, match=r"wrong number of channels: 1\. The network takes 3"):
        explain.explain(model, GOOD[:, :1])


@pytest.mark.parametrize(
    "target, words",
    [
        (4, r"no such class: 4\. The network has 4 classes, 0 to 3"),
        (-1, "no such class: -1"),
        ([0, 7], "no such class: 7"),
        ([0, 1, 2], r"There are 2 images, and targets of shape: \(3,\)"),
        (torch.zeros(2, 1, dtype=torch.long), "targets of shape"),
        ([0.0, 1.0], r"class numbers: torch\.float32"),
        (True, r"class numbers: torch\.bool"),
        ("cat", "class numbers: 'cat'"),
    ],
)
def test_targets(target, words: str) -> None:
    with pytest.raises(explain.InputError, match=words):
        explain.explain(model_that_returns(lambda x: x), GOOD, target)


@pytest.mark.parametrize(
    "target", [3, [3, 3], (3, 3), torch.tensor([3, 3]), torch.tensor(3), torch.tensor([3, 3]).byte()]
)
def test_ways_to_name_targets(target) -> None:
    found = explain.explain(model_that_returns(lambda x: x), GOOD, target, batch_size=1)
    assert found.target.tolist() == [3, 3]


@pytest.mark.parametrize(
    "output, words",
    [
        (lambda x: (x, x), "tensor of logits: tuple"),
        (lambda x: {"out": x}, "tensor of logits: dict"),
        (lambda x: x[:, :, None], r"logits \(N, K\) for 2 images: \(2, 4, 1\)"),
        (lambda x: x[:1], "for 2 images"),
        (lambda x: x.argmax(1, keepdim=True), "int64"),
        (lambda x: x[:, :1], r"single score per image: \(2, 1\).*two logits"),
        (lambda x: x / 0, "NaN or infinite"),
        (lambda x: x.softmax(1), "probabilities, not logits: rows sum to 1, as after softmax"),
        (lambda x: x[:, :2].softmax(1), "probabilities"),
        (lambda x: (x * 100).log_softmax(1), "as after log-softmax"),
    ],
)
@pytest.mark.parametrize("method", ["saliency", "gradcam"])
def test_outputs(output, words: str, method: str) -> None:
    with pytest.raises(explain.ModelError, match=words):
        explain.explain(model_that_returns(output), GOOD, methods=method)


def test_logits_of_two_classes_between_zero_and_one_are_no_probabilities() -> None:
    explain.explain(model_that_returns(lambda x: x[:, :2].sigmoid()), GOOD)


@pytest.mark.parametrize(
    "output, words",
    [
        (lambda x: x.detach(), "does not depend on the pixels"),
        (lambda x: torch.from_numpy(x.detach().numpy()), "does not depend on the pixels"),
        (lambda x: x.exp().mul_(torch.ones(4)).exp_().add_(1), "gradient of the score cannot be computed"),
    ],
)
def test_networks_that_cut_their_graph(output, words: str) -> None:
    with pytest.raises(explain.ModelError, match=words):
        explain.explain(model_that_returns(output), GOOD, methods="saliency")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"methods": "grad-cam"}, r"no method of that name: 'grad-cam'\. Did you mean: gradcam"),
        ({"methods": ()}, "No method was asked for"),
        ({"batch_size": 0}, "at least 1: 0"),
        ({"ids": ["a"]}, "2 images, and a different number of ids: 1"),
    ],
)
def test_options(options: dict, words: str) -> None:
    with pytest.raises(explain.InputError, match=words):
        explain.explain(model_that_returns(lambda x: x), GOOD, **options)


def test_models_that_are_none() -> None:
    with pytest.raises(explain.ModelError, match=r"not a torch\.nn\.Module: function"):
        explain.explain(lambda x: x, GOOD)
    locked = model_that_returns(lambda x: x)
    locked.lock = threading.Lock()
    with pytest.raises(explain.ModelError, match=r"cannot be copied.*lock"):
        explain.explain(locked, GOOD)
    with pytest.raises(explain.ModelError, match="meta device"):
        explain.explain(model_that_returns(lambda x: x).to("meta"), GOOD)
