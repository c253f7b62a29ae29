"""What a run would take, said beforehand: bytes are exact, and what is refused later is refused now."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import explain
from explain.dissection import Estimate, estimate
from explain.dissection.run import Options, Run
from explain.dissection.units import Units
from explain.view import private_view


def bytes_of_maps(sizes: list[tuple[int, int]], units: int, shrink: int = 2) -> int:
    """float32 maps of a convolution with stride 2 and padding."""
    return sum(4 * units * -(-height // shrink) * -(-width // shrink) for height, width in sizes)


def test_bytes_of_the_maps(small_net: Any, make_probe: Any) -> None:
    model, probe = small_net(), make_probe(7, size=[(16, 24), (11, 14)])
    sizes = [probe.size(n) for n in range(7)]
    assert estimate(model, probe, "last").maps_bytes == bytes_of_maps(sizes, 6)
    both = estimate(model, probe, ("first", "last"))
    assert both.maps_bytes == bytes_of_maps(sizes, 10) and both.images == 7
    rotated = estimate(model, probe, "last", basis={"last": torch.eye(6)[:2]})
    assert rotated.maps_bytes == bytes_of_maps(sizes, 2)
    for size in (1, 3, 100):
        assert estimate(model, probe, "last", batch_size=size).maps_bytes == bytes_of_maps(sizes, 6)


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_whether_the_maps_fit_is_what_the_run_does(spare: int, small_net: Any, make_probe: Any) -> None:
    model, probe = small_net(), make_probe(6)
    memory = bytes_of_maps([(16, 24)] * 6, 6) + spare
    found = estimate(model, probe, "last", memory=memory)
    assert found.in_memory == (spare >= 0)
    run = Run(Units(private_view(model), ["last"]), probe, Options(0.005, 0.04, 3, 0, 9, 0), 2, memory, None, None)
    assert (run.in_memory, run.maps_bytes) == (found.in_memory, found.maps_bytes)
    assert run.layers["last"].values.spilled == (found.spilled_bytes > 0)
    seen: list[str] = []
    probe.reads.clear()
    explain.dissect(model, probe, "last", memory=memory, progress=lambda done, total, what: seen.append(what))
    assert len(probe.reads) == 6 * (1 if found.in_memory else 2) + 1  # one for the number of channels


def test_memory_is_what_is_asked_for(small_net: Any, make_probe: Any) -> None:
    model, probe = small_net(), make_probe(6)
    for memory in (0, 10_000, 200_000, 1 << 30):
        found = estimate(model, probe, "last", memory=memory)
        held = found.memory_bytes - found.tally_bytes
        assert held <= memory + memory // 4
        assert found.values_bytes == 4 * 6 * (3 + 4096)  # the greatest 3 of 6 · 8 · 12, and room
        assert found.spilled_bytes == (0 if found.values_bytes <= memory // 4 else found.values_bytes)
        assert found.memory_bytes == (
            found.maps_bytes * found.in_memory + found.values_bytes - found.spilled_bytes + found.tally_bytes
        )


def test_bytes_of_the_counts(small_net: Any, make_probe: Any) -> None:
    """int64 and float64 per group of images: units × 8 concepts, units × 3 categories, and both without units."""
    model = small_net()
    for images, groups in ((6, 6), (70, 64)):
        for permutations in (0, 3):
            found = estimate(model, make_probe(images), "last", permutations=permutations)
            assert found.tally_bytes == 8 * (groups + permutations) * (6 * 8 + 6 * 3 + 8 + 3)


def test_all_of_broden(small_net: Any, make_probe: Any) -> None:
    model, probe = small_net(), make_probe(6)
    found = estimate(model, probe, "last", images=63305)
    assert found.images == 63305
    assert found.maps_bytes == 63305 * 4 * 6 * 8 * 12
    keep = 63305 * 8 * 12 * 5 // 1000 + 1
    assert found.values_bytes == 4 * 6 * 2 * keep
    assert found.in_memory and not estimate(model, probe, "last", images=63305, memory=100 << 20).in_memory
    small = estimate(model, probe, "last", images=6)
    assert (small.maps_bytes, small.values_bytes) == (found.maps_bytes * 6 // 63305, 4 * 6 * (3 + 4096))
    assert found.seconds > 100 * small.seconds > 0
    assert estimate(model, probe, "last", images=63305, quantile=0.01).values_bytes == 4 * 6 * 2 * (
        63305 * 8 * 12 // 100 + 1
    )


def test_it_reads_a_few_images_and_leaves_nothing_behind(small_net: Any, make_probe: Any, look: Any) -> None:
    model, probe = small_net(), make_probe(40)
    before = look(model)
    estimate(model, probe, "last", batch_size=2)
    assert len(set(probe.reads)) <= 5
    assert look(model) == before


def test_it_is_said_in_words() -> None:
    text = str(Estimate(63305, 5400.0, False, 203_000_000_000, 1_000_000, 600_000, 2_500_000))
    assert text == (
        "63,305 images: about 1.5 h, 2.9 MB of memory, 600 kB on disk (two passes, nothing kept; all maps would take 203 GB)"
    )
    text = str(Estimate(6, 0.25, True, 13_824, 900, 0, 0))
    assert text == "6 images: about 0.25 s, 14.7 kB of memory (one pass, maps kept; all maps would take 13.8 kB)"
    assert "about 42 s" in str(Estimate(1, 42.0, True, 0, 0, 0, 0))
    assert "about 7 min" in str(Estimate(1, 400.0, True, 0, 0, 0, 0))


@pytest.mark.parametrize(
    "options",
    [{"layers": "nowhere"}, {"quantile": 1.0}, {"basis": {"last": torch.eye(5)}}, {"basis": {"head": torch.eye(3)}}],
)
def test_what_a_run_refuses_is_refused(options: dict[str, Any], small_net: Any, make_probe: Any) -> None:
    with pytest.raises(explain.ExplainError):
        estimate(small_net(), make_probe(), **{"layers": "last", **options})


def test_a_probe_with_files_that_cannot_be_read(small_net: Any, make_probe: Any) -> None:
    model = small_net()
    for broken in range(6):
        probe = make_probe(6)
        probe.broken_images = {broken}
        assert estimate(model, probe, "last", batch_size=2).images == 6
    probe.broken_images = set(range(6))
    with pytest.raises(explain.ProbeError):
        estimate(model, probe, "last")


def test_counts_of_more_images_than_there_are(small_net: Any, make_probe: Any) -> None:
    small = estimate(small_net(), make_probe(6), "last", images=70)
    assert small.tally_bytes == estimate(small_net(), make_probe(70), "last").tally_bytes


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"images": 0}, {"images": -5}, {"permutations": -1}])
def test_options_that_make_no_sense(options: dict[str, Any], small_net: Any, make_probe: Any) -> None:
    with pytest.raises(explain.InputError):
        estimate(small_net(), make_probe(), "last", **options)


def test_no_probe(small_net: Any) -> None:
    with pytest.raises(explain.InputError):
        estimate(small_net(), object(), "last")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [999_999, 1_234_000_000_000])
def test_no_exponents_for_people(count: int) -> None:
    assert not re.search(r"e\+", str(Estimate(6, 1.0, True, count, 0, 0, 0)))
