"""What a dissection would take, from a batch or two of it: said before a long run starts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from explain.dissection.gathered import group_count
from explain.dissection.options import Options, check_count, check_probe
from explain.dissection.probe import Probe
from explain.dissection.quantile import TopValues, rank_from_top
from explain.dissection.run import Run
from explain.dissection.tally import Tally
from explain.dissection.units import Units
from explain.view import private_view


@dataclass(frozen=True)
class Estimate:
    """Time and memory of a dissection.

    Attributes:
        images: N.
        seconds: on this machine, as it is busy now; reading of the probe included.
        in_memory: whether all maps fit into the memory that may be used; if not, images go through the network twice.
        maps_bytes: what the maps take if they are kept, else what they would take.
        values_bytes: what the greatest activations take, in memory or in a file.
        spilled_bytes: the part of it that lies in a file.
        tally_bytes: what the counts take.
    """

    images: int
    seconds: float
    in_memory: bool
    maps_bytes: int
    values_bytes: int
    spilled_bytes: int
    tally_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Memory beyond the network and a batch of its activations."""
        return (self.maps_bytes if self.in_memory else 0) + self.values_bytes - self.spilled_bytes + self.tally_bytes

    def __str__(self) -> str:
        passes = "one pass, maps kept" if self.in_memory else "two passes, nothing kept"
        spilled = f", {_size(self.spilled_bytes)} on disk" if self.spilled_bytes else ""
        return (
            f"{self.images:,} images: about {_time(self.seconds)}, {_size(self.memory_bytes)} of memory{spilled} ({passes}; all "
            f"maps would take {_size(self.maps_bytes)})"
        )


def estimate(
    model: nn.Module,
    probe: Probe,
    layers: str | Sequence[str] | None = None,
    *,
    images: int | None = None,
    quantile: float = 0.005,
    basis: Mapping[str, Tensor] | None = None,
    permutations: int = 3,
    batch_size: int = 32,
    memory: int = 1 << 30,
) -> Estimate:
    """Measure one batch of a dissection and say what all of it would take.

    Args:
        model, probe, layers, quantile, basis, permutations, batch_size, memory: as :func:`explain.dissect`.
        images: for so many images of the probe's kind (63,305 for all of Broden); ``None``: for the probe's own number.

    Raises:
        ExplainError: as :func:`explain.dissect`.
    """
    check_probe(probe)
    check_count("batch_size", batch_size, 1)
    check_count("memory", memory, 0)
    count = len(probe) if images is None else images
    check_count("images", count, 1)
    options = Options(quantile=quantile, permutations=permutations)
    view = private_view(model)
    units = Units(view, [layers] if isinstance(layers, str) else layers, basis)
    run = Run(units, probe, options, 1 if view.notices else batch_size, 0, None, None)
    first, second, done = _measure(run)
    share = count / len(probe)
    maps_bytes = round(run.maps_bytes * share)
    in_memory = maps_bytes <= memory
    values = spilled = tallies = 0
    concepts, kinds = len(probe.concepts), len(set(probe.categories))
    for name, layer in run.layers.items():
        width = len(layer.floor)
        keep = rank_from_top(quantile, round(run.positions[name] * share)) + 1
        size = TopValues.bytes_for(width, keep)
        values += size
        spilled += size if size > memory // 4 else 0
        groups = group_count(count, width, concepts) + min(permutations, count - 1)
        tallies += Tally.bytes_for(groups, width, concepts, kinds, view.device)
    seconds = count / done * (first + (second - first if in_memory else second))
    return Estimate(count, max(seconds, 0.0), in_memory, maps_bytes, values, spilled, tallies)


def _measure(run: Run) -> tuple[float, float, int]:
    """Return the seconds of both passes over a batch, and how many images it has; another one goes before it, as the first
    batch of a process is slow."""
    warm, last = ([0], run.batches - 2) if run.batches > 2 else ([], 0)
    last = max(last, 0)  # the very last batch may be a small one
    run.first_pass(warm)
    started = time.perf_counter()
    run.first_pass([last])
    first = time.perf_counter() - started
    run.threshold()
    run.second_pass(warm)
    started = time.perf_counter()
    run.second_pass([last])
    return first, time.perf_counter() - started, run.batch_length(last)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{count} bytes"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
