"""``explain.linear_interpreter``: check what comes in, record each batch, hand the recordings to the interpreter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from explain.errors import InputError, NotApplicable
from explain.inputs import check_images
from explain.linear.book import Book, Mode, Operator
from explain.linear.circuit import NORMALISED, Circuit, Recording
from explain.linear.interpreter import LinearInterpreter, Space
from explain.results import image_names, provenance
from explain.view import private_view

Progress = Callable[[int, int, str], None]


def linear_interpreter(
    model: nn.Module,
    images: Tensor,
    *,
    mode: Mode = "secant",
    space: Space = "raw",
    start: str | None = None,
    end: str | None = None,
    freeze_mean: bool = False,
    rules: Mapping[Operator, Any] | None = None,
    batch_size: int = 8,
    ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> LinearInterpreter:
    """Freeze what ``model`` decides on each image; what remains is linear: ``model(x) == lens.apply(x) + lens.bias``.

    After P. Navarrete Michelini et al., "A Tour of Convolutional Networks Guided by Linear Interpreters", ICCV 2019
    (arXiv 1908.05168). Masks, selected positions, scales of normalisations, attention and multiplicative gates are frozen;
    every operator that is neither linear nor known is refused by name. The interpreter shares the model's weights: once they
    change, it answers no more.

    Args:
        model: any module that maps images in [0, 1] to a tensor: logits, or images. It is not changed.
        images: floating point ``(N, C, H, W)`` in [0, 1].
        mode: ``"secant"``: a non-linear unit φ becomes multiplication with φ(x₀)/x₀, as in the paper. ``"tangent"``: it
            becomes its first-order expansion, A is the Jacobian, and what is left over counts as bias. For networks of
            ReLU, max-pooling and batch normalisation the two are the same.
        space: what x is. ``"raw"``: pixels in [0, 1]; a normalisation in the model contributes to the bias.
            ``"normalised"``: what the wrapped network gets. The split into pixels and bias depends on it.
        start: a layer's name: x is its output instead of the images.
        end: a layer's name: y is its output instead of the model's.
        freeze_mean: normalisations by statistics of the image freeze the mean too, as the paper does, not only the scale.
        rules: operator → ``"secant"``, ``"freeze"`` or a rule, to freeze an operator in another way.
        batch_size: images per pass; bounds the memory, changes no result.
        ids: one name per image, for frames.
        progress: called as ``progress(done, total, what)`` after each batch; an exception from it cancels.

    Raises:
        InputError: images or options make no sense.
        ModelError: the network fails on the images, or returns no tensor.
        LayerError: there is no such layer.
        NotApplicable: an operator has no rule, cannot be seen, or leaves nothing linear.
    """
    started = time.perf_counter()
    check_images(images, model)
    names = image_names(ids, len(images))
    if not isinstance(rules, Mapping | None):
        raise InputError("Rules are not a mapping", type(rules).__name__, "Pass {'sigmoid': 'secant'}, say.")
    for what, value, allowed in (("mode", mode, ("secant", "tangent")), ("space", space, ("raw", "normalised"))):
        if value not in allowed:
            raise InputError(f"There is no {what} of that name", repr(value), f"Use {' or '.join(map(repr, allowed))}.")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError("The batch size must be a number from 1", repr(batch_size), "Leave it out for batches of 8.")
    view = private_view(model)
    if space == "normalised" and (start is not None or view.forward is view.root):
        raise InputError(
            "The model has no normalised space of its own",
            f"start={start!r}" if start is not None else type(view.root).__name__,
            "Use space='raw', or pass start= the layer that normalises.",
        )
    circuit = Circuit(view, Book(mode, rules, freeze_mean), NORMALISED if space == "normalised" else start, end)
    if view.notices:  # it looks at the whole batch: an image's own system exists only for a batch of one
        batch_size = 1
    recordings = _recorded(circuit, images, batch_size, progress)
    if batch_size > 1 and any(recording.drew_random for recording in recordings):
        # What belongs to one image cannot be told inside a batch, and another pass would draw anew.
        recordings = _recorded(circuit, images, 1, progress)
    options = {
        "mode": mode, "space": space, "start": start, "end": end, "freeze_mean": freeze_mean,
        "rules": {str(key): str(value) for key, value in (rules or {}).items()}, "batch_size": batch_size,
    }  # fmt: skip
    lens = LinearInterpreter(circuit, recordings, names, provenance(model, view, images, options, started))
    _check(next(lens.parts()))
    return lens


def _check(lens: LinearInterpreter) -> None:
    """Refuse a network that is not affine with its decisions frozen: something in it was not seen."""
    gap = (lens.apply(lens.inputs) + lens.bias - lens.outputs).abs().amax()
    size = lens.outputs.abs().amax() + lens.bias.abs().amax()
    if bool(gap > math.sqrt(torch.finfo(gap.dtype).eps) * 10 * size):
        raise NotApplicable(
            "the network is not linear with its decisions frozen",
            f"A·x + b misses its output by {float(gap / size):.0%}",
            "Something in it is not seen by torch's function modes: Python's or NumPy's random numbers, writes through .data.",
        )


def _recorded(circuit: Circuit, images: Tensor, batch_size: int, progress: Progress | None) -> list[Recording]:
    recordings = []
    for first in range(0, len(images), batch_size):
        recordings.append(circuit.record(images[first : first + batch_size]))
        if progress is not None:
            progress(min(first + batch_size, len(images)), len(images), "recording")
    return recordings
