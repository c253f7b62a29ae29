"""f(x) = A(x₀) x + b(x₀) is exact at x₀, affine in x and transposed correctly, on networks that nobody prepared for it.

Every statement is checked in float64 to 1e-12 of the terms that it sums, on random directions far from any image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import explain

EXACT = 1e-12
MODES = ("secant", "tangent")
both_modes = pytest.mark.parametrize("mode", MODES)


def error(found: Tensor, expected: Tensor, *terms: Tensor) -> float:
    """Return the largest difference over the largest term of the sum, image by image, and the worst image."""
    assert found.shape == expected.shape
    scale = torch.stack([part.detach().abs().flatten(1).amax(1) for part in terms or (expected,)]).sum(0)
    return float(((found - expected).detach().abs().flatten(1).amax(1) / scale).max())


def inner(one: Tensor, other: Tensor) -> Tensor:
    """Return <one, other> per image."""
    return (one * other).flatten(1).sum(1)


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return random directions of either sign, far from any image."""
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def middle(out: tuple[int, ...]) -> int | tuple[int, ...]:
    """Return the index of an output in the middle: a class, or (channel, row, column)."""
    return out[0] // 2 if len(out) == 1 else tuple(size // 2 for size in out)


def at(outputs: Tensor, k: int | tuple[int, ...]) -> Tensor:
    """Return output ``k`` of every image."""
    return outputs[(slice(None), *(k if isinstance(k, tuple) else (k,)))]


def jacobian(model: nn.Module, images: Tensor) -> Tensor:
    """Return torch's own Jacobian, image by image: (N, out, in), both flat."""
    rows = []
    for image in images:
        one = torch.autograd.functional.jacobian(lambda x: model(x)[0].flatten(), image[None])
        rows.append(one.flatten(1))
    return torch.stack(rows)


def interpret(network: Any, model: nn.Module, images: Tensor, mode: str, **options: Any) -> Any:
    """Return the interpreter, with the rule that a network of nothing but gates needs."""
    return explain.linear_interpreter(model, images, mode=mode, rules=network.rules(mode), **options)


def by_columns(lens: Any, shape: tuple[int, ...]) -> Tensor:
    """Return A (N, out, in) column by column, and check that ``apply`` of a basis image says the same."""
    columns = []
    for flat in range(math.prod(shape)):
        pixel = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), shape))
        columns.append(lens.column(pixel).flatten(1))
    basis = torch.zeros_like(lens.inputs)
    basis[(slice(None), *pixel)] = 1
    assert torch.equal(lens.apply(basis).flatten(1), columns[-1])
    return torch.stack(columns, 2)


def by_rows(lens: Any, out: tuple[int, ...]) -> Tensor:
    """Return A (N, out, in) row by row."""
    keys = [tuple(int(i) for i in torch.unravel_index(torch.tensor(k), out)) for k in range(math.prod(out))]
    return lens.rows([key if len(key) > 1 else key[0] for key in keys]).flatten(2)


@both_modes
def test_exact_affine_transposed_and_complete(network: Any, mode: str) -> None:
    model, images = network.model(), network.images()
    with torch.no_grad():
        expected = model(images)
    lens = interpret(network, model, images, mode)
    out = tuple(expected.shape[1:])
    assert torch.equal(lens.inputs, images)
    assert lens.mode == mode and lens.bias.shape == expected.shape

    applied = lens.apply(images)
    assert bool((applied.flatten(1).abs().amax(1) > 0).all()), "A = 0: the map explains nothing"
    terms = (applied, lens.bias)
    assert error(lens.outputs, expected) <= EXACT
    assert error(lens.replay(images), expected) <= EXACT
    assert error(applied + lens.bias, expected, *terms) <= EXACT
    assert lens.residual.shape == (len(images),) and float(lens.residual.max()) <= EXACT

    u, v = draw(tuple(images.shape), 1), draw(tuple(images.shape), 2)
    at_u, at_v = lens.replay(u), lens.replay(v)
    assert error(lens.replay(1.7 * u - 0.7 * v), 1.7 * at_u - 0.7 * at_v, at_u, at_v) <= EXACT
    assert error(lens.replay(torch.zeros_like(u)), lens.bias, *terms) <= EXACT
    assert error(lens.apply(v) + lens.bias, at_v, at_v, lens.bias) <= EXACT

    w = draw(tuple(expected.shape), 3)
    forth, back = lens.apply(v), lens.adjoint(w)
    assert back.shape == images.shape
    norms = forth.flatten(1).norm(dim=1) * w.flatten(1).norm(dim=1) + v.flatten(1).norm(dim=1) * back.flatten(1).norm(
        dim=1
    )
    assert float(((inner(forth, w) - inner(v, back)).abs() / norms).max()) <= EXACT

    for k in (middle(out), 0 if len(out) == 1 else (0, 0, 0)):
        terms_of_b = lens.bias_terms(k)
        row, y = lens.row(k), at(expected, k)
        assert terms_of_b.values.shape == (len(images), len(terms_of_b.names))
        size = inner(row.abs(), images) + terms_of_b.values.abs().sum(1)
        assert float(((inner(row, images) + terms_of_b.total - y).abs() / size).max()) <= EXACT
        assert float(((terms_of_b.values.sum(1) - terms_of_b.total).abs() / size).max()) <= EXACT
        assert float(((terms_of_b.total - at(lens.bias, k)).abs() / size).max()) <= EXACT
        votes = lens.votes(k)
        assert votes.shape == (len(images), *images.shape[2:])
        assert float(((votes.sum((1, 2)) + at(lens.bias, k) - y).abs() / size).max()) <= EXACT


