"""What a rule is: how one family of operators is frozen at one image so that what remains is linear.

While recording, a rule runs its operator and returns the result with a *gate*: what the operator decided, detached from
the image. While replaying, it applies to other pixels the affine map that the gate fixes; on the pixels that were
recorded it must give the recorded result, exactly. Everything that it adds goes through ``call.constant``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from explain.linear.call import Call, frozen, outputs_of


class Rule:
    """Base of all rules.

    Attributes:
        exact_jacobian: the frozen map is the operator's derivative (almost everywhere), so that ``tangent`` mode uses
            this rule too; other rules are replaced there by the tangent.
        alone: only the operator's first argument may depend on the image (not the weight of a normalisation, say).
    """

    exact_jacobian: bool = False
    alone: bool = True

    def record(self, call: Call) -> tuple[Any, Any]:
        """Return the operator's result at the recorded image, and the gate."""
        raise NotImplementedError

    def replay(self, call: Call, gate: Any) -> Any:
        """Return the affine map that ``gate`` fixes, applied to the arguments of ``call``."""
        raise NotImplementedError

    def runs_native(self, gate: Any) -> bool:
        """Whether a replay may run the operator itself as long as constants stay what they are."""
        return False

    def is_jacobian(self, call: Call) -> bool:
        """Whether :attr:`exact_jacobian` holds for this call."""
        return self.exact_jacobian and not (self.alone and call.varying > 1)

    def plain(self, call: Call) -> Any:
        """Run the operator out of place on the tensors in ``call``, in a form that torch can differentiate forwards."""
        return call.func(*call.args, **call.kwargs)

    def decision(self, gate: Any) -> Tensor | None:
        """Return what can be compared between two images: a mask, indices, or the factors; ``None`` if nothing."""
        return gate if isinstance(gate, Tensor) else None


class Freeze(Rule):
    """The result is a decision of the recorded image and stays what it was: softmax, a sigmoid gate, a comparison.

    A multiplicative gate that is frozen leaves the product with features linear (squeeze-and-excitation, attention);
    its own biases get no credit.
    """

    alone = False

    def record(self, call: Call) -> tuple[Any, Any]:
        kept = copied(call.native())
        partly = call.inplace and call.input.requires_grad and call.input._is_view()
        gate = _Part(kept) if partly else kept
        return self.replay(call, gate), gate

    def replay(self, call: Call, gate: Any) -> Any:
        if isinstance(gate, _Part):
            call.input.copy_(call.constant(gate.values, "gate"))
            return frozen(gate.values)
        if not (call.inplace and isinstance(gate, Tensor)):
            return copied(gate)
        if call.input.requires_grad:
            call.input.detach_()  # who reads this tensor later reads a constant
        return call.input.copy_(gate)


@dataclass(frozen=True)
class _Part:
    """A gate written over a part of something that varies: what varies there is the sum of it and the rest."""

    values: Tensor


def copied(result: Any) -> Any:
    """Copy what an operator returned, tuples of it included, detached."""
    if isinstance(result, Tensor):
        return frozen(result)
    if any(True for _ in outputs_of(result)):
        return like(type(result), [copied(one) for one in result])
    return result


def like(kind: type, parts: list[Any]) -> Any:
    """Put ``parts`` into the kind of tuple that an operator returns: plain, or with names."""
    plain = kind in (list, tuple) or hasattr(kind, "n_fields")  # torch.return_types takes one sequence
    return kind(parts) if plain else kind(*parts)


FREEZE = Freeze()
