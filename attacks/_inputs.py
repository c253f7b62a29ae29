"""What people pass in, checked before anything runs: each refusal says what to do instead."""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ._ball import NORMS, widest
from ._provenance import content_ids
from .errors import AttackError
from .foolbox_catalogue import PREFIX, find
from .registry import ATTACKS, PRESETS, Attack, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# By the type of an option's default: what may be passed, and what to call it. No default means "chosen for you".
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    type(None): ((int, float, type(None)), "a number, or None"),
}


def check_images(images: torch.Tensor) -> torch.Tensor:
    """Return images as float32 ``(N, C, H, W)`` without a graph."""
    if not isinstance(images, torch.Tensor):
        raise AttackError("Images must be a torch.Tensor", type(images).__name__, "Use torch.as_tensor(...) first.")
    if images.ndim != 4 or 0 in images.shape:
        fix = "Add the batch dimension with images[None]." if images.ndim == 3 else "Pass at least one image."
        raise AttackError("Images must have the shape (N, C, H, W)", tuple(images.shape), fix)
    if not images.is_floating_point():
        raise AttackError("Images must be floating point in [0, 1]", images.dtype, "Divide 8-bit images by 255.")
    images = images.detach().float()
    if not images.isfinite().all():
        raise AttackError("Images contain NaN or infinity", None, "Look for a division by zero in the preprocessing.")
    low, high = images.aminmax()
    if low < 0 or high > 1:
        raise AttackError(
            "Images must lie in [0, 1]",
            f"found [{low:.4g}, {high:.4g}]",
            "Pass plain pixels divided by 255; normalisation by mean and standard deviation belongs inside the model.",
        )
    return images


