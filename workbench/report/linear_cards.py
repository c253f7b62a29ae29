"""The cards of the linear interpreter's page: one per image, with the sums, pictures and figures that belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import linear, pictures
from .bars import Bar, bars_svg
from .figures import PALETTE, shared_scale, to_rgb
from .numbers import adding_up, class_name, plain, shortened, signed, significant
from .parts import Picture

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..images import ImageSet
    from ..interpretation import Interpretation

TOP = 3  # singular patterns shown per image
_MOST = 12  # constants shown per image
_NOT_PREDICTED = "The frozen radius is for predicted classes; the attack leaves the predicted one."
_UNITS = 24  # whose decisions changed most, where a page cannot be hovered over


@dataclass(frozen=True)
class Subject:
    """What the page is about: an interpretation, its images and the names of the classes (empty: by number)."""

    found: Interpretation
    images: ImageSet
    names: tuple[str, ...]

    @classmethod
    def of(cls, found: Interpretation, images: ImageSet, model: Any) -> Subject:
        """Take the model's names of the classes, else the data set's where their numbers agree."""
        names = tuple(getattr(model, "classes", ()))
        count = found.lens.outputs.shape[1]
        return cls(found, images, names or (images.classes if len(images.classes) == count else ()))

    def name(self, index: int) -> str:
        """Return the name of a class."""
        return class_name(self.names, index)

    def scale(self, i: int) -> float:
        """Return the magnitude of a vote shown as the strongest colour: each image has its own, and says so."""
        return shared_scale(self.found.votes[i])


@dataclass(frozen=True)
class Sum:
    """A number and the two that it is the sum of, as printed: ``total = pixels sign bias``."""

    what: str
    total: str
    pixels: str
    sign: str
    bias: str


@dataclass(frozen=True)
class Distance:
    """How far the picture may move: ``share`` of the longest one shown."""

    what: str
    text: str
    share: float


@dataclass(frozen=True)
class Plot:
    """A figure: plotly's JSON, and what stands there without JavaScript."""

    title: str
    about: str
    figure: str
    static: str


@dataclass(frozen=True)
class Direction:
    """A singular pattern: its picture, and what it does to the classes."""

    picture: Picture
    gain: str
    adds: str
    raises: str
    lowers: str


@dataclass(frozen=True)
class LinearCard:
    """One image. ``plots`` are bias and spectrum; ``moved`` are change and agreement, empty without an attack."""

    id: str
    target: str
    predicted: str
    label: str | None
    sums: tuple[Sum, ...]
    distances: tuple[Distance, ...]
    distance_note: str
    pictures: tuple[Picture, ...]
    plots: tuple[Plot, ...]
    patterns: tuple[Direction, ...]
    moved: tuple[Plot, ...]
    moved_pictures: tuple[Picture, ...]
    moved_note: str


def card(subject: Subject, i: int) -> LinearCard:
    """Return the card of image ``i``; its pictures are not drawn yet."""
    found, images = subject.found, subject.images
    target, predicted = int(found.target[i]), int(found.predicted[i])
    label = None if images.labels is None or not subject.names else subject.name(int(images.labels[i]))
    moved, shown, note = _moved(subject, i)
    return LinearCard(
        id=images.ids[i],
        target=subject.name(target),
        predicted=subject.name(predicted),
        label=label,
        sums=_sums(subject, i),
        distances=_distances(subject, i),
        distance_note="" if target == predicted else _NOT_PREDICTED,
        pictures=_pictures(subject, i),
        plots=(bias_plot(subject, i), spectrum_plot(subject, i)),
        patterns=_patterns(subject, i),
        moved=moved,
        moved_pictures=shown,
        moved_note=note,
    )


