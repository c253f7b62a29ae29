"""The attacks of foolbox behind our call: Rauber, Brendel, Bethge, "Foolbox", arXiv:1707.04131; written for version 3.3.4.

``attacks.attack(model, x, labels, "foolbox:HopSkipJumpAttack", norm="l2", epsilon=2.0)`` runs foolbox's own code and
keeps our rules around it:

- foolbox sees one image at a time, and :class:`Victim` answers: passes are counted, the model is frozen, raising from
  the progress callback ends it. What foolbox asks is clipped to the box; a model that cuts the graph has gradient zero.
- Random numbers come from a generator of that image, torch's without touching the global one and in this thread only.
  Three attacks draw from numpy's global generator too; it is lent to one image at a time and put back as it was.
- Every answer is looked at. Of a minimal attack the nearest broken image counts, and the first one within epsilon ends
  the search; of the others the last broken image within the budget. So a step too far loses nothing.

Where foolbox finds no point to start from (random noise of another class, mostly), the image counts as not broken.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ._foolbox_bridge import Bridge, ask, the_foolbox
from ._losses import is_broken
from ._random import generator
from ._victim import Victim, full_precision
from .errors import AttackError
from .registry import ATTACKS, Attack

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "foolbox:"

LEFT_OUT: dict[str, str] = {
    "BinarizationRefinementAttack": "it improves what another attack found on a model that binarises its input",
    "DatasetAttack": "it returns other images of a data set, which must be fed to it first",
    "L0BrendelBethgeAttack": "it needs numba",
    "L1BrendelBethgeAttack": "it needs numba",
    "L2BrendelBethgeAttack": "it needs numba",
    "LinfinityBrendelBethgeAttack": "it needs numba",
    "L1AdamBasicIterativeAttack": "it never uses Adam in foolbox 3.3.4, so it is L1BasicIterativeAttack",
    "L2AdamBasicIterativeAttack": "it never uses Adam in foolbox 3.3.4, so it is L2BasicIterativeAttack",
}

Options = Mapping[str, Any]


class _Spec(NamedTuple):
    """What foolbox does not say of an attack in a form that can be read by a program.

    Attributes:
        title, paper, kind, minimal, targeted, description: as in :class:`attacks.registry.Attack`.
        norms: separated by spaces.
        passes: from its options, the most forward passes on an image; where that depends on the image, a good many.
    """

    title: str
    norms: str
    paper: str
    passes: Callable[[Options], int]
    description: str
    kind: str = "gradient"
    minimal: bool = False
    targeted: bool = True


_nearest = functools.partial(_Spec, minimal=True)
_decision = functools.partial(_Spec, minimal=True, kind="decision")
_noise = functools.partial(_Spec, kind="transform")
_fixed = functools.partial(_Spec, kind="transform", targeted=False)
_transform = functools.partial(_Spec, minimal=True, kind="transform")


def _none(options: Options) -> int:
    return 0


def _one(options: Options) -> int:
    return 1


def _steps(options: Options) -> int:
    return int(options["steps"])


def _one_more(options: Options) -> int:
    return 1 + int(options["steps"])


def _repeats(options: Options) -> int:
    return 1 + int(options["repeats"])


def _searches(options: Options) -> int:
    return int(options["steps"] * options["binary_search_steps"])


def _candidates(options: Options) -> int:
    return 1 + int(options["steps"] * (options["candidates"] - 1))


def _walk(options: Options) -> int:
    return _START + int(options["steps"] + options["steps"] // options["update_stats_every_k"])


def _hop_skip_jump(options: Options) -> int:
    # Per step the gradient, and some 64 halvings until float32 cannot tell the points apart.
    first, most = options["initial_gradient_eval_steps"], options["max_gradient_eval_steps"]
    return _START + 64 + sum(64 + int(min(first * (step + 1) ** 0.5, most)) for step in range(options["steps"]))


def _turns(options: Options) -> int:
    grid = options["num_rotations"] * options["num_translations"] ** 2
    return 1 + int(grid if options["grid_search"] else options["random_steps"])


_START = 1052  # what foolbox spends on a starting point: 1000 draws of noise, 51 blends, and a look
_FOOLBOX = "arXiv:1707.04131"  # for what has no paper of its own
_ALL = "l2 linf l1 l0"

_BIM = "Projected gradient steps from the image."
_PGD = "Projected gradient steps from a random start."
_ADAM = "As PGD, with Adam's steps."
_MOMENTUM = "Projected steps along the accumulated gradient."
_FMN = "Steps within a ball that shrinks once the image is broken, and grows until then."
_DEEPFOOL = "Steps to the nearest boundary of the linearised model."
_CLIPPING = ", after clipping to the box."
_DRAWS = " The first of many draws that breaks the image."

_SPECS: dict[str, _Spec] = {
    "LinfFastGradientAttack": _Spec("FGSM", "linf", "arXiv:1412.6572", _one, "One gradient step.", targeted=False),
    "L2FastGradientAttack": _Spec("FGM", "l2", "arXiv:1412.6572", _one, "One gradient step.", targeted=False),
    "L1FastGradientAttack": _Spec("FGM", "l1", "arXiv:1412.6572", _one, "One gradient step.", targeted=False),
    "LinfBasicIterativeAttack": _Spec("BIM", "linf", "arXiv:1607.02533", _steps, _BIM),
    "L2BasicIterativeAttack": _Spec("BIM", "l2", "arXiv:1607.02533", _steps, _BIM),
    "L1BasicIterativeAttack": _Spec("BIM", "l1", "arXiv:1607.02533", _steps, _BIM),
    "LinfAdamBasicIterativeAttack": _Spec("Adam-BIM", "linf", "arXiv:1607.02533", _steps, "As BIM, with Adam's steps."),
    "LinfProjectedGradientDescentAttack": _Spec("PGD", "linf", "arXiv:1706.06083", _steps, _PGD),
    "L2ProjectedGradientDescentAttack": _Spec("PGD", "l2", "arXiv:1706.06083", _steps, _PGD),
    "L1ProjectedGradientDescentAttack": _Spec("PGD", "l1", "arXiv:1706.06083", _steps, _PGD),
    "LinfAdamProjectedGradientDescentAttack": _Spec("Adam-PGD", "linf", "arXiv:1706.06083", _steps, _ADAM),
    "L2AdamProjectedGradientDescentAttack": _Spec("Adam-PGD", "l2", "arXiv:1706.06083", _steps, _ADAM),
    "L1AdamProjectedGradientDescentAttack": _Spec("Adam-PGD", "l1", "arXiv:1706.06083", _steps, _ADAM),
    "LinfMomentumIterativeFastGradientMethod": _Spec("MI-FGSM", "linf", "arXiv:1710.06081", _steps, _MOMENTUM),
    "L2MomentumIterativeFastGradientMethod": _Spec("MI-FGSM", "l2", "arXiv:1710.06081", _steps, _MOMENTUM),
    "L1MomentumIterativeFastGradientMethod": _Spec("MI-FGSM", "l1", "arXiv:1710.06081", _steps, _MOMENTUM),
    "SparseL1DescentAttack": _Spec(
        *("Sparse l1 descent", "l1", "arXiv:1904.13000", _steps),
        "Projected steps along the few largest entries of the gradient.",
    ),
    "VirtualAdversarialAttack": _Spec(
        *("Virtual adversarial", "l2", "arXiv:1507.00677", _one_more),
        "One step in the direction in which the answer's distribution changes most, found by power iteration.",
        targeted=False,
    ),
    "LInfFMNAttack": _nearest("FMN", "linf", "arXiv:2102.12827", _steps, _FMN),
    "L2FMNAttack": _nearest(
        *("FMN", "l2", "arXiv:2102.12827", _steps),
        f"{_FMN} foolbox 3.3.4 never projects in this norm, so distances are longer than FMN's.",
    ),
    "L1FMNAttack": _nearest("FMN", "l1", "arXiv:2102.12827", _steps, _FMN),
    "L0FMNAttack": _nearest("FMN", "l0", "arXiv:2102.12827", _steps, _FMN),
    "LinfDeepFoolAttack": _nearest("DeepFool", "linf", "arXiv:1511.04599", _candidates, _DEEPFOOL, targeted=False),
    "L2DeepFoolAttack": _nearest("DeepFool", "l2", "arXiv:1511.04599", _candidates, _DEEPFOOL, targeted=False),
    "DDNAttack": _nearest(
        *("DDN", "l2", "arXiv:1811.09600", _steps),
        "Steps on a sphere whose radius shrinks when the image is broken and grows when it is not.",
    ),
    "L2CarliniWagnerAttack": _nearest(
        *("Carlini-Wagner", "l2", "arXiv:1608.04644", _searches),
        "Adam on the distance plus c times the margin, with a binary search for c.",
    ),
    "EADAttack": _nearest(
        *("EAD", "l1", "arXiv:1709.04114", lambda options: 2 * _searches(options)),
        "As Carlini-Wagner, with an l1 term that leaves most pixels alone.",
    ),
    "NewtonFoolAttack": _nearest(
        *("NewtonFool", "l2", "doi:10.1145/3134600.3134635", _steps),
        "Newton steps that lower the label's probability to chance.",
        targeted=False,
    ),
    "GenAttack": _Spec(
        *("GenAttack", "linf", "arXiv:1805.11090", lambda options: int(options["steps"] * options["population"])),
        "A genetic algorithm on the scores. Works with targets only.",
        kind="score",
    ),
    "HopSkipJumpAttack": _decision(
        *("HopSkipJump", "l2 linf", "arXiv:1904.02144", _hop_skip_jump),
        "Estimates the boundary's direction from many decisions and moves along it. Tens of thousands of passes.",
    ),
    "BoundaryAttack": _decision(
        *("Boundary attack", "l2", "arXiv:1712.04248", _walk),
        "A random walk along the boundary towards the image. Tens of thousands of passes.",
    ),
    "PointwiseAttack": _decision(
        *("Pointwise", "l0 l1 l2", "arXiv:1805.09190", lambda options: 20_000),
        "Starts from salt and pepper and puts back number after number. Passes grow with the image.",
    ),
    "L2AdditiveGaussianNoiseAttack": _fixed("Gaussian noise", "l2", _FOOLBOX, _none, "Gaussian noise."),
    "L2AdditiveUniformNoiseAttack": _fixed("Uniform noise", "l2", _FOOLBOX, _none, "Uniform noise."),
    "LinfAdditiveUniformNoiseAttack": _fixed("Uniform noise", "linf", _FOOLBOX, _none, "Uniform noise."),
    "L2ClippingAwareAdditiveGaussianNoiseAttack": _fixed(
        *("Gaussian noise, clipped", "l2", "arXiv:2007.07677", _none), f"Gaussian noise of length epsilon{_CLIPPING}"
    ),
    "L2ClippingAwareAdditiveUniformNoiseAttack": _fixed(
        *("Uniform noise, clipped", "l2", "arXiv:2007.07677", _none), f"Uniform noise of length epsilon{_CLIPPING}"
    ),
    "L2RepeatedAdditiveGaussianNoiseAttack": _noise(
        *("Gaussian noise, repeated", "l2", _FOOLBOX, _repeats), f"Gaussian noise.{_DRAWS}"
    ),
    "L2RepeatedAdditiveUniformNoiseAttack": _noise(
        *("Uniform noise, repeated", "l2", _FOOLBOX, _repeats), f"Uniform noise.{_DRAWS}"
    ),
    "LinfRepeatedAdditiveUniformNoiseAttack": _noise(
        *("Uniform noise, repeated", "linf", _FOOLBOX, _repeats), f"Uniform noise.{_DRAWS}"
    ),
    "L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack": _noise(
        *("Gaussian noise, clipped, repeated", "l2", "arXiv:2007.07677", _repeats),
        f"Gaussian noise of length epsilon{_CLIPPING}{_DRAWS}",
    ),
    "L2ClippingAwareRepeatedAdditiveUniformNoiseAttack": _noise(
        *("Uniform noise, clipped, repeated", "l2", "arXiv:2007.07677", _repeats),
        f"Uniform noise of length epsilon{_CLIPPING}{_DRAWS}",
    ),
    "L2ContrastReductionAttack": _fixed("Contrast", "l2", _FOOLBOX, _none, "Fades the image to grey by epsilon."),
    "BinarySearchContrastReductionAttack": _transform(
        *("Contrast, bisected", _ALL, _FOOLBOX, lambda options: int(options["binary_search_steps"])),
        "Fades the image to grey until it breaks, by bisection.",
    ),
    "LinearSearchContrastReductionAttack": _transform(
        *("Contrast, step by step", _ALL, _FOOLBOX, _steps), "Fades the image to grey until it breaks, step by step."
    ),
    "GaussianBlurAttack": _transform(
        *("Gaussian blur", _ALL, _FOOLBOX, _one_more), "Blurs with a Gaussian that widens until the image breaks."
    ),
    "InversionAttack": _transform(
        *("Inversion", _ALL, "arXiv:1703.06857", _none), "The negative of the image.", targeted=False
    ),
    "LinearSearchBlendedUniformNoiseAttack": _transform(
        *("Blended noise", _ALL, _FOOLBOX, lambda options: int(options["directions"]) + _one_more(options)),
        "Blends in uniform noise of another class until the image breaks.",
    ),
    "SaltAndPepperNoiseAttack": _transform(
        *("Salt and pepper", "l2 l1 l0", _FOOLBOX, _one_more),
        "Salt and pepper on more and more pixels until the image breaks, then on fewer.",
    ),
    "SpatialAttack": _transform(
        *("Rotation and shift", "l2", "arXiv:1712.02779", _turns),
        "Rotates and shifts, as far as its options say. No norm bounds it, so epsilon must be None.",
    ),
}


def catalogue() -> dict[str, Attack]:
    """Every attack of the installed foolbox that suits an image classifier, as ``"foolbox:ClassName"`` → its entry.

    What is missing is in :data:`LEFT_OUT` with the reason.

    Raises:
        AttackError: foolbox is not installed.
    """
    return {PREFIX + short: _entry(short) for short in _SPECS}


def find(name: str) -> Attack:
    """The entry called ``"foolbox:ClassName"``.

    Raises:
        AttackError: foolbox is not installed, or has no such attack; says which one was meant.
    """
    short = name.removeprefix(PREFIX)
    if short in _SPECS:
        return _entry(short)
    if short in LEFT_OUT:
        raise AttackError(f"foolbox's {short} is not offered", LEFT_OUT[short], "attacks.listing() shows what is.")
    known = getattr(getattr(the_foolbox().attacks, short, None), "__name__", "")
    near = [known] if known in _SPECS else difflib.get_close_matches(short, [*_SPECS], n=1)
    fix = f"Did you mean {PREFIX + near[0]!r}?" if near else "attacks.listing() shows what there is."
    raise AttackError("foolbox has no attack of this name", repr(short), fix)


def listing() -> pd.DataFrame:
    """One row per attack, ours and foolbox's: name, title, norms, kind, minimal, targeted, paper."""
    import pandas as pd

    theirs = [
        (PREFIX + short, f"{spec.title} (foolbox)", spec.norms.split(), *spec[5:], spec.paper)
        for short, spec in _SPECS.items()
    ]
    ours = [(a.name, a.title, a.norms, a.kind, a.minimal, a.targeted, a.paper) for a in ATTACKS.values()]
    columns = ["name", "title", "norms", "kind", "minimal", "targeted", "paper"]
    frame = pd.DataFrame([*ours, *theirs], columns=columns)
    return frame.assign(norms=frame["norms"].map(", ".join))


