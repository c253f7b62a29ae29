"""Watching and rewriting operators: each ReLU *call* gets a backward rule, whether a module or a function made it.

For an input x, y = ReLU(x) and an upstream signal R, the backward rules are

* ``plain``: R · [x > 0], the gradient;
* ``deconv``: max(R, 0), whatever x was (Zeiler & Fergus 2014, arXiv 1311.2901);
* ``guided``: max(R, 0) · [x > 0] (Springenberg et al. 2015, arXiv 1412.6806).

ReLU6, and Hardtanh with lower bound 0, count as ReLUs whose gate is 0 < x < ceiling; ``deconv`` ignores that gate too.
Every other non-linearity (GELU, SiLU, Hardswish, sigmoid, LeakyReLU ...) and max-pooling keep their plain gradient; the
calls are counted, so that nobody takes a half-rewritten network for a fully rewritten one.

A ``TorchFunctionMode`` sees ``nn.ReLU``, ``F.relu``, ``torch.relu``, ``Tensor.relu`` and their in-place forms, call by
call: re-used modules and skip connections are right by construction. It is local to the thread and leaves nothing
behind. Code compiled by TorchScript it does not see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

Rule = Literal["plain", "deconv", "guided"]
Layout = Literal["NCHW", "NHWC", "tokens"]

_NOT_RECTIFIERS = frozenset((
    "celu", "clamp", "clamp_min", "elu", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh",
    "leaky_relu", "logsigmoid", "mish", "prelu", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink",
    "softsign", "tanh", "tanhshrink", "threshold",
))  # fmt: skip
_CHANNELS_FIRST = frozenset(("batch_norm", "conv2d", "conv_transpose2d", "group_norm"))
_DROPOUTS = frozenset((
    "alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout", "feature_dropout",
))  # fmt: skip
DRAWS = frozenset((
    "bernoulli", "exponential", "multinomial", "normal", "poisson", "rand", "rand_like", "randint", "randint_like",
    "randn", "randn_like", "random", "randperm", "uniform",
))  # fmt: skip


class Switch:
    """The rule that the backward pass under way follows: one forward serves all rules."""

    rule: Rule = "plain"


class _Rectify(torch.autograd.Function):
    """min(max(x, 0), ceiling), whose backward asks a :class:`Switch` which rule to follow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float | None, inplace: bool, switch: Switch) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)  # later readers of x see the rectified values, and their gradient comes through here
            y = x.clamp_(0, ceiling)
        else:
            y = x.clamp(0, ceiling)
        ctx.save_for_backward(y)
        ctx.ceiling, ctx.switch = ceiling, switch
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None, None, None]:
        (y,) = ctx.saved_tensors
        rule = ctx.switch.rule
        if rule != "plain":
            signal = signal.clamp(min=0)
        if rule != "deconv":
            is_open = y > 0 if ctx.ceiling is None else (y > 0) & (y < ctx.ceiling)
            signal = signal * is_open
        return signal, None, None, None


class Operators(TorchFunctionMode):
    """Sees every torch operator of a forward pass.

    Args:
        rewrite: Give each ReLU call on a tensor that requires a gradient a backward that follows :attr:`switch`.
        after_relu: Called with the input and the output of each ReLU-like call; what it returns goes on in the network.

    Attributes:
        switch: set ``switch.rule`` before a backward pass.
        rewritten: number of ReLU calls rewritten.
        others: number of calls of each other non-linearity.
        drew_random: the network drew random numbers (dropout that ignores evaluation mode, say). The state of torch's
            random number generators is then put back on exit.
    """

    def __init__(self, rewrite: bool = False, after_relu: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.switch = Switch()
        self.rewritten = 0
        self.others: Counter[str] = Counter()
        self.drew_random = False
        self._rewrite = rewrite
        self._after_relu = after_relu
        self._restore = ExitStack()
        self._layouts: dict[tuple[int, ...], Layout] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        base = name.rstrip("_")
        is_relu, ceiling = _as_relu(base, args, kwargs)
        if is_relu:
            return self._relu(func, name, ceiling, args, kwargs)
        if base in _NOT_RECTIFIERS:
            self.others[base] += 1
        elif (base in DRAWS or is_active_dropout(base, args, kwargs)) and not self.drew_random:
            self.drew_random = True
            self._restore.enter_context(torch.random.fork_rng(devices=cards()))
        elif base in _CHANNELS_FIRST:
            return self._laid_out(func(*args, **kwargs), "NCHW")
        elif base == "linear" or (
            base == "layer_norm" and len(_argument("normalized_shape", 1, args, kwargs, ())) == 1
        ):
            return self._laid_out(func(*args, **kwargs), "NHWC")
        return func(*args, **kwargs)

    def layout(self, shape: Sequence[int]) -> Layout | None:
        """Tell what the dimensions ``shape`` of an activation mean, batch dimension included.

        Of four dimensions the channels come first, unless the last operator that made this shape works on the last one.
        """
        if len(shape) == 3:
            return "tokens"
        return self._layouts.get(tuple(shape[1:]), "NCHW") if len(shape) == 4 else None

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._restore.close()
        self._after_relu = None  # else who listens and who is listened to would keep each other, and the graph, alive

    def _laid_out(self, y: Any, layout: Layout) -> Any:
        if isinstance(y, Tensor) and y.ndim == 4:
            self._layouts[tuple(y.shape[1:])] = layout
        return y

    def _relu(
        self, func: Callable[..., Any], name: str, ceiling: float | None, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        x: Tensor = args[0] if args else kwargs["input"]
        if self._rewrite and x.requires_grad:
            inplace = name.endswith("_") or bool(kwargs.get("inplace"))  # torch.nn.functional passes it on by name
            y = _Rectify.apply(x, ceiling, inplace, self.switch)
            self.rewritten += 1
        else:
            y = func(*args, **kwargs)
        return y if self._after_relu is None else self._after_relu(x, y)


def cards() -> Sequence[int]:
    """Return the graphics cards whose random number generators may be in use."""
    is_up = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return range(torch.cuda.device_count()) if is_up else ()


def _as_relu(base: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bool, float | None]:
    """Tell whether a call rectifies at zero, and its upper bound."""
    if base == "relu":
        return True, None
    if base == "relu6":
        return True, 6.0
    if base == "hardtanh" and _argument("min_val", 1, args, kwargs, -1.0) == 0:
        return True, float(_argument("max_val", 2, args, kwargs, 1.0))
    return False, None


def is_active_dropout(base: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a call drops out."""
    if base not in _DROPOUTS:
        return False
    return bool(kwargs.get("train", _argument("training", 2, args, kwargs, True)))


def _argument(name: str, position: int, args: Sequence[Any], kwargs: Mapping[str, Any], default: Any) -> Any:
    """Return an argument that may be given by name, by position, or not at all."""
    if name in kwargs:
        return kwargs[name]
    return args[position] if position < len(args) else default
