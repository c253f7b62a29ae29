"""Which units an attack moves, and whether they are those that matter: the last part of the page "Dissect"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import streamlit as st

from . import jobs, removed
from .pictures import chart
from .text import count, plain

if TYPE_CHECKING:
    import pandas as pd

    from explain.dissection import MovedUnits

    from .dissected import Shown
    from .removed import Removal

EPSILON = 8 / 255
TOP = 8  # units that count as important


def section(shown: Shown, layer: str) -> None:
    """Draw the button that attacks; once done, how units moved beside what they matter."""
    from attacks.registry import ATTACKS

    _, attacked = removed.how_many(shown.model)
    pgd = ATTACKS["pgd"]
    st.markdown(
        "PGD, an attack along the gradient, looks for another answer and changes no pixel by more than 8/255. Which units of "
        f"{plain(layer)} does that move, and are they those that the class needs?"
    )
    removal = shown.removals.get(layer)
    if removal is None or removal.attack is None or removal.moved is None:
        passes = pgd.passes(pgd.options) + 2
        first = "" if removal else f", after removing {count(len(shown.found[layer]), 'unit')} one by one"
        jobs.offer(
            "Attacking pictures",
            f"Attack {count(attacked, 'generated picture')}: about {passes} forward and backward passes{first}",
            lambda progress: _attack(shown, layer, progress), lambda made: removed.keep(shown, layer, made),
            icon=":material/bolt:",
        )  # fmt: skip
        return
    _moved(shown, removal, removal.moved)


def _attack(shown: Shown, layer: str, progress: jobs.Progress) -> Removal:
    import attacks
    import explain

    model = shown.model
    removal = shown.removals.get(layer) or removed.remove(shown, layer, progress)
    _, attacked = removed.how_many(model)
    images, labels = (part[:attacked] for part in removed.labelled(model, "test"))
    attack = attacks.attack(
        model, images, labels, "pgd", epsilon=EPSILON, batch_size=removed.batch_size(model), progress=progress
    )
    moved = explain.moved_units(model, images, attack.images, layer, batch_size=removed.batch_size(model))
    return removed.Removal(removal.ablation, removal.curves, attack, moved)


def _moved(shown: Shown, removal: Removal, moved: MovedUnits) -> None:
    from ..report import dissection

    fooled = moved.labels != moved.fooled_as
    n, total = int(fooled.sum()), len(fooled)
    if not n or len(moved.change) < 2:
        st.info(
            "A single unit cannot be compared with others." if n else
            f"The attack fooled the network on none of {count(total, 'picture')}."
        )  # fmt: skip
        return
    top = min(TOP, len(moved.change) - 1)
    relation = moved.relation(removal.ablation, top)
    with st.container(key="dissect-pair-moved"):
        left, right = st.columns([11, 10], gap="medium")
    with right:
        st.markdown(f"**{n} of {count(total, 'picture')} fooled.**")
        told = "the more a class needs a unit, the more it went"
        _side(relation, top, "source", "the class that the network left", f"−1: {told} down.")
        _side(relation, top, "target", "the class that it reached", f"+1: {told} up.")
    with left:
        classes = moved.labels[fooled].bincount()
        labels = [*classes.argsort(descending=True, stable=True)[: int((classes > 0).sum())].tolist(), None]
        place = st.selectbox(
            "Pictures", range(len(labels)), key=f"dissect moved {shown.key} {moved.layer}", persist_state="session",
            format_func=lambda i: _pictures(shown, labels[i]), width=320,
        )  # fmt: skip
        chart(
            dissection.moved_figure(moved, removal.ablation, labels[place or 0]), "dissect moved",
            "The mean change of each unit under the attack, beside what its removal costs.",
        )  # fmt: skip
    with st.expander("Picture by picture", icon=":material/table:"):
        _relation(shown, relation)


def _side(relation: pd.DataFrame, count: int, side: str, whose: str, extreme: str) -> None:
    """Draw how far the units moved that matter to a class, and in which direction."""
    from ..report.numbers import signed

    top, rest, rank = (float(relation[f"{side}_{part}"].mean()) for part in ("top", "rest", "rank"))
    if not math.isfinite(top):
        return
    st.markdown(f"**For {whose}**")
    with st.container(horizontal=True, gap="medium", key=f"dissect-facts-{side}"):
        st.metric(
            f"Its {count} most important units moved", f"{top / max(rest, 1e-30):.1f}× the others", width="content",
            help=f"Mean magnitude of the change: {top:.3g} against {rest:.3g}.",
        )  # fmt: skip
        if math.isfinite(rank):
            st.metric(
                "Rank correlation", signed(rank, 2), width="content",
                help=f"Of signed change and importance, unit by unit. {extreme}",
            )  # fmt: skip


def _pictures(shown: Shown, label: int | None) -> str:
    return "all that were fooled" if label is None else f"of {removed.class_told(shown.model, label)}"


def _relation(shown: Shown, relation: pd.DataFrame) -> None:
    """Draw the relation of change and importance, one row per fooled picture."""
    model = shown.model
    table = relation.assign(**{side: [model.class_name(i) for i in relation[side]] for side in ("from", "to")})
    words = {
        "image": "Picture", "from": "Left", "to": "Reached", "source_top": "Left: important units", "source_rest": "all others",
        "source_rank": "rank correlation", "target_top": "Reached: important units", "target_rest": "all others ",
        "target_rank": "rank correlation ",
    }  # fmt: skip
    st.dataframe(
        table.rename(columns=words), hide_index=True, height=300, key="dissect relation",
        column_config={name: st.column_config.NumberColumn(format="%.2f") for name in list(words.values())[3:]},
        alt="One row per fooled picture: how far important units and all others moved.",
    )  # fmt: skip
