"""Recording a forward pass and replaying it: one ``TorchFunctionMode`` each, above autograd.

Above autograd, a rewritten expression is differentiable backwards and forwards like any other; below it (dispatch mode)
the derivative of the original would already have been noted. Modules, functions, in-place forms and re-used layers look
the same from here, call by call.

**Who depends on x?** While recording, x requires a gradient and the graph is built, but nothing is saved for it:
``requires_grad`` then answers for every tensor, views and in-place writes included. What depends on x and is no function
of it that can be differentiated (a comparison, an ``argmax``, ``.item()``, ``detach``) is a decision, and is replayed
as recorded, so that a network that branches on its values takes the same branch again.

**What if an operator is not seen?** Custom ``autograd.Function`` and TorchScript code are invisible. Every tensor that
was made by an operator that was seen is marked; one without a mark is an error that names who made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from explain.errors import ModelError, NotApplicable
from explain.linear.book import Book, Known, base_name
from explain.linear.call import Call, Constant, outputs_of, varying_in
from explain.linear.rule import FREEZE, Rule, copied
from explain.operators import cards, is_active_dropout

_MARK = "_seen_by_linear_interpreter"
_ASKS = "get requires_grad"
"""A network that asks whether its input wants a gradient (to save memory, say) is told what it is told in inference: no."""
_IDENTITIES = ("BackwardHookFunctionBackward",)  # full backward hooks wrap tensors in it


class OtherPathError(ModelError):
    """A replay met another operator than the recording."""


@dataclass(slots=True)
class Entry:
    """One call of the recording.

    Attributes:
        func: the operator.
        rule: what to do on replay; ``None`` runs the operator as it is.
        gate: what the rule kept.
        layer: dotted name of the module that called, in a recording with names.
        native: the operator may run as it is while constants stay what they are.
    """

    func: Callable[..., Any]
    rule: Rule | None = None
    gate: Any = None
    layer: str = ""
    native: bool = False


def keep(value: Any, label: str) -> Any:
    """Let a constant be what it is."""
    return value


class Recorder(TorchFunctionMode):
    """Runs the network as it is and writes down what its non-linear units decide.

    Args:
        book: finds the rule of an operator.
        path: names of the modules that are running, kept up to date by hooks; empty if nobody asked for names.

    Attributes:
        entries: one per call, in order.
        drew_random: the network drew random numbers; they are part of the recording.
        last_frozen: the last result that was frozen, for error messages.
    """

    def __init__(self, book: Book, path: list[str]) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.drew_random = False
        self.last_frozen: Entry | None = None
        self._book = book
        self._path = path
        self._stack = ExitStack()

    def __enter__(self) -> Recorder:
        # The graph only tells who depends on x: nothing is kept for a backward pass that will never come.
        self._stack.enter_context(torch.autograd.graph.saved_tensors_hooks(_drop, _missing))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._stack.close()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        known = self._book.find(func)
        if known.transparent:
            return False if known.name == _ASKS else func(*args, **kwargs)
        varying = varying_in(args, kwargs)
        if known.draws and (known.rule is None or is_active_dropout(known.name, args, kwargs)):
            self._keep_generators()
            if known.rule is None or not varying:
                return self._freeze(func, args, kwargs)
        if not varying:
            self.entries.append(Entry(func))
            return func(*args, **kwargs)
        for tensor in varying:
            self.check_seen(tensor)
        if not _drops_saved_tensors():
            raise NotApplicable(
                f"the network handles saved tensors by itself in {self._layer or 'its forward'}",
                "activation checkpointing, perhaps",
                "Switch that off (memory_efficient=False in torchvision's DenseNets): it would undo the interpreter's work.",
            )
        if not torch.is_grad_enabled():  # the network itself said that nothing shall flow through here
            return self._freeze(func, args, kwargs)
        return self._record(known, Call(func, known.name, args, kwargs, self._layer, keep, len(varying)))

    def _record(self, known: Known, call: Call) -> Any:
        rule = self._book.in_mode(known.rule, call)
        if rule is not None and rule.alone and not (call.varying == 1 and call.input.requires_grad):
            raise NotApplicable(
                f"more than the first argument of {call.name!r} varies with the image in {call.layer or 'the network itself'}",
                None,
                "Write the modulation as a product and a sum; or use mode='tangent'.",
            )
        result, gate = (call.native(), None) if rule is None else rule.record(call)
        written = call.input if known.name == "__setitem__" else result
        varies = mark(written)
        if varies and rule is None:
            raise NotApplicable(
                f"the linear interpreter has no rule for the operator {call.name!r}, called by "
                f"{call.layer or 'the network itself'}",
                None,
                "Register one: explain.linear.register(function, rule); or use mode='tangent'.",
            )
        if not varies:  # a decision: what it was at the recorded image, it stays
            gate = gate if rule is FREEZE else copied(result)
            self._note(Entry(call.func, FREEZE, gate, call.layer))
        elif gate is None or rule is None:
            self.entries.append(Entry(call.func))
        else:
            self.entries.append(Entry(call.func, rule, gate, call.layer, rule.runs_native(gate)))
        return result

    def _freeze(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        result, gate = FREEZE.record(Call(func, base_name(func), args, kwargs, self._layer, keep))
        self._note(Entry(func, FREEZE, gate, self._layer))
        return result

    def _note(self, entry: Entry) -> None:
        self.entries.append(entry)
        if any(tensor.is_floating_point() for tensor in outputs_of(entry.gate)):
            self.last_frozen = entry

    def _keep_generators(self) -> None:
        if not self.drew_random:
            self.drew_random = True
            self._stack.enter_context(torch.random.fork_rng(devices=cards()))

    def check_seen(self, tensor: Tensor) -> None:
        """Refuse a tensor that depends on x and was made by an operator that did not come by here."""
        if hasattr(tensor, _MARK):
            return
        if tensor.grad_fn is not None and tensor.grad_fn.name() in _IDENTITIES:
            return
        maker = "unknown" if tensor.grad_fn is None else tensor.grad_fn.name()
        raise NotApplicable(
            f"the network computes with an operator that cannot be seen, before or in {self._layer or 'itself'}",
            maker,
            "Custom autograd functions and TorchScript hide what they do: write the layer with torch's own functions.",
        )

    @property
    def _layer(self) -> str:
        return self._path[-1] if self._path else ""


class Replayer(TorchFunctionMode):
    """Runs the network on other pixels with the decisions of the recording.

    Args:
        book: tells which calls read no value and are not on the tape.
        entries: the recording.
        constant: what becomes of a constant that is added: ``constant(value, layer, label)``; ``None`` keeps it, and
            lets operators run natively where that is the same.
    """

    def __init__(
        self, book: Book, entries: Sequence[Entry], constant: Callable[[Any, Entry, str], Any] | None = None
    ) -> None:
        super().__init__()
        self._book = book
        self._entries = iter(entries)
        self._constant = constant

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        known = self._book.find(func)
        if known.transparent:
            return False if known.name == _ASKS else func(*args, **(kwargs or {}))
        entry = next(self._entries, None)
        if entry is None or entry.func != func:
            raise OtherPathError(
                "The network takes another path than when it was recorded",
                f"{base_name(func)} instead of {'the end' if entry is None else base_name(entry.func)}",
                "It depends on something outside torch (a counter, Python's random numbers, the time).",
            )
        collecting = self._constant
        if entry.rule is None or (entry.native and collecting is None):
            return func(*args, **(kwargs or {}))
        constant: Constant = keep if collecting is None else lambda value, label: collecting(value, entry, label)
        call = Call(func, base_name(func), args, kwargs or {}, entry.layer, constant)
        return entry.rule.replay(call, entry.gate)


def mark(result: Any) -> bool:
    """Note that ``result`` was made by an operator that was seen, and tell whether it depends on x."""
    if isinstance(result, Tensor):
        if result.requires_grad:
            setattr(result, _MARK, True)
        return result.requires_grad
    marked = [mark(one) for one in result] if isinstance(result, list | tuple) else []
    return any(marked)


def _drops_saved_tensors() -> bool:
    top = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return top is not None and top[0] is _drop


def _drop(tensor: Tensor) -> None:
    return None


def _missing(nothing: None) -> Tensor:
    raise RuntimeError("the graph of a recording is never used")
