"""From a layer's output to its units: maps ``(U, N, h, w)``, whatever the layout, caught while the network runs.

A unit is a channel of a layer. A convolution keeps it in the second dimension, Swin and the inside of ConvNeXt in the
last one; transformers that work on a row of tokens have it in the last, and the tokens that stand for places follow the
class token and other registers. The grid of the tokens is the one of the last spatial layer before them (the patch
embedding). A layer without space gives maps of one position, which stands for the whole image.

Maps are unit-major, because everything that follows (thresholds, tallies, rotations) works on one unit's values at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explain.anatomy import Step, Trace, choose, dry_run, find
from explain.errors import InputError, ModelError, NotApplicable
from explain.operators import Layout, cards
from explain.view import View, undisturbed

_MOST_EXTRA_TOKENS = 16  # class token, distillation token, registers


@dataclass(frozen=True)
class Site:
    """Where units are read.

    Attributes:
        layer: dotted name.
        units: U, the number of channels.
        size: (h, w) of its maps, for images of one size.
        layout: what the output's dimensions mean; ``None``: it has no space.
        extra: tokens in front of those that stand for places.
        calls: how often the layer runs per forward pass; the last run is what is looked at.
    """

    layer: str
    units: int
    size: tuple[int, int]
    layout: Layout | None
    extra: int
    calls: int

    def read(self, output: Tensor) -> Tensor:
        """Return the layer's output as maps ``(U, N, h, w)``, a view where possible."""
        if self.layout == "NCHW":
            return output.transpose(0, 1)
        if self.layout == "NHWC":
            return output.permute(3, 0, 1, 2)
        if self.layout == "tokens":
            return output[:, self.extra :].reshape(len(output), *self.size, -1).permute(3, 0, 1, 2)
        return output.T[:, :, None, None]

    @property
    def channels_first(self) -> bool:
        """Whether the units are in the second dimension of the output, not in the last one."""
        return self.layout in ("NCHW", None)

    def every(self, output: Tensor) -> Tensor:
        """Return the output as ``(U, N, positions)``, extra tokens included: what removing a unit sets to zero."""
        moved = output if self.channels_first else output.movedim(-1, 1)
        return moved.reshape(*moved.shape[:2], -1).transpose(0, 1)


class _Enough(BaseException):
    """Ends a forward pass once everything that was waited for has run; no error, so nothing on the way may catch it."""


