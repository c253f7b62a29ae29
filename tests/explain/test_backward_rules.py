"""Guided backpropagation and DeconvNet against hand-written autograd functions, in every style of calling ReLU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import explain

RULES = {"guided_backprop": "guided", "deconvnet": "deconv"}


class Guided(torch.autograd.Function):
    """ReLU whose backward is max(R, 0)·[0 < x < ceiling]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.ceiling = ceiling
        return torch.where(x > 0, x, 0.0).clamp(max=ceiling)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        passes = (signal > 0) & (x > 0) & (x < ctx.ceiling)
        return torch.where(passes, signal, 0.0), None


class Deconv(torch.autograd.Function):
    """ReLU whose backward is max(R, 0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float) -> Tensor:
        return torch.where(x > 0, x, 0.0).clamp(max=ceiling)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        return torch.where(signal > 0, signal, 0.0), None


REFERENCE: dict[str, type] = {"guided": Guided, "deconv": Deconv}


def relu_of(rule: str, ceiling: float = float("inf")) -> Callable[..., Tensor]:
    return lambda x, inplace=False: REFERENCE[rule].apply(x, ceiling)


def signal_of(score_of: Callable[[Tensor], Tensor], images: Tensor, target: int) -> Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(score_of(images)[:, target].sum(), images)[0]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> bool:
    assert expected.abs().max() > 0
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize(
    "call",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        F.relu,
        F.relu_,
        lambda x: F.relu(x, inplace=True),
        lambda x: F.relu(x, True),
        lambda x: F.relu(input=x),
        torch.relu,
        torch.relu_,
        lambda x: x.relu(),
        lambda x: x.relu_(),
    ],
    ids=range(11),
)
def test_every_way_of_calling_relu(method: str, call: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 4)

        def forward(self, x: Tensor, relu: Callable[[Tensor], Tensor] = call) -> Tensor:
            x = relu(self.conv1(x))
            return self.fc(relu(self.conv2(x)).mean((2, 3)))

    model, images = Net().double(), torch.rand(2, 3, 9, 8).double()
    found = explain.explain(model, images, target=1, methods=(method, "saliency"))
    rewritten = relu_of(RULES[method])
    assert close(found[method].values, signal_of(lambda x: model(x, rewritten), images, 1))
    assert close(found["saliency"].values, signal_of(lambda x: model(x, relu_of_plain), images, 1))
    assert found[method].rewritten == 2
    assert not close(found[method].values, found["saliency"].values, 1e-2)


def relu_of_plain(x: Tensor) -> Tensor:
    return x * (x > 0)


@pytest.mark.parametrize("method", RULES)
def test_an_inplace_call_also_serves_later_readers_of_its_input(method: str) -> None:
    """In-place calls as statements, F.relu(y, inplace=True) with y read afterwards, a slice rectified in its tensor."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(x)
            x.relu_()
            y = self.conv2(x)
            z = F.relu(y, inplace=True) * 2
            y = y + z - 0.1
            y[:, :3].neg_()
            y[:, :3].add_(0.05).relu_()
            y = y - 0.02
            F.hardtanh(y, 0, 6, True)
            return self.fc(torch.cat([y.mean((2, 3)), x.mean((2, 3))], dim=1))

        def pure(self, x: Tensor, relu: Callable[[Tensor], Tensor]) -> Tensor:
            x = relu(self.conv1(x))
            y = 3 * relu(self.conv2(x)) - 0.1
            y = relu(torch.cat([relu(0.05 - y[:, :3]), y[:, 3:]], dim=1) - 0.02)
            return self.fc(torch.cat([y.mean((2, 3)), x.mean((2, 3))], dim=1))

    model, images = Net().double(), torch.rand(2, 3, 9, 8).double()
    found = explain.explain(model, images, target=1, methods=(method, "saliency"))
    torch.testing.assert_close(found.logits.double(), model.pure(images, relu_of_plain), rtol=1e-6, atol=1e-6)
    assert close(found[method].values, signal_of(lambda x: model.pure(x, relu_of(RULES[method])), images, 1))
    assert close(found["saliency"].values, signal_of(lambda x: model.pure(x, relu_of_plain), images, 1))
    assert found[method].rewritten == 4


