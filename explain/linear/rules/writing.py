"""Operators whose addends stand in other places from call to call: ``where``, and the family of ``scatter``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explain.errors import NotApplicable
from explain.linear.call import Call, Slot, as_tensor, is_addend
from explain.linear.rule import Rule
from explain.linear.rules.affine import Affine


class Where(Affine):
    """``torch.where(condition, a, b)`` and ``a.where(condition, b)``: the condition is no addend."""

    def __init__(self) -> None:
        super().__init__(addends=(Slot("input", 1), Slot("other", 2)))
        self._as_method = Affine(addends=(Slot("self", 0), Slot("other", 2)))

    def record(self, call: Call) -> tuple[Any, Any]:
        return self._form(call).record(call)

    def replay(self, call: Call, gate: Any) -> Any:
        return self._form(call).replay(call, gate)

    def is_jacobian(self, call: Call) -> bool:
        """Always: a selection by a condition that is held."""
        return True

    def _form(self, call: Call) -> Any:
        conditions = [call.args[0]] if call.args else [call.kwargs["condition"]]
        return super() if conditions[0].dtype == torch.bool else self._as_method


@dataclass(frozen=True)
class _Kinds:
    """Which of the two tensors are constants."""

    base: bool
    source: bool


class Scatter(Rule):
    """``scatter`` and ``scatter_add``: a tensor, written over or increased at some places."""

    exact_jacobian = True
    alone = False

    def record(self, call: Call) -> tuple[Any, Any]:
        if call.argument("reduce", 4) is not None:
            raise NotApplicable(
                f"scatter with reduce= has no rule, at {call.layer or 'the top'}", None, "Use scatter_add, or products."
            )
        base, source = self._operands(call)
        gate = _Kinds(is_addend(base), is_addend(source))
        return call.native(), gate

    def replay(self, call: Call, gate: Any) -> Any:
        base, source = self._operands(call)
        index: Tensor = call.argument("index", 2)
        if not isinstance(source, Tensor):
            source = as_tensor(source, call.like).expand(index.shape)
        changed = call.constant(base, "") if gate.base else base
        source = call.constant(as_tensor(source, call.like), "") if gate.source else source
        source = source[tuple(slice(size) for size in index.shape)]  # torch's derivative wants no more than is taken
        if call.inplace:
            changed = base.copy_(changed) if changed is not base else base
            write = Tensor.scatter_add_ if call.name == "scatter_add" else Tensor.scatter_
        else:
            write = Tensor.scatter_add if call.name == "scatter_add" else Tensor.scatter
        return write(changed, call.argument("dim", 1), index, source)

    @staticmethod
    def _operands(call: Call) -> Sequence[Any]:
        return call.input, call.kwargs["value"] if "value" in call.kwargs else call.argument("src", 3)
