"""Where on the image the values of a map belong: the centres of the units' receptive fields, measured.

A map of 7 × 7 on 224 pixels is not always centred: a ResNet's first position looks at pixel 0, an unpadded AlexNet's at
pixel 31. Bau et al. (CVPR 2017) anchor the upsampling at receptive-field centres, composed from each layer's kernel, stride
and padding. Here nothing of the architecture is parsed: the network itself runs, under a ``TorchFunctionMode`` in which
every operator does what it does to *positions* and nothing else. A convolution or a pooling becomes the plain average
of its window, activations and normalisations the identity, global pooling (the gates of squeeze-and-excitation) is cut.
The gradient of one position is then a positive weight per pixel, the same shifted pattern for every position, and the
centroids of two neighbours give offset and step exactly. Padding cuts patterns off and would move the centroids, so the
canvas grows until the pattern does not touch its border and the next larger canvas says the same.

Attention, and networks that stand on one size of images, have no such pattern: their positions are a regular grid over
the image, as the patches of a transformer are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from explain.dissection.units import Site
from explain.operators import cards
from explain.view import View, undisturbed

_LARGEST = 4096  # pixels along one side of the canvas
_EDGE = 1e-9  # share of the weight that may lie on the border: what floating point leaves there
_DIGITS = 4  # of a pixel: centroids are sums of exact fractions, and far more accurate


@dataclass(frozen=True)
class Axis:
    """Centres of receptive fields along one side of the image: position i looks at pixel ``offset + step · i``."""

    offset: float
    step: float


@dataclass(frozen=True)
class Field:
    """Where the positions of a map lie on the image.

    Attributes:
        rows, columns: the two axes, in pixels.
        measured: ``False`` for a regular grid, where no receptive field could be measured.
    """

    rows: Axis
    columns: Axis
    measured: bool


def regular(size: tuple[int, int], image: tuple[int, int]) -> Field:
    """Return a regular grid of ``size`` cells over the image, as patches are; pixel centres are whole numbers."""
    rows, columns = (Axis((side / n - 1) / 2, side / n) for n, side in zip(size, image, strict=True))
    return Field(rows, columns, measured=False)


def fields(view: View, sites: Mapping[str, Site], image: Tensor) -> dict[str, Field]:
    """Measure where the positions of each layer's maps lie.

    Args:
        view: the network.
        sites: the layers.
        image: ``(C, H, W)``; only its shape counts.
    """
    channels, height, width = image.shape
    found = {name: regular(site.size, (height, width)) for name, site in sites.items()}
    open_ = {name for name, site in sites.items() if site.layout in ("NCHW", "NHWC") and max(site.size) > 1}
    before: dict[str, Field | str] = {}
    side = 1 << math.ceil(math.log2(max(height, width)))
    while open_ and side <= _LARGEST:
        for name, field in _measure(view, {name: sites[name] for name in open_}, (channels, side, side)).items():
            if (
                before.get(name) == field
                and isinstance(field, Field)
                and _covers(field, sites[name].size, (height, width))
            ):
                found[name] = field
                open_.discard(name)
            elif field == _NONE or before.get(name) == field == _REPEATED:
                open_.discard(name)
            before[name] = field
        side *= 2
    return found


def _covers(field: Field, size: tuple[int, int], image: tuple[int, int]) -> bool:
    """Tell whether the centres lie on the image: what was measured on a larger canvas must hold on this size."""
    for axis, count, side in zip((field.rows, field.columns), size, image, strict=True):
        if axis.offset < -axis.step or axis.offset + axis.step * (count - 1) > side - 1 + axis.step:
            return False
    return True


_NONE = "no field"
_CUT = "cut off by the border"
_REPEATED = "neighbours share a place"  # where a map was enlarged, or, on too small a canvas, cut off


def _measure(view: View, sites: Mapping[str, Site], canvas: tuple[int, int, int]) -> dict[str, Field | str]:
    """Return each layer's field, or that it has none, or that the canvas is too small to tell."""
    with undisturbed(view.device), torch.random.fork_rng(devices=cards()):
        return _measured(view, sites, canvas)


def _measured(view: View, sites: Mapping[str, Site], canvas: tuple[int, int, int]) -> dict[str, Field | str]:
    found: dict[str, Field | str] = dict.fromkeys(sites, _NONE)
    real = torch.float32 if view.device.type == "mps" else torch.float64
    x = torch.ones(1, *canvas, dtype=real, device=view.device, requires_grad=True)
    caught: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in sites:
            catch = lambda module, _, output, name=name: caught.__setitem__(name, output)  # noqa: E731
            stack.callback(view.root.get_submodule(name).register_forward_hook(catch).remove)
        stack.enter_context(_Positions())
        try:
            view.forward(x)
        except Exception as error:  # what ran until then is what counts: heads, and attention, end the run
            del error
    for name, output in caught.items():
        maps = output if sites[name].layout == "NCHW" else output.permute(0, 3, 1, 2)
        if maps.ndim != 4 or not maps.requires_grad or min(maps.shape[2:]) < 3:
            found[name] = _CUT
            continue
        row, column = (n // 2 for n in maps.shape[2:])
        here, there = (_weights(maps[0, 0, row + i, column + i], x) for i in (0, 1))
        if here is None or there is None:
            continue
        pairs = [(here.sum(dim), there.sum(dim), at) for dim, at in ((1, row), (0, column))]
        if any(_cut_off(profile) for *profiles, _ in pairs for profile in profiles):
            found[name] = _CUT
        else:
            rows, columns = _axis(*pairs[0]), _axis(*pairs[1])
            found[name] = Field(rows, columns, measured=True) if min(rows.step, columns.step) > 0 else _REPEATED
    return found


def _weights(position: Tensor, x: Tensor) -> Tensor | None:
    """Return what each pixel weighs in a position, ``(H, W)``."""
    (gradient,) = torch.autograd.grad(position, x, retain_graph=True, allow_unused=True)
    if gradient is None:
        return None
    weights = gradient[0].sum(0)
    return weights / weights.sum() if bool(weights.sum() > 0) else None


def _cut_off(profile: Tensor) -> bool:
    return bool(max(profile[0], profile[-1]) > _EDGE)


def _axis(here: Tensor, there: Tensor, position: int) -> Axis:
    pixels = torch.arange(len(here), dtype=here.dtype, device=here.device)
    centre, next_centre = float(here @ pixels), float(there @ pixels)
    step = round(next_centre - centre, _DIGITS)
    return Axis(round(centre - step * position, _DIGITS) + 0.0, step)  # no negative zero


class _NoField(Exception):  # noqa: N818
    """Every position looks at every other one."""


class _Positions(TorchFunctionMode):
    """Every operator does to positions what it does, and to values as little as possible."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        rule = _RULES.get(getattr(func, "__name__", "").strip("_"))
        return func(*args, **(kwargs or {})) if rule is None else rule(*args, **(kwargs or {}))


# Windows average all channels. One channel is computed, and the others are views of it: a tensor carries the single channel
# that it repeats, since the gradient of a view would fill all of them.


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
    raise _NoField


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
