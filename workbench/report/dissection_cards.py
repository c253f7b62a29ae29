"""The parts of a dissection's page: layers with their units and pictures, and what was removed and moved, as plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from . import dissection as figures
from . import words
from .bars import Bar, bars_svg
from .figures import PALETTE, to_rgb
from .linear_cards import Plot
from .numbers import class_name, plain, signed
from .parts import Picture
from .pictures import _factor, encode, enlarged

if TYPE_CHECKING:
    from explain.dissection import LayerDissection, TopImages

    from ..dissecting import Findings

MOST_UNITS = 24
BEST = 6  # units shown of a layer without detectors, and pictures per unit
_MOST_BARS, _MOST_CEILINGS = 20, 30
# Sides in pixels, and what all pictures together may take at them: with plotly.js the page has to stay below 5 MB.
SIZES = ((128, 1_200_000), (112, 1_800_000), (96, 2_400_000), (72, 2_600_000), (56, 2_700_000))


@dataclass(frozen=True)
class UnitCard:
    """One unit; everything as printed. ``reached`` is its share of the ceiling, from 0 to 1."""

    unit: int
    concept: str
    category: str
    colour: str
    iou: str
    interval: str
    ceiling: str
    chance: str
    reached: float
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class LayerSection:
    """One layer: its figures and its units, the best ones first; ``total`` is the number of its detectors."""

    name: str
    about: str
    plots: tuple[Plot, ...]
    units: tuple[UnitCard, ...]
    total: int


def overview_plots(found: Findings) -> tuple[Plot, ...]:
    """Return what layers detect, and how layers and models compare."""
    layers = list(found.dissection.values())
    rows = []
    for layer in layers:
        start = 0
        kinds = {
            kind: sum(n for one, _, n in figures.concept_rows(layer) if one == kind) for kind in layer.vocabulary.kinds
        }
        for kind, count in kinds.items():
            if count:
                colour = figures.category_colours(layer.vocabulary.kinds)[kind]
                rows.append(Bar(f"{layer.layer}: {kind}", start, start + count, colour, str(count)))
                start += count
    about = f"Units whose best IoU is above {layers[0].iou_threshold:g}, by the category of their concept."
    plots = [plot("What units detect", about, figures.category_bars(found.dissection), bars_svg(rows, about))]
    if len(layers) == 1 and not found.others:
        return tuple(plots)
    every = {found.model.name: found.dissection, **found.others}
    for what, title, places in (("unique", "Different concepts", 0), ("mean_iou", "Mean of the best IoUs", 3)):
        about = "One label per unit. " if what == "unique" else "How well units match their best concept. "
        rows = []
        for number, (name, one) in enumerate(every.items()):
            colour = PALETTE.qualitative[number % len(PALETTE.qualitative)]
            for layer in one.values():
                value = layer.unique().value if what == "unique" else layer.mean_iou().value
                rows.append(Bar(f"{name}: {layer.layer}", 0.0, value, colour, plain(value, places)))
        about += "Bars: 95 % interval over images."
        plots.append(plot(title, about, figures.layers_figure(every, what), bars_svg(rows, about)))
    return tuple(plots)


def layer_plots(layer: LayerDissection) -> tuple[Plot, ...]:
    """Return detectors per concept, what is attainable, and all units."""
    colours = figures.category_colours(layer.vocabulary.kinds)
    rows = [Bar(name, 0.0, n, colours[kind], str(n)) for kind, name, n in figures.concept_rows(layer)[:_MOST_BARS]]
    count = words.count(int(layer.detectors.sum()), "detector")
    about = f"{count} among {words.count(len(layer), 'unit')}, by concept."
    detected = plot("Detectors", about, figures.concept_bars(layer, _MOST_BARS), bars_svg(rows, about))
    best = layer.iou.amax(0)
    order = [i for i in best.argsort(descending=True, stable=True).tolist() if int(layer.labels[i])]
    names = layer.vocabulary
    rows = [
        Bar(
            names.concepts[i], 0.0, float(best[i]), colours[names.categories[i]],
            f"{float(best[i]):.2f} of {float(layer.ceiling[i]):.2f}",
        )
        for i in order[:_MOST_CEILINGS]
    ]  # fmt: skip
    about = "The best IoU of any unit with each concept, inside the outline of what a perfect unit would reach."
    attainable = plot(
        "Attained and attainable", about, figures.ceiling_bars(layer, _MOST_CEILINGS), bars_svg(rows, about)
    )
    units = layer.best.argsort(descending=True, stable=True).tolist()[:_MOST_BARS]
    rows = [
        Bar(f"{unit} {layer.name(unit)}", 0.0, float(layer.best[unit]), colours[names.categories[int(layer.concept[unit])]],
            f"{float(layer.best[unit]):.3f}")
        for unit in units
    ]  # fmt: skip
    about = "Filled markers are detectors. Below the dotted line 95 % of units stay by chance."
    return detected, attainable, plot("Every unit", about, figures.units_scatter(layer), bars_svg(rows, about))


def layer_section(found: Findings, layer: LayerDissection) -> LayerSection:
    """Return one layer; its pictures are not drawn yet."""
    import explain

    total = int(layer.detectors.sum())
    order = layer.best.argsort(descending=True, stable=True).tolist()
    units = [unit for unit in order if not bool(layer.dead[unit])][: min(total, MOST_UNITS) or BEST]
    shown = explain.top_images(found.model, found.probe, found.dissection, layer.layer, units, BEST)
    unique = layer.unique_best
    about = f"{total} of {words.count(len(layer), 'unit')} {'detects' if total == 1 else 'detect'} a concept"
    about += f", {words.count(unique, 'different one')}." if total else "."
    cards = tuple(unit_card(layer, one) for one in shown)
    return LayerSection(layer.layer, about, layer_plots(layer), cards, total)


def unit_card(layer: LayerDissection, top: TopImages) -> UnitCard:
    """Return one unit with its most activating images."""
    unit, names = top.unit, layer.vocabulary
    concept = int(layer.concept[unit])
    kind = int(names.kind[concept])
    low, high = float(layer.low[unit, kind]), float(layer.high[unit, kind])
    best, ceiling, chance = float(layer.best[unit]), float(layer.attainable[unit, concept]), float(layer.p_value[unit])
    drawn = []
    for image, mask, name in zip(top.images, top.masks, top.ids, strict=True):
        pixels = to_rgb(image)
        factor = _factor(pixels)  # enlarged before the outline is drawn, which so stays thin
        inside = mask.numpy().repeat(factor, axis=0).repeat(factor, axis=1)
        alt = f"{name}, where unit {unit} is most active: {float(mask.double().mean()):.0%} of it"
        drawn.append(Picture(figures.region(enlarged(pixels), inside), "", alt))
    return UnitCard(
        unit=unit,
        concept=names.concepts[concept],
        category=names.categories[concept],
        colour=figures.category_colours(names.kinds)[names.categories[concept]],
        iou=f"{best:.3f}",
        interval="" if math.isnan(low) else f"{low:.3f} to {high:.3f}",
        ceiling=f"{ceiling:.2f}",
        chance="" if math.isnan(chance) else f"{chance:.1g}",
        reached=min(best / ceiling, 1.0) if ceiling > 0 else 0.0,
        pictures=tuple(drawn),
    )


def removal_plots(found: Findings) -> tuple[Plot, ...]:
    """Return what happens without units: curves, and the importance of single ones; empty if nothing was removed."""
    if found.ablation is None:
        return ()
    plots = []
    for curve in found.curves:
        name = "" if curve.label is None else _class(found, curve.label)
        about = f"Balanced accuracy {'over all classes' if not name else f'for {name}'} without the n units that matter most, "
        about += "the n that matter least, and n at random; dashed: with only these."
        rows = [
            Bar(f"{kind} {n}", 0.0, value, _shade(kind), f"{value:.1%}")
            for n, kind, value, *_ in curve.rows
            if kind in ("remove most", "remove random", "keep most")
        ]
        title = "Removing units, all classes" if curve.label is None else f"Removing units: {name}"
        plots.append(plot(title, about, figures.ablation_figure(curve, name), bars_svg(rows, about)))
    layer, label = found.dissection[found.ablation.layer], found.label
    names = [layer.name(unit) for unit in range(len(layer))]
    margin = found.ablation.margin[:, label] if label is not None else found.ablation.margin.nanmean(1)
    rows = [
        Bar(f"{unit} {names[unit]}", 0.0, float(margin[unit]), PALETTE.bad, signed(float(margin[unit])))
        for unit in margin.argsort(descending=True).tolist()[:12]
    ]
    of = "" if label is None else f" of {_class(found, label)}"
    about = f"How far the logit{of} falls behind the others when one unit is set to zero."
    figure = figures.importance_bars(
        found.ablation, label, names, class_name="" if label is None else _class(found, label)
    )
    return (*plots, plot("Units that matter most", about, figure, bars_svg(rows, about)))


def moved_plots(found: Findings) -> tuple[Plot, ...]:
    """Return what an attack moved beside what matters; empty without both."""
    if found.moved is None or found.ablation is None:
        return ()
    layer = found.dissection[found.moved.layer]
    table = found.moved.frame().head(12)
    rows = [
        Bar(f"{unit} {layer.name(unit)}", 0.0, value, PALETTE.bad if value < 0 else PALETTE.accent, signed(value))
        for unit, value in zip(table["unit"].tolist(), table["relative"].tolist(), strict=True)
    ]
    about = "Mean change in standard deviations of the unit; the most moved units."
    of = "" if found.label is None else f" from {_class(found, found.label)}"
    told = f"Each dot is a unit: how much it matters, and what the attack did to it on images led away{of}."
    return (
        plot(
            "Matters and moved",
            told,
            figures.moved_figure(found.moved, found.ablation, found.label),
            bars_svg(rows, about),
        ),
    )


def drawn(sections: Sequence[LayerSection], tick: Callable[[int, int, str], None]) -> Iterator[LayerSection]:
    """Yield the layers with the addresses of their pictures."""
    groups = [[picture.pixels for picture in card.pictures] for one in sections for card in one.units]
    left = iter(encode(groups, SIZES, tick))
    for one in sections:
        cards = []
        for card in one.units:
            addresses = next(left, None)
            if addresses is not None:
                shown = zip(card.pictures, addresses, strict=True)
                cards.append(replace(card, pictures=tuple(replace(picture, uri=uri) for picture, uri in shown)))
        yield replace(one, units=tuple(cards))


def plot(title: str, about: str, figure: go.Figure, static: str) -> Plot:
    """Take the title off the figure: the page has it as a heading."""
    right = figure.layout.margin.r
    figure.update_layout(title=None, margin={"t": 12, "l": 12, "r": right if right > 24 else 12})
    if figure.layout.height:
        figure.update_layout(height=figure.layout.height - 60)
    return Plot(title, about, str(figure.to_json()), static)


def _class(found: Findings, label: int) -> str:
    return class_name(found.model.classes, label)


def _shade(kind: str) -> str:
    return PALETTE.text if kind.endswith("random") else PALETTE.bad if kind.startswith("remove") else PALETTE.warn