@pytest.mark.slow
@both_modes
def test_rows_are_columns_and_the_tangent_is_the_jacobian(network: Any, mode: str) -> None:
    model, images = network.model(), network.images()
    lens = interpret(network, model, images, mode)
    rows, columns = by_rows(lens, tuple(lens.outputs.shape[1:])), by_columns(lens, network.shape)
    assert error(rows, columns) <= EXACT
    gap = error(rows, jacobian(model, images))
    if mode == "tangent" or network.piecewise:
        assert gap <= EXACT
    else:
        assert gap > 1e-6, "this network is declared not to be made of lines through the origin"


@pytest.mark.slow
@both_modes
def test_float32(network: Any, mode: str) -> None:
    model, images = network.model(torch.float32), network.images(torch.float32)
    with torch.no_grad():
        expected = model(images)
    lens = interpret(network, model, images, mode)
    assert lens.outputs.dtype == torch.float32
    assert error(lens.outputs, expected) <= 1e-4
    assert error(lens.replay(images), expected) <= 1e-4
    k = middle(tuple(expected.shape[1:]))
    row, terms = lens.row(k), lens.bias_terms(k)
    size = inner(row.abs(), images) + terms.values.abs().sum(1)
    assert bool((row.flatten(1).abs().amax(1) > 0).all())
    assert float(((inner(row, images) + terms.total - at(expected, k)).abs() / size).max()) <= 1e-4


def use_everything(lens: Any) -> None:
    """Call what runs the network again."""
    lens.apply(lens.inputs)
    lens.replay(lens.inputs)
    lens.adjoint(lens.outputs)
    lens.row(middle(tuple(lens.outputs.shape[1:])))
    lens.column((0, 0, 0))
    lens.bias_terms(middle(tuple(lens.outputs.shape[1:])))


@both_modes
def test_nothing_is_left_behind(network: Any, mode: str, look: Callable[[nn.Module], dict[str, Any]]) -> None:
    model, images = network.model(), network.images()
    with torch.no_grad():
        expected = model(images)
    model.train()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    pixels, before = images.clone(), look(model)
    lens = interpret(network, model, images, mode)
    use_everything(lens)
    assert look(model) == before
    assert torch.equal(images, pixels) and not images.requires_grad
    assert error(lens.outputs, expected) <= EXACT
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.slow
@both_modes
def test_a_batch_is_only_speed(batched: Any, mode: str) -> None:
    network = batched
    model, images = network.model(), network.images()
    images = torch.cat([images, images.flip(3) * 0.7])
    whole, parts = (interpret(network, model, images, mode, batch_size=n) for n in (8, 3))
    v, w = draw(tuple(images.shape), 1), draw(tuple(whole.outputs.shape), 3)
    k = middle(tuple(whole.outputs.shape[1:]))
    for n, image in enumerate(images):
        single = interpret(network, model, image[None], mode)
        assert single.bias_terms(k).names == whole.bias_terms(k).names == parts.bias_terms(k).names
        for lens in (whole, parts):
            assert error(lens.outputs[n : n + 1], single.outputs) <= EXACT
            assert error(lens.replay(v)[n : n + 1], single.replay(v[n : n + 1])) <= EXACT
            assert error(lens.adjoint(w)[n : n + 1], single.adjoint(w[n : n + 1])) <= EXACT
            b, alone = lens.bias_terms(k).values[n : n + 1], single.bias_terms(k).values
            assert error(b, alone) <= EXACT


