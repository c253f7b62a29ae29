"""Operators that pick: what they picked at the recorded image is picked again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explain.linear.call import Call, as_tensor
from explain.linear.rule import Rule


class MaxPool(Rule):
    """Max-pooling: the position of the maximum is the gate.

    Args:
        dims: number of spatial dimensions.
        pool: the function of ``torch.nn.functional`` that also returns the positions.
        slots: names of its arguments after the input, in order.
    """

    exact_jacobian = True

    def __init__(self, dims: int, pool: Any, slots: tuple[str, ...]) -> None:
        self._dims, self._pool, self._slots = dims, pool, slots

    def record(self, call: Call) -> tuple[Any, Any]:
        given = {name: call.argument(name, i + 1) for i, name in enumerate(self._slots)}
        options = {name: value for name, value in given.items() if value is not None}
        _, where = self._pool(call.input.detach(), **options)
        gate = where.to(torch.int32)  # half of what torch returns; no image has 2³¹ pixels
        return self.replay(call, gate), gate

    def replay(self, call: Call, gate: Any) -> Any:
        where = gate.long()
        picked = call.input.flatten(-self._dims).gather(-1, where.flatten(-self._dims)).view(gate.shape)
        wants_both = call.name.endswith("_with_indices") or call.kwargs.get("return_indices", False)
        return (picked, where) if wants_both else picked


@dataclass(frozen=True)
class _Ranked:
    """Positions along one dimension, and the kind of tuple that torch returns them in."""

    dim: int
    index: Tensor
    kind: type


@dataclass(frozen=True)
class _Extreme:
    """One position in all reduced dimensions together."""

    dims: tuple[int, ...]
    index: Tensor
    keepdim: bool


@dataclass(frozen=True)
class _Larger:
    """Where the first of two tensors was taken, and which of them are constants."""

    first: Tensor
    constant: tuple[bool, bool]


class Extremum(Rule):
    """``max``, ``min``, ``amax``, ``amin``, ``median``, ``topk``, ``sort``, ``maximum``, ``minimum``.

    Of equal values one is picked, where autograd spreads the derivative of ``amax`` over all of them.
    """

    exact_jacobian = True
    alone = False

    def record(self, call: Call) -> tuple[Any, Any]:
        gate = self._gate(call)
        return self.replay(call, gate), gate

    def replay(self, call: Call, gate: Any) -> Any:
        x = call.input
        if isinstance(gate, _Larger):
            both = (
                call.constant(value, "") if constant else value
                for value, constant in zip(_both(call), gate.constant, strict=True)
            )
            return torch.where(gate.first, *both)
        if isinstance(gate, _Ranked):
            reduced = gate.index.ndim < x.ndim
            index = gate.index.unsqueeze(gate.dim) if reduced else gate.index
            values = x.gather(gate.dim, index)
            return gate.kind((values.squeeze(gate.dim) if reduced else values, gate.index.clone()))
        values = _flat(x, gate.dims).gather(-1, gate.index.unsqueeze(-1)).squeeze(-1)
        for dim in gate.dims if gate.keepdim else ():
            values = values.unsqueeze(dim)
        return values

    def decision(self, gate: Any) -> Tensor | None:
        return gate.first if isinstance(gate, _Larger) else gate.index

    @staticmethod
    def _gate(call: Call) -> Any:
        x = call.input.detach()
        if isinstance(call.argument("other", 1), Tensor) or call.name in ("maximum", "minimum", "fmax", "fmin"):
            one, two = _both(call)
            first = one >= two if "max" in call.name else one <= two
            return _Larger(first.detach(), (not one.requires_grad, not two.requires_grad))
        with torch.no_grad():
            result = call.native()
        if isinstance(result, tuple):
            position = 2 if call.name in ("topk", "kthvalue") else 1
            dim = call.argument("dim", position, -1)
            dim = -1 if dim is None or isinstance(dim, bool) else dim
            return _Ranked(dim % x.ndim, result[1], type(result))
        given = call.argument("dim", 1, None)
        dims = (given,) if isinstance(given, int) else tuple(given or ())
        dims = tuple(sorted(dim % x.ndim for dim in dims)) or tuple(range(x.ndim))
        flat = _flat(x, dims)
        pick = torch.argmin if "min" in call.name else torch.argmax
        index = flat.median(-1).indices if call.name == "median" else pick(flat, -1)
        return _Extreme(dims, index, bool(call.argument("keepdim", 2, False)))


def _both(call: Call) -> tuple[Tensor, Tensor]:
    one = call.input
    return one, as_tensor(call.argument("other", 1), one)


def _flat(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return ``x`` with ``dims`` joined into a last dimension."""
    kept = [dim for dim in range(x.ndim) if dim not in dims]
    return x.permute(*kept, *dims).flatten(len(kept))