@pytest.mark.parametrize("method", RULES)
def test_a_skip_around_a_relu_keeps_its_own_signal(method: str) -> None:
    """A rule that sits on the tensor before the ReLU would also rewrite what the skip sends back."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.fc = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6, 4)

        def forward(self, x: Tensor, relu: Callable[[Tensor], Tensor] | None = None) -> Tensor:
            y = self.conv(x)
            return self.fc((y - 2 * (relu or self.relu)(y)).mean((2, 3)))

    model, images = Net().double(), torch.rand(2, 3, 9, 8).double()
    found = explain.explain(model, images, target=1, methods=method)[method]
    assert close(found.values, signal_of(lambda x: model(x, relu_of(RULES[method])), images, 1))


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize(
    "call",
    [
        nn.ReLU6(),
        nn.ReLU6(inplace=True),
        F.relu6,
        nn.Hardtanh(0.0, 6.0),
        lambda x: F.hardtanh(x, 0, 6),
        lambda x: F.hardtanh_(x, 0, 6),
    ],
    ids=range(6),
)
def test_relu6_is_gated_on_both_sides(method: str, call: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

        def forward(self, x: Tensor, relu: Callable[[Tensor], Tensor] = call) -> Tensor:
            return self.fc(relu(20 * self.conv(x)).mean((2, 3)))

    model, images = Net().double(), torch.rand(2, 3, 9, 8).double()
    before = 20 * model.conv(images)
    assert (before > 6).any() and ((before > 0) & (before < 6)).any()
    found = explain.explain(model, images, target=1, methods=(method, "saliency"))
    assert close(found[method].values, signal_of(lambda x: model(x, relu_of(RULES[method], 6.0)), images, 1))
    assert close(found["saliency"].values, signal_of(lambda x: model(x, lambda y: y.clamp(0, 6)), images, 1))


def test_hardtanh_with_a_negative_bound_is_no_relu() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(explain.NotApplicable, match="hardtanh"):
        explain.explain(model, torch.rand(1, 3, 6, 6), methods="deconvnet")


@pytest.mark.parametrize("name, size", [("googlenet", 64), ("densenet121", 64), ("inception_v3", 80)])
def test_functional_networks_of_torchvision(name: str, size: int, randomised, monkeypatch: pytest.MonkeyPatch) -> None:
    """No or not every ReLU of these is a module. The reference swaps ``F.relu`` itself, which nn.ReLU calls too."""
    options = {} if name == "densenet121" else {"init_weights": False, "aux_logits": False}
    model = randomised(getattr(torchvision.models, name)(weights=None, num_classes=7, **options)).double().eval()
    images = torch.rand(1, 3, size, size + 16).double()
    found = explain.explain(model, images, target=3, methods=("saliency", *RULES))
    modules = sum(isinstance(module, nn.ReLU) for module in model.modules())
    assert found["deconvnet"].rewritten > modules
    plain = signal_of(model, images, 3)
    assert close(found["saliency"].values, plain)
    for method, rule in RULES.items():
        with monkeypatch.context() as patch:
            patch.setattr(F, "relu", relu_of(rule))
            expected = signal_of(model, images, 3)
        assert close(found[method].values, expected)
        assert not close(found[method].values, plain, 1e-1)


def test_other_nonlinearities_keep_their_gradient_and_are_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.act, self.fc = (
                nn.Conv2d(3, 6, 3),
                nn.Conv2d(6, 6, 3),
                nn.Hardswish(),
                nn.Linear(6, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.conv1(x).relu())
            return self.fc(F.silu(self.conv2(self.act(x)).sigmoid()).mean((2, 3)))

    found = explain.explain(Net(), torch.rand(1, 3, 8, 8), methods="guided_backprop")["guided_backprop"]
    assert found.rewritten == 1
    assert found.notes == ("calls that keep their plain gradient: 2 hardswish, 1 sigmoid, 1 silu",)


@pytest.mark.parametrize("method", RULES)
def test_without_any_relu_the_rules_do_not_apply(method: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(explain.NotApplicable, match=r"does not apply: no ReLU was called: the network uses gelu"):
        explain.explain(model, torch.rand(1, 3, 6, 6), methods=method)


def test_a_relu_that_no_pixel_reaches_does_not_count() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.fc = nn.Parameter(torch.ones(12)), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1) * self.scale.relu())

    with pytest.raises(explain.NotApplicable, match="no ReLU was called"):
        explain.explain(Net(), torch.rand(1, 3, 2, 2), methods="deconvnet")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_hides_its_relu_and_is_refused() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    model = nn.Sequential(scripted, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = explain.explain(model, torch.rand(1, 3, 6, 6), methods=("saliency", "deconvnet"), skip_inapplicable=True)
    assert list(found) == ["saliency"]
    assert "TorchScript" in found.skipped["deconvnet"]
