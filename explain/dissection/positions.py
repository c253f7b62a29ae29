"""Every operator as it treats positions, and nothing else: what a receptive field is measured in.

Convolution and pooling average their windows, whatever their weights; activations, normalisations and gates pass on what they
get; sums and products depend on both sides; what pools over the whole image is blind to position; attention looks everywhere
and ends the run. Windows average all channels as well. One channel is computed, and the others are views of it: a tensor
carries the single channel that it repeats, since the gradient of a view would fill all of them. So a canvas of four
thousand pixels costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NoField(Exception):  # noqa: N818
    """Every position looks at every other one; ends the run."""


class Positions(TorchFunctionMode):
    """Inside this mode a network computes on which positions each value depends, and by how much."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        rule = _RULES.get(getattr(func, "__name__", "").strip("_"))
        return func(*args, **(kwargs or {})) if rule is None else rule(*args, **(kwargs or {}))


def _spread(one: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat one channel over a shape."""
    y = one.expand(*shape)
    y.one_channel = one  # type: ignore[attr-defined]
    return y


def _one(x: Tensor, dim: int) -> Tensor:
    """Return the mean over the channels, which are in dimension ``dim``."""
    one: Tensor | None = getattr(x, "one_channel", None)
    return one if one is not None and one.shape[dim] == 1 else x.mean(dim, keepdim=True)


def _permute(input: Tensor, *dims: Any) -> Tensor:
    y = input.permute(*dims)
    one = getattr(input, "one_channel", None)
    return y if one is None else _spread(one.permute(*dims), y.shape)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _window(x: Tensor, sides: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Tensor:
    """Average windows of one channel, rows first: a window is a product of two intervals."""
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(_pair(dilation), sides, strict=True)]
        x = F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
        padding = 0
    strides, paddings, dilations = _pair(stride), _pair(padding), _pair(dilation)
    for dim in (0, 1):
        if (sides[dim], strides[dim], paddings[dim]) == (1, 1, 0):
            continue
        shape, (s, p, d) = [1, 1, 1, 1], ([1, 1], [0, 0], [1, 1])
        shape[2 + dim], s[dim], p[dim], d[dim] = sides[dim], strides[dim], paddings[dim], dilations[dim]
        x = F.conv2d(x, x.new_full(shape, 1 / sides[dim]), None, s, p, d)
    return x


def _conv(
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    y = _window(_one(input, 1), weight.shape[2:], stride, padding, dilation)
    return _spread(y, (len(y), weight.shape[0], *y.shape[2:]))


def _conv_transpose(
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    kernel = input.new_full((1, 1, *weight.shape[2:]), 1 / weight[0, 0].numel())
    y = F.conv_transpose2d(_one(input, 1), kernel, None, stride, padding, output_padding, 1, dilation)
    return _spread(y, (len(y), weight.shape[1] * groups, *y.shape[2:]))


def _pool(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *rest: Any, **options: Any) -> Tensor:
    sides = _pair(kernel_size)
    dilation = options.get("dilation", rest[0] if rest and not isinstance(rest[0], bool) else 1)
    ceil = options.get("ceil_mode", next((one for one in rest if isinstance(one, bool)), False))
    x = _one(input, 1)
    if ceil:  # a window over the lower and right border exists; what it sees there weighs nothing
        down, right = _pair(stride or kernel_size)
        x = F.pad(x, (0, right - 1, 0, down - 1))
    y = _window(x, sides, stride or kernel_size, padding, dilation)
    if y.shape[2:].numel() == 1:
        return torch.ones_like(y).expand(-1, input.shape[1], -1, -1)
    return _spread(y, (len(y), input.shape[1], *y.shape[2:]))


def _adaptive(input: Tensor, output_size: Any, *rest: Any, **options: Any) -> Tensor:
    y = F.adaptive_avg_pool2d(input, output_size)
    return torch.ones_like(y) if y.shape[-1] * y.shape[-2] == 1 else y


def _mean(input: Tensor, dim: Any = None, keepdim: bool = False, **options: Any) -> Tensor:
    """Average; over more than one dimension that is global pooling, which is blind to position."""
    y = input.mean() if dim is None else input.mean(dim, keepdim)
    dims = {d % input.ndim for d in ([dim] if isinstance(dim, int) else dim or range(input.ndim))}
    return torch.ones_like(y) if input.ndim == 4 and len(dims) > 1 else y


def _linear(input: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    return _spread(_one(input, -1), (*input.shape[:-1], weight.shape[0]))


def _same(input: Tensor, *rest: Any, **options: Any) -> Tensor:
    return input


def _together(a: Any, b: Any, **options: Any) -> Any:
    """Depend on both, as sums do; products and differences must not cancel what they depend on."""
    varying = [one for one in (a, b) if isinstance(one, Tensor) and one.requires_grad]
    shape = torch.broadcast_shapes(*(torch.as_tensor(one).shape for one in (a, b)))  # type: ignore[no-untyped-call]
    if len(varying) == 2 and a.shape == b.shape == shape:
        ones = [getattr(one, "one_channel", None) for one in varying]
        if ones[0] is not None and ones[1] is not None and ones[0].shape == ones[1].shape:
            return _spread((ones[0] + ones[1]) / 2, shape)
        return (a + b) / 2
    if len(varying) == 2:
        return (a.expand(shape) + b.expand(shape)) / 2
    like = varying[0] if varying else torch.as_tensor(a)
    return like if like.shape == shape else like.expand(shape)


def _cat(tensors: Sequence[Tensor], dim: int = 0, **options: Any) -> Tensor:
    first = tensors[0]
    if first.ndim != 4 or dim % 4 != 1:
        return torch.cat(tuple(tensors), dim)
    mean = sum(_one(one, 1) for one in tensors) / len(tensors)
    assert isinstance(mean, Tensor)
    return _spread(mean, (len(mean), sum(one.shape[1] for one in tensors), *mean.shape[2:]))


def _reshape(input: Tensor, *shape: Any) -> Tensor:
    return input.reshape(*shape)


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise NoField


_RULES: dict[str, Callable[..., Any]] = {
    "conv2d": _conv,
    "conv_transpose2d": _conv_transpose,
    "linear": _linear,
    "cat": _cat,
    "concat": _cat,
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _mean),
    "view": _reshape,
    "permute": _permute,
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "lp_pool2d"), _pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive),
    **dict.fromkeys(("add", "iadd", "radd", "sub", "isub", "rsub"), _together),
    **dict.fromkeys(("mul", "imul", "rmul", "div", "truediv", "itruediv"), _together),
    **dict.fromkeys(("matmul", "bmm", "baddbmm", "einsum", "softmax", "multi_head_attention_forward"), _refuse),
    "scaled_dot_product_attention": _refuse,
    **dict.fromkeys(
        (
            "batch_norm", "layer_norm", "group_norm", "instance_norm", "local_response_norm", "normalize", "rms_norm",
            "relu", "relu6", "gelu", "silu", "hardswish", "hardtanh", "hardsigmoid", "sigmoid", "tanh", "leaky_relu", "elu",
            "selu", "celu", "mish", "softplus", "prelu", "rrelu", "clamp", "clamp_min", "hardshrink", "softsign", "exp",
            "sqrt", "square", "abs", "neg", "pow", "threshold", "log", "log1p", "glu",
            "dropout", "dropout2d", "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
        ),
        _same,
    ),
}  # fmt: skip
