"""The page "Attack": choose a picture, an attack and what it may do; run it; look at what changed.

A first result comes by itself, on sample data; everything else waits for a button that says what it costs.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING

import streamlit as st

from . import attacked, frame, jobs, recipe
from .attacked import Request, Shown
from .loading import Loaded, Photos
from .pictures import pick
from .text import plain

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from attacks import Attack

    from .sidebar import Choice

_KEPT = 6  # results per session
_VISITED = "had a first attack"
_DEFAULT = "pgd"
_ANY = -1
_NORMS = {
    "linf": ("ℓ∞", "largest change of a colour value"),
    "l2": ("ℓ2", "Euclidean length of the change"),
    "l1": ("ℓ1", "sum of all changes"),
    "l0": ("ℓ0", "how many colour values change"),
}
_STEPS = 255  # of linf budgets: grey levels of a picture file


def page(choice: Choice) -> None:
    """Draw the page for what the sidebar says."""
    frame.page(
        "What does it take to fool it?",
        "An attack looks for a small change of one picture after which the classifier sees something else in it.",
        choice,
        _work,
    )


def _work(choice: Choice, loaded: Loaded, photos: Photos) -> None:
    """Draw the three steps: form, run, result."""
    st.header("Choose", anchor=False)
    request = _form(loaded, photos)
    results: OrderedDict[str, Shown] = st.session_state.setdefault("attacked", OrderedDict())
    key = f"{loaded.model.digest} {loaded.model.preset} {photos.images.digest} {request}"
    _run(choice, loaded, photos, request, key)
    if not results:
        return
    st.header("Look", anchor=False)
    attacked.draw(frame.latest(results, key), loaded)


# ---- the form


def _form(loaded: Loaded, photos: Photos) -> Request:
    """Draw the choice of picture, attack, norm, budget and class; what cannot work is said with the reason."""
    from attacks import ATTACKS

    digest, made = st.session_state.get("attack thumbnails", ("", {}))
    if digest != photos.images.digest:
        made = {}
        st.session_state["attack thumbnails"] = photos.images.digest, made
    index = pick(photos.images, f"attack-picture {photos.images.digest}", made)
    one, two, three, four = st.columns([4, 4, 3, 4], gap="medium")
    names = list(ATTACKS)
    name = one.selectbox(
        "Attack", names, names.index(_DEFAULT), format_func=lambda known: _titled(ATTACKS[known]), key="attack name",
        persist_state="session",
    )  # fmt: skip
    method = ATTACKS[name or _DEFAULT]
    one.caption(plain(f"{method.description} {method.paper}"))
    norm = _norm(two, method)
    epsilon = _budget(three, method, norm, photos.images.images[0].numel())
    target = _target(four, method, loaded)
    rounded = four.checkbox(
        "Round to whole grey levels", key="attack rounded", persist_state="session",
        help="A saved picture knows 256 levels per colour. Rounded before it is judged, what is found still works as a file.",
    )  # fmt: skip
    return Request(index, method.name, norm, epsilon, target, rounded)


def _titled(method: Attack) -> str:
    return f"{method.title} · looks for the nearest" if method.minimal else method.title


def _norm(place: DeltaGenerator, method: Attack) -> str:
    """Draw how the change is measured, as far as the attack knows it."""
    norms = [name for name in _NORMS if name in method.norms]
    chosen = place.radio(
        "Measure the change by", norms, format_func=lambda norm: _NORMS[norm][0], key=f"attack norm {' '.join(norms)}",
        horizontal=True, persist_state="session",
    )  # fmt: skip
    place.caption(_NORMS[chosen or norms[0]][1].capitalize() + ".")
    if missing := [_NORMS[norm][0] for norm in _NORMS if norm not in method.norms]:
        place.caption(f":material/block: {', '.join(missing)}: {plain(method.title)} has no form for it.")
    return chosen or norms[0]


def _budget(place: DeltaGenerator, method: Attack, norm: str, size: int) -> float | None:
    """Draw how much may change; an attack that looks for the nearest picture needs no budget, and may have one."""
    limited = not method.minimal or place.checkbox(
        "Stop within a budget", key="attack limited", persist_state="session",
        help="Without, the search goes on to its end, for the nearest picture that it can find.",
    )  # fmt: skip
    usual = _usual(norm, size)
    least, most, step, unit = {
        "linf": (0.25, 255.0, 1.0, "in steps of 1/255"),
        "l2": (0.001, math.sqrt(size), usual / 4, "ℓ2"),
        "l1": (0.001, float(size), usual / 4, "ℓ1"),
        "l0": (1.0, float(size), 1.0, "in colour values"),
    }[norm]
    budget = place.number_input(
        f"Budget, {unit}", least, most, min(usual, most), step, format="%g", key=f"attack budget {norm} {size}",
        disabled=not limited, persist_state="session",
    )  # fmt: skip
    if not limited:
        place.caption(":material/block: Needs none: it looks for the nearest picture.")
        return None
    return float(budget) / _STEPS if norm == "linf" else float(budget)


def _usual(norm: str, size: int) -> float:
    """Return a usual budget, in steps of 1/255 for linf: what papers take at 32×32 pixels, growing with the root of the size."""
    per_root = {"l2": 0.009, "l1": 0.2, "l0": 1.0}
    return 8.0 if norm == "linf" else float(f"{per_root[norm] * math.sqrt(size):.1g}")


def _target(place: DeltaGenerator, method: Attack, loaded: Loaded) -> int | None:
    """Draw the class that the network is to see."""
    names = loaded.model.classes

    def label(index: int) -> str:
        if index == _ANY:
            return "anything else"
        return f"{index}: {names[index]}" if names else f"class {index}"

    classes = [_ANY, *range(loaded.model.num_classes)] if method.targeted else [_ANY]
    target = place.selectbox(
        "Make it see", classes, format_func=label, disabled=not method.targeted, persist_state="session",
        key=f"attack target {loaded.model.digest}{'' if method.targeted else ' off'}",
    )  # fmt: skip
    if not method.targeted:
        place.caption(f":material/block: {plain(method.title)} cannot aim at a class.")
    return None if target in (None, _ANY) else target


# ---- the run


def _run(choice: Choice, loaded: Loaded, photos: Photos, request: Request, key: str) -> None:
    """Draw the button that attacks; on a first visit with samples, attack at once."""
    results: OrderedDict[str, Shown] = st.session_state["attacked"]

    def work(progress: jobs.Progress) -> Shown:
        import torch

        import attacks

        st.session_state[_VISITED] = True
        model, image = loaded.model, photos.images.subset([request.index])
        with torch.no_grad():
            before = model(image.images)
        found = attacks.attack(
            model, image.images, before.argmax(1), request.attack, norm=request.norm, epsilon=request.epsilon,
            targets=None if request.target is None else [request.target], ids=image.ids, eight_bit=request.eight_bit,
            progress=lambda done, total, _: progress(done, total, f"pass {done:,} of at most {total:,}"),
        )  # fmt: skip
        with torch.no_grad():
            after = model(found.images)
        script = recipe.attack(choice.model, loaded.options, model, photos, request)
        name = sha256(key.encode()).hexdigest()[:16]
        return Shown(name, model, image, request, found, before.softmax(1)[0], after.softmax(1)[0], script)

    jobs.offer(
        "Attacking",
        f"Attack: {_cost(request)}",
        work,
        lambda shown: frame.keep(results, key, shown, _KEPT),
        icon=":material/bolt:",
        at_once=_VISITED not in st.session_state and choice.model.is_sample and bool(choice.images.data),
    )


def _cost(request: Request) -> str:
    """Say what the attack costs at most, by its own figure, with the passes that look at both pictures."""
    from attacks import ATTACKS

    method = ATTACKS[request.attack]
    kind = "forward and backward" if method.kind == "gradient" else "forward"
    return f"at most {method.passes(method.options) + 4:,} {kind} passes"
