"""Works timed beside each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Work = Callable[[], object]


def medians(works: dict[str, Work], repetitions: int) -> dict[str, float]:
    """Return seconds of each by name, all of them in turn so that a busy moment hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(repetitions + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if repetition:  # the first round warms up
                found[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in found.items()}
