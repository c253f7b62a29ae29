"""The part of a network between two layers, as something that can be recorded once and replayed on other values.

``start`` is where x comes in: the images, the normalised images that the wrapped network gets, or the output of a layer.
``end`` is where y goes out. What by-passes ``start`` does not depend on x: it stays what it was and is a constant. Of
several calls of a layer the last one counts.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from explain.anatomy import find
from explain.errors import ModelError, NotApplicable
from explain.linear.book import OF_ONE_NUMBER, Book, base_name
from explain.linear.call import outputs_of
from explain.linear.tape import Entry, OtherPathError, Recorder, Replayer, mark
from explain.operators import Operators
from explain.view import View, undisturbed

NORMALISED = object()
"""Start at the input of the wrapped network."""


@dataclass(frozen=True)
class Recording:
    """What one batch decided.

    Attributes:
        images: ``(N, C, H, W)``, as the network takes them.
        x: ``(N, *in)``, the values at ``start``.
        y: ``(N, *out)``, the values at ``end``.
        entries: every call, with its gate.
        drew_random: the network drew random numbers.
    """

    images: Tensor
    x: Tensor
    y: Tensor
    entries: tuple[Entry, ...]
    drew_random: bool

    @property
    def nbytes(self) -> int:
        """Memory of the gates, in bytes; what two gates share counts once."""
        storages = {}
        for entry in self.entries:
            for tensor in _tensors_in(entry.gate):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return sum(storages.values())


class Circuit:
    """A network from ``start`` to ``end``.

    Args:
        view: the network.
        book: how operators are frozen.
        start: a layer's name, :data:`NORMALISED`, or ``None`` for the images.
        end: a layer's name, or ``None`` for the output.

    Raises:
        LayerError: there is no such layer.
    """

    def __init__(self, view: View, book: Book, start: Any = None, end: str | None = None) -> None:
        self.view = view
        self.start: Any = start if start is None or start is NORMALISED else find(view.root, start)
        self.end = None if end is None else find(view.root, end)
        self._modules = {module: name for name, module in view.root.named_modules()}
        self._book = book
        self._calls: Counter[str] = Counter()
        self._weights = list(view.forward.parameters())
        self._version = self._count_changes()
        self._lock = threading.RLock()  # hooks sit on the view for the time of a pass

    def record(self, images: Tensor, named: bool = False) -> Recording:
        """Run ``images`` as they are and write down every decision.

        Args:
            images: ``(N, C, H, W)``.
            named: note the layer of every call. Hooks on every module cost more than the rest of a recording.

        Raises:
            ModelError: the network fails, or an end is no tensor with one entry per image.
            NotApplicable: an operator has no rule, or nothing that is linear is left of the output.
        """
        try:
            return self._record(images, named)
        except NotApplicable:
            if named:
                raise
            return self._record(images, named=True)  # once more, to say in which layer

    def _record(self, images: Tensor, named: bool) -> Recording:
        path: list[str] = []
        recorder = Recorder(self._book, path)
        caught: list[Tensor] = []

        def enter(value: Tensor) -> Tensor:
            _check(value, len(images), "start")
            caught.append(value.detach().clone())
            return caught[0].detach().requires_grad_()

        with self._lock, undisturbed(self.view.device), self._names(path) if named else nullcontext():
            images = self.view.load(images)
            y = self._run(recorder, images, enter)
        _check(y, len(images), "end")
        if not y.requires_grad:
            raise _nothing_linear(recorder)
        recorder.check_seen(y)
        return Recording(images, caught[0], y.detach().clone(), tuple(recorder.entries), recorder.drew_random)

    def replay(
        self,
        recording: Recording,
        x: Tensor,
        constant: Callable[[Any, Entry, str], Any] | None = None,
        path: list[str] | None = None,
    ) -> Tensor:
        """Return y for other values at ``start``; differentiable with respect to ``x`` if that requires a gradient.

        Args:
            recording: whose decisions to follow.
            x: ``(N, *in)``.
            constant: see :class:`explain.linear.tape.Replayer`; what it returns may require gradients.
            path: kept up to date with the names of the modules that are running, for ``constant`` to read.
        """
        with self._lock, undisturbed(self.view.device), nullcontext() if path is None else self._names(path):
            if not (x.requires_grad or constant is not None):
                try:
                    with torch.no_grad():
                        return self._replay(recording, x, constant)
                except OtherPathError:
                    pass  # A network that asks whether gradients are enabled: when it was recorded, they were.
            return self._replay(recording, x, constant)

    def _replay(self, recording: Recording, x: Tensor, constant: Callable[[Any, Entry, str], Any] | None) -> Tensor:
        return self._run(Replayer(self._book, recording.entries, constant), recording.images, lambda _: x)

    def plain(self, recording: Recording, x: Tensor) -> Tensor:
        """Return y for other values at ``start``, every unit deciding anew: the network itself."""
        with self._lock, undisturbed(self.view.device):
            return self._run(Operators(), recording.images, lambda _: x)  # puts back what random draws use up

    def _count_changes(self) -> int:
        return sum(weight._version for weight in self._weights)

    def _run(self, mode: TorchFunctionMode, images: Tensor, enter: Callable[[Tensor], Tensor]) -> Tensor:
        if self._count_changes() != self._version:
            raise ModelError(
                "The weights have changed since the interpreter was made",
                None,
                "The interpreter shares them with the model: make a new one.",
            )
        if (self.start is not None or self.end is not None) and not self._calls:
            self._count_calls(images)
        left = Counter(self._calls)
        result: list[Any] = []

        def substitute(value: Tensor) -> Tensor:
            with torch._C.DisableTorchFunction():  # no operator of the network
                x = enter(value).clone()  # a copy, since the next operator may write into it
                mark(x)
            return x

        def starts(module: nn.Module, args: Any, output: Any) -> Any:
            left["start"] -= 1
            return substitute(output) if left["start"] == 0 else None

        def ends(module: nn.Module, args: Any, output: Any) -> None:
            left["end"] -= 1
            if left["end"] == 0:
                result.append(output)
                raise _Reached

        with ExitStack() as stack:
            root = self.view.root
            if self.start is NORMALISED:
                handle = root.register_forward_pre_hook(lambda module, args: (substitute(args[0]), *args[1:]))
                stack.callback(handle.remove)
            elif self.start is not None:
                stack.callback(root.get_submodule(self.start).register_forward_hook(starts).remove)
            if self.end is not None:
                stack.callback(root.get_submodule(self.end).register_forward_hook(ends).remove)
            stack.enter_context(mode)
            with suppress(_Reached):
                # The network gets a copy in either case: it may start with an in-place operation.
                result.append(self.view(substitute(images) if self.start is None else images.clone()))
        return result[0]

    def _count_calls(self, images: Tensor) -> None:
        """Learn which call of a re-used layer is the last, so that a pass can stop there."""
        counts: Counter[str] = Counter()
        with ExitStack() as stack, torch.no_grad(), Operators():
            for key, name in (("start", self.start), ("end", self.end)):
                if isinstance(name, str):
                    module = self.view.root.get_submodule(name)
                    handle = module.register_forward_hook(lambda *_, key=key: counts.update([key]))
                    stack.callback(handle.remove)
            self.view(images.clone())
        for key, name in (("start", self.start), ("end", self.end)):
            if isinstance(name, str) and not counts[key]:
                raise NotApplicable(f"layer {name!r} does not run on these images", None, "Choose another layer.")
        self._calls = counts

    @contextmanager
    def _names(self, path: list[str]) -> Iterator[None]:
        """Keep the names of the running modules in ``path``."""

        def enters(module: nn.Module, args: Any) -> None:
            path.append(self._modules[module])

        def leaves(module: nn.Module, args: Any, output: Any) -> None:
            path.pop()

        with ExitStack() as stack:
            for module in self._modules:
                if isinstance(module, torch.jit.ScriptModule):  # takes no hooks, and is refused for what it hides
                    continue
                stack.callback(module.register_forward_pre_hook(enters).remove)
                stack.callback(module.register_forward_hook(leaves).remove)
            yield


class _Reached(BaseException):
    """The pass is over: no error, and no ``except Exception`` of the network may stop it."""


def _check(value: Any, count: int, what: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = f"{type(value).__name__}" if not isinstance(value, Tensor) else str(value.dtype)
        raise ModelError(
            f"The {what} of the linear system is not one tensor of numbers",
            found,
            f"Choose another layer as {what}=, one that returns a single tensor.",
        )
    if value.ndim < 1 or len(value) != count:
        raise ModelError(
            f"The {what} of the linear system has no entry per image",
            f"{tuple(value.shape)} for {count} images",
            "Its first dimension must be the batch: choose another layer, or pass batch_size=1.",
        )
    if not bool(value.detach().isfinite().all()):
        raise ModelError(f"The network computes NaN or infinity at the {what}", None, "Check its weights.")


def _nothing_linear(recorder: Recorder) -> NotApplicable:
    last = recorder.last_frozen
    if last is None:
        return NotApplicable("the output does not depend on the start", None, "Choose a start before the end.")
    name = base_name(last.func)
    advice = "Leave that step out: explanations are defined on logits."
    if name in OF_ONE_NUMBER:
        advice += f" Or pass rules={{'{name}': 'secant'}} to count it as an activation."
    return NotApplicable(
        f"nothing linear is left of the output: its last step, {name!r} at {last.layer or 'the end of the network'}, "
        "is a gate that stays frozen",
        None,
        advice,
    )


def gradients(
    y: Tensor, xs: Sequence[Tensor], u: Tensor | None = None, keep: bool = False
) -> tuple[Tensor | None, ...]:
    """Return ⟨u, ∂y/∂x⟩ for each x, ``None`` where y does not depend on it.

    Raises:
        ModelError: the network overwrites what the backward pass needs.
    """
    try:
        with undisturbed(y.device):
            return torch.autograd.grad(y, xs, u, retain_graph=keep, allow_unused=True)
    except RuntimeError as error:
        raise ModelError(
            "The frozen network cannot be run backwards",
            f"{type(error).__name__}: {str(error).splitlines()[0]}",
            "It overwrites a tensor after it was used, or recomputes activations (checkpointing): change or switch that off.",
        ) from error


def _tensors_in(gate: Any) -> Iterator[Tensor]:
    if isinstance(gate, dict):
        for one in gate.values():
            yield from _tensors_in(one)
    elif hasattr(gate, "__dataclass_fields__"):
        for name in gate.__dataclass_fields__:
            yield from _tensors_in(getattr(gate, name))
    elif isinstance(gate, list | tuple):
        for one in gate:
            yield from _tensors_in(one)
    else:
        yield from outputs_of(gate)
