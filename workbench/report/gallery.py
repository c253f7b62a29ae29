"""The pictures of the page: one card per image with its maps on shared scales, and what attacks made of the weakest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import pictures
from .figures import epsilon_text, gradient_css, map_overlay, shared_scale, to_rgb
from .parts import Card, Guess, Legend, Picture, Triple
from .source import Source

if TYPE_CHECKING:
    import pandas as pd

TRIPLES = 4
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
        return f"Not fooled up to {epsilon_text(evaluation.epsilons[-1], evaluation.norm)}"
    seen = source.class_name(int(sample["fooled_as"]))
    return f"Fooled at {epsilon_text(at, evaluation.norm)}: then seen as {seen}"


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


def triples(source: Source) -> tuple[list[Triple], int]:
    """Return the images that fall to the smallest budgets, and by how much their differences are magnified."""
    evaluation = source.evaluation
    broken_at = evaluation.samples["broken_at"].to_numpy(dtype=float)
    fallen = [int(i) for i in np.argsort(broken_at, kind="stable") if 0 < broken_at[i] < math.inf][:TRIPLES]
    pairs = {i: (_numpy(source.images.images[i]), _numpy(evaluation.images[i])) for i in fallen}
    factor = pictures.magnification([changed - clean for clean, changed in pairs.values()])
    found = []
    for i, (clean, changed) in pairs.items():
        sample, name = evaluation.samples.iloc[i], source.images.ids[i]
        before, after = source.class_name(int(sample["predicted"])), source.class_name(int(sample["fooled_as"]))
        grey = to_rgb(pictures.difference(clean, changed, factor))
        shown = (
            Picture(to_rgb(clean), "Input", f"{name}, classified as {before}", before),
            Picture(to_rgb(changed), "After the attack", f"{name} after the attack, classified as {after}", after),
            Picture(grey, f"Difference × {factor}", f"change of {name}, magnified {factor} times; grey is unchanged"),
        )
        found.append(Triple(name, before, after, epsilon_text(float(broken_at[i]), evaluation.norm), shown))
    return found, factor


def method_title(name: str) -> str:
    """Return how people write the name of an explanation method."""
    import explain

    return explain.METHODS[name].title if name in explain.METHODS else name


def _scales(source: Source) -> dict[str, float]:
    return {name: shared_scale(_numpy(one.maps[: source.shown])) for name, one in source.explanations.items()}


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu())
