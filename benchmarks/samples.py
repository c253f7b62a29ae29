"""How many shapes a second, with their annotation, on one core: ``python benchmarks/samples.py [--images N]``.

The floor is 1500 images a second. numpy alone does the work, in one thread; processor time is counted, so that a busy
machine does not spoil the figure.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING

from workbench import sample_data
from workbench.shapes import generate

if TYPE_CHECKING:
    from collections.abc import Callable

FLOOR = 1500


def rate(make: Callable[[], object], images: int, repeats: int) -> float:
    """Return images per second of processor time, the best of some runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        make()
        best = min(best, time.process_time() - start)
    return images / best


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    n = arguments.images

    start = time.process_time()
    generate("test", 1)
    print(f"first image, with all drawings   {1000 * (time.process_time() - start):7.0f} ms")
    for name, make in {
        "shapes with annotation": partial(generate, "test", n),
        "the same as an ImageSet (digest)": partial(sample_data, "shapes", "test", n),
    }.items():
        print(f"{name:<32} {rate(make, n, arguments.repeats):7.0f} images/s (floor {FLOOR})")


if __name__ == "__main__":
    main()
