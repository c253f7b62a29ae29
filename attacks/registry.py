"""Which attacks exist. To add one, write a file with one function, and enter it here.

The function has the form ``name(model, x, labels, epsilon, *, norm, targeted, **options) -> images``, as ``fgsm.py``
shows. ``model`` is an ``nn.Module`` or a :class:`attacks._victim.Victim`, which counts passes and knows each image's
seed; ``epsilon`` is one number or ``(N,)``; ``labels`` are the classes to leave, or to reach when ``targeted``; options
of its own are keywords with defaults. It returns one image per image. The runner verifies success, budget and box.

A *minimal* attack looks for the nearest adversarial image instead of spending a budget, as ``ddn.py`` shows. There
``epsilon`` may be ``None``; otherwise an adversarial within epsilon is near enough, and its image leaves the search.

An attack that returns the first broken attempt that it showed the model is *early*: a journal keeps what it has finished.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .apgd import apgd, apgd_dlr, apgd_t
from .cw import cw
from .ddn import ddn
from .deepfool import deepfool
from .fab import fab, fab_t
from .fgsm import fgsm
from .fmn import fmn
from .mifgsm import mifgsm
from .pgd import pgd
from .rfgsm import rfgsm
from .square import square
from .superdeepfool import superdeepfool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch


@dataclass(frozen=True)
class Attack:
    """One attack and what a person should know to choose it.

    Attributes:
        name: key in :data:`ATTACKS`.
        title: name for people.
        norms: norms it can be asked for.
        paper: where it comes from.
        function: the attack itself, a function on tensors.
        targeted: whether it can aim at a class.
        description: one or two sentences.
        passes: from its options (all of them), the most forward passes that it spends on an image.
        minimal: whether it minimises the distance, instead of spending a budget.
        kind: what it sees of the model: "gradient", "score" (logits) or "decision" (the class only); "transform" changes
            images in a way of its own (contrast, noise, rotation) and sees the class at most; "transfer" comes with what it
            learnt before, and shows it.
        early: whether it returns the first broken attempt at an image, which then costs nothing more.
    """

    name: str
    title: str
    norms: tuple[str, ...]
    paper: str
    function: Callable[..., torch.Tensor] = field(repr=False)
    targeted: bool
    description: str
    passes: Callable[[Mapping[str, Any]], int] = field(repr=False)
    minimal: bool = False
    kind: str = "gradient"
    early: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The attack's own options and their values."""
        own = list(inspect.signature(self.function).parameters.values())
        fixed = {"model", "x", "labels", "epsilon", "norm", "targeted"}
        return {p.name: p.default for p in own if p.name not in fixed}

    @property
    def leaves(self) -> bool:
        """Whether it is :attr:`early` with these options."""
        return self.early and bool(self.options.get("early_stop", True))

    def configured(self, options: Mapping[str, Any]) -> Attack:
        """The same attack with other defaults, which :attr:`options` then shows."""
        return replace(self, function=partial(self.function, **options))


@dataclass(frozen=True)
class Stage:
    """One attack of a cascade, for images that the stages before left standing.

    Attributes:
        attack: the attack with its options.
        doubtful: whether it runs only on images where the gradient may not have told all: it moved them hardly or almost
            far enough, or an attack that does not follow it got further.
    """

    attack: Attack
    doubtful: bool = False

    @property
    def cost(self) -> int:
        """The most forward passes per image, with the one that verifies."""
        return self.attack.passes(self.attack.options) + 1


def _targeted(options: Mapping[str, Any]) -> int:
    targets, finalists = options["target_classes"], options["finalists"]
    if not 0 < finalists < targets:
        return int(targets * _climbs(options))
    return int(targets * (options["scouting"] + 1) + finalists * _climbs(options))


def _climbs(options: Mapping[str, Any]) -> int:
    return int(options["restarts"] * (options["steps"] + 1))


