"""A button that starts a long call, with a progress bar and Cancel while it runs.

The call runs in the script's own thread and reports through ``progress(done, total, what)``. A click on Cancel, or on
anything else, asks Streamlit for a new run of the page; the next ``st`` call inside ``progress`` then raises Streamlit's
control-flow exception, which is no ``Exception``: it travels through the engine, which leaves nothing behind, and ends
the old run. What is still marked as running when its button is drawn again was therefore stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import streamlit as st

from .text import plain, show_error

T = TypeVar("T")
Progress = Callable[[int, int, str], None]

_ASKED = "job asked for"
_PERIOD = 0.1  # seconds between two updates: more would only load the connection


def offer(
    title: str,
    label: str,
    work: Callable[[Progress], T],
    keep: Callable[[T], None],
    *,
    icon: str,
    at_once: bool = False,
    kept: str = "nothing of it was kept",
) -> None:
    """Draw a button; when it is clicked, run ``work(progress)``, hand its result to ``keep``, and draw the page anew.

    Args:
        title: what a person calls the job, such as "Measuring robustness"; each job on a page has its own.
        label: what the button says, with the cost.
        work: calls ``progress`` often; cancelling waits for its next call.
        keep: stores the result where the page will find it.
        icon: of the button.
        at_once: start without a click.
        kept: what is left of the job when it is stopped.
    """
    running, failure = f"running: {title}", f"failed: {title}"
    start = at_once or st.session_state.get(_ASKED) == title
    was_stopped = st.session_state.pop(running, False)
    error = st.session_state.pop(failure, None)
    # The button stays where it is: Streamlit would keep the one that has the focus on the page, next to what replaces it.
    with st.container(horizontal=True):
        st.button(
            label, type="primary", icon=icon, disabled=start, key=f"start: {title}",
            on_click=st.session_state.__setitem__, args=(_ASKED, title),
        )  # fmt: skip
        if start:
            st.button("Cancel", icon=":material/close:", key=f"cancel: {title}")
    if start:
        forget()
        st.session_state[running] = not at_once
        try:
            keep(work(_bar(title)))
        except Exception as reason:
            st.session_state[failure] = reason
        del st.session_state[running]
        st.rerun()
    if error is not None:
        show_error(error)
    elif was_stopped:
        st.info(f"{title} was stopped before it finished; {kept}.", icon=":material/stop_circle:")


def forget() -> None:
    """Drop a click on a job that cannot be offered any more, so that it does not start when it can be again."""
    st.session_state.pop(_ASKED, None)


def _bar(title: str) -> Progress:
    """Draw a progress bar and return the callback that moves it."""
    begin = last = time.monotonic()
    bar = st.progress(0.0, text=f"{title} …")

    def progress(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PERIOD:
            last = now
            share = min(done / total, 1.0) if total else 0.0
            bar.progress(share, text=f"{title} · {plain(what)} · {share:.0%} after {now - begin:.0f} s")

    return progress
