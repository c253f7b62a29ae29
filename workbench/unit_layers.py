"""Which layers of a network have units, and which few of them are worth a first look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import explain

    from .models import VisionModel

_LAYERS, _DEEP = 4, 1  # so many, from so many floors of the module tree below the highest


def layers_with_units(model: VisionModel) -> tuple[explain.Layer, ...]:
    """Return the layers that have units, in the network's order: channels over space or over tokens, or plain numbers."""
    return tuple(layer for layer in model.layers() if layer.shape and (layer.layout or len(layer.shape) == 1))


def units_of(layer: explain.Layer) -> int:
    """Return the number of units of a layer."""
    shape = layer.shape or (0,)
    return shape[0] if layer.layout in ("NCHW", None) else shape[-1]


def first_look(layers: Sequence[explain.Layer]) -> tuple[str, ...]:
    """Return a few layers from front to back: for each size of map the last one on the highest floor of the module tree.

    Transformers, whose rows of tokens have one length, are spread over their longest row of numbered blocks. Without any
    maps, the last layers before the answer remain.

    Args:
        layers: those with units; at least one.
    """
    mapped = [layer for layer in layers if layer.spatial or layer.layout == "tokens"]
    if not mapped:
        return tuple(layer.name for layer in (layers[:-1] or layers)[-_LAYERS:])
    by_size: dict[tuple[int, ...], list[explain.Layer]] = {}
    for layer in mapped:
        if "Pool" not in layer.kind:
            by_size.setdefault(_grid(layer), []).append(layer)
    heads = [min(reversed(same), key=_floor) for same in by_size.values()]
    heads = [layer for layer in heads if _floor(layer) <= _DEEP + min(map(_floor, heads))]
    blocks = _blocks(mapped)
    if len(heads) < _LAYERS - 1 and len(blocks) >= _LAYERS:
        last = len(blocks) - 1
        return tuple(blocks[round(last * i / (_LAYERS - 1))].name for i in range(_LAYERS))
    heads.sort(key=lambda layer: -math.prod(_grid(layer)))
    return tuple(layer.name for layer in heads[-_LAYERS:]) or (mapped[-1].name,)


def _floor(layer: explain.Layer) -> int:
    return layer.name.count(".")


def _grid(layer: explain.Layer) -> tuple[int, ...]:
    shape = layer.shape or ()
    return shape[1:] if layer.layout == "NCHW" else shape[:-1]


def _blocks(layers: Sequence[explain.Layer]) -> list[explain.Layer]:
    """Return the longest row of layers that are called alike but for the number at their end."""
    rows: dict[str, list[explain.Layer]] = {}
    for layer in layers:
        if layer.name[-1:].isdigit():
            rows.setdefault(layer.name.rstrip("0123456789"), []).append(layer)
    return max(rows.values(), key=len, default=[])