@functools.cache
def _entry(short: str) -> Attack:
    spec = _SPECS[short]
    return Attack(
        PREFIX + short,
        f"{spec.title} (foolbox)",
        tuple(spec.norms.split()),
        spec.paper,
        _function(short),
        targeted=spec.targeted,
        description=spec.description,
        passes=lambda options: 2 + spec.passes(options),  # with a first look at the image and a last one
        minimal=spec.minimal,
        kind=spec.kind,
    )


# Options that the call decides (norm, channels first) or that hold objects and names. Without init_attack, FMN does no
# binary search.
_HIDDEN = {"self", "distance", "channel_axis", "init_attack", "tensorboard", "reduced_dims"}
_FMN_HIDDEN = {"binary_search_steps"}


def _function(short: str) -> Callable[..., torch.Tensor]:
    """The attack as a function of our form; its signature shows foolbox's own options and defaults."""

    def run(
        model: nn.Module | Victim,
        x: torch.Tensor,
        labels: torch.Tensor,
        epsilon: float | torch.Tensor | None = None,
        *,
        norm: str,
        targeted: bool = False,
        **options: Any,
    ) -> torch.Tensor:
        return _run(short, Victim.of(model, x), x, labels, epsilon, norm, targeted, options)

    fixed = [p for p in inspect.signature(run).parameters.values() if p.kind is not p.VAR_KEYWORD]
    hidden = _HIDDEN | (_FMN_HIDDEN if short.endswith("FMNAttack") else set())
    own = []
    for name, parameter in inspect.signature(getattr(the_foolbox().attacks, short).__init__).parameters.items():
        default = 1 if parameter.default is parameter.empty else parameter.default  # VirtualAdversarialAttack: steps
        default = float(default) if parameter.annotation is float else default
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if named and name not in hidden and isinstance(default, bool | int | float | None):
            own.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
    run.__signature__ = inspect.Signature([*fixed, *own])  # type: ignore[attr-defined]
    return run


