"""A and b of small layers, written out as matrices with NumPy from the published formulas, against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import erf
from torch import Tensor, nn

import explain

EXACT = 1e-12
SHAPE = (2, 3, 2)  # (C, H, W): 12 numbers, of which attention makes six tokens with two channels
Array = NDArray[np.float64]


class Flat(nn.Module):
    """The images as rows of numbers, then ``layers``."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.children():
            x = layer(x)
        return x


def dense(lens: Any) -> tuple[Array, Array]:
    """Return A (N, out, in) and b (N, out) of a lens."""
    n, out = lens.outputs.shape[0], lens.outputs.shape[1:].numel()
    flat = [tuple(int(i) for i in torch.unravel_index(torch.tensor(k), lens.outputs.shape[1:])) for k in range(out)]
    rows = lens.rows([k if len(k) > 1 else k[0] for k in flat])
    return rows.reshape(n, out, -1).numpy(), lens.bias.reshape(n, out).numpy()


def prepare(model: nn.Module, mode: str, shape: tuple[int, ...] = SHAPE) -> tuple[Any, Array]:
    """Return the lens of ``model``, its parameters random, on two images, and the images as flat rows."""
    generator = torch.Generator().manual_seed(1)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=generator)
    images = torch.rand(2, *shape, generator=generator).double()
    return explain.linear_interpreter(model, images, mode=mode), images.flatten(1).numpy()


def numbers(module: nn.Module) -> dict[str, Array]:
    """Return the parameters as arrays."""
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def check(lens: Any, n: int, matrix: Array, constant: Array, x: Array) -> None:
    """The lens has this matrix and this constant for image n, and they give its output."""
    found, bias = dense(lens)
    size = np.abs(matrix) @ np.abs(x[n]) + np.abs(constant)
    assert np.abs(found[n] - matrix).max() <= EXACT * np.abs(matrix).max()
    assert np.abs(bias[n] - constant).max() <= EXACT * size.max()
    assert np.abs(matrix @ x[n] + constant - lens.outputs[n].numpy().ravel()).max() <= EXACT * size.max()


def constants(lens: Any, k: int) -> dict[str, Array]:
    """Return the named parts of b_k."""
    terms = lens.bias_terms(k)
    assert len(set(terms.names)) == len(terms.names)
    return {name: terms.values[:, t].numpy() for t, name in enumerate(terms.names)}


@pytest.mark.parametrize("mode", ["secant", "tangent"])
def test_mlp_with_gelu(mode: str) -> None:
    """y = W₂ φ(W₁x + c₁) + c₂ with φ(z) = z Φ(z): the gate is Φ(z), the slope Φ(z) + z φ'(z)."""
    model = Flat(one=nn.Linear(12, 5), gelu=nn.GELU(), two=nn.Linear(5, 3))
    lens, x = prepare(model, mode)
    p = numbers(model)
    for n in range(2):
        z = p["one.weight"] @ x[n] + p["one.bias"]
        below = (1 + erf(z / np.sqrt(2))) / 2
        slope = below if mode == "secant" else below + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        left = p["two.weight"] * slope
        through, intercept = left @ p["one.bias"], p["two.weight"] @ (z * below - slope * z)
        check(lens, n, left @ p["one.weight"], through + intercept + p["two.bias"], x)
        for k in range(3):
            named = constants(lens, k)
            assert named["one.bias"][n] == pytest.approx(through[k], rel=EXACT)
            assert named["two.bias"][n] == pytest.approx(p["two.bias"][k], rel=EXACT)
            rest = sum(value[n] for name, value in named.items() if name not in ("one.bias", "two.bias"))
            assert rest == pytest.approx(intercept[k], abs=EXACT)


@pytest.mark.parametrize(
    "name, at_zero, slope",
    [("softplus", np.log(2), 1 / 2), ("sigmoid", 1 / 2, 1 / 4), ("cos", 1, 0)],
    ids=["softplus", "sigmoid", "cos"],
)
def test_gates_of_small_inputs_in_float32(name: str, at_zero: float, slope: float) -> None:
    """(φ(z) − φ(0))/z cancels where φ(0) ≠ 0 and z is small: the gate must still be φ'(0)."""
    functions = {"softplus": F.softplus, "sigmoid": torch.sigmoid, "cos": torch.cos}

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(1000 * functions[name](1e-4 * (x.flatten(1) - 0.5)))

    model, images = Small(), torch.rand(2, *SHAPE)
    found, bias = dense(explain.linear_interpreter(model, images, rules={name: "secant"}))
    z = 1e-4 * (images.flatten(1).double().numpy() - 0.5)
    p = numbers(model)
    for n in range(2):
        values = {"softplus": np.log1p(np.exp(z[n])), "sigmoid": 1 / (1 + np.exp(-z[n])), "cos": np.cos(z[n])}
        gate = (values[name] - at_zero) / z[n]
        assert np.abs(gate - slope).max() < 1e-4  # the oracle does not cancel
        matrix = 0.1 * p["head.weight"] * gate
        constant = 1000 * at_zero * p["head.weight"].sum(1) - matrix.sum(1) / 2 + p["head.bias"]
        assert np.abs(found[n] - matrix).max() <= 1e-5 * np.abs(0.1 * p["head.weight"]).max()
        assert np.abs(bias[n] - constant).max() <= 1e-6 * 1000 * at_zero * np.abs(p["head.weight"]).sum(1).max()


