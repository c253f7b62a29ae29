"""The tangent instead of the secant: y₀ + J(x₀)·(x − x₀) for any operator that torch can differentiate forwards.

The product with J is a forward-mode derivative, which is itself differentiable backwards: the same rule serves replays
and adjoints. What is left over, y₀ − J·x₀, is a constant of that call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from explain.errors import NotApplicable
from explain.linear.call import Call, Place, frozen
from explain.linear.rule import FREEZE, Rule, like


@dataclass(frozen=True)
class _Expansion:
    """Where the operator was expanded, what remains besides the product with J, and the form of its result."""

    at: dict[Place, Tensor]
    rest: tuple[Tensor, ...]
    result: Any
    kind: type


class Tangent(Rule):
    """First-order expansion of another rule's operator.

    Args:
        rule: says how to run the operator in a form that can be differentiated forwards; ``None`` runs it as it is.
    """

    exact_jacobian = True
    alone = False

    def __init__(self, rule: Rule | None = None) -> None:
        self._rule = rule or Rule()

    def record(self, call: Call) -> tuple[Any, Any]:
        at = {place: frozen(tensor) for place, tensor in call.varying_places().items()}
        result = self._run(call, at)
        if not any(_is_smooth(one) for one in _parts(result)):
            return FREEZE.record(call)
        slope = _slope(call, self._function(call, at), tuple(at.values()), tuple(at.values()))
        y = (one for one in _parts(result) if _is_smooth(one))
        gate = _Expansion(
            at, tuple((a - b).detach() for a, b in zip(y, slope, strict=True)), _form(result), type(result)
        )
        return self.replay(call, gate), gate

    def replay(self, call: Call, gate: Any) -> Any:
        if not isinstance(gate, _Expansion):
            return FREEZE.replay(call, gate)
        now = dict(call.tensors())
        moved = tuple(now[place].clone() if call.inplace else now[place] for place in gate.at)
        products = _jvp(self._function(call, gate.at), tuple(gate.at.values()), moved)
        values = [product + call.constant(rest, "intercept") for product, rest in zip(products, gate.rest, strict=True)]
        if gate.result is _LINEAR:
            return call.hand_back(values[0])
        parts = iter(values)
        return like(gate.kind, [next(parts) if one is _LINEAR else one for one in gate.result])

    def decision(self, gate: Any) -> Tensor | None:
        return None

    def _function(self, call: Call, at: dict[Place, Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        """Return the operator as a function of what varies, out of place, to the tensors that vary with it."""

        def function(*varying: Tensor) -> tuple[Tensor, ...]:
            result = self._run(call, dict(zip(at, varying, strict=True)))
            return tuple(one for one in _parts(result) if _is_smooth(one))

        return function

    def _run(self, call: Call, varying: dict[Place, Tensor]) -> Any:
        args: list[Any] = list(call.args)
        kwargs = {**call.kwargs, "inplace": False} if "inplace" in call.kwargs else dict(call.kwargs)
        for place, value in varying.items():
            holder: Any = kwargs if isinstance(place.key, str) else args
            # relu_ and its kind must not write into the point of expansion.
            fresh = value.clone() if call.inplace else value
            if place.item is None:
                holder[place.key] = fresh
            else:
                holder[place.key] = [*holder[place.key][: place.item], fresh, *holder[place.key][place.item + 1 :]]
        return self._rule.plain(Call(call.func, call.name, args, kwargs, call.layer, lambda value, _: value))


class PointwiseTangent(Rule):
    """First-order expansion of a function of one number: φ'(x₀)·x, and φ(x₀) − φ'(x₀)·x₀ as a constant."""

    exact_jacobian = True

    def record(self, call: Call) -> tuple[Any, Any]:
        x = frozen(call.input)
        options = {**call.kwargs, "inplace": False} if "inplace" in call.kwargs else dict(call.kwargs)
        options.pop("input", None)

        def function(value: Tensor) -> Tensor:
            return call.func(value.clone() if call.inplace else value, *call.args[1:], **options)

        (slope,) = _slope(call, lambda value: (function(value),), (x,), (torch.ones_like(x),))
        gate = (slope, function(x) - slope * x)
        return self.replay(call, gate), gate

    def replay(self, call: Call, gate: Any) -> Any:
        slope, rest = gate
        return call.hand_back(torch.addcmul(call.constant(rest, "intercept"), call.input, slope))

    def decision(self, gate: Any) -> Tensor | None:
        return gate[0]


_LINEAR = object()


def _jvp(
    function: Callable[..., tuple[Tensor, ...]], at: tuple[Tensor, ...], along: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return the derivative of ``function`` at ``at`` along ``along``."""
    _warm_up()
    return torch.func.jvp(function, at, along)[1]


def _slope(
    call: Call, function: Callable[..., tuple[Tensor, ...]], at: tuple[Tensor, ...], along: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    try:
        return _jvp(function, at, along)
    except (NotImplementedError, RuntimeError) as error:
        raise NotApplicable(
            f"torch cannot differentiate {call.name!r} forwards, called by {call.layer or 'the network itself'}",
            None,
            "Register a rule for it: explain.linear.register(function, rule).",
        ) from error


@cache
def _warm_up() -> None:
    """Let torch's first forward-mode derivative compile what it needs, without its warning about its own TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def _parts(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, list | tuple) else (result,)


def _is_smooth(one: Any) -> bool:
    return isinstance(one, Tensor) and (one.is_floating_point() or one.is_complex())


def _form(result: Any) -> Any:
    """Return ``result`` with a mark in place of each tensor that varies."""
    if isinstance(result, list | tuple):
        return tuple(_form(one) for one in result)
    return _LINEAR if _is_smooth(result) else result
