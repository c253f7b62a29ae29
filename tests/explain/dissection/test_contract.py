"""What a dissection keeps to: nothing left behind, callers in any state, threads, progress, unreadable files."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import explain

QUICK: dict[str, Any] = {"quantile": 0.05, "batch_size": 2, "permutations": 2, "replicates": 20}
MEMORY = pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "streaming"])


class Stop(Exception):  # noqa: N818 - a person presses a button
    """Comes out of progress."""


def stopper(after: int) -> Callable[[int, int, str], None]:
    """Progress that raises at its call number ``after``, from one."""
    calls = 0

    def progress(done: int, total: int, what: str) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise Stop(what)

    return progress


@MEMORY
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(memory: int, training: bool, small_net: Any, make_probe: Any, look: Any) -> None:
    model, probe = small_net().train(training), make_probe()
    model.first.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.drop.register_forward_hook(lambda module, given, output: None)
    pixels, labels = copy.deepcopy(probe.images), copy.deepcopy(probe.annotations)
    before = look(model)
    explain.dissect(model, probe, ("last", "relu", "head"), memory=memory, **QUICK)
    assert look(model) == before
    for after in (1, 2, 4, 6):
        with pytest.raises(Stop):
            explain.dissect(model, probe, "last", memory=memory, progress=stopper(after), **QUICK)
        assert look(model) == before
    assert all(torch.equal(one, other) for one, other in zip(probe.images, pixels, strict=True))
    assert all(torch.equal(one.maps, other.maps) for one, other in zip(probe.annotations, labels, strict=True))
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_by_a_network_that_fails(
    error: type[BaseException], small_net: Any, make_probe: Any, look: Any
) -> None:
    class Boom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error("boom")

    model, probe = small_net(), make_probe()
    model.norm = Boom()
    before = look(model)
    with pytest.raises((explain.ModelError, KeyboardInterrupt), match="boom"):
        explain.dissect(model, probe, "last", **QUICK)
    assert look(model) == before


@MEMORY
def test_the_state_of_caller_and_model_does_not_matter(
    memory: int, small_net: Any, make_probe: Any, equal: Any, look: Any
) -> None:
    model, probe = small_net().eval(), make_probe()
    run = lambda model: explain.dissect(model, probe, "last", memory=memory, **QUICK)  # noqa: E731
    expected = run(model)
    torch.manual_seed(123)
    assert equal(run(model), expected)
    with torch.inference_mode():
        born_there = copy.deepcopy(model)
    assert equal(run(born_there), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert equal(run(model), expected)
    assert equal(run(model.train()), expected)
    assert equal(run(nn.DataParallel(model)), expected)
    assert equal(explain.dissect(nn.DataParallel(model), probe, "module.last", memory=memory, **QUICK), expected)
    assert equal(run(model.requires_grad_(False)), expected)


@MEMORY
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(memory: int, mode: Any, small_net: Any, make_probe: Any, equal: Any) -> None:
    model, probe = small_net(), make_probe()
    expected = explain.dissect(model, probe, "last", memory=memory, **QUICK)
    with mode():
        found = explain.dissect(model, probe, "last", memory=memory, **QUICK)
    assert found["last"].field == expected["last"].field and equal(found, expected)


def test_random_numbers_in_evaluation_mode(small_net: Any, make_probe: Any, equal: Any) -> None:
    class Noisy(small_net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand_like(x))

    model, before = Noisy(), torch.get_rng_state()
    found = explain.dissect(model, make_probe(), "last", **QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    assert any("random" in note for note in found.notes)


def test_two_at_once(small_net: Any, make_probe: Any, equal: Any, look: Any) -> None:
    model, other = small_net().train(), small_net()
    jobs = [(model, make_probe(8), "last"), (model, make_probe(8, seed=1), "first"), (other, make_probe(5), "last")]
    expected = [explain.dissect(*job, **QUICK) for job in jobs]
    before, found = look(model), {}

    def work(n: int) -> None:
        for _ in range(3):
            found[n] = explain.dissect(*jobs[n], memory=0, **QUICK)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(equal(found[n], one) for n, one in enumerate(expected))
    assert look(model) == before


@MEMORY
@pytest.mark.parametrize("count, sizes", [(7, [(16, 24)]), (6, [(16, 24), (12, 12)]), (1, [(16, 24)])])
def test_progress(memory: int, count: int, sizes: Any, small_net: Any, make_probe: Any) -> None:
    seen: list[tuple[int, int, str]] = []
    explain.dissect(
        small_net(), make_probe(count, sizes), "last", memory=memory, progress=lambda *one: seen.append(one), **QUICK
    )
    done = [one for one, _, _ in seen]
    (total,) = {total for _, total, _ in seen}
    assert all(a < b for a, b in itertools.pairwise(done)) and done[0] > 0
    assert done[-1] == total and all(what for _, _, what in seen)


@MEMORY
@pytest.mark.parametrize("batch_size", [1, 4])
def test_unreadable_images_are_left_out(
    memory: int, batch_size: int, small_net: Any, make_probe: Any, equal: Any
) -> None:
    model, probe = small_net(), make_probe(8)
    options = {**QUICK, "memory": memory, "batch_size": 1}
    expected = explain.dissect(model, probe.take([0, 2, 3, 5, 6, 7]), "last", **options)["last"]
    probe.broken_images = {1, 4}
    found = explain.dissect(model, probe, "last", **{**options, "batch_size": batch_size})
    assert [name for name, _ in found.skipped] == ["image 1", "image 4"]
    assert all("cannot be read" in reason for _, reason in found.skipped)
    assert any("2 of 8 images" in note for note in found.notes)
    for name in ("both", "area", "labels", "annotated"):
        assert torch.equal(getattr(found["last"], name), getattr(expected, name)), name
    torch.testing.assert_close(found["last"].thresholds, expected.thresholds)
    assert not {1, 4} & set(found["last"].top_images.flatten().tolist())


@MEMORY
def test_images_with_unreadable_annotations_still_count_for_thresholds(
    memory: int, small_net: Any, make_probe: Any
) -> None:
    """They are found out when the image has been seen already: it says where a unit is active at all, but not on what."""
    model, probe = small_net(), make_probe(8)
    options = {**QUICK, "memory": memory, "batch_size": 1}
    whole = explain.dissect(model, probe, "last", **options)["last"]
    probe.broken_annotations = {1, 4}
    found = explain.dissect(model, probe, "last", **options)
    assert [name for name, _ in found.skipped] == ["image 1", "image 4"]
    assert torch.equal(found["last"].thresholds, whole.thresholds)
    blank = make_probe(8)
    for n in (1, 4):
        blank.annotations[n] = explain.Annotation(torch.zeros(0, 16, 24, dtype=torch.int64))
    expected = explain.dissect(model, blank, "last", **options)["last"]
    for name in ("both", "area", "labels", "annotated"):
        assert torch.equal(getattr(found["last"], name), getattr(expected, name)), name
