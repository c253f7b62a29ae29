"""Which attacks exist. To add one, write a file with one function, and enter it here.

The function has the form ``name(model, x, labels, epsilon, *, norm, targeted, **options) -> images``, as ``fgsm.py``
shows. ``model`` is an ``nn.Module`` or a :class:`attacks._victim.Victim`, which counts passes and knows each image's
seed; ``epsilon`` is one number or ``(N,)``; ``labels`` are the classes to leave, or to reach when ``targeted``; options
of its own are keywords with defaults. It returns one image per image. The runner verifies success, budget and box.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .fgsm import fgsm
from .pgd import pgd

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
    """

    name: str
    title: str
    norms: tuple[str, ...]
    paper: str
    function: Callable[..., torch.Tensor] = field(repr=False)
    targeted: bool
    description: str
    passes: Callable[[Mapping[str, Any]], int] = field(repr=False)

    @property
    def options(self) -> dict[str, Any]:
        """The attack's own options and their values."""
        own = list(inspect.signature(self.function).parameters.values())
        fixed = {"model", "x", "labels", "epsilon", "norm", "targeted"}
        return {p.name: p.default for p in own if p.name not in fixed}

    def configured(self, options: Mapping[str, Any]) -> Attack:
        """The same attack with other defaults, which :attr:`options` then shows."""
        return replace(self, function=partial(self.function, **options))


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
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
            "pgd",
            "PGD",
            ("linf", "l2"),
            "arXiv:1706.06083",
            pgd,
            targeted=True,
            description="Many small projected gradient steps from a random start. The workhorse.",
            passes=lambda options: options["restarts"] * (options["steps"] + 1),
        ),
    )
}

# Cheapest first: what a cheap attack breaks, a dear one never sees.
PRESETS: dict[str, tuple[str, ...]] = {"fast": ("fgsm", "pgd")}
