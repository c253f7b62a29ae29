"""One operator at a time, in the forms in which networks write it: constants of every kind, arguments in other places."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import explain

EXACT = 1e-12
C = torch.linspace(-1, 2, 8, dtype=torch.float64)
INTEGERS = torch.arange(8)
PLACES = torch.tensor([[1, 0, 3, 2, 5, 4, 7, 6], [0, 1, 2, 3, 4, 5, 6, 7]])


class Around(nn.Module):
    """A linear layer to eight numbers, one operator, and a linear layer to three."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.operator = nn.Linear(12, 8).double(), nn.Linear(8, 3).double(), operator

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operator(self.first(x.flatten(1))))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def written(z: Tensor, change: Callable[[Tensor], Any]) -> Tensor:
    """Apply an operator that returns nothing worth having to a copy."""
    z = z.clone()
    change(z)
    return z


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "plus integers": lambda z: z + INTEGERS,
    "integers minus": lambda z: INTEGERS - z,
    "plus a mask": lambda z: z + (C > 0),
    "true plus": lambda z: True + z,
    "cat with integers": lambda z: torch.cat([z[:, :4], INTEGERS[:4].expand(2, 4)], 1),
    "where with integers": lambda z: torch.where(C > 0, z, INTEGERS),
    "where as a method of the constant": lambda z: C.expand(2, 8).where(C > 0.5, z),
    "where as a method": lambda z: z.where(C > 0.5, C),
    "fraction": lambda z: 10 * z - (10 * z).floor().long(),
    "index_fill by a number": lambda z: z.index_fill(1, torch.tensor([1, 5]), 3.0),
    "index_fill by a tensor": lambda z: z.index_fill(1, torch.tensor([1, 5]), torch.tensor(3.0, dtype=torch.float64)),
    "scatter of a number": lambda z: z.scatter(1, PLACES[:, :3], 3.0),
    "scatter of a named number": lambda z: z.scatter(1, PLACES[:, :3], value=3.0),
    "scatter into a constant": lambda z: C.repeat(2, 1).scatter(1, PLACES[:, :5], z[:, :5]),
    "scatter in place": lambda z: written(z, lambda y: y.scatter_(1, PLACES[:, :5], C.repeat(2, 1))),
    "scatter_add of a constant": lambda z: z.scatter_add(1, PLACES, C.repeat(2, 1)),
    "scatter_add into a constant": lambda z: torch.scatter_add(C.repeat(2, 1), 1, PLACES, z),
    "masked_fill": lambda z: z.masked_fill(C > 0, -2.0),
    "masked_scatter": lambda z: z.masked_scatter(C > 0, C.repeat(2)),
    "index_add": lambda z: z.index_add(1, torch.tensor([2, 3]), torch.ones(2, 2).double(), alpha=3),
    "index_copy": lambda z: z.index_copy(1, torch.tensor([2, 3]), torch.ones(2, 2).double()),
    "index_put": lambda z: z.index_put((torch.tensor([0, 1]), torch.tensor([1, 3])), torch.tensor([9.0, 8]).double()),
    "set an item to a number": lambda z: written(z, lambda y: y.__setitem__((slice(None), 2), 5)),
    "lerp to a constant": lambda z: z.lerp(C, 0.3),
    "addcmul": lambda z: torch.addcmul(C, z, C, value=2),
    "addmm": lambda z: torch.addmm(C, z, torch.outer(C, C), beta=2, alpha=0.5),
    "pad with a number": lambda z: F.pad(z[:, 2:-2], (2, 2), value=1.5),
    "spectrum plus a complex number": lambda z: torch.fft.irfft(torch.fft.rfft(z) + 1j),
    "divided by itself shifted": lambda z: z / (z.roll(1, 1).square() + 1),
    "constant over it": lambda z: z + C / (z.square() + 1),
    "square root of squares": lambda z: z / (z.square().mean(1, keepdim=True) + 0.1).sqrt(),
    "bilinear": lambda z: F.bilinear(z, C.repeat(2, 1), torch.eye(8).double().expand(8, 8, 8), C),
    "clamp by a bound above zero": lambda z: z.clamp(min=0.1),
    "cube": lambda z: z**3,
    "two to the power": lambda z: z * 2**z,
}


@pytest.mark.parametrize("mode", ["secant", "tangent"])
@pytest.mark.parametrize("name", OPERATORS)
def test_exact(name: str, mode: Any, images: Tensor) -> None:
    model = Around(OPERATORS[name])
    lens = explain.linear_interpreter(model, images, mode=mode)
    scale = float(lens.outputs.abs().max() + lens.bias.abs().max())
    assert float(lens.residual.max()) <= EXACT * scale
    assert float((lens.outputs - model(images).detach()).abs().max()) <= EXACT * scale
    v = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert float((lens.replay(v) - lens.apply(v) - lens.bias).abs().max()) <= 100 * EXACT * scale
    assert float((lens.apply(3 * v) - 3 * lens.apply(v)).abs().max()) <= 100 * EXACT * scale
    columns = [lens.column(tuple(index)) for index in torch.ones(3, 2, 2).nonzero().tolist()]
    assert float((lens.rows().flatten(2) - torch.stack(columns, 2)).abs().max()) <= 10 * EXACT * scale
    for k in range(3):
        assert float((lens.bias_terms(k).total - lens.bias[:, k]).abs().max()) <= EXACT * scale
    if mode == "tangent":
        jacobian = torch.stack([lens.jacobian_row(k) for k in range(3)], 1)
        assert float((lens.rows() - jacobian).abs().max()) <= EXACT * scale


