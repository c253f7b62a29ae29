"""The pictures of the page: one card per image with its maps on shared scales, and what attacks made of the weakest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import pictures
from .figures import NORMS, epsilon_text, gradient_css, map_overlay, shared_scale, to_rgb
from .parts import Card, Fooled, Guess, Legend, Picture
from .source import Source
from .words import distance

if TYPE_CHECKING:
    import pandas as pd

    from attacks import Evaluation

FOOLED = 4
TOP = 3


def cards(source: Source) -> Iterator[Card]:
    """Yield one card per image shown."""
    scales = _scales(source)
    probabilities = _numpy(source.explanations.logits.softmax(dim=1))
    labels, samples = source.labels, source.evaluation.samples
    for i in range(source.shown):
        order = [int(k) for k in np.argsort(-probabilities[i], kind="stable")[:TOP]]
        label = None if labels is None else labels[i]
        target = int(source.explanations.target[i])
        yield Card(
            id=source.images.ids[i],
            guesses=tuple(Guess(source.class_name(k), float(probabilities[i, k]), k == label) for k in order),
            label=None if label is None else source.class_name(label),
            right=None if label is None else order[0] == label,
            explained=None if target == order[0] else source.class_name(target),
            robustness=_robustness(source, samples.iloc[i]),
            pictures=tuple(_pictures_of(source, i, scales)),
        )


def _pictures_of(source: Source, i: int, scales: dict[str, float]) -> Iterator[Picture]:
    image, name = _numpy(source.images.images[i]), source.images.ids[i]
    target = source.class_name(int(source.explanations.target[i]))
    yield Picture(to_rgb(image), "Input", f"{name}, as the model saw it")
    for method, one in source.explanations.items():
        values = _numpy(one.maps[i])
        title, place = method_title(method), pictures.where(values)
        overlay = map_overlay(image, values, scale_max=scales[method], signed=one.signed)
        alt = f"{title} map of {name} for {target}, {place}"
        yield Picture(overlay, title, alt, "empty map" if place == "empty" else "")


def _robustness(source: Source, sample: pd.Series[Any]) -> str:
    at, evaluation = float(sample["broken_at"]), source.evaluation
    if at == 0:
        return ""
    if math.isinf(at):
        doubt = "" if evaluation.trustworthy else "; not to be trusted"
        return f"Not fooled up to {epsilon_text(evaluation.epsilons[-1], evaluation.norm)}{doubt}"
    seen = source.class_name(int(sample["fooled_as"]))
    return f"Fooled at {epsilon_text(at, evaluation.norm)} by {_finder(evaluation, sample)}: then seen as {seen}"


def _finder(evaluation: Evaluation, sample: pd.Series[Any]) -> str:
    """Return the attack that found an image's adversarial."""
    titles = dict(zip(evaluation.stages["attack"], evaluation.stages["title"], strict=True))
    name = str(sample["attack"])
    return "a stored adversarial" if name == "replay" else str(titles.get(name, name))


def legends(source: Source) -> list[Legend]:
    """Return how to read each method, with the scale that its maps share."""
    scales = _scales(source)
    return [
        Legend(
            title=method_title(name),
            layer=one.layer,
            colours=gradient_css(one.signed),
            low=f"−{scales[name]:.3g}" if one.signed else "0",
            high=f"{scales[name]:.3g}",
            notes=one.notes,
        )
        for name, one in source.explanations.items()
    ]


def weakest(evaluation: Evaluation) -> list[int]:
    """Return the rows of the images that fall to the smallest budgets."""
    broken_at = evaluation.samples["broken_at"].to_numpy(dtype=float)
    return [int(i) for i in np.argsort(broken_at, kind="stable") if 0 < broken_at[i] < math.inf][:FOOLED]


def fooled(source: Source) -> list[Fooled]:
    """Return the images that fall to the smallest budgets: before, after, the difference, and the maps of both answers."""
    evaluation = source.evaluation
    rows = weakest(evaluation)
    pairs = [(_numpy(source.images.images[i]), _numpy(evaluation.images[i])) for i in rows]
    factor = pictures.magnification([changed - clean for clean, changed in pairs])
    found = []
    for place, (i, (clean, changed)) in enumerate(zip(rows, pairs, strict=True)):
        sample, name = evaluation.samples.iloc[i], source.images.ids[i]
        before, after = source.class_name(int(sample["predicted"])), source.class_name(int(sample["fooled_as"]))
        grey = to_rgb(pictures.difference(clean, changed, factor))
        shown = (
            Picture(to_rgb(clean), "Input", f"{name}, classified as {before}", before),
            Picture(to_rgb(changed), "After the attack", f"{name} after the attack, classified as {after}", after),
            Picture(
                grey,
                f"Difference × {factor}",
                f"change of {name}, magnified {factor} times; grey is unchanged",
                f"{NORMS[evaluation.norm]} distance {distance(float(sample['distance']), evaluation.norm)}",
            ),
            *_answers(source, place, (clean, changed), (before, after), name),
        )
        budget = epsilon_text(float(sample["broken_at"]), evaluation.norm)
        found.append(Fooled(name, f"fooled at {budget} by {_finder(evaluation, sample)}", shown))
    return found


def _answers(
    source: Source, place: int, pair: tuple[np.ndarray, np.ndarray], classes: tuple[str, str], name: str
) -> Iterator[Picture]:
    """Yield the map of the answer before the attack and that of the answer after it, on the scale of all of them."""
    if source.answers is None:
        return
    for one in source.answers.values():
        maps = _numpy(one.maps)
        scale, title = shared_scale(maps), method_title(one.method)
        for image, values, what, when in zip(
            pair, (maps[place], maps[place + len(maps) // 2]), classes, ("before", "after"), strict=True
        ):
            overlay = map_overlay(image, values, scale_max=scale, signed=one.signed)
            alt = f"{title} map of {name} {when} the attack for {what}, {pictures.where(values)}"
            yield Picture(overlay, f"{title} {when}", alt, f"for {what}")


def method_title(name: str) -> str:
    """Return how people write the name of an explanation method."""
    import explain

    return explain.METHODS[name].title if name in explain.METHODS else name


def _scales(source: Source) -> dict[str, float]:
    return {name: shared_scale(_numpy(one.maps[: source.shown])) for name, one in source.explanations.items()}


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu())
