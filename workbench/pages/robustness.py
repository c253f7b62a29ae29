"""The last part of the page "Explain": a robustness curve over the same images, and the report of everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from . import jobs
from .text import count, plain

if TYPE_CHECKING:
    from attacks import Evaluation

    from .gallery import Shown

_EPSILONS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)


@dataclass(frozen=True)
class Measured:
    """The evaluation of a result's images and the HTML report of both."""

    evaluation: Evaluation
    report: bytes


_ATTACKS = "fast"


def section(shown: Shown) -> None:
    """Draw the button that measures; once measured, the curve, its checks, and the report to download."""
    if shown.measured is None:
        images = shown.photos.images
        whose = "" if images.labels is not None else " The truth is not known, so its own predictions count as right."
        st.markdown(
            "How small a change of the pixels makes the model answer differently? FGSM and PGD try at four budgets, and one "
            f"HTML file keeps everything: predictions, maps, curve, and how to make them again.{whose}"
        )
        jobs.offer(
            "Measuring robustness", f"Measure robustness and make the report: {_cost(shown)}",
            lambda progress: _measure(shown, progress), lambda made: _keep(shown, made), icon=":material/shield:",
        )  # fmt: skip
        return
    _draw(shown, shown.measured)


def _measure(shown: Shown, progress: jobs.Progress) -> Measured:
    from attacks import evaluate

    from ..report import report

    model, images = shown.model, shown.photos.images
    side = model.input_size[1] * model.input_size[2]
    evaluation = evaluate(
        model, images.images, images.labels, epsilons=_EPSILONS, attacks=_ATTACKS, ids=images.ids, progress=progress,
        batch_size=64 if side <= 128 * 128 else 8,  # small enough that Cancel is heard soon
    )  # fmt: skip
    made = report(
        model, images, explanations=shown.found, evaluation=evaluation, sources=shown.sources, progress=progress
    )
    return Measured(evaluation, made.html.encode())


def _keep(shown: Shown, measured: Measured) -> None:
    shown.measured = measured


def _draw(shown: Shown, measured: Measured) -> None:
    from ..report import figures, words

    evaluation = measured.evaluation
    images = shown.photos.images
    right = None if images.labels is None else (int(evaluation.samples["clean_correct"].sum()), len(images))
    st.markdown(f"**{words.headline(evaluation, right)}**")
    if (distrust := words.distrust(evaluation)) is not None:
        st.error(f"**Do not trust these numbers.** {plain(distrust)}", icon=":material/error:")
    last = evaluation.curve.iloc[-1]
    figure = figures.robustness_curve(evaluation)
    figure.update_layout(title=None, margin={"t": 12, "r": 12}, height=340)
    figure.update_xaxes(title="budget ε")  # the long titles do not fit a phone
    what = "whose prediction survives" if words.relative(evaluation) else "classified right"
    st.caption(
        f"Share of images {what}, {words.axis(evaluation.norm)}, with the 95 % interval. An upper bound: a stronger attack "
        "can only lower it."
    )
    st.plotly_chart(
        figure, theme=None, config={"displaylogo": False}, key="curve",
        alt=f"Robust accuracy falls from {evaluation.curve.iloc[0].robust_accuracy:.0%} on clean images to "
        f"{last.robust_accuracy:.0%} at the largest change, {last.epsilon * 255:g}/255.",
    )  # fmt: skip
    _credit(evaluation)
    _checks(evaluation)
    size = len(measured.report) / 1e6
    st.download_button(
        f"Download the report (HTML, {size:.1f} MB)", measured.report, "report.html", "text/html",
        on_click="ignore", type="primary", icon=":material/download:",
    )  # fmt: skip


def _credit(evaluation: Evaluation) -> None:
    """Draw which attack broke how many images, and at which cost."""
    from ..report import credit

    columns = {
        "attack": "Attack",
        "tried": "Tried",
        "credited": "Broke",
        "passes": "Passes per image",
        "seconds": "Seconds",
    }
    rows = [
        {word: getattr(one, name) for name, word in columns.items()} | {"Seconds": f"{one.seconds:.1f}"}
        for one in credit.credits_of(evaluation)
    ]
    st.dataframe(
        rows, hide_index=True, width="content", key="credit",
        column_config={"Passes per image": st.column_config.TextColumn(help="Forward + backward.")},
        alt="One row per attack: how many images it tried, how many it broke, and its passes per image.",
    )  # fmt: skip
    st.caption(
        f"{credit.order(evaluation)} In all {credit.cost(evaluation)}. The command `workbench evaluate` also runs stronger ones."
    )


def _checks(evaluation: Evaluation) -> None:
    """Draw the checks that failed, or that all passed and what they looked at."""
    checks = evaluation.checks
    failed = checks.loc[~checks["passed"]]
    for check in failed.itertuples():
        st.warning(f"{plain(check.check)}: {plain(check.detail)}")
    if failed.empty:
        untested = int(checks["value"].isna().sum())
        left = f" {untested} of the {len(checks)} had nothing to test." if untested else ""
        st.caption(f":material/check_circle: All sanity checks of the attacks passed.{left}")


def _cost(shown: Shown) -> str:
    """Say what measuring costs at most, by the attacks' own figures."""
    from attacks import PRESETS

    passes = 1 + len(_EPSILONS) * sum(stage.cost for stage in PRESETS[_ATTACKS])
    return f"at most {passes} forward and backward passes for {count(len(shown.photos.images), 'image')}"
