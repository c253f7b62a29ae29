"""Where units are active: against thresholds on maps that were enlarged the slow way, on the probe and on other images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import explain

WINDOWS = {"first": ((3, 2, 1, 1),), "last": ((3, 2, 1, 1), (3, 1, 1, 1))}  # kernel, stride, padding, dilation
QUICK: dict[str, Any] = {"quantile": 0.05, "permutations": 1, "replicates": 5, "batch_size": 1}
Setting = tuple[nn.Module, Any, explain.Dissection]


@pytest.fixture
def setting(small_net: Any, make_probe: Any) -> Setting:
    """A network, a probe and the dissection of two layers."""
    model, probe = small_net().eval(), make_probe(8)
    return model, probe, explain.dissect(model, probe, ("first", "last"), **QUICK)


@pytest.fixture
def slow(reference: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    """Function that returns masks (U, N, H, W) and peaks (U, N): every map enlarged to the image, then compared."""

    def masks(model: nn.Module, layer: str, images: list[Tensor], thresholds: Tensor) -> tuple[Tensor, Tensor]:
        found, peaks = [], []
        for image, maps in zip(images, reference.activations(model, layer, images, lambda y: y), strict=True):
            size = tuple(image.shape[1:])
            centres = reference.windows(*WINDOWS[layer])(size, maps.shape[1:])
            found.append(reference.resize(maps, size, size, centres) > thresholds.double().numpy()[:, None, None])
            peaks.append(maps.max((1, 2)))
        return torch.from_numpy(np.stack(found, 1)), torch.from_numpy(np.stack(peaks, 1)).float()

    return masks


@pytest.mark.parametrize("layer", ["first", "last"])
@pytest.mark.parametrize("size", [(16, 24), (24, 16), (11, 14)])
def test_masks_are_thresholded_maps(layer: str, size: tuple[int, int], setting: Setting, slow: Any) -> None:
    model, _, dissection = setting
    images, one = torch.rand(3, 3, *size), dissection[layer]
    masks, peaks = slow(model, layer, list(images), one.thresholds)
    found = explain.fired(model, images, dissection, layer, units=range(len(one)), batch_size=1)
    assert masks.any() and not masks.all()
    assert torch.equal(found.masks, masks)
    assert torch.equal(found.peaks, peaks)
    assert torch.equal(found.area, masks.double().mean((2, 3)))
    assert found.units.tolist() == list(range(len(one)))
    for batch_size in (2, 100):
        again = explain.fired(model, images, dissection, layer, units=range(len(one)), batch_size=batch_size)
        assert (again.masks != masks).float().mean() < 1e-3
        torch.testing.assert_close(again.peaks, peaks)


def test_on_the_probe_the_active_pixels_are_those_that_were_counted(setting: Setting) -> None:
    model, probe, dissection = setting
    found = explain.fired(model, torch.stack(probe.images), dissection, "last", units=range(6), batch_size=1)
    every = torch.zeros(6, 8, dtype=torch.int64)
    for n, annotation in enumerate(probe.annotations):
        for number in range(1, 9):
            pixels = (annotation.maps == number).any(0) | (number in annotation.whole)
            every[:, number - 1] += (found.masks[:, n] & pixels).sum((1, 2))
    assert torch.equal(every, dissection["last"].both)
    assert torch.equal(found.peaks.amax(1), dissection["last"].peak)


def test_the_frame(setting: Setting) -> None:
    model, probe, dissection = setting
    images, one = torch.stack(probe.images[:3]), dissection["last"]
    found = explain.fired(model, images, dissection, units=[4, 1, 5], ids=("a", "b", "c"))
    assert found.layer is one  # the last one
    frame = found.frame()
    assert list(frame) == ["image", "layer", "unit", "category", "concept", "iou", "area", "strength"]
    assert frame["image"].tolist() == sorted(frame["image"])
    for _, part in frame.groupby("image"):
        assert part["area"].tolist() == sorted(part["area"], reverse=True)
    assert len(frame) == int(found.masks.flatten(2).any(2).sum()) and (frame["area"] > 0).all()
    rows = {unit: row for row, unit in enumerate(found.units.tolist())}
    for image, unit, category, concept, iou, area, strength in frame.drop(columns="layer").itertuples(index=False):
        row, column = rows[unit], "abc".index(image)
        assert area == float(found.masks[row, column].double().mean())
        number = int(one.iou[unit].argmax())
        assert (category, concept) == (probe.categories[number], probe.concepts[number])
        assert iou == float(one.iou[unit, number])
        peak, threshold = float(one.peak[unit]), float(one.thresholds[unit])
        assert strength == pytest.approx((float(found.peaks[row, column]) - threshold) / (peak - threshold), rel=1e-4)
    assert f"{len(frame)} of 9 pairs" in repr(found)


def test_detectors_are_what_is_looked_at(small_net: Any, make_probe: Any) -> None:
    model, probe = small_net().eval(), make_probe(6)
    images = torch.rand(2, 3, 16, 24)
    for threshold in (0.0, 0.05, 1.0):
        dissection = explain.dissect(model, probe, "last", iou_threshold=threshold, **QUICK)
        found = explain.fired(model, images, dissection)
        assert found.units.tolist() == dissection["last"].detectors.nonzero().flatten().tolist()
        assert found.masks.shape == (len(found.units), 2, 16, 24) and found.peaks.shape == (len(found.units), 2)
        assert found.ids == ("0", "1")
    assert len(found.units) == 0 and len(found.frame()) == 0


def test_top_images_are_where_the_unit_fired(setting: Setting, reference: Any) -> None:
    model, probe, dissection = setting
    one = dissection["last"]
    maps = reference.activations(model, "last", probe.images, lambda y: y)
    found = explain.top_images(model, probe, dissection, "last", [5, 0, 3], count=4)
    assert [top.unit for top in found] == [5, 0, 3]
    for top in found:
        order = sorted(range(8), key=lambda n: (-maps[n][top.unit].max(), n))[:4]
        assert top.indices == tuple(order) and top.ids == tuple(f"image {n}" for n in order)
        assert top.peaks == tuple(float(maps[n][top.unit].max()) for n in order)
        for index, image, mask in zip(top.indices, top.images, top.masks, strict=True):
            assert torch.equal(image, probe.images[index])
            alone = explain.fired(model, image[None], dissection, "last", units=[top.unit])
            assert torch.equal(mask, alone.masks[0, 0])
    assert (found[1].peaks[0], found[1].indices[0]) == (float(one.peak[0]), int(one.top_images[0, 0]))
    assert len(explain.top_images(model, probe, dissection, "last", [1], count=99)[0].indices) == 8
    assert explain.top_images(model, probe, dissection, "last", []) == []


def test_top_images_of_two_sizes(small_net: Any, make_probe: Any, slow: Any) -> None:
    model, probe = small_net().eval(), make_probe(7, size=[(16, 24), (20, 12)], grid=[(8, 8), (5, 6)])
    dissection = explain.dissect(model, probe, "last", **QUICK)
    thresholds = dissection["last"].thresholds
    for top in explain.top_images(model, probe, dissection, "last", [0, 2], count=7):
        assert sorted(top.indices) == list(range(7))
        for index, mask, peak in zip(top.indices, top.masks, top.peaks, strict=True):
            masks, peaks = slow(model, "last", [probe.images[index]], thresholds)
            assert mask.shape == probe.images[index].shape[1:]
            assert (mask != masks[top.unit, 0]).float().mean() < 1e-2  # at the edge the batch may decide
            assert peak == pytest.approx(float(peaks[top.unit, 0]), rel=1e-5)


def test_what_does_not_belong_together_is_refused(setting: Setting, make_probe: Any, small_net: Any) -> None:
    model, probe, dissection = setting
    images = torch.rand(2, 3, 16, 24)
    with pytest.raises(explain.LayerError):
        explain.fired(model, images, dissection, "head")
    for units in ([6], [-1], [0, 99]):
        with pytest.raises(explain.InputError, match="unit"):
            explain.fired(model, images, dissection, "last", units=units)
        with pytest.raises(explain.InputError, match="unit"):
            explain.top_images(model, probe, dissection, "last", units)
    for wrong in (images[0], images * 2, images[:0]):
        with pytest.raises(explain.InputError):
            explain.fired(model, wrong, dissection)
    with pytest.raises(explain.InputError, match="ids"):
        explain.fired(model, images, dissection, ids=["only one"])
    with pytest.raises(explain.InputError, match="probe"):
        explain.top_images(model, make_probe(8, seed=1), dissection, "last", [0])
    with pytest.raises(explain.InputError, match="belong"):
        explain.fired(small_net(units=7), images, dissection, "last")


def test_a_rotated_dissection_is_refused(setting: Setting) -> None:
    model, probe, _ = setting
    rotated = explain.dissect(model, probe, ("first", "last"), basis={"last": explain.random_rotation(6)}, **QUICK)
    for run in (explain.fired, lambda *given: explain.top_images(model, probe, rotated, "last", [0])):
        with pytest.raises(explain.InputError, match="basis"):
            run(model, torch.rand(2, 3, 16, 24), rotated, "last")
    assert len(explain.fired(model, torch.rand(2, 3, 16, 24), rotated, "first").ids) == 2


def test_nothing_is_left_behind(setting: Setting, look: Any) -> None:
    model, probe, dissection = setting
    images = torch.rand(2, 3, 16, 24)
    before = look(model.train())
    explain.fired(model, images, dissection)
    explain.top_images(model, probe, dissection, "last", [0])
    assert look(model) == before


@pytest.mark.parametrize(
    "context",
    [torch.enable_grad, lambda: torch.autocast("cpu", torch.bfloat16),
     torch.no_grad, torch.inference_mode],
)  # fmt: skip
def test_the_state_of_the_caller_does_not_matter(context: Callable[[], Any], setting: Setting) -> None:
    model, probe, dissection = setting
    images = torch.rand(2, 3, 16, 24)
    expected = explain.fired(model, images, dissection, "last", units=[0, 1]).masks
    best = explain.top_images(model, probe, dissection, "last", [0])[0]
    with context():
        assert torch.equal(explain.fired(model, images, dissection, "last", units=[0, 1]).masks, expected)
        again = explain.top_images(model, probe, dissection, "last", [0])[0]
    assert all(torch.equal(one, other) for one, other in zip(best.masks, again.masks, strict=True))


def test_a_rotated_dissection_is_refused_behind_a_wrapper(small_net: Any, make_probe: Any) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_net()

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)

    basis = {"network.last": explain.random_rotation(6)}
    model = Wrapper()
    rotated = explain.dissect(model, make_probe(), "network.last", basis=basis, **QUICK)
    with pytest.raises(explain.InputError):
        explain.fired(model, torch.rand(2, 3, 16, 24), rotated)


def test_another_network_of_the_same_shape_is_refused(setting: Setting, small_net: Any) -> None:
    with pytest.raises(explain.InputError):
        explain.fired(small_net(), torch.rand(2, 3, 16, 24), setting[2])


def test_a_unit_that_is_asked_for_twice(setting: Setting) -> None:
    model, probe, dissection = setting
    assert [top.unit for top in explain.top_images(model, probe, dissection, "last", [3, 3])] == [3, 3]


def test_the_strength_of_a_unit_that_was_dead_on_the_probe(small_net: Any, make_probe: Any) -> None:
    model, probe = small_net().eval(), make_probe()
    probe.images = [torch.zeros_like(image) for image in probe.images]
    dissection = explain.dissect(model, probe, "norm", quantile=0.05, permutations=1, replicates=5)
    assert dissection["norm"].dead.all()
    frame = explain.fired(model, torch.rand(2, 3, 16, 24), dissection, units=range(4)).frame()
    assert len(frame) and not (frame["strength"] > 1e6).any()
