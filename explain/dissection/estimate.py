"""What a dissection would take, from a batch or two of it: said before a long run starts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from explain.dissection.probe import Probe
from explain.dissection.quantile import TopValues, rank_from_top
from explain.dissection.run import Options, Run
from explain.dissection.units import Units
from explain.view import private_view


@dataclass(frozen=True)
class Estimate:
    """Time and memory of a dissection.

    Attributes:
        images: N.
        seconds: on this machine, as it is busy now.
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
    view = private_view(model)
    units = Units(view, [layers] if isinstance(layers, str) else layers, basis)
    options = Options(quantile, 0.04, permutations, 0, 9, 0)
    step = 1 if view.notices else min(batch_size, len(probe))
    run = Run(units, probe, options, step, 0, None, None)
    count = len(probe) if images is None else images
    batches = run.batches
    warm = [0] if batches > 1 else []
    run.first_pass(warm)  # the first pass of a process is slow
    last = batches - 1 if len(warm) < batches else 0
    started = time.perf_counter()
    run.first_pass([last])
    first = time.perf_counter() - started
    run.threshold()
    run.second_pass(warm)
    started = time.perf_counter()
    run.second_pass([last])
    second = time.perf_counter() - started
    done = run.batch_length(last)
    share = count / len(probe)
    maps_bytes = round(run.maps_bytes * share)
    in_memory = maps_bytes <= memory
    values = spilled = tallies = 0
    for name, layer in run.layers.items():
        keep = rank_from_top(quantile, round(run.positions[name] * share)) + 1
        size = TopValues.bytes_for(len(layer.floor), keep)
        values += size
        spilled += size if size > memory // 4 else 0
        tallies += sum(one.element_size() * one.numel() for tally in (layer.tally, layer.null) for one in tally.counts)
    seconds = count / done * (first + (second - first if in_memory else second))
    return Estimate(count, max(seconds, 0.0), in_memory, maps_bytes, values, spilled, tallies)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
