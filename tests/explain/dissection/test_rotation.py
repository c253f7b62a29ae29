"""Rotations are rotations, uniform ones, and turn the basis of a layer and nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

import explain
from explain.dissection import rotation_power

SIZES = [1, 2, 3, 8, 33]


def close(found: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def planes(*angles: float, ones: int = 0) -> Tensor:
    """Turns by some angles in planes of their own, and some axes, seen in a basis that mixes all of them."""
    turns = torch.tensor(
        [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles], dtype=torch.float64
    )
    blocks = list(turns) if angles else []
    exact = torch.block_diag(*blocks, torch.eye(ones, dtype=torch.float64))
    mixed = torch.linalg.qr(torch.randn(len(exact), len(exact), dtype=torch.float64)).Q
    return mixed @ exact @ mixed.T


@pytest.mark.parametrize("units", SIZES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, -2.5])
def test_it_is_a_rotation(units: int, alpha: float) -> None:
    for seed in range(4):
        q = explain.random_rotation(units, alpha, seed)
        assert q.dtype == torch.float64
        close(q @ q.T, torch.eye(units, dtype=torch.float64))
        assert torch.linalg.det(q).item() == pytest.approx(1)
        if alpha == 0 or units == 1:
            close(q, torch.eye(units, dtype=torch.float64))


def test_only_the_seed_decides() -> None:
    before = torch.get_rng_state()
    one = explain.random_rotation(7, seed=3)
    torch.manual_seed(99)
    assert torch.equal(explain.random_rotation(7, seed=3), one)
    assert not torch.allclose(explain.random_rotation(7, seed=4), one)
    torch.set_rng_state(before)
    explain.random_rotation(7, 0.5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("units", [2, 3, 4])
def test_it_is_uniform(units: int) -> None:
    """Haar measure on SO(n): moments of the entries, the law of one entry, and the trace: E tr = 0 (n > 2: E tr² = 1)."""
    many = torch.stack([explain.random_rotation(units, seed=seed) for seed in range(3000)])
    error = 4 / math.sqrt(len(many))
    assert many.mean(0).abs().max() < error
    assert (many.square().mean(0) - 1 / units).abs().max() < error / 2
    trace = many.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(trace.mean()) < 2 * error
    assert abs(trace.square().mean() - (2 if units == 2 else 1)) < 2.5 * error
    if units == 2:  # the angle is uniform on the circle
        angle = torch.atan2(many[:, 1, 0], many[:, 0, 0]) / (2 * math.pi) + 0.5
        assert kstest(angle.numpy(), "uniform").pvalue > 1e-3
    if units == 3:  # so is each coordinate of a point on the sphere, by Archimedes
        for row, column in ((0, 0), (2, 0), (1, 2)):
            assert kstest((many[:, row, column] / 2 + 0.5).numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("units", SIZES)
def test_powers_add_up(units: int) -> None:
    for seed in range(3):
        q = explain.random_rotation(units, seed=seed)
        close(rotation_power(q, 1), q)
        close(rotation_power(q, 0), torch.eye(units, dtype=torch.float64))
        close(rotation_power(q, -1), q.T)
        half = rotation_power(q, 0.5)
        close(half @ half, q)
        close(rotation_power(q, 0.3) @ rotation_power(q, 0.45), rotation_power(q, 0.75))
        close(explain.random_rotation(units, 0.5, seed), half)
        close(rotation_power(half, 2), q)


@pytest.mark.parametrize(
    ("angles", "ones"),
    [((), 3), ((math.pi,), 0), ((math.pi,), 2), ((math.pi, math.pi), 1), ((math.pi, 0.4, 0.4), 1), ((0.4, -0.4), 0),
     ((math.pi - 1e-7, math.pi), 1), ((math.pi - 1e-10, 1e-10), 1), ((1e-7, 2.0), 0)],
)  # fmt: skip
def test_half_turns_and_axes(angles: tuple[float, ...], ones: int) -> None:
    q = planes(*angles, ones=ones)
    near = 1e-8
    close(rotation_power(q, 1), q, near)
    third = rotation_power(q, 1 / 3)
    close(third @ third @ third, q, near)
    close(third @ third.T, torch.eye(len(q), dtype=torch.float64), near)
    assert torch.linalg.det(third).item() == pytest.approx(1)
    # the same planes by a third of the angles
    cosines = sorted([math.cos(abs(a) / 3) for a in angles for _ in (0, 1)] + [1.0] * ones)
    close(torch.linalg.eigvals(third).real.sort().values, torch.tensor(cosines, dtype=torch.float64), 1e-7)


def test_float32_will_do() -> None:
    q = explain.random_rotation(64)
    close(rotation_power(q.float(), 0.5), rotation_power(q, 0.5), 1e-5)


@pytest.mark.filterwarnings("ignore:The use of `x.T`:UserWarning")
@pytest.mark.parametrize(
    "matrix",
    [-torch.eye(3), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.ones(2, 2), 2 * torch.eye(2), torch.eye(3)[:2],
     torch.eye(3)[:, :2], torch.eye(2)[None], torch.full((2, 2), math.nan), torch.ones(1)],
)  # fmt: skip
def test_what_is_no_rotation_is_refused(matrix: Tensor) -> None:
    """Reflections, what is not orthogonal, what is not square."""
    with pytest.raises(explain.InputError, match="no rotation"):
        rotation_power(matrix, 0.5)


@pytest.mark.parametrize("matrix", [torch.tensor(1.0), torch.zeros(0, 0)])
def test_what_is_no_matrix_is_refused(matrix: Tensor) -> None:
    with pytest.raises(explain.InputError):
        rotation_power(matrix, 0.5)


def test_infinite_powers_of_a_rotation_are_refused() -> None:
    with pytest.raises(explain.InputError):
        rotation_power(explain.random_rotation(4), math.nan)


@pytest.mark.parametrize(("units", "alpha"), [(0, 1.0), (-1, 1.0), (3, math.inf), (3, math.nan)])
def test_sizes_and_powers_that_make_no_sense(units: int, alpha: float) -> None:
    with pytest.raises(explain.InputError):
        explain.random_rotation(units, alpha)


def test_the_next_layer_can_undo_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 3)).double()
    images, q = torch.rand(2, 3, 8, 8).double(), explain.random_rotation(6, 0.7)
    expected = model(images)
    with torch.no_grad():
        maps = torch.einsum("vu,nuhw->nvhw", q, model[0](images))
        model[1].weight.copy_(torch.einsum("ouhw,uv->ovhw", model[1].weight, q.T))
        torch.testing.assert_close(model[1:](maps), expected)


def test_dissecting_in_a_basis_is_dissecting_rotated_maps(small_net: Any, make_probe: Any, equal: Any) -> None:
    """Against a network that has the rotation as a layer of its own."""

    class Turned(nn.Module):
        def __init__(self, network: nn.Module, q: Tensor) -> None:
            super().__init__()
            self.inner = network
            self.turn = nn.Conv2d(6, 6, 1, bias=False)
            self.turn.weight = nn.Parameter(q[:, :, None, None])

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner.relu(self.inner.norm(self.inner.first(x)))
            return self.turn(self.inner.last(x)).mean((2, 3))

    probe, q = make_probe(8), explain.random_rotation(6, seed=2)
    options: dict[str, Any] = {"quantile": 0.05, "replicates": 10}
    model = small_net().double().eval()
    found = explain.dissect(model, probe, "last", basis={"last": q}, **options)["last"]
    expected = explain.dissect(Turned(model, q).double(), probe, "turn", **options)["turn"]
    plain = explain.dissect(model, probe, "last", **options)["last"]
    for name in ("thresholds", "peak", "floor", "top_values", "iou"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-6)
    assert torch.equal(found.both, expected.both) and torch.equal(found.top_images, expected.top_images)
    assert not torch.allclose(found.iou, plain.iou, atol=1e-3)
    same = explain.dissect(model, probe, "last", basis={"last": explain.random_rotation(6, 0.0)}, **options)
    assert equal(same, explain.dissect(model, probe, "last", **options))
    # as the definition says: the value that floor(0.05 n) of all rotated activations exceed
    with torch.no_grad():
        x = model.norm(model.first(torch.stack(probe.images).double())).relu()
        rotated = torch.einsum("vu,nuhw->vnhw", q, model.last(x)).flatten(1)
    place = int(0.05 * rotated.shape[1])
    close(found.thresholds.double(), rotated.sort(descending=True).values[:, place], 1e-6)
    with pytest.raises(explain.InputError):
        explain.dissect(model, probe, "last", basis={"last": explain.random_rotation(5)})