@pytest.mark.parametrize("mode", ["secant", "tangent"])
def test_layer_norm(mode: str) -> None:
    """y = γ (z - mean z) / σ + β: centring is a projection, σ is frozen; the tangent also turns σ."""
    model = Flat(one=nn.Linear(12, 5), norm=nn.LayerNorm(5, eps=1e-3), two=nn.Linear(5, 3))
    lens, x = prepare(model, mode)
    p = numbers(model)
    centre = np.eye(5) - 1 / 5
    for n in range(2):
        z = centre @ (p["one.weight"] @ x[n] + p["one.bias"])
        spread = np.sqrt(z @ z / 5 + 1e-3)
        inner = centre / spread
        if mode == "tangent":
            inner = inner - np.outer(z, z) / (5 * spread**3)
        intercept = z / spread - inner @ (p["one.weight"] @ x[n] + p["one.bias"])
        left = p["two.weight"] * p["norm.weight"] @ inner
        shift = p["two.weight"] @ p["norm.bias"]
        through = left @ p["one.bias"]
        constant = through + p["two.weight"] * p["norm.weight"] @ intercept + shift + p["two.bias"]
        check(lens, n, left @ p["one.weight"], constant, x)
        named = constants(lens, 1)
        assert named["one.bias"][n] == pytest.approx(through[1], rel=1e-11)
        assert named["two.bias"][n] == pytest.approx(p["two.bias"][1], rel=EXACT)
        turned = (p["two.weight"] * p["norm.weight"] @ intercept)[1]  # 0 where the scale is frozen
        normed = sum(value[n] for name, value in named.items() if name.startswith("norm"))
        assert normed == pytest.approx(shift[1] + turned, rel=1e-11)


class Attention(nn.Module):
    """One head over six tokens of two channels."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.q, self.k, self.v, self.out = (nn.Linear(2, 2) for _ in range(4))
        self.packed = nn.MultiheadAttention(2, 1, batch_first=True) if how == "packed" else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).mT
        if self.packed is not None:
            return self.packed(x, x, x)[0]
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.how == "fused":
            return self.out(F.scaled_dot_product_attention(q, k, v))
        return self.out((q @ k.mT / 2**0.5).softmax(-1) @ v)


@pytest.mark.parametrize("mode", ["secant", "tangent"])
@pytest.mark.parametrize("how", ["written", "fused", "packed"])
def test_attention(how: str, mode: str) -> None:
    """y_i = W_o Σ_j P_ij (W_v x_j + c_v) + c_o: P is frozen; the tangent adds dP = P (dS - Σ P dS)."""
    model = Attention(how)
    lens, x = prepare(model, mode)
    p = numbers(model)
    if how == "packed":
        (wq, wk, wv), (cq, ck, cv) = np.split(p["packed.in_proj_weight"], 3), np.split(p["packed.in_proj_bias"], 3)
        wo, co = p["packed.out_proj.weight"], p["packed.out_proj.bias"]
    else:
        wq, wk, wv, wo = (p[f"{name}.weight"] for name in ("q", "k", "v", "out"))
        cq, ck, cv, co = (p[f"{name}.bias"] for name in ("q", "k", "v", "out"))
    for n in range(2):
        tokens = x[n].reshape(2, 6).T
        q, k, v = tokens @ wq.T + cq, tokens @ wk.T + ck, tokens @ wv.T + cv
        score = np.exp(q @ k.T / np.sqrt(2))
        share = score / score.sum(1, keepdims=True)
        a = np.einsum("ij,oc->iocj", share, wo @ wv)  # (token, out channel, in channel, token)
        if mode == "tangent":
            ds = np.einsum("im,ac,ja->ijcm", np.eye(6), wq, k) + np.einsum("jm,ac,ia->ijcm", np.eye(6), wk, q)
            dp = share[:, :, None, None] * (ds - np.einsum("ij,ijcm->icm", share, ds)[:, None]) / np.sqrt(2)
            a = a + np.einsum("ijcm,jd,od->iocm", dp, v, wo)
        matrix = a.reshape(12, 12)
        output = (share @ v) @ wo.T + co
        check(lens, n, matrix, output.ravel() - matrix @ x[n], x)
        if mode == "secant":
            constant = share.sum(1, keepdims=True) * (wo @ cv) + co
            assert np.abs(constant.ravel() - dense(lens)[1][n]).max() <= EXACT


class Squeeze(nn.Module):
    """z = x ⊙ σ(W₂ relu(W₁ mean x + c₁) + c₂), then a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.two(F.relu(self.one(x.mean((2, 3))))))
        return self.head((x * gate[:, :, None, None]).flatten(1))