@pytest.mark.parametrize(
    "operator",
    [
        lambda z: F.layer_norm(z, (8,), z.sigmoid() * z, C),
        lambda z: F.layer_norm(z, (8,), C, z.mean(0)),
        lambda z: F.rms_norm(z, (8,), z[0]),
        lambda z: F.prelu(C.repeat(2, 1), z[0]),
    ],
    ids=["weight of layer_norm", "bias of layer_norm", "weight of rms_norm", "weight of prelu"],
)
def test_parameters_that_vary_are_refused(operator: Callable[[Tensor], Tensor], images: Tensor) -> None:
    with pytest.raises(explain.NotApplicable, match="more than the first argument"):
        explain.linear_interpreter(Around(lambda z: operator(z[:1]).expand(2, 8)), images)


@pytest.mark.parametrize(
    "operator, complaint",
    [
        (lambda z: z.scatter(1, PLACES, 2 * z, reduce="multiply"), "scatter with reduce="),
        (lambda z: F.rrelu(z, training=True), "rrelu draws slopes"),
        (lambda z: torch.fft.rfft(z).abs().repeat(1, 2)[:, :8], "'abs' of complex numbers has no secant"),
        (lambda z: torch.lgamma(z + 3), "no rule for the operator 'lgamma'"),
        (lambda z: torch.einsum("nk,nk,nk->nk", z, z, z), "the rule of 'einsum' does not cover this call"),
        (lambda z: z.clamp(min=C), "'clamp' takes tensors as options"),
    ],
)
def test_refused_by_name(operator: Callable[[Tensor], Tensor], complaint: str, images: Tensor) -> None:
    model, state = Around(operator), torch.get_rng_state()
    with pytest.raises(explain.NotApplicable, match=complaint):
        explain.linear_interpreter(model, images)
    assert torch.equal(torch.get_rng_state(), state)


def test_complex_numbers_in_tangent_mode(images: Tensor) -> None:
    def power(z: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(z)
        return torch.fft.irfft(spectrum * spectrum.conj())

    for operator in (power, lambda z: torch.fft.rfft(z).abs().repeat(1, 2)[:, :8]):
        lens = explain.linear_interpreter(Around(operator), images, mode="tangent")
        assert float(lens.residual.max()) <= EXACT and float(lens.jacobian_gap().ratio.max()) <= EXACT


class Squared(torch.autograd.Function):
    """Seen by no function mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return signal * 2 * ctx.saved_tensors[0]


class Last(nn.Module):
    """A linear layer and an operator as the very last step."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.operator = nn.Linear(12, 4).double(), operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(self.fc(x.flatten(1)))


def overwritten_data(y: Tensor) -> Tensor:
    y.data.clamp_(min=0)
    return y * 2


@pytest.mark.parametrize(
    "operator, complaint",
    [
        (Squared.apply, "cannot be seen.*SquaredBackward"),
        (lambda y: torch.func.vmap(F.relu)(y), "cannot be seen|is not linear"),
        (lambda y: y * random.random(), "is not linear with its decisions frozen"),
        (overwritten_data, "is not linear with its decisions frozen"),
    ],
    ids=["custom function", "vmap", "Python's random numbers", "write through .data"],
)
def test_what_cannot_be_seen_at_the_end_is_refused_too(
    operator: Callable[[Tensor], Tensor], complaint: str, images: Tensor
) -> None:
    torch.manual_seed(0)
    with pytest.raises(explain.NotApplicable, match=complaint):
        explain.linear_interpreter(Last(operator), images)


@pytest.mark.parametrize("draw", ["log_normal_", "cauchy_", "geometric_"])
def test_every_kind_of_draw_is_frozen(draw: str, images: Tensor) -> None:
    options = (0.5,) if draw == "geometric_" else ()
    model = Last(lambda y: y * getattr(torch.ones_like(y), draw)(*options))
    state = torch.get_rng_state()
    lens = explain.linear_interpreter(model, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert float(lens.residual.max()) <= EXACT and any("one draw" in note for note in lens.notes)


def test_networks_without_constants_have_no_terms(images: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False)).double()
    lens = explain.linear_interpreter(model, images)
    terms = lens.bias_terms(0)
    assert terms.values.shape == (2, 0) and terms.frame().empty and float(terms.total.abs().max()) == 0


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_whatever_the_caller_is_in(context: Callable[[], Any], images: Tensor) -> None:
    model = Around(F.gelu)
    outside = explain.linear_interpreter(model, images)
    with context():
        inside = explain.linear_interpreter(model, images)
        assert torch.equal(inside.rows(), outside.rows()) and torch.equal(inside.bias, outside.bias)
        assert torch.equal(inside.bias_terms(1).values, outside.bias_terms(1).values)
        assert torch.equal(inside.jacobian_row(0), outside.jacobian_row(0))
    (inside.inputs * torch.ones((), dtype=torch.float64, requires_grad=True)).sum().backward()  # no inference tensor


def test_weights_that_change_are_noticed(images: Tensor) -> None:
    model = Around(F.gelu)
    lens = explain.linear_interpreter(model, images)
    with torch.no_grad():
        model.first.weight.mul_(2)
    with pytest.raises(explain.ModelError, match="The weights have changed"):
        lens.row(0)
    assert float(explain.linear_interpreter(model, images).residual.max()) <= EXACT


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused_as_a_model(images: Tensor) -> None:
    model = torch.jit.trace(Around(F.relu), images)
    with pytest.raises(explain.ExplainError):
        explain.linear_interpreter(model, images)
