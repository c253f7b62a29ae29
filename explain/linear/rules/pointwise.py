"""Functions of one number: a gate per element, so that the function becomes a product.

For φ with φ(0) = 0 the secant gate is g = φ(x₀)/x₀, the slope of the line from the origin to the point: ReLU's mask, Φ(x)
for GELU, σ(x) for SiLU. Elsewhere the line starts at (0, φ(0)), and φ(0) is a constant that is added. At x₀ = 0 the gate
is φ'(0).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from explain.errors import NotApplicable
from explain.linear.call import Call
from explain.linear.rule import FREEZE, Rule


class Secant(Rule):
    """φ(x) → φ(0) + g·x with g = (φ(x₀) − φ(0))/x₀.

    Args:
        slope: g as a function of x₀, where it has a closed form and φ(0) = 0: σ for SiLU.
    """

    def __init__(self, slope: Callable[[Tensor], Tensor] | None = None) -> None:
        self._slope = slope

    def record(self, call: Call) -> tuple[Any, Any]:
        if call.input.is_complex():
            raise NotApplicable(
                f"{call.name!r} of complex numbers has no secant, at {call.layer or 'the top'}",
                None,
                "Write it with real and imaginary parts, or use mode='tangent'.",
            )
        if self._slope is not None:
            gate = self._slope(call.input.detach())
            return call.native(), (gate, 0.0)
        value, slope = _at_zero(call)
        before = call.input.detach()
        before = before.clone() if call.inplace else before
        if value:
            # Close to 0 the difference cancels: take it in double precision, where that still says something.
            options = {key: option for key, option in call.kwargs.items() if key not in ("input", "inplace")}
            wide = before.double()
            rise = call.func(wide.clone(), *call.args[1:], **options) - value
            gate = (rise / wide).to(before.dtype)
            result = call.native()
        else:
            result = call.native()
            gate = result.detach() / before
        return result, (gate.nan_to_num_(nan=slope, posinf=slope, neginf=slope), value)

    def replay(self, call: Call, gate: Any) -> Any:
        slope, value = gate
        x = call.input
        y = x.mul_(slope) if call.inplace else x * slope
        return y.add_(call.constant(torch.as_tensor(value, dtype=x.dtype, device=x.device), "offset")) if value else y

    def decision(self, gate: Any) -> Tensor | None:
        return gate[0]


class Power(Rule):
    """x^p: the secant for p ≥ 1; smaller exponents have no finite slope at 0 and are statistics of some kind: frozen."""

    def record(self, call: Call) -> tuple[Any, Any]:
        exponent = call.argument("exponent", 1)
        steep = isinstance(exponent, Tensor) or exponent < 1
        return FREEZE.record(call) if steep else _SECANT.record(call)

    def replay(self, call: Call, gate: Any) -> Any:
        return _SECANT.replay(call, gate)

    def decision(self, gate: Any) -> Tensor | None:
        return gate[0]


_SECANT = Secant()


class Gated(Rule):
    """``glu``: a·σ(b₀) for the two halves a, b."""

    def record(self, call: Call) -> tuple[Any, Any]:
        dim = call.argument("dim", 1, -1)
        return call.native(), call.input.detach().chunk(2, dim)[1].sigmoid()

    def replay(self, call: Call, gate: Any) -> Any:
        return call.input.chunk(2, call.argument("dim", 1, -1))[0] * gate

    def plain(self, call: Call) -> Any:
        first, second = call.input.chunk(2, call.argument("dim", 1, -1))
        return first * second.sigmoid()


class ReLU(Rule):
    """max(x, 0) → x·[x₀ > 0]."""

    exact_jacobian = True

    def record(self, call: Call) -> tuple[Any, Any]:
        result = call.native()
        return result, result.detach() > 0

    def replay(self, call: Call, gate: Any) -> Any:
        x = call.input
        if x.requires_grad:  # the backward pass multiplies too: numbers by numbers is twice as fast as by booleans
            gate = gate.to(x.dtype)
        return x.mul_(gate) if call.inplace else x * gate


class LeakyReLU(Rule):
    """x·(1 where x₀ > 0, the slope elsewhere); the slope is a number, or PReLU's parameter per channel."""

    exact_jacobian = True

    def record(self, call: Call) -> tuple[Any, Any]:
        if call.name == "rrelu" and call.argument("training", 3, False):
            raise NotApplicable(
                f"rrelu draws slopes in evaluation mode at {call.layer or 'the top'}", None, "Pass training=False."
            )
        gate = call.input.detach() > 0
        return call.native(), gate

    def replay(self, call: Call, gate: Any) -> Any:
        x = call.input
        slope = self.slope(call)
        factor = slope + gate.to(x.dtype) * (1 - slope)
        return x.mul_(factor) if call.inplace else x * factor

    def slope(self, call: Call) -> Any:
        """Return the slope of the negative side, shaped to the input."""
        if call.name == "rrelu":
            return (call.argument("lower", 1, 1 / 8) + call.argument("upper", 2, 1 / 3)) / 2
        if call.name != "prelu":
            return call.argument("negative_slope", 1, 0.01)
        weight = call.argument("weight", 1)
        return weight.view(1, -1, *[1] * (call.input.ndim - 2)) if weight.numel() > 1 else weight


class Threshold(Rule):
    """x where x₀ exceeds the threshold; the value, a constant, elsewhere."""

    exact_jacobian = True

    def record(self, call: Call) -> tuple[Any, Any]:
        gate = call.input.detach() > call.argument("threshold", 1)
        return call.native(), gate

    def replay(self, call: Call, gate: Any) -> Any:
        elsewhere = call.constant((~gate).to(call.input.dtype) * call.argument("value", 2), "offset")
        return call.hand_back(call.input * gate + elsewhere)


class Dropout(Rule):
    """Dropout that is active in evaluation mode: the mask that was drawn is the gate."""

    exact_jacobian = True

    def record(self, call: Call) -> tuple[Any, Any]:
        if not call.kwargs.get("train", call.argument("training", 2, True)):
            return call.native(), None
        draw = {**call.kwargs, "inplace": False} if "inplace" in call.kwargs else call.kwargs
        gate = call.func(torch.ones_like(call.input), *call.args[1:], **draw)
        return self.replay(call, gate), gate

    def replay(self, call: Call, gate: Any) -> Any:
        return call.hand_back(call.input * gate)


def _at_zero(call: Call) -> tuple[float, float]:
    rest = tuple(call.args[1:] if call.args else ())
    options = tuple((key, value) for key, value in sorted(call.kwargs.items()) if key not in ("input", "inplace"))
    if any(isinstance(value, Tensor) for value in (*rest, *dict(options).values())):
        raise NotApplicable(
            f"{call.name!r} takes tensors as options at {call.layer or 'the top'}",
            None,
            "Use numbers, or torch.minimum and torch.maximum.",
        )
    return _value_and_slope(call.func, rest, options)


@lru_cache(maxsize=256)
def _value_and_slope(func: Callable[..., Tensor], rest: tuple, options: tuple) -> tuple[float, float]:
    """Return φ(0) and φ'(0); 0 where the derivative does not exist."""
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
        value = func(zero.clone(), *rest, **dict(options))
        (slope,) = torch.autograd.grad(value, zero)
    return float(value.detach()), float(slope) if bool(slope.isfinite()) else 0.0