def _sums(subject: Subject, i: int) -> tuple[Sum, ...]:
    shares = subject.found.shares
    lead, rival = float(shares.margin[i]), subject.name(int(shares.runner_up[i]))
    rows = [
        (f"logit of {subject.name(int(shares.target[i]))}", shares.pixels, shares.bias),
        (f"{'lead over' if lead >= 0 else 'behind'} {rival}", shares.margin_pixels, shares.margin_bias),
    ]
    found = []
    for what, pixels, bias in rows:
        (a, b), total, decimals = adding_up((float(pixels[i]), float(bias[i])))
        sign, size = "−" if b < 0 else "+", plain(abs(b), decimals)
        found.append(Sum(what, plain(total, decimals), plain(a, decimals), sign, size))
    return tuple(found)


def _distances(subject: Subject, i: int) -> tuple[Distance, ...]:
    found = subject.found
    radius = float(found.radius[i])
    rows = [] if radius < 0 or not np.isfinite(radius) else [("decisions frozen", radius)]
    if found.attack is not None and bool(found.attack.success[i]):
        seen = subject.name(int(found.attack.fooled_as[i]))
        rows.append((f"attack found: seen as {seen}", float(found.attack.distance[i])))
    longest = max((value for _, value in rows), default=0.0) or 1.0
    return tuple(Distance(what, significant(value), value / longest) for what, value in rows)


def _pictures(subject: Subject, i: int) -> tuple[Picture, ...]:
    image, votes = _numpy(subject.images.images[i]), _numpy(subject.found.votes[i])
    name, target = subject.images.ids[i], subject.name(int(subject.found.target[i]))
    scale, reach = subject.scale(i), f"to ±{significant(subject.scale(i))}"
    place = pictures.where(votes)
    return (
        Picture(to_rgb(image), "Input", f"{name}, as the model saw it"),
        Picture(linear.vote_overlay(image, votes, scale), "Votes on it", f"Votes for {target}, {place}", reach),
        Picture(linear.vote_picture(votes, scale), "Votes alone", f"Votes for {target}, without the image", reach),
    )


def bias_plot(subject: Subject, i: int) -> Plot:
    """Return the bias of image ``i``, constant by constant."""
    figure = linear.bias_bars(subject.found.terms, i, most=_MOST)
    total = signed(float(subject.found.terms.values[i].sum()))
    about = f"What each constant in the network adds to the logit; together {total}."
    return _plot("Bias, constant by constant", about, figure, bias_drawing(subject, i))


def bias_drawing(subject: Subject, i: int, titled: bool = False) -> str:
    """Return the bias of image ``i`` as SVG; empty if no constant reaches the logit."""
    rows = linear.bias_rows(subject.found.terms, i, _MOST)
    printed, total, decimals = adding_up([value for _, value, _ in rows])
    drawn = [
        Bar(shortened(name), 0.0, value, linear.FOR if value >= 0 else linear.AGAINST, signed(text, decimals))
        for (name, value, _), text in zip(rows, printed, strict=True)
    ]
    title = f"Bias for {subject.name(int(subject.found.target[i]))}: {signed(total, decimals)}"
    return bars_svg(drawn, title, title if titled else "")


def spectrum_plot(subject: Subject, i: int) -> Plot:
    """Return the singular values of image ``i``."""
    spectrum = subject.found.spectrum
    rank, n = float(spectrum.effective_rank[i]), len(spectrum.values[i])
    of = f"{n} patterns" if spectrum.complete else f"the {n} strongest patterns"
    about = f"The network listens to about {rank:.1f} of {of} (effective rank): the strong bars."
    return _plot(
        "How strongly each pattern is amplified",
        about,
        linear.spectrum_figure(spectrum, i),
        spectrum_drawing(subject, i),
    )


def spectrum_drawing(subject: Subject, i: int, titled: bool = False) -> str:
    """Return the singular values of image ``i`` as SVG."""
    spectrum = subject.found.spectrum
    values = [float(value) for value in spectrum.values[i]][:_MOST]
    drawn = [Bar(f"pattern {n}", 0.0, value, PALETTE.accent, significant(value)) for n, value in enumerate(values, 1)]
    title = f"Singular values; effective rank {float(spectrum.effective_rank[i]):.1f}"
    return bars_svg(drawn, title, title if titled else "")


