"""What ``wb.report`` does: read, explain, attack, lay out, write. Results that the caller already has are used as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

import attacks as attack_engine
import explain as explain_engine

from ..errors import OptionError
from ..images import ImageSet, read_images
from ..models import VisionModel, load
from .content import lay_out
from .gallery import weakest
from .page import Report, render, writable
from .parts import Card, Content, Fooled
from .pictures import LITE_SIZES, SIZES, encode
from .recipe import recipe
from .source import Source, check_evaluation, check_explanations, check_images

if TYPE_CHECKING:
    from attacks import Evaluation
    from explain import Explanations

Progress = Callable[[int, int, str], None]

_MOST_IMAGES = 200
_STEPS = 1000


@dataclass(frozen=True)
class Options:
    """The options of one report, as ``wb.report`` describes them."""

    methods: str | Sequence[str]
    target: Any
    layer: str | None
    norm: str
    epsilons: tuple[float, ...]
    attacks: str | Sequence[str]
    max_images: int
    title: str | None
    seed: int
    lite: bool


def build(
    given_model: Any,
    given_images: Any,
    path: str | os.PathLike[str] | None,
    options: Options,
    explanations: Explanations | None,
    evaluation: Evaluation | None,
    sources: tuple[str, str] | None,
    progress: Progress | None,
) -> Report:
    """Make a report; see :func:`workbench.report.report`."""
    if not 1 <= options.max_images <= _MOST_IMAGES:
        raise OptionError("max_images is out of range", options.max_images, f"Choose 1 to {_MOST_IMAGES}.")
    file = None if path is None else writable(path)
    stages = _Stages(progress)
    model = given_model if isinstance(given_model, VisionModel) else load(given_model)
    images = _read(given_images, model, stages.part(0, 0.05))
    check_images(model, images)
    shown = min(options.max_images, len(images))
    if explanations is not None:
        check_explanations(explanations, model, images)
        options, shown = _as_explained(options, explanations), min(shown, len(explanations.target))
    if evaluation is not None:
        check_evaluation(evaluation, model, images)
    if explanations is None:
        explanations = _explain(model, images, shown, options, stages.part(0.05, 0.25))
    if evaluation is None:
        evaluation = _evaluate(model, images, options, stages.part(0.25, 0.8))
    answers = _answers(model, images, explanations, evaluation, stages.part(0.8, 0.85))
    name = "report.html" if file is None else file.name
    how = recipe((given_model, given_images), model, images, options, evaluation, sources, name)
    content = lay_out(Source(model, images, explanations, evaluation, shown, answers), options.title, how)
    page = (_lite_page if options.lite else _full_page)(content, stages.part(0.85, 1.0))
    made = Report(page, None, None if options.lite else partial(_lite_page, content, _silent))
    return made if file is None else made.save(file)


def _silent(done: int, total: int, what: str) -> None:
    """Report no progress: nobody waits."""


class _Stages:
    """One progress out of those of the steps; it never runs backwards, whatever the steps say."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0

    def part(self, start: float, end: float) -> Progress:
        """Return the callback for the step that takes from ``start`` to ``end`` of the whole."""

        def report(done: int, total: int, what: str) -> None:
            if self._progress is not None:
                at = start + (end - start) * min(done / total, 1.0) if total else end
                self._done = max(self._done, round(_STEPS * at))
                self._progress(self._done, _STEPS, what)

        return report


def _read(given: Any, model: VisionModel, progress: Progress) -> ImageSet:
    if isinstance(given, ImageSet):
        return given
    if isinstance(given, torch.Tensor):
        return ImageSet.of(given)
    return read_images(given, model, progress=progress)


def _explain(model: VisionModel, images: ImageSet, shown: int, options: Options, progress: Progress) -> Explanations:
    target = options.target
    if target is not None and not isinstance(target, int) and torch.as_tensor(target).ndim:
        if len(target) != len(images):
            found = f"{len(target)} for {len(images)} images"
            raise OptionError("target must be one class, or one per image", found, "None explains the predicted class.")
        target = target[:shown]
    return explain_engine.explain(
        model,
        images.images[:shown],
        target,
        options.methods,
        options.layer,
        ids=images.ids[:shown],
        skip_inapplicable=True,
        progress=progress,
    )


def _evaluate(model: VisionModel, images: ImageSet, options: Options, progress: Progress) -> Evaluation:
    return attack_engine.evaluate(
        model,
        images.images,
        images.labels,
        norm=options.norm,
        epsilons=options.epsilons,
        attacks=options.attacks,
        seed=options.seed,
        ids=images.ids,
        progress=progress,
    )


def _answers(
    model: VisionModel, images: ImageSet, explanations: Explanations, evaluation: Evaluation, progress: Progress
) -> Explanations | None:
    """Explain what the images easiest to fool are taken for before and after the attack, by the first method shown."""
    rows = weakest(evaluation)
    known = [one for name, one in explanations.items() if name in explain_engine.METHODS]
    if not rows or not known:
        return None
    samples = evaluation.samples.iloc[rows]
    return explain_engine.explain(
        model,
        torch.cat([images.images[rows], evaluation.images[rows].to(images.images)]),
        [*samples["predicted"], *samples["fooled_as"]],
        (known[0].method,),
        known[0].layer,
        progress=progress,
    )


def _as_explained(options: Options, explanations: Explanations) -> Options:
    """Return the options that the explanations given were made with."""
    asked = explanations.provenance.get("options", {})
    predicted = bool((explanations.target == explanations.logits.argmax(dim=1)).all())
    return replace(
        options,
        methods=tuple(asked.get("methods", (*explanations, *explanations.skipped))),
        layer=asked.get("layer"),
        target=None if predicted else explanations.target.tolist(),
    )


def _lite_page(content: Content, progress: Progress) -> str:
    return render(_draw(content, LITE_SIZES, progress), lite=True)


def _full_page(content: Content, progress: Progress) -> str:
    return render(_draw(content, SIZES, progress), lite=False)


def _draw(content: Content, sizes: Sequence[tuple[int, int]], progress: Progress) -> Content:
    """Return the content with the addresses of its pictures, and without the cards that do not fit into one file."""
    shows: list[Card | Fooled] = [*content.fooled, *content.cards]
    addresses = encode([[p.pixels for p in show.pictures] for show in shows], sizes, progress)
    drawn = [
        replace(show, pictures=tuple(replace(p, uri=uri) for p, uri in zip(show.pictures, uris, strict=True)))
        for show, uris in zip(shows, addresses, strict=False)
    ]
    return replace(
        content,
        fooled=[show for show in drawn if isinstance(show, Fooled)],
        cards=[show for show in drawn if isinstance(show, Card)],
    )