@pytest.mark.parametrize("mode", ["secant", "tangent"])
def test_squeeze_excite(mode: str) -> None:
    """Frozen: A = W diag(g), and none of the gate's own biases is credited. Tangent: the gate moves too."""
    model = Squeeze()
    lens, x = prepare(model, mode)
    p = numbers(model)
    for n in range(2):
        means = x[n].reshape(2, 6).mean(1)
        hidden = p["one.weight"] @ means + p["one.bias"]
        gate = 1 / (1 + np.exp(-(p["two.weight"] @ np.maximum(hidden, 0) + p["two.bias"])))
        inner = np.diag(np.repeat(gate, 6))
        if mode == "tangent":
            slope = (gate * (1 - gate))[:, None] * p["two.weight"] * (hidden > 0) @ p["one.weight"]
            inner = inner + x[n][:, None] * np.repeat(np.repeat(slope, 6, 0), 6, 1) / 6
        matrix = p["head.weight"] @ inner
        output = p["head.weight"] @ (x[n] * np.repeat(gate, 6)) + p["head.bias"]
        check(lens, n, matrix, output - matrix @ x[n], x)
        if mode == "secant":
            named = constants(lens, 2)
            assert named["head.bias"][n] == pytest.approx(p["head.bias"][2], rel=EXACT)
            assert sum(abs(value[n]) for name, value in named.items() if name != "head.bias") <= EXACT


@pytest.mark.parametrize("mode", ["secant", "tangent"])
def test_batch_norm_and_max_pool(mode: str) -> None:
    """Both are what they always were: an affine map per channel, and a choice of one in two."""
    norm = nn.BatchNorm2d(2, eps=1e-2)
    norm.running_mean.copy_(torch.tensor([0.25, -0.125]))
    norm.running_var.copy_(torch.tensor([0.5, 2.0]))
    model = nn.Sequential(norm, nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(6, 3))
    lens, x = prepare(model, mode)
    p = numbers(model)
    scale = p["0.weight"] / np.sqrt(np.array([0.5, 2.0]) + 1e-2)
    shift = p["0.bias"] - scale * np.array([0.25, -0.125])
    for n in range(2):
        z = (x[n].reshape(2, 6) * scale[:, None] + shift[:, None]).reshape(6, 2)
        chosen = np.zeros((6, 12))
        chosen[np.arange(6), 2 * np.arange(6) + z.argmax(1)] = 1
        left = p["3.weight"] @ chosen
        constant = left @ np.repeat(shift, 6)
        check(lens, n, left * np.repeat(scale, 6), constant + p["3.bias"], x)
        named = constants(lens, 0)
        assert named["3.bias"][n] == pytest.approx(p["3.bias"][0], rel=EXACT)
        assert sum(value[n] for name, value in named.items() if name != "3.bias") == pytest.approx(
            constant[0], rel=1e-11
        )


@pytest.mark.parametrize("mode", ["secant", "tangent"])
def test_what_follows_from_the_matrix(mode: str) -> None:
    """Singular values, swapped gates and the parts of a change, from A and b alone."""
    model = Flat(one=nn.Linear(12, 5), gelu=nn.GELU(), norm=nn.LayerNorm(5), two=nn.Linear(5, 3))
    lens, x = prepare(model, mode)
    a, b = dense(lens)
    spectrum = lens.svd()
    for n in range(2):
        left, values, right = np.linalg.svd(a[n], full_matrices=False)
        kept = min(len(values), spectrum.values.shape[1])
        assert kept >= np.linalg.matrix_rank(a[n])
        assert np.abs(spectrum.values[n, :kept].numpy() - values[:kept]).max() <= 1e-10 * values[0]
        for r in range(np.linalg.matrix_rank(a[n])):
            cosines = (
                abs(spectrum.left[n, r].numpy().ravel() @ left[:, r]),
                abs(spectrum.right[n, r].numpy().ravel() @ right[r]),
            )
            assert cosines == pytest.approx((1, 1), rel=1e-6)
    swapped = lens.exchange().numpy()
    expected = np.einsum("iop,jp->ijo", a, x) + b[:, None]
    assert np.abs(swapped - expected).max() <= EXACT * np.abs(a).max() * 12
    assert np.abs(swapped[[0, 1], [0, 1]] - lens.outputs.numpy()).max() <= EXACT * np.abs(a).max() * 12

    other = lens.inputs.flip(2)
    change, at_other = lens.change(other), explain.linear_interpreter(model, other, mode=mode)
    a_other, b_other = dense(at_other)
    x_other = other.flatten(1).numpy()
    for found, wanted in (
        (change.pixels, np.einsum("nop,np->no", a, x_other - x)),
        (change.gates, np.einsum("nop,np->no", a_other - a, x_other)),
        (change.bias, b_other - b),
        (change.total, (at_other.outputs - lens.outputs).numpy()),
    ):
        assert np.abs(found.numpy() - wanted).max() <= EXACT * np.abs(a).max() * 12
