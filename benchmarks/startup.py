"""What a person waits for before anything is computed, as a multiple of ``import torch``.

Run with ``python -m benchmarks.startup``. Fresh interpreters, alternating, median of seven; absolute times mean little on
shared machines, so the ratios are what counts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

CASES = {
    "python alone": "pass",
    "import workbench": "import workbench",
    "workbench --help": "from workbench.cli import app; app(['--help'], standalone_mode=False)",
    "page shell (streamlit)": "import workbench.pages",
    "import torch": "import torch",
    "everything eagerly": "import torch, torchvision, streamlit, pandas, plotly.express, sklearn.manifold, foolbox, "
    "workbench.models.loading, workbench.report.build, explain, attacks",
}
REPEATS = 7


def main() -> None:
    """Print the table."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(REPEATS):
        for name, code in CASES.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - begin)
    torch_time = statistics.median(times["import torch"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:24} {median:6.2f} s   {median / torch_time:5.2f} × import torch")


if __name__ == "__main__":
    main()
