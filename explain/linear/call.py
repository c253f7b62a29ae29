"""One call of one operator, as a rule sees it: its arguments by slot, what varies in it, and what happens to constants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

Constant = Callable[[Any, str], Any]


class Slot(NamedTuple):
    """An argument of an operator: its name, and its position when it is given without a name."""

    name: str
    position: int


class Place(NamedTuple):
    """Where a value stands in one call: a keyword or a position, and the index inside a list (``torch.cat``)."""

    key: int | str
    item: int | None = None


@dataclass(slots=True)
class Call:
    """A call that a rule records or replays.

    Attributes:
        func: the operator.
        name: its base name: ``relu`` for ``nn.ReLU()``, ``F.relu``, ``torch.relu_`` alike.
        args: positional arguments.
        kwargs: keyword arguments.
        layer: dotted name of the module that made the call.
        constant: ``constant(value, label)``, to be called on everything that is *added* to what varies: returns the
            value itself, zero, or a leaf of the graph, after what is asked for.
        varying: while recording, how many of the tensors depend on x.
    """

    func: Callable[..., Any]
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    layer: str
    constant: Constant
    varying: int = 0

    @property
    def inplace(self) -> bool:
        """Whether the call overwrites its first argument."""
        written = getattr(self.func, "__name__", "").partition(".")[0]
        return (
            bool(self.kwargs.get("inplace"))
            or written in _INPLACE_WITHOUT_UNDERSCORE
            or (written.endswith("_") and not written.endswith("__"))
        )

    @property
    def input(self) -> Tensor:
        """The first argument, a tensor."""
        return self.args[0] if self.args else self.kwargs["input"]

    @property
    def like(self) -> Tensor:
        """The first tensor of numbers among the arguments: what type numbers have here."""
        return next(tensor for _, tensor in self.tensors() if tensor.is_floating_point() or tensor.is_complex())

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """Return an argument that may be given by name, by position, or not at all."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if position < len(self.args) else default

    def native(self, changes: Mapping[Place, Any] | None = None) -> Any:
        """Run the operator, with some arguments replaced."""
        if not changes:
            return self.func(*self.args, **self.kwargs)
        args: list[Any] = list(self.args)
        kwargs = dict(self.kwargs)
        for place, value in changes.items():
            holder: Any = kwargs if isinstance(place.key, str) else args
            if place.item is None:
                holder[place.key] = value
            else:
                copy = list(holder[place.key])
                copy[place.item] = value
                holder[place.key] = copy
        return self.func(*args, **kwargs)

    def places(self, slots: Sequence[Slot]) -> Iterator[tuple[Place, Any]]:
        """Yield what stands in ``slots``, lists taken apart."""
        for slot in slots:
            if slot.name in self.kwargs:
                key: int | str = slot.name
                value = self.kwargs[slot.name]
            elif slot.position < len(self.args):
                key = slot.position
                value = self.args[slot.position]
            else:
                continue
            if isinstance(value, list | tuple):
                yield from ((Place(key, item), one) for item, one in enumerate(value))
            else:
                yield Place(key), value

    def tensors(self) -> Iterator[tuple[Place, Tensor]]:
        """Yield all tensors among the arguments."""
        yield from tensors_of(self.args, self.kwargs)

    def varying_places(self) -> dict[Place, Tensor]:
        """Return the tensors that depend on x. Only while recording: a replay does not track them."""
        return {place: tensor for place, tensor in self.tensors() if tensor.requires_grad}

    def hand_back(self, result: Tensor) -> Tensor:
        """Return ``result``, written over the first argument if that is what the operator does."""
        return self.input.copy_(result) if self.inplace else result


def tensors_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[Place, Tensor]]:
    """Yield the tensors among arguments, lists and tuples taken apart."""
    items: Iterable[tuple[Any, Any]] = chain(enumerate(args), kwargs.items()) if kwargs else enumerate(args)
    for key, value in items:
        if isinstance(value, Tensor):
            yield Place(key), value
        elif isinstance(value, list | tuple):
            for item, one in enumerate(value):
                if isinstance(one, Tensor):
                    yield Place(key, item), one


def varying_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors among arguments that depend on x. Runs for every call of a recording, hence no generators."""
    found = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            if value.requires_grad:
                found.append(value)
        elif isinstance(value, list | tuple):
            found += [one for one in value if isinstance(one, Tensor) and one.requires_grad]
    return found


def is_addend(value: Any) -> bool:
    """Tell whether ``value`` is a constant that adds something: a tensor of any kind, or a number other than 0."""
    if isinstance(value, Tensor):
        return not value.requires_grad
    return isinstance(value, int | float | complex) and value != 0


def frozen(value: Tensor) -> Tensor:
    """Return a copy that nothing the network does later can change."""
    return value.detach().clone()


def outputs_of(result: Any) -> Iterator[Tensor]:
    """Yield the tensors that an operator returned."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, list | tuple):
        for one in result:
            yield from outputs_of(one)


def as_tensor(value: Any, like: Tensor) -> Tensor:
    """Return a number, or a tensor of integers, as a tensor of numbers of the kind of ``like``."""
    if not isinstance(value, Tensor):
        kind = torch.promote_types(like.dtype, torch.complex64) if isinstance(value, complex) else like.dtype
        return torch.tensor(value, dtype=kind, device=like.device)
    return value if value.is_floating_point() or value.is_complex() else value.to(like.dtype)


_INPLACE_WITHOUT_UNDERSCORE = frozenset(("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__"))