def _patterns(subject: Subject, i: int) -> tuple[Direction, ...]:
    found = subject.found
    x, target = found.lens.inputs[i].flatten(), int(found.target[i])
    shown = []
    for n in range(min(TOP, found.spectrum.values.shape[1])):
        right, left = found.spectrum.right[i, n], found.spectrum.left[i, n].flatten()
        overlap = float(right.flatten() @ x)
        sign = -1.0 if overlap < 0 else 1.0  # a pattern and its negative are the same: show the one this image has
        mix, gain = sign * left, float(found.spectrum.values[i, n])
        adds = gain * abs(overlap) * float(mix[target])
        alt = f"Singular pattern {n + 1} of {subject.images.ids[i]}; grey is zero"
        drawn = Picture(linear.pattern(_numpy(sign * right)), f"Pattern {n + 1}", alt)
        up, down = subject.name(int(mix.argmax())), subject.name(int(mix.argmin()))
        shown.append(Direction(drawn, significant(gain), signed(adds), up, down))
    return tuple(shown)


def _moved(subject: Subject, i: int) -> tuple[tuple[Plot, ...], tuple[Picture, ...], str]:
    attack, images = subject.found.attack, subject.images
    if attack is None:
        return (), (), ""
    if not bool(attack.success[i]):
        return (), (), "No attack fooled it, at any distance."
    clean, near = _numpy(images.images[i]), _numpy(attack.images[i])
    factor = pictures.magnification([near - clean])
    name = images.ids[i]
    shown = (
        Picture(to_rgb(near), "After the attack", f"{name} after the attack"),
        Picture(
            to_rgb(pictures.difference(clean, near, factor)),
            f"Difference × {factor}",
            f"What the attack changed in {name}",
        ),
    )
    before, after = int(subject.found.predicted[i]), int(attack.fooled_as[i])
    figure = linear.change_bars(attack.change, i, before, after, subject.names)
    steps, total = linear.change_steps(attack.change, i, before, after)
    printed, whole, decimals = adding_up(steps)
    colours = (linear.PIXELS, linear.GATES, linear.BIAS, PALETTE.text)
    starts, lengths = (0.0, steps[0], steps[0] + steps[1], 0.0), (*steps, total)
    drawn = [
        Bar(label, start, start + length, colour, signed(text, decimals))
        for label, start, length, colour, text in zip(
            ("pixels", "decisions", "bias", "whole change"), starts, lengths, colours, (*printed, whole), strict=True
        )
    ]
    of = f"the lead of {subject.name(before)} over {subject.name(after)}"
    about = f"In {of if after != before else f'the logit of {subject.name(before)}'}: three steps, exactly the whole change."
    plots = [_plot("What the attack changed", about, figure, bars_svg(drawn, about))]
    if attack.agreement is None:
        return tuple(plots), shown, "The network decides nothing, so no decision could change."
    agreement = linear.agreement_bars(attack.agreement, i)
    share = attack.agreement.values[i].tolist()
    units = zip(attack.agreement.layers, attack.agreement.operators, share, attack.agreement.kinds, strict=True)
    drawn = [
        Bar(shortened(f"{layer} {op}"), 0.0, value, linear.BIAS if kind == "factor" else linear.GATES, f"{value:.1%}")
        for layer, op, value, kind in units
    ]
    if len(drawn) > _UNITS:
        least = sorted(drawn, key=lambda bar: bar.end)[_UNITS - 1].end
        drawn = [bar for bar in drawn if bar.end <= least][:_UNITS]
    smooth = " Diamonds are smooth factors: how alike they are." if "factor" in attack.agreement.kinds else ""
    about = f"Share of each layer's decisions that the attack left as they were.{smooth}"
    plots.append(_plot("Whose decisions agree", about, agreement, bars_svg(drawn, about)))
    return tuple(plots), shown, ""


def _plot(title: str, about: str, figure: go.Figure, static: str) -> Plot:
    """Take the title off the figure: the page has it as a heading."""
    figure.update_layout(title=None, margin={"t": 8, "r": 12, "l": 12})
    return Plot(title, about, str(figure.to_json()), static)


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu())