@both_modes
def test_the_road_taken_is_the_road_replayed(networks: dict[str, Any], mode: str) -> None:
    """A replay follows the branches of x₀, wherever its own pixels would have gone."""
    network = networks["data-dependent branch"]
    model, bright = network.model(), network.images()
    dark = bright * 0.1
    assert float(bright.mean()) > 0.25 > float(dark.mean())
    lens = explain.linear_interpreter(model, bright, mode=mode)
    other = explain.linear_interpreter(model, dark, mode=mode)
    assert error(lens.replay(dark), 0.1 * lens.outputs + 0.9 * lens.bias) <= EXACT
    assert error(other.replay(bright), 10 * other.outputs - 9 * other.bias) <= EXACT
    with torch.no_grad():
        assert error(lens.replay(dark), model(dark)) > 1e-3


@both_modes
def test_one_draw_is_one_linear_system(drawing: Any, mode: str) -> None:
    """What is drawn belongs to the recording: everything that an interpreter says is about the same draw."""
    model, images = drawing.model(), drawing.images()
    before = torch.get_rng_state()
    lens = interpret(drawing, model, images, mode)
    assert torch.equal(torch.get_rng_state(), before)
    assert any("random" in note for note in lens.notes)
    assert error(lens.replay(images), lens.outputs) <= EXACT
    row, terms = lens.row(1), lens.bias_terms(1)
    size = inner(row.abs(), images) + terms.values.abs().sum(1)
    assert float(((terms.total - lens.bias[:, 1]).abs() / size).max()) <= EXACT
    assert float(((inner(row, images) + terms.total - lens.outputs[:, 1]).abs() / size).max()) <= EXACT


def test_nothing_but_a_gate_is_refused_by_name(gated: Any) -> None:
    with pytest.raises(explain.NotApplicable, match=f"{gated.gate}.*rules="):
        explain.linear_interpreter(gated.model(), gated.images())


class Middle(nn.Module):
    """Convolution, one function, mean, linear head."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.function = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(self.conv(x)).mean((2, 3)))


def test_a_tangent_keeps_the_names_of_several_results() -> None:
    model, images = (
        Middle(lambda x: x - torch.aminmax(x, dim=1, keepdim=True).max).double(),
        torch.rand(2, 3, 6, 5).double(),
    )
    lens = explain.linear_interpreter(model, images, mode="tangent")
    assert error(by_rows(lens, (4,)), jacobian(model, images)) <= EXACT


def test_constants_of_lower_precision_are_not_rounded_twice() -> None:
    """A float32 constant in a float64 network contributes in float64, as it does in the network."""
    constant = torch.rand(6, 1, 1)
    model, images = Middle(lambda x: x.relu() + constant).double(), torch.rand(2, 3, 6, 5).double()
    lens = explain.linear_interpreter(model, images)
    assert error(lens.bias_terms(1).total[:, None], lens.bias[:, 1:2]) <= EXACT


def test_activation_checkpointing_is_refused_by_name() -> None:
    """It runs a layer again during the backward pass, behind the back of whoever watches the forward pass."""

    model = Middle(lambda x: checkpoint(torch.relu, x, use_reentrant=False))
    with pytest.raises(explain.NotApplicable, match="checkpoint"):
        explain.linear_interpreter(model, torch.rand(2, 3, 6, 5))


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid"])
def test_probabilities_are_refused_not_explained_by_nothing(last: str, networks: dict[str, Any]) -> None:
    network = networks["shared modules"]
    end = nn.Softmax(1) if last == "Softmax" else nn.Sigmoid()
    model = nn.Sequential(network.model(), end)
    with pytest.raises(explain.ExplainError, match=f"(?i){last}|probabilit"):
        explain.linear_interpreter(model, network.images())
    lens = explain.linear_interpreter(nn.Sequential(network.model(), nn.Sigmoid()), network.images(), mode="tangent")
    assert error(by_rows(lens, (4,)), jacobian(nn.Sequential(network.model(), nn.Sigmoid()), network.images())) <= EXACT