class Units:
    """The units of some layers of one network.

    Args:
        view: the network.
        layers: dotted names; prefixes of wrappers are dropped if need be.
        basis: layer → ``(V, U)``: look at these combinations of the units instead of the units.

    Attributes:
        view: the network.
        layers: the names as the network has them.
        basis: by these names.
        drew_random: the network draws random numbers even in evaluation mode.
    """

    def __init__(self, view: View, layers: Sequence[str] | None, basis: Mapping[str, Tensor] | None = None) -> None:
        self.view = view
        self.layers = None if layers is None else tuple(dict.fromkeys(find(view.root, name) for name in layers))
        if self.layers == ():
            raise InputError("No layer was asked for", None, "Name one, or leave layers out for the last spatial one.")
        self.drew_random = False
        self.given = {find(view.root, name): one for name, one in (basis or {}).items()}
        self.basis: dict[str, Tensor] = {}
        self._sites: dict[tuple[int, ...], dict[str, Site]] = {}

    def sites(self, image: Tensor) -> dict[str, Site]:
        """Return where the layers' units are read, for images of the shape of ``image`` ``(C, H, W)``.

        Raises:
            NotApplicable: a layer does not run, or gives no single tensor with units.
            InputError: a basis does not fit its layer.
        """
        shape = tuple(image.shape)
        if shape not in self._sites:
            trace = dry_run(self.view, image[None])
            self.drew_random |= trace.drew_random
            if self.layers is None:
                self.layers = (choose(trace).name,)
            sites = {name: _site(name, trace) for name in self.layers}
            self._check_basis(sites)
            self._sites[shape] = sites
        return self._sites[shape]

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network on ``images`` ``(N, C, H, W)`` as far as it takes, and return maps ``(U, N, h, w)`` by layer.

        Raises:
            ModelError: the network fails, or a layer gives NaN.
        """
        sites = self.sites(images[0])
        found = {}
        for name, output in self.outputs(images).items():
            maps = sites[name].read(output)
            if name in self.basis:
                basis = self.basis[name].to(maps)
                maps = (basis @ maps.flatten(1)).reshape(-1, *maps.shape[1:])
            if not bool(maps.isfinite().all()):
                raise ModelError(
                    f"Layer {name!r} gives NaN or infinite activations", None, "Check the network's weights."
                )
            found[name] = maps.float()
        return found

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network as far as it takes and return what the layers return, copied: later in-place operations write
        over it."""
        sites = self.sites(images[0])
        waiting = sum(site.calls for site in sites.values())
        caught: dict[str, Tensor] = {}

        def catch(name: str, output: Any) -> None:
            nonlocal waiting
            caught[name] = output.detach().clone()
            waiting -= 1
            if not waiting:
                raise _Enough

        with ExitStack() as stack:
            for name in sites:
                hook = lambda module, _, output, name=name: catch(name, output)  # noqa: E731
                stack.callback(self.view.root.get_submodule(name).register_forward_hook(hook).remove)
            stack.enter_context(self.quietly())
            stack.enter_context(suppress(_Enough))
            self.view(self.view.load(images))
        return caught

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """No gradients, whatever the caller is in; and his random numbers stay as they are."""
        with ExitStack() as stack:
            stack.enter_context(undisturbed(self.view.device))
            stack.enter_context(torch.no_grad())
            if self.drew_random:
                stack.enter_context(torch.random.fork_rng(devices=cards()))
            yield

    def _check_basis(self, sites: Mapping[str, Site]) -> None:
        for name, basis in self.given.items():
            if name not in sites:
                raise InputError("There is a basis for a layer that is not dissected", repr(name), "Add it to layers.")
            fits = isinstance(basis, Tensor) and basis.ndim == 2 and basis.shape[1] == sites[name].units
            if not fits or not len(basis) or not bool(basis.isfinite().all()):
                raise InputError(
                    f"The basis of layer {name!r} does not fit its {sites[name].units} units",
                    tuple(basis.shape) if isinstance(basis, Tensor) else type(basis).__name__,
                    "Pass a finite tensor (V, U): each row is one combination of the U units.",
                )
            self.basis[name] = basis


def _site(name: str, trace: Trace) -> Site:
    calls = Counter(step.name for step in trace.steps)[name]
    last = max((n for n, step in enumerate(trace.steps) if step.name == name), default=None)
    if last is None:
        raise NotApplicable(f"layer {name!r} does not run in evaluation mode", None, _OTHER)
    step = trace.steps[last]
    if step.shape is None:
        raise NotApplicable(f"layer {name!r} does not return one tensor", None, _OTHER)
    shape = step.shape
    if step.layout == "NCHW":
        return Site(name, shape[0], (shape[1], shape[2]), "NCHW", 0, calls)
    if step.layout == "NHWC":
        return Site(name, shape[2], (shape[0], shape[1]), "NHWC", 0, calls)
    if step.layout == "tokens":
        grid, extra = _token_grid(step, trace.steps[:last])
        return Site(name, shape[1], grid, "tokens", extra, calls)
    if len(shape) == 1:
        return Site(name, shape[0], (1, 1), None, 0, calls)
    found = f"outputs of shape (N, {', '.join(map(str, shape))})"
    raise NotApplicable(f"layer {name!r} gives {found}, which have no units", None, _OTHER)


_OTHER = "Choose another layer; explain.layers(model, images) lists them."


def _token_grid(step: Step, before: Sequence[Step]) -> tuple[tuple[int, int], int]:
    """Return height and width of the grid of tokens, and how many tokens stand in front of it."""
    assert step.shape is not None
    tokens = step.shape[0]
    for earlier in reversed(before):
        if earlier.shape is not None and earlier.layout in ("NCHW", "NHWC"):
            height, width = earlier.shape[1:] if earlier.layout == "NCHW" else earlier.shape[:2]
            extra = tokens - height * width
            if height * width > 1 and 0 <= extra <= _MOST_EXTRA_TOKENS:
                return (height, width), extra
    for extra in (0, 1, 2):
        side = math.isqrt(max(tokens - extra, 0))
        if side > 1 and side * side == tokens - extra:
            return (side, side), extra
    raise NotApplicable(
        f"the {tokens} tokens of layer {step.name!r} form no grid that could be told from the layers before it",
        None,
        _OTHER,
    )