def _run(
    short: str,
    victim: Victim,
    x: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float | torch.Tensor | None,
    norm: str,
    targeted: bool,
    options: Options,
) -> torch.Tensor:
    minimal = _SPECS[short].minimal
    if epsilon is None and not minimal:
        raise AttackError(f"foolbox's {short} needs a budget", None, "Pass epsilon.")
    if epsilon is not None and short == "SpatialAttack":
        fix = "Pass epsilon=None; max_rotation and max_translation limit it."
        raise AttackError("Rotations and shifts have no budget in a norm", None, fix)
    if short == "GenAttack" and not targeted:
        raise AttackError("foolbox's GenAttack works with targets only", None, "Pass targets.")
    attack = _configured(short, norm, options)
    budgets = [None] * len(x) if epsilon is None else torch.as_tensor(epsilon).expand(len(x)).tolist()
    rows = torch.arange(len(x), device=x.device)
    found = x.clone()
    standing = ~is_broken(victim.logits(x, rows), labels, targeted)
    for row in rows[standing].unsqueeze(1):
        # What a caller made under inference mode cannot take part in autograd; a copy can.
        with torch.inference_mode(False), torch.enable_grad(), full_precision(x):
            bridge = Bridge(victim, x[row].clone(), labels[row].clone(), norm, targeted, budgets[row], minimal)
            ask(attack, bridge, generator(victim.seed, victim.keys(row)[0], PREFIX, short))
        found[row] = bridge.found
        victim.forwards[row] += bridge.forwards
        victim.backwards[row] += bridge.backwards
    return found


def _configured(short: str, norm: str, options: Options) -> Any:
    """The foolbox attack. Every option is given, since foolbox has no default for one of them."""
    own = {**_entry(short).options, **options, **({"constraint": norm} if short == "HopSkipJumpAttack" else {})}
    try:
        return getattr(the_foolbox().attacks, short)(**own)
    except Exception as error:
        raise AttackError(
            f"foolbox's {short} refuses its options", error, "Compare them with the defaults in .options."
        ) from error
