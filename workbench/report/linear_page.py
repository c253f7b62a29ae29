"""The page of the linear interpreter: one file, offline, with everything that was asked of the linear systems.

What is printed adds up as printed, and what is not exact says so: the completeness residual stands at the top.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ..errors import OptionError
from . import words
from .figures import gradient_css
from .linear_cards import TOP, LinearCard, Subject, card
from .numbers import adding_up, plain, precision, significant
from .page import _POLICY, Report, _environment, _own, _plotly
from .pictures import SIZES, encode
from .recipe import _call, _images_origin, _model_origin

if TYPE_CHECKING:
    from .parts import Picture

_MOST_CARDS = 24
MODES = {
    "secant": "secant: a non-linear unit counts as multiplication with output / input",
    "tangent": "tangent: a non-linear unit counts as its slope, the rest as bias, so the row is the gradient",
}


@dataclass(frozen=True)
class TableRow:
    """One image in the overview; everything as printed."""

    id: str
    target: str
    logit: str
    pixels: str
    bias: str
    share: float
    radius: str
    attack: str


@dataclass(frozen=True)
class LinearContent:
    """The page, top to bottom."""

    title: str
    headline: str
    summary: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    rows: tuple[TableRow, ...]
    attacked: bool
    colours: str
    cards: tuple[LinearCard, ...]
    total: int
    patterns: int
    python: str
    command: str | None
    exact: bool
    provenance: tuple[tuple[str, str], ...]


def linear_page(
    subject: Subject,
    model: Any,
    *,
    title: str | None = None,
    sources: tuple[str, str] | None = None,
    command: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Lay the page out and draw it.

    Args:
        subject: the interpretation, its images, and the names of the classes.
        model: the ``VisionModel`` that was interpreted.
        title: heading.
        sources: what a person types for the model and the images, for the call that makes the page again.
        command: the command line that makes it again, if there is one.
        progress: called as pictures are drawn.

    Raises:
        OptionError: the images cannot be shown as pictures.
    """
    channels = subject.images.images.shape[1]
    if channels not in (1, 3):
        raise OptionError(
            "These images cannot be shown as pictures", f"{channels} channels", "A page needs grey or RGB images."
        )
    content = lay_out(subject, model, title, sources, command)
    tick = progress or (lambda done, total, what: None)
    return Report(_render(replace(content, cards=tuple(_drawn(content.cards, tick)))))


def lay_out(
    subject: Subject, model: Any, title: str | None, sources: tuple[str, str] | None, command: str | None
) -> LinearContent:
    """Return the page; its pictures are not drawn yet."""
    found = subject.found
    name = getattr(model, "name", type(model).__name__)
    python, exact = _python(subject, model, sources)
    return LinearContent(
        title=title or f"{name} as linear systems",
        headline=_headline(subject),
        summary=_summary(subject),
        facts=_facts(subject),
        notes=(*found.lens.notes, *getattr(model, "notices", ()), *subject.images.notices),
        rows=tuple(table(subject)),
        attacked=found.attack is not None,
        colours=gradient_css(signed=True),
        cards=tuple(card(subject, i) for i in range(min(len(found), _MOST_CARDS))),
        total=len(found),
        patterns=TOP,
        python=python,
        command=command,
        exact=exact,
        provenance=_provenance(subject, model),
    )


def table(subject: Subject) -> Iterator[TableRow]:
    """Yield one row per image: what the command line prints, too."""
    found = subject.found
    for i, image in enumerate(subject.images.ids):
        (pixels, bias), total, decimals = adding_up((float(found.shares.pixels[i]), float(found.shares.bias[i])))
        target, radius = int(found.target[i]), float(found.radius[i])
        attack = ""
        if found.attack is not None:
            reached = bool(found.attack.success[i])
            attack = significant(float(found.attack.distance[i])) if reached else "none found"
        yield TableRow(
            id=image,
            target=subject.name(target),
            logit=plain(total, decimals),
            pixels=plain(pixels, decimals),
            bias=plain(bias, decimals),
            share=float(found.shares.bias_share[i]),
            radius=significant(radius) if radius >= 0 else "–",
            attack=attack,
        )


def _headline(subject: Subject) -> str:
    share = subject.found.shares.bias_share
    n, most = len(share), int((share < 0.5).sum())
    where = "In the one image" if n == 1 else f"In {most} of {n} images"
    if n == 1:
        return f"{where}, {'pixels weigh more than bias' if most else 'bias weighs more than pixels'}."
    return f"{where}, pixels weigh more than bias."