def check_classes(values: Any, what: str, images: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return labels or targets as int64 ``(N,)`` on the device of the images."""
    if values is None:
        raise AttackError(f"The {what} are missing", None, f"Pass one class number per image as {what}.")
    try:
        classes = torch.as_tensor(values, device=images.device).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise AttackError(f"The {what} are not numbers", type(values).__name__, "Pass class numbers.") from error
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise AttackError(f"The {what} must be whole numbers", classes.dtype, f"Pass {what}.long() of class numbers.")
    if classes.shape != (len(images),):
        fix = f"Pass one class number per image, shape ({len(images)},)."
        raise AttackError(f"The {what} do not fit the images", tuple(classes.shape), fix)
    low, high = classes.aminmax()
    if low < 0 or high >= num_classes:
        wrong = int(low if low < 0 else high)
        fix = f"The model has {num_classes} classes, numbered 0 to {num_classes - 1}."
        raise AttackError(f"The {what} name a class that the model does not have", wrong, fix)
    return classes.long()


def check_ids(ids: Sequence[str] | None, images: torch.Tensor) -> tuple[str, ...]:
    """Return one id per image; given ids must differ, since results are filed under them.

    Ids made here from content repeat when images repeat. That is harmless: equal images get equal noise and results.
    """
    if ids is None:
        return content_ids(images)
    names = tuple(str(name) for name in ids)
    if len(names) != len(images):
        raise AttackError("There must be one id per image", f"{len(names)} ids, {len(images)} images", "Pass ids=None?")
    if repeated := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set():
        raise AttackError("Ids must be unique", sorted(repeated)[0], "Rename it, or leave ids out.")
    return names


def check_norm(norm: str, attacks: Iterable[Attack] = ()) -> str:
    """Return ``norm`` if it exists and every one of ``attacks`` knows it."""
    if norm not in NORMS:
        raise AttackError("Unknown norm", repr(norm), f"Choose one of {', '.join(NORMS)}.")
    for attack in attacks:
        if norm not in attack.norms:
            raise AttackError(f"{attack.title} has no form for this norm", norm, f"It knows {', '.join(attack.norms)}.")
    return norm


def check_epsilons(epsilons: float | Iterable[float], norm: str, size: int) -> tuple[float, ...]:
    """Return the budgets ascending and without repeats; ``size`` numbers make an image."""
    try:
        values = [epsilons] if isinstance(epsilons, int | float) else list(epsilons)
        numbers = sorted({float(value) for value in values})
    except (TypeError, ValueError) as error:
        raise AttackError("Epsilons must be numbers", repr(epsilons), "Pass (1/255, 2/255), say.") from error
    if not numbers:
        raise AttackError("There is no epsilon to evaluate", None, "Pass (1/255, 2/255), say.")
    for epsilon in numbers:
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise AttackError("Epsilons must be positive and finite", epsilon, "Clean accuracy is always measured too.")
        if epsilon > widest(norm, size):
            fix = (
                f"Images live in [0, 1]: for 8 grey levels of 255 pass {8 / 255:.5f}."
                if norm == "linf"
                else "Pass less."
            )
            what = f"Epsilon is larger than the largest possible {norm} distance, {widest(norm, size):.4g}"
            raise AttackError(what, epsilon, fix)
    return tuple(numbers)


def check_replay(
    replay: Mapping[str, torch.Tensor] | None, ids: Sequence[str], images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return rows ``(n,)`` and adversarials ``(n, C, H, W)`` for the ids that have one; others are ignored."""
    if replay is None or not (rows := [row for row, name in enumerate(ids) if name in replay]):
        return None
    given = [replay[ids[row]] for row in rows]
    for row, image in zip(rows, given, strict=True):
        if not isinstance(image, torch.Tensor) or image.shape != images.shape[1:]:
            shape = tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
            fix = f"They must have the shape {tuple(images.shape[1:])} of the images evaluated."
            raise AttackError("A stored adversarial does not fit its image", f"{ids[row]}: {shape}", fix)
    stored = check_images(torch.stack(given)).to(images.device)
    return torch.tensor(rows, device=images.device), stored


def check_epsilon(epsilon: float | None, attack: Attack, norm: str, size: int) -> float | None:
    """Return the budget of a single attack; minimal attacks need none, and 8/255 is common enough for linf."""
    if epsilon is not None:
        return check_epsilons(epsilon, norm, size)[0]
    if attack.minimal:
        return None
    if norm != "linf":
        raise AttackError(f"{attack.title} needs a budget for {norm}", None, "Pass epsilon=0.5, say.")
    return 8 / 255


def find_attack(name: str, options: Mapping[str, Any], targeted: bool) -> Attack:
    """Return the attack called ``name`` with ``options``, if it exists, knows them and can do what is asked."""
    if name not in ATTACKS and not name.startswith(PREFIX):
        fix = f"{_suggest(name, ATTACKS)} Foolbox's are called like 'foolbox:BoundaryAttack'."
        raise AttackError("Unknown attack", repr(name), fix)
    attack = ATTACKS[name] if name in ATTACKS else find(name)
    if targeted and not attack.targeted:
        raise AttackError(f"{attack.title} cannot aim at a class", None, "Leave targets out or choose another attack.")
    return _tuned(attack, options)


def _tuned(attack: Attack, options: Mapping[str, Any]) -> Attack:
    """The attack with other options, if it has them and can use the values."""
    for option, value in options.items():
        if option not in attack.options:
            raise AttackError(f"{attack.title} has no such option", option, _suggest(option, attack.options))
        usual = type(attack.options[option])
        kinds, name = _KINDS.get(usual, ((usual,), f"a {usual.__name__}"))
        if type(value) not in kinds:
            raise AttackError(f"{attack.title} cannot use this value of {option}", repr(value), f"Pass {name}.")
    return attack.configured(options)


def find_attacks(
    names: str | Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    norm: str,
    extra: Attack | None = None,
) -> tuple[Stage, ...]:
    """Return the stages of a preset, or of a sequence of attack names, that know the norm, each with its own options.

    ``extra`` is one attack more, which takes its place before the first stage that may cost more.
    """
    if isinstance(names, str):
        if names not in PRESETS:
            fix = f"{_suggest(names, PRESETS)} For a single attack pass attacks=('pgd',)."
            raise AttackError("Unknown preset", repr(names), fix)
        stages = tuple(stage for stage in PRESETS[names] if norm in stage.attack.norms)
        if not stages:
            fix = "Name attacks that know it: " + ", ".join(k for k, a in ATTACKS.items() if norm in a.norms)
            raise AttackError(f"No attack of the preset {names!r} has a form for this norm", norm, f"{fix}.")
    else:
        if not names or len(set(names)) < len(names):
            raise AttackError("The list of attacks is empty or repeats itself", tuple(names), "Name each attack once.")
        stages = tuple(Stage(find_attack(name, {}, targeted=False)) for name in names)
        check_norm(norm, [stage.attack for stage in stages])
    if extra is not None:
        check_norm(norm, [extra])
        own = Stage(extra)
        place = next((i for i, stage in enumerate(stages) if stage.cost > own.cost), len(stages))
        stages = (*stages[:place], own, *stages[place:])
    run = list(dict.fromkeys(stage.attack.name for stage in stages))
    if strangers := set(options) - set(run):
        raise AttackError(
            "Options for an attack that does not run", sorted(strangers)[0], f"These run: {', '.join(run)}."
        )
    if any(options.get(name, {}).get("boxed") is False for name in run):
        fix = "Leave boxed out; attacks.attack() can be asked for it."
        raise AttackError("Images outside of [0, 1] do not count as broken in an evaluation", "boxed=False", fix)
    return tuple(replace(stage, attack=_tuned(stage.attack, options.get(stage.attack.name, {}))) for stage in stages)


def check_count(value: int, what: str, fix: str) -> int:
    """Return ``value`` if it is a whole number of at least 1."""
    if type(value) is not int or value < 1:
        raise AttackError(f"The {what} must be a whole number of at least 1", value, fix)
    return value


def check_batch_size(batch_size: int) -> int:
    """Return ``batch_size`` if it is a whole number of at least 1."""
    return check_count(batch_size, "batch size", "64 suits most machines.")


def check_eot(eot: int) -> int:
    """Return ``eot`` if it is a whole number of at least 1."""
    return check_count(
        eot, "number of passes to average over (eot)", "20 is usual for random models, 1 for all others."
    )


def _suggest(name: object, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    listed = f"Known: {', '.join(names)}." if names else "It has none."
    return f"Did you mean {near[0]!r}? {listed}" if near else listed
