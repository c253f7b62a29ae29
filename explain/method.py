"""What a method is: a formula on what a :class:`~explain.passes.Pass` offers, and a card that says what it needs.

To add a method, write one file in ``explain/methods/`` with its formula and a ``METHOD``, and name it in
``explain/methods/__init__.py``: the engine, the contract tests and everything that lists methods pick it up from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from explain.passes import Pass

#: What a method may need of a network; the engine runs only the passes that some method asked for.
NEEDS = {
    "gradient": "the gradient of the score with respect to the pixels",
    "relu": "ReLU calls, whose backward rule the method replaces",
    "layer": "a layer with a spatial output, and the gradient of the score there",
}


@dataclass(frozen=True)
class Maps:
    """What a method computes for one batch.

    Attributes:
        maps: ``(N, H, W)`` at the size of the images, not normalised.
        values: signed values per pixel and channel ``(N, C, H, W)``, where the method has them.
        cam: the map ``(N, h, w)`` at the size of the layer, before it was enlarged, where the method has one.
        notes: what a person should know when looking at these maps.
    """

    maps: Tensor
    values: Tensor | None = None
    cam: Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """One explanation method, described as data.

    Attributes:
        name: how it is asked for.
        title: how people write it.
        family: "gradient", "backward rule" or "cam".
        needs: keys of :data:`NEEDS`.
        paper: where it is defined.
        description: one sentence for people who choose between methods.
        cost: forward and backward passes per image when it runs alone.
        compute: the formula.
        signed: whether maps can be negative.
    """

    name: str
    title: str
    family: str
    needs: frozenset[str]
    paper: str
    description: str
    cost: tuple[int, int]
    compute: Callable[[Pass], Maps]
    signed: bool = False


def pixel_maps(values: Tensor) -> Maps:
    """Reduce signed values per pixel and channel ``(N, C, H, W)`` to maps: the largest magnitude over the channels."""
    return Maps(values.abs().amax(dim=1), values=values)


def cam_maps(cam: Tensor, size: tuple[int, int], notes: tuple[str, ...] = ()) -> Maps:
    """Enlarge class activation maps ``(N, h, w)`` to the size of the images, bilinearly."""
    large = F.interpolate(cam[:, None], size=size, mode="bilinear", align_corners=False)
    return Maps(large[:, 0], cam=cam, notes=notes)
