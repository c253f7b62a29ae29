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
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from explain.dissection.positions import Positions
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
        stack.enter_context(Positions())
        # Heads that stand on one size of images end the run, and so does attention. What ran until then is what counts; layers
        # that did not run keep a regular grid, and the result says so.
        stack.enter_context(suppress(Exception))
        view.forward(x)
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
