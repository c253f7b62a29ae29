"""``explain.explain``: check what comes in, run each batch once, hand the pass to every method, collect the maps."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from explain.anatomy import choose, dry_run, find
from explain.errors import InputError, NotApplicable
from explain.inputs import Target, check_images, read_target
from explain.method import Maps, Method
from explain.methods import METHODS
from explain.passes import Pass, Spot
from explain.results import Explanation, Explanations, image_names, provenance
from explain.view import View, private_view, undisturbed

Progress = Callable[[int, int, str], None]


def explain(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    methods: str | Sequence[str] = ("saliency", "gradcam++"),
    layer: str | None = None,
    *,
    batch_size: int = 32,
    ids: Sequence[str] | None = None,
    skip_inapplicable: bool = False,
    progress: Progress | None = None,
) -> Explanations:
    """Explain why ``model`` gives ``target`` its score on each image.

    The model is neither changed nor switched to another mode, whatever happens; it is explained in evaluation mode, in
    float32 (float64 if its weights are). Methods share one forward pass per batch, and the backward passes too.

    Args:
        model: maps images in [0, 1] to logits ``(N, K)``, K ≥ 2, normalisation inside.
        images: floating point ``(N, C, H, W)`` in [0, 1]; moved to the model's device batch by batch.
        target: class to explain: one number, one per image, or ``None`` for the predicted class of each image.
        methods: names out of ``explain.METHODS``.
        layer: dotted name of the layer for class activation maps; ``None`` for the last one with a spatial output (see
            ``explain.anatomy``).
        batch_size: images per pass; bounds the memory, changes no result.
        ids: one name per image, for :meth:`Explanations.frame`.
        skip_inapplicable: put methods that do not apply to this network into ``.skipped``, with the reason, instead of
            raising.
        progress: called as ``progress(done, total, what)`` after each batch, in images; an exception from it cancels.

    Returns:
        Explanation by method name, with logits, targets and provenance.

    Raises:
        InputError: images, target, methods, ids or batch size make no sense.
        ModelError: the network fails on the images or does not return logits.
        LayerError: there is no such layer.
        NotApplicable: a method has no meaning on this network.
    """
    started = time.perf_counter()
    chosen = _lookup(methods)
    check_images(images, model)
    names = image_names(ids, len(images))
    targets = read_target(target, len(images))
    if batch_size < 1:
        raise InputError("The batch size must be at least 1", batch_size, "Leave it out for batches of 32.")
    view = private_view(model)
    job = _Job(chosen, skip_inapplicable)
    spot = job.locate(view, images, layer)
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        with undisturbed(view.device):
            # Not bound to a name: the graph of one batch must be gone before the next one grows.
            job.collect(
                Pass(view, view.load(images[part]), None if targets is None else targets[part], job.needs, spot)
            )
        if progress is not None:
            progress(min(start + batch_size, len(images)), len(images), "explaining")
    options = {"methods": [method.name for method in chosen], "layer": layer, "batch_size": batch_size}
    return job.results(names, provenance(model, view, images, options, started))


@dataclass
class _Collected:
    """What one method gave so far."""

    parts: list[Maps] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    seconds: float = 0.0
    rewritten: int = 0
    layer: str | None = None


class _Job:
    """The methods of one call that still apply, and what they gave."""

    def __init__(self, methods: Sequence[Method], skip_inapplicable: bool) -> None:
        self._methods = list(methods)
        self._skip = skip_inapplicable
        self._skipped: dict[str, str] = {}
        self._collected = {method.name: _Collected() for method in methods}
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    @property
    def needs(self) -> frozenset[str]:
        """What the remaining methods need of a pass."""
        return frozenset[str]().union(*(method.needs for method in self._methods))

    def locate(self, view: View, images: Tensor, layer: str | None) -> Spot | None:
        """Return where class activation maps are made, if a method makes any."""
        if layer is not None:
            layer = find(view.root, layer)
        if "layer" not in self.needs:
            return None
        if layer is not None:
            return Spot(layer, after_relu=False)
        try:
            step = choose(dry_run(view, images))
        except NotApplicable as reason:
            for method in [method for method in self._methods if "layer" in method.needs]:
                self._refuse(method, reason)
            return None
        return Spot(step.name, after_relu=True)

    def collect(self, run: Pass) -> None:
        """Compute every method on one pass."""
        self._logits.append(run.logits.float())
        self._targets.append(run.target)
        for method in tuple(self._methods):
            started = time.perf_counter()
            try:
                maps = method.compute(run)
            except NotApplicable as reason:
                self._refuse(method, reason)
                continue
            one = self._collected[method.name]
            one.parts.append(maps)
            one.seconds += time.perf_counter() - started
            one.notes.update(dict.fromkeys((*maps.notes, *_notes(method, run, maps))))
            one.rewritten = run.operators.rewritten if "relu" in method.needs else 0
            one.layer = run.spot.name if run.spot is not None and "layer" in method.needs else None

    def results(self, ids: tuple[str, ...], provenance: dict[str, Any]) -> Explanations:
        """Put the batches together."""
        target = torch.cat(self._targets)
        found = {}
        for method in self._methods:
            one = self._collected[method.name]
            found[method.name] = Explanation(
                method=method.name,
                maps=_joined([part.maps for part in one.parts]),
                target=target,
                layer=one.layer,
                signed=method.signed,
                seconds=one.seconds,
                rewritten=one.rewritten,
                values=_joined_or_none([part.values for part in one.parts]),
                cam=_joined_or_none([part.cam for part in one.parts]),
                notes=tuple(one.notes),
            )
        return Explanations(found, torch.cat(self._logits), target, self._skipped, ids, provenance)

    def _refuse(self, method: Method, reason: NotApplicable) -> None:
        if not self._skip:
            raise reason.about(method.title) from reason
        self._methods.remove(method)
        self._skipped[method.name] = str(reason)


def _notes(method: Method, run: Pass, maps: Maps) -> list[str]:
    """What the pass says about the maps of a method."""
    notes = []
    if "relu" in method.needs and run.operators.others:
        calls = ", ".join(f"{count} {name}" for name, count in sorted(run.operators.others.items()))
        notes.append(f"calls that keep their plain gradient: {calls}")
    if "layer" in method.needs:
        notes += run.layer_notes
    if run.operators.drew_random:
        notes.append("the network draws random numbers in evaluation mode: each map is one draw")
    if not bool(maps.maps.isfinite().all()):
        notes.append("some maps hold NaN or infinite values: the gradient does not exist there")
    return [*notes, *run.view.notices]


def _lookup(methods: str | Sequence[str]) -> list[Method]:
    names = list(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    if not names:
        raise InputError("No method was asked for", None, f"Known methods: {', '.join(METHODS)}.")
    for name in names:
        if name not in METHODS:
            close = difflib.get_close_matches(str(name), METHODS, n=3) or METHODS
            raise InputError("There is no method of that name", repr(name), f"Did you mean: {', '.join(close)}?")
    return [METHODS[name] for name in names]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().float() for part in parts])


def _joined_or_none(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return _joined(present) if len(present) == len(parts) else None
