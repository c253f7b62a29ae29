"""Normalisations: the scale that a statistic of the image decides is frozen, the rest stays linear.

Layer, group and instance normalisation become (x − mean(x))·σ₀⁻¹·γ + β; the mean is a linear map of x and stays one. The
paper freezes it too; ``freeze_mean`` does that, and moves −μ₀·σ₀⁻¹·γ to the constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from explain.linear.call import Call
from explain.linear.rule import Rule
from explain.linear.rules.affine import FUNCTIONAL, STORED, BatchNorm


@dataclass(frozen=True)
class _Gate:
    scale: Tensor
    mean: Tensor | None


class Standardise(Rule):
    """Layer, group and instance normalisation.

    Args:
        freeze_mean: freeze the mean as well as the scale.
        order: names of the arguments of instance normalisation by position.
    """

    def __init__(self, freeze_mean: bool = False, order: Sequence[str] = FUNCTIONAL) -> None:
        self._freeze_mean = freeze_mean
        self._order = tuple(order)
        self._stored = BatchNorm(order)

    def record(self, call: Call) -> tuple[Any, Any]:
        if call.name == "instance_norm" and not call.argument("use_input_stats", 5, True):
            return call.native(), STORED
        if call.name == "layer_norm":  # the statistics come with the result
            shape, weight, bias = (call.argument(n, i) for i, n in enumerate(("normalized_shape", "weight", "bias"), 1))
            y, mean, scale = torch.native_layer_norm(call.input, shape, weight, bias, call.argument("eps", 4, 1e-5))
            return y, _Gate(scale.detach(), mean.detach() if self._freeze_mean else None)
        grouped, dims = self._grouped(call, call.input.detach())
        var, mean = torch.var_mean(grouped, dims, correction=0, keepdim=True)
        eps = call.argument("eps", 7 if call.name == "instance_norm" else 4, 1e-5)
        return call.native(), _Gate((var + eps).rsqrt(), mean if self._freeze_mean else None)

    def replay(self, call: Call, gate: Any) -> Any:
        if gate is STORED:
            return self._stored.replay(call, gate)
        x, dims = self._grouped(call, call.input)
        mean = x.mean(dims, keepdim=True) if gate.mean is None else call.constant(gate.mean, "mean")
        y = torch.addcmul(-mean * gate.scale, x, gate.scale).view(call.input.shape)
        layer = call.name == "layer_norm"
        weight, bias = (
            (call.argument("weight", 2), call.argument("bias", 3))
            if layer or call.name == "group_norm"
            else tuple(call.argument(name, self._order.index(name)) for name in ("weight", "bias"))
        )
        shape = () if layer else (-1, *[1] * (y.ndim - 2))
        if bias is not None:
            bias = call.constant(bias, "")
            bias = bias.view(shape) if shape else bias
        if weight is None:
            return y if bias is None else y + bias
        weight = weight.view(shape) if shape else weight
        return y * weight if bias is None else torch.addcmul(bias, y, weight)

    def runs_native(self, gate: Any) -> bool:
        """Whether the statistics are the stored ones."""
        return gate is STORED

    def decision(self, gate: Any) -> Tensor | None:
        return None if gate is STORED else gate.scale

    @staticmethod
    def _grouped(call: Call, x: Tensor) -> tuple[Tensor, list[int]]:
        """Return ``x`` shaped so that the statistics are taken over the dimensions that come with it."""
        if call.name == "layer_norm":
            shape = call.argument("normalized_shape", 1)
            return x, list(range(-len(shape), 0))
        if call.name == "group_norm":
            return x.reshape(x.shape[0], call.argument("num_groups", 1), -1), [2]
        return x, list(range(2, x.ndim))


class RootMeanSquare(Rule):
    """``rms_norm``: x·γ/√(mean(x₀²) + ε)."""

    def record(self, call: Call) -> tuple[Any, Any]:
        x = call.input.detach()
        dims = list(range(-len(call.argument("normalized_shape", 1)), 0))
        eps = call.argument("eps", 3)
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        gate = (x.square().mean(dims, keepdim=True) + eps).rsqrt()
        return call.native(), gate

    def replay(self, call: Call, gate: Any) -> Any:
        weight = call.argument("weight", 2)
        return call.input * gate if weight is None else call.input * gate * weight


class UnitLength(Rule):
    """``normalize``: x / max(‖x₀‖, ε)."""

    def record(self, call: Call) -> tuple[Any, Any]:
        p, dim, eps = call.argument("p", 1, 2.0), call.argument("dim", 2, 1), call.argument("eps", 3, 1e-12)
        gate = 1 / torch.linalg.vector_norm(call.input.detach(), p, dim, keepdim=True).clamp_min(eps)
        return call.native(), gate

    def replay(self, call: Call, gate: Any) -> Any:
        return call.input * gate


class LocalResponse(Rule):
    """Local response normalisation (AlexNet): x divided by a frozen (k + α·mean of squares)^β."""

    def record(self, call: Call) -> tuple[Any, Any]:
        x = call.input.detach()
        size = call.argument("size", 1)
        squares = x.square().movedim(1, -1)
        rows = F.pad(squares.reshape(-1, 1, squares.shape[-1]), (size // 2, (size - 1) // 2))
        pooled = F.avg_pool1d(rows, size, stride=1).view(squares.shape).movedim(-1, 1)
        alpha, beta, k = call.argument("alpha", 2, 1e-4), call.argument("beta", 3, 0.75), call.argument("k", 4, 1.0)
        return call.native(), (k + alpha * pooled).pow(-beta)

    def replay(self, call: Call, gate: Any) -> Any:
        return call.input * gate
