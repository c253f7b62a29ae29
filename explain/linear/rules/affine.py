"""Operators that are affine as they are: sums, rearrangements, convolutions, products with something constant.

Three kinds of arguments matter. *Factors* are multiplied with each other, *addends* are added, *held* ones are frozen at
the recorded image when they vary (a denominator, a sampling grid). A product u·v of two factors that both vary is frozen
symmetrically, ½(u₀·v + u·v₀): exact at the recorded image, and for u = v the secant of the square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from explain.errors import NotApplicable
from explain.linear.call import Call, Place, Slot, as_tensor, frozen, is_addend
from explain.linear.rule import FREEZE, Rule


class Affine(Rule):
    """An operator that is linear in each factor and in all addends together.

    Args:
        factors: slots that are multiplied with each other.
        addends: slots that are added.
        held: slots that are frozen when they vary.
    """

    alone = False

    def __init__(self, factors: Sequence[Slot] = (), addends: Sequence[Slot] = (), held: Sequence[Slot] = ()) -> None:
        self._factors = tuple(factors)
        self._addends = tuple(addends)
        self._held = tuple(held)
        self._has_factors = bool(factors) or type(self) is not Affine
        self._rearranges = type(self) is Affine and not (factors or addends or held)

    def factors(self, call: Call) -> dict[Place, Any]:
        """Return what is multiplied."""
        return {place: value for place, value in call.places(self._factors) if isinstance(value, Tensor)}

    def is_jacobian(self, call: Call) -> bool:
        """Whether all that varies meets by addition only."""
        varying = [value for value in self.factors(call).values() if value.requires_grad]
        held = [v for _, v in call.places(self._held) if isinstance(v, Tensor) and v.requires_grad]
        added = sum(1 for _, v in call.places(self._addends) if isinstance(v, Tensor) and v.requires_grad)
        return self._rearranges or (len(varying) < 2 and not held and len(varying) + added == call.varying)

    def runs_native(self, gate: Any) -> bool:
        """Whether nothing is held."""
        held, pair, _ = gate
        return not held and not pair

    def record(self, call: Call) -> tuple[Any, Any]:
        """Run the operator; the gate is what has to be held, or ``None`` if a plain replay is right."""
        if self._rearranges:
            return call.native(), None
        if self._is_plain(call):  # by far the most frequent: a layer with constant weights
            constants = tuple(place for place, value in call.places(self._addends) if is_addend(value))
            return call.native(), ({}, {}, constants) if constants else None
        factors = self.factors(call) if self._has_factors else {}
        varying = [place for place, value in factors.items() if value.requires_grad]
        held = self._held_values(call) if self._held else {}
        addends = list(call.places(self._addends)) if self._addends else []
        added = sum(1 for _, value in addends if isinstance(value, Tensor) and value.requires_grad)
        if len(varying) > 2 or len(varying) + len(held) + added < call.varying:
            raise NotApplicable(
                f"the rule of {call.name!r} does not cover this call at {call.layer or 'the top'}",
                "three factors vary with the image, or one is given in an unusual way",
                "Write it with two factors, or register a rule: explain.linear.register(function, rule).",
            )
        pair = {place: frozen(factors[place]) for place in varying} if len(varying) == 2 else {}
        # Looked at before the operator runs: one that writes into a constant makes it vary.
        constants = tuple(place for place, value in addends if is_addend(value))
        if added and not varying and factors:
            constants = (*constants, next(iter(factors)))  # a product of constants is one
        result = call.native(held)
        return result, (held, pair, constants) if held or pair or constants else None

    def _is_plain(self, call: Call) -> bool:
        """Tell whether the first argument is a factor, and all that varies."""
        if call.varying != 1 or not call.args or not self._factors or self._factors[0].position != 0:
            return False
        first = call.args[0]
        return isinstance(first, Tensor) and first.requires_grad

    def _held_values(self, call: Call) -> dict[Place, Tensor]:
        values = ((place, value) for place, value in call.places(self._held) if isinstance(value, Tensor))
        return {place: frozen(value) for place, value in values if value.requires_grad}

    def replay(self, call: Call, gate: Any) -> Any:
        held, pair, constants = gate
        changes: dict[Place, Any] = dict(held)
        places = dict(call.places((*self._addends, *self._factors)))
        for place in constants:
            value = as_tensor(places[place], call.like)
            changed = call.constant(value, "")
            if changed is value:
                continue
            if call.inplace and place == Place(0):
                value.copy_(changed)
            else:
                changes[place] = changed
        if not pair:
            return call.native(changes)
        (first, u), (second, v) = pair.items()
        if call.inplace:
            changes[Place(0)] = call.input.clone()
            half = call.native({**changes, second: v})
            changes[Place(0)] = call.input.clone()
            return call.input.copy_((half + call.native({**changes, first: u.clone()})) / 2)
        return (call.native({**changes, second: v}) + call.native({**changes, first: u})) / 2


class Quotient(Affine):
    """Division: the numerator is linear, the denominator held. With a constant numerator nothing linear is left."""

    def __init__(self, numerator: Slot, denominator: Slot) -> None:
        super().__init__(factors=(numerator,), held=(denominator,))

    def record(self, call: Call) -> tuple[Any, Any]:
        if call.kwargs.get("rounding_mode") is not None or not any(
            v.requires_grad for v in self.factors(call).values()
        ):
            return FREEZE.record(call)
        return super().record(call)


class Einsum(Affine):
    """``einsum``: all operands are factors, given one by one or as a list."""

    def factors(self, call: Call) -> dict[Place, Any]:
        return {place: value for place, value in call.tensors() if place.key != 0}


class Pad(Rule):
    """Constant padding adds its value at the border; the other modes rearrange."""

    exact_jacobian = True

    def runs_native(self, gate: Any) -> bool:
        return True

    def record(self, call: Call) -> tuple[Any, Any]:
        value = call.argument("value", 3, None)
        return call.native(), (value if call.argument("mode", 2, "constant") == "constant" and value else None)

    def replay(self, call: Call, gate: Any) -> Any:
        border = call.input.new_zeros(call.input.shape)
        padded = call.func(call.input, call.argument("pad", 1), value=0)
        return padded + call.constant(call.func(border, call.argument("pad", 1), value=gate), "border")


STORED = "stored statistics"
"""Gate of a normalisation whose statistics do not depend on the image."""


FUNCTIONAL = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
"""Arguments of ``torch.nn.functional.batch_norm``."""


class BatchNorm(Rule):
    """Batch normalisation in evaluation mode: x·γ/√(σ²+ε), and one shift per channel, β − μ·γ/√(σ²+ε).

    Without stored statistics the batch itself decides on both; they are frozen, since the mean of a batch is no function
    of one image.

    Args:
        order: names of the arguments by position.
    """

    exact_jacobian = True

    def __init__(self, order: Sequence[str] = FUNCTIONAL) -> None:
        self._order = tuple(order)

    def runs_native(self, gate: Any) -> bool:
        """Whether the statistics are the stored ones."""
        return gate is STORED

    def is_jacobian(self, call: Call) -> bool:
        """Whether the statistics are the stored ones, and weight and bias constant."""
        return self._has_stored(call) and call.varying == 1

    def _has_stored(self, call: Call) -> bool:
        return self._of(call, "running_mean") is not None and not self._of(call, "training", False)

    def _of(self, call: Call, name: str, default: Any = None) -> Any:
        return call.argument(name, self._order.index(name), default)

    def record(self, call: Call) -> tuple[Any, Any]:
        gate: Any = STORED
        if not self._has_stored(call):
            x = call.input.detach()
            var, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
            gate = mean, var
        result = call.native()
        return result, gate

    def replay(self, call: Call, gate: Any) -> Any:
        stored = self._of(call, "running_mean"), self._of(call, "running_var")
        mean, var = stored if gate is STORED else gate
        eps = self._of(call, "eps", 1e-5)
        scale = (var + eps).rsqrt()
        weight, bias = self._of(call, "weight"), self._of(call, "bias")
        if weight is not None:
            scale = scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (1, -1, *[1] * (call.input.ndim - 2))
        return call.input * scale.view(shape) + call.constant(shift, "shift").view(shape)