_ENTRIES = (
    Attack(
        "fgsm",
        "FGSM",
        ("linf", "l2"),
        "arXiv:1412.6572",
        fgsm,
        targeted=True,
        description="One gradient step to the edge of the budget. Cheapest; breaks what is nearly linear.",
        passes=lambda options: 1,
    ),
    Attack(
        "rfgsm",
        "R+FGSM",
        ("linf", "l2"),
        "arXiv:1705.07204",
        rfgsm,
        targeted=True,
        description="A random step out of the place where the gradient may be masked, then one gradient step.",
        passes=lambda options: 1,
    ),
    Attack(
        "pgd",
        "PGD",
        ("linf", "l2"),
        "arXiv:1706.06083",
        pgd,
        targeted=True,
        description="Many small projected gradient steps from a random start. The workhorse.",
        passes=_climbs,
        early=True,
    ),
    Attack(
        "mifgsm",
        "MI-FGSM",
        ("linf", "l2"),
        "arXiv:1710.06081",
        mifgsm,
        targeted=True,
        description="Gradient steps with momentum from the image itself. Made for transfer to other models.",
        passes=lambda options: options["steps"] + 1,
        early=True,
    ),
    Attack(
        "apgd",
        "APGD-CE",
        ("linf", "l2", "l1"),
        "arXiv:2003.01690",
        apgd,
        targeted=True,
        description="PGD with momentum that halves its own step when it stops getting on. No step size to choose.",
        passes=_climbs,
        early=True,
    ),
    Attack(
        "apgd-dlr",
        "APGD-DLR",
        ("linf", "l2", "l1"),
        "arXiv:2003.01690",
        apgd_dlr,
        targeted=True,
        description="APGD on the difference of logits ratio, which no rescaling of the logits can flatten.",
        passes=_climbs,
        early=True,
    ),
    Attack(
        "apgd-t",
        "APGD-T",
        ("linf", "l2", "l1"),
        "arXiv:2003.01690",
        apgd_t,
        targeted=False,
        description="APGD towards each of the likeliest other classes in turn. The strongest budget attack here.",
        passes=lambda options: 1 + _targeted(options),
        early=True,
    ),
    Attack(
        "square",
        "Square",
        ("linf", "l2"),
        "arXiv:1912.00049",
        square,
        targeted=True,
        description="Random search that sees logits only. Finds what masked gradients hide.",
        passes=lambda options: options["queries"],
        kind="score",
        early=True,
    ),
    Attack(
        "deepfool",
        "DeepFool",
        ("l2", "linf"),
        "arXiv:1511.04599",
        deepfool,
        targeted=True,
        description="Steps to the nearest boundary of the linearised network. Fast; a little too far.",
        passes=lambda options: 2 * options["steps"] + 2,
        minimal=True,
    ),
    Attack(
        "superdeepfool",
        "SuperDeepFool",
        ("l2",),
        "arXiv:2303.12481",
        superdeepfool,
        targeted=True,
        description="DeepFool in turn with a projection to where the boundary is at right angles.",
        passes=lambda options: 8 + options["steps"] * (2 * options["walk"] + 2),
        minimal=True,
    ),
    Attack(
        "ddn",
        "DDN",
        ("l2",),
        "arXiv:1811.09600",
        ddn,
        targeted=True,
        description="Gradient steps on a sphere that shrinks when the image is broken and grows when not.",
        passes=lambda options: options["steps"] + 4,
        minimal=True,
    ),
    Attack(
        "fmn",
        "FMN",
        ("linf", "l2", "l1", "l0"),
        "arXiv:2102.12827",
        fmn,
        targeted=True,
        description="Gradient steps in a ball that shrinks when the image is broken and grows when not; every norm.",
        passes=lambda options: options["steps"] + 6,
        minimal=True,
    ),
    Attack(
        "cw",
        "C&W",
        ("l2",),
        "arXiv:1608.04644",
        cw,
        targeted=True,
        description="Adam on distance plus a constant times the margin, with bisection of the constant. The dear classic.",
        passes=lambda options: options["searches"] * options["steps"] + 1,
        minimal=True,
    ),
    Attack(
        "fab",
        "FAB",
        ("linf", "l2", "l1"),
        "arXiv:1907.02044",
        fab,
        targeted=True,
        description="Projections onto the linearised boundary, pulled back to the image: K - 1 gradients a step.",
        passes=lambda options: 4 + options["restarts"] * 2 * options["steps"],
        minimal=True,
    ),
    Attack(
        "fab-t",
        "FAB-T",
        ("linf", "l2", "l1"),
        "arXiv:1907.02044",
        fab_t,
        targeted=False,
        description="FAB towards each of the likeliest other classes in turn: one gradient a step.",
        passes=lambda options: 4 + options["target_classes"] * options["restarts"] * 2 * options["steps"],
        minimal=True,
    ),
)

ATTACKS: dict[str, Attack] = {attack.name: attack for attack in _ENTRIES}


def _stage(name: str, *, doubtful: bool = False, **options: Any) -> Stage:
    return Stage(ATTACKS[name].configured(options), doubtful)


# Cheapest first: what a cheap attack breaks, a dear one never sees. Attacks without a form for the norm are left out.
PRESETS: dict[str, tuple[Stage, ...]] = {
    "fast": (_stage("fgsm"), _stage("pgd")),
    # After Croce & Hein's AutoAttack: its attacks with less to do. Three of nine targets get the full length, by how far
    # a short run towards each came, and only doubtful images meet everything (see attacks._ledger).
    "standard": (
        _stage("fgsm"),
        _stage("apgd", steps=50),
        _stage("apgd-t", steps=50, finalists=3, scouting=10),
        _stage("square", queries=100),
        _stage("apgd-t", doubtful=True),
        _stage("fab-t", doubtful=True, steps=40),
        _stage("square", doubtful=True),
    ),
    # AutoAttack's attacks on every image, and more of them.
    "thorough": (
        _stage("fgsm"),
        _stage("apgd", restarts=5),
        _stage("apgd-dlr", restarts=5),
        _stage("apgd-t"),
        _stage("fab-t"),
        _stage("square"),
    ),
}