def _summary(subject: Subject) -> tuple[str, ...]:
    found = subject.found
    said = [
        "With every decision of the network held as it was for an image, the network is linear: each logit is a weighted "
        "sum of the pixels plus a bias, logit = pixels + bias. Here that holds to "
        f"{precision(float(found.lens.residual.max()))}.",
    ]
    if found.attack is not None:
        reached = found.attack.success & (found.radius > 0)
        if bool(reached.any()):
            ratio = float((found.attack.distance[reached] / found.radius[reached]).median())
            said.append(
                f"An attack needed {ratio:.2g} times the distance at which the frozen network would change its answer "
                f"(median of {words.count(int(reached.sum()), 'image')}). Below 1, decisions that gave way helped it."
            )
    return tuple(said)


def _facts(subject: Subject) -> tuple[tuple[str, str], ...]:
    lens, gap = subject.found.lens, subject.found.gap
    ratio = float(gap.ratio.median())
    differs = (
        "0, the rows are the gradients" if ratio < 1e-5 else f"{ratio:.2g}, cosine {float(gap.cosine.median()):.2f}"
    )
    exact = "" if gap.exact else ", estimated from 32 random combinations of outputs"
    return (
        ("What x is", lens.input_name),
        ("Mode", MODES[lens.mode]),
        (
            "Completeness",
            f"pixels + bias is the logit to {precision(float(lens.residual.max()))} (residual {float(lens.residual.max()):.1e})",
        ),
        ("|J − A| / |A|", f"{differs} (median over images){exact}"),
        ("Frozen decisions", f"{lens.gates_bytes / 1e6:,.1f} MB in memory"),
    )


def _provenance(subject: Subject, model: Any) -> tuple[tuple[str, str], ...]:
    known = subject.found.provenance
    digest = getattr(model, "digest", None)
    return tuple(
        (name, str(value))
        for name, value in (
            ("Model digest", digest),
            ("Image digest", subject.images.digest),
            ("Seed of the attack", known["seed"] if known["attack"] else "no attack"),
            ("Device", known["device"]),
            ("Versions", ", ".join(f"{name} {number}" for name, number in sorted(known["versions"].items()))),
            ("Time taken", f"{known['seconds']:.1f} s"),
        )
        if value is not None
    )


def _python(subject: Subject, model: Any, sources: tuple[str, str] | None) -> tuple[str, bool]:
    """Return the script that computes the same, and whether it runs as it is."""
    found, typed = subject.found, sources or (None, None)
    net = _model_origin(typed[0] or model, model)
    data = _images_origin(typed[1] or subject.images, subject.images, limited=typed[1] is not None)
    options: dict[str, Any] = {"space": found.lens.space, "mode": found.lens.mode, "seed": found.provenance["seed"]}
    defaults = {"space": "raw", "mode": "secant", "seed": 0}
    asked = [f"{key}={value!r}" for key, value in options.items() if value != defaults[key]]
    if not bool((found.target == found.predicted).all()):
        classes = found.target.tolist()
        asked.insert(0, f"target={classes[0] if len(set(classes)) == 1 else classes}")
    asked += [] if found.provenance["attack"] else ["attack=False"]
    lines = [
        "import workbench as wb",
        "",
        f"model = {net.expression}",
        f"images = {data.expression}",
        _call("found = wb.interpret", ["model", "images", *asked]),
        "found.frame()",
    ]
    return "\n".join(lines), net.exact and data.exact


def _drawn(cards: tuple[LinearCard, ...], tick: Callable[[int, int, str], None]) -> Iterator[LinearCard]:
    """Yield the cards with the addresses of their pictures."""
    groups: list[list[Picture]] = [
        [*one.pictures, *(pattern.picture for pattern in one.patterns), *one.moved_pictures] for one in cards
    ]
    addresses = encode([[picture.pixels for picture in group] for group in groups], SIZES, tick)
    for one, group, uris in zip(cards, groups, addresses, strict=False):
        left = iter([replace(picture, uri=uri) for picture, uri in zip(group, uris, strict=True)])
        yield replace(
            one,
            pictures=tuple(next(left) for _ in one.pictures),
            patterns=tuple(replace(pattern, picture=next(left)) for pattern in one.patterns),
            moved_pictures=tuple(left),
        )


def _render(content: LinearContent) -> str:
    plots = [plot for one in content.cards for plot in (*one.plots, *one.moved)]
    figures = json.dumps([json.loads(plot.figure) for plot in plots], separators=(",", ":"))
    text = (
        _environment()
        .get_template("linear.html.j2")
        .render(
            c=content,
            policy=_POLICY,
            style=Markup("{}\n{}").format(_own("style.css"), _own("linear.css")),
            script=_own("common.js") + _own("linear.js"),
            plotly=_plotly(),
            figures=Markup(figures.replace("<", "\\u003c")),
            safe=Markup,
        )
    )
    # Names may hold lone surrogates (file systems) that no encoding has: they become question marks.
    return text.encode("utf-8", "replace").decode()
