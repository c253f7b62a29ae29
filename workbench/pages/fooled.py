"""The last part of the page "Linear": the smallest change that fools the network, split into pixels, decisions and bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from . import jobs
from .pictures import chart, png, strip
from .text import plain

if TYPE_CHECKING:
    from ..interpretation import Attacked, Interpretation
    from .apart import Shown

_RATIO = "Below 1, the change of decisions helped the attack; above 1, it stood in its way."


def section(shown: Shown, index: int) -> None:
    """Draw the button that attacks the picture; once attacked, how it was fooled."""
    if (found := shown.fooled.get(index)) is None:
        st.markdown(
            "If no decision changed, the answer would change at a distance that can be computed. An attack finds where it "
            "really does, and the change of the logits on the way splits, exactly, into what the pixels did, what the "
            "decisions did to their weight, and what became of the bias."
        )
        jobs.offer(
            "Attacking", f"Attack this picture and split the change: {_cost()}",
            lambda progress: _attack(shown, index, progress), lambda made: _keep(shown, index, made),
            icon=":material/bolt:",
        )  # fmt: skip
    elif found.attack is not None:
        _draw(shown, index, found, found.attack)


def _cost() -> str:
    from attacks import ATTACKS

    from ..interpretation.nearest import ATTACKS as USED

    methods = [ATTACKS[name] for name in USED]
    return f"at most {sum(one.passes(one.options) + 2 for one in methods):,} forward and backward passes"


def _attack(shown: Shown, index: int, progress: jobs.Progress) -> Interpretation:
    """Attack one picture; what is left is the class that the model predicts, whichever is taken apart above."""
    from ..interpretation import interpret

    lens = shown.found.lens
    return interpret(
        shown.model, shown.photos.images.subset([index]), space=lens.space, mode=lens.mode, progress=progress
    )


def _keep(shown: Shown, index: int, made: Interpretation) -> None:
    shown.fooled[index] = made


def _draw(shown: Shown, index: int, found: Interpretation, attack: Attacked) -> None:
    from ..report import linear

    model, names = shown.model, shown.model.classes
    predicted, fooled_as = int(found.target[0]), int(attack.fooled_as[0])
    radius, distance = float(found.radius[0]), float(attack.distance[0])
    if not bool(attack.success[0]):
        st.info("No attack fooled the network here, at any distance.")
        return
    _pictures(shown, index, attack, (predicted, fooled_as))
    with st.container(horizontal=True, gap="large"):
        st.metric(
            "ℓ2 radius if no decision changed", f"{radius:.3g}", width="content",
            help=f"First-order radius: the ℓ2 distance at which {plain(model.class_name(predicted))} and "
            f"{plain(model.class_name(int(found.shares.runner_up[0])))} would tie.",
        )  # fmt: skip
        st.metric(
            "ℓ2 radius that the attack needed",
            f"{distance:.3g}",
            width="content",
            help="ℓ2 distance in pixels of [0, 1] of the nearest adversarial picture that DDN and SuperDeepFool found: an "
            "upper bound.",
        )
        if radius > 0:
            st.metric(
                "Ratio",
                f"{distance / radius:.2g}×",
                width="content",
                help=_RATIO,
            )
    left, right = st.columns(2, gap="medium")
    with left:
        change = linear.change_bars(attack.change, 0, predicted, fooled_as, names)
        chart(change, "linear change", "What pixels, decisions and bias contributed to the change.")
    with right:
        if attack.agreement is None:
            st.caption("This network decides nothing that could be compared.")
        else:
            chart(linear.agreement_bars(attack.agreement, 0), "linear agreement", "Share of equal decisions per layer.")


def _pictures(shown: Shown, index: int, attack: Attacked, classes: tuple[int, int]) -> None:
    from ..report import figures, linear

    names = [shown.model.class_name(one) for one in classes]
    clean, fooled = shown.photos.images.images[index], attack.images[0].cpu()
    largest = float((fooled - clean).abs().max())
    captions = (
        f"taken for {names[0]}",
        f"taken for {names[1]}",
        f"the change, at most {largest:.2g} per channel, stretched",
    )
    if ("fooled", index, 0) not in shown.pictures:
        files = figures.to_rgb(clean), figures.to_rgb(fooled), linear.pattern(fooled - clean)
        shown.pictures |= {("fooled", index, number): png(file) for number, file in enumerate(files)}
    strip(
        [
            (
                shown.pictures["fooled", index, number],
                plain(caption),
                f"{what} {shown.photos.images.ids[index]}: {caption}",
            )
            for number, (what, caption) in enumerate(zip(("clean", "attacked", "change of"), captions, strict=True))
        ],
        190,
    )
