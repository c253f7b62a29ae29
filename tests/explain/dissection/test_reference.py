"""Thresholds, pixel counts and IoU against the slow reference, which was written from the definitions alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import explain

QUANTILES = (0.0, 0.005, 0.05, 0.29)
COMMON: dict[str, Any] = {"permutations": 1, "replicates": 10}
Check = Callable[..., explain.LayerDissection]


def planes(output: Tensor) -> Tensor:
    return output


@pytest.fixture
def check(reference: Any) -> Check:
    """Function that dissects a layer and compares everything with the reference."""

    def compare(
        model: nn.Module,
        probe: Any,
        layer: str,
        centres: Any,
        quantile: float = 0.05,
        maps: Callable[[Tensor], Tensor] = planes,
        **options: Any,
    ) -> explain.LayerDissection:
        kept = reference.activations(model, layer, probe.images, maps)
        sizes = [probe.size(n) for n in range(len(probe))]
        layers, whole = [one.maps.numpy() for one in probe.annotations], [one.whole for one in probe.annotations]
        expected = reference.dissect(kept, sizes, centres, layers, whole, probe.categories, quantile)
        options = {"batch_size": 1, **COMMON, **options}  # of one, so that rounding is the same on both sides
        found = explain.dissect(model, probe, layer, quantile=quantile, **options)[layer]
        assert found.thresholds.tolist() == expected.thresholds.tolist()
        for name in ("both", "area", "labels", "annotated"):
            assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
        torch.testing.assert_close(found.iou, torch.from_numpy(expected.iou), rtol=0, atol=1e-6)
        peaks = [torch.from_numpy(one).flatten(1).amax(1) for one in kept]
        assert torch.equal(found.peak.double(), torch.stack(peaks).amax(0))
        assert found.both.sum() > 0 or quantile < 0.05  # few positions of small maps are above the others
        return found

    return compare


STACKS: dict[str, tuple[tuple[int, int, int, int], ...]] = {  # (kernel, stride, padding, dilation)
    "as fine as the image": ((3, 1, 1, 1), (1, 1, 0, 1)),
    "stride": ((3, 2, 1, 1), (3, 2, 1, 1)),
    "no padding": ((5, 2, 0, 1), (3, 1, 0, 1)),
    "even kernels": ((4, 2, 1, 1), (2, 2, 0, 1)),
    "more padding than kernel": ((2, 2, 1, 1), (2, 1, 1, 1)),
    "dilation": ((3, 1, 2, 2), (3, 3, 1, 1)),
}


def stack(windows: tuple[tuple[int, int, int, int], ...], channels: int = 3, units: int = 5) -> nn.Sequential:
    net = nn.Sequential()
    for kernel, stride, padding, dilation in windows:
        net.append(nn.Conv2d(channels, units, kernel, stride, padding, dilation))
        net.append(nn.ReLU(inplace=True))
        channels = units
    return net


@pytest.mark.parametrize("grid", [(16, 24), (7, 5), (33, 40)], ids=["same", "coarse", "fine"])
@pytest.mark.parametrize("windows", STACKS.values(), ids=list(STACKS))
def test_windows(windows: Any, grid: tuple[int, int], check: Check, make_probe: Any, reference: Any) -> None:
    """Maps coarser than the label maps, equal and finer; non-square images."""
    model, probe = stack(windows), make_probe(5, (16, 24), grid)
    for quantile in QUANTILES:
        check(model, probe, "2", reference.windows(*windows), quantile)


@pytest.mark.parametrize("count, channels, layers", [(1, 3, 2), (1, 1, 1), (4, 1, 3), (7, 3, [0, 2]), (3, 3, 0)])
def test_counts(count: int, channels: int, layers: Any, check: Check, make_probe: Any, reference: Any) -> None:
    """One image, one channel, annotations without layers."""
    windows = STACKS["stride"]
    probe = make_probe(count, (16, 24), (9, 12), layers=layers, channels=channels, seed=5)
    check(stack(windows, channels), probe, "2", reference.windows(*windows), 0.1)


def test_images_and_label_maps_of_many_sizes(check: Check, make_probe: Any, reference: Any) -> None:
    windows = STACKS["even kernels"]
    probe = make_probe(9, [(16, 24), (20, 12), (16, 24)], [(8, 12), (20, 12), (16, 24), (5, 31)], layers=[2, 1, 0, 3])
    found = check(stack(windows), probe, "2", reference.windows(*windows))
    assert (found.size, found.labels.sum() > 0) == ((4, 6), True)


@pytest.mark.parametrize("quantile", QUANTILES)
def test_ties(quantile: float, check: Check, make_probe: Any, reference: Any) -> None:
    """Everything is a multiple of an eighth, and so is every interpolation: equal to the threshold is not above it."""
    model = stack(((2, 2, 0, 1), (3, 2, 1, 1))).requires_grad_(False)
    for one in model.parameters():
        one.copy_((one * 8).round() / 8)
    probe = make_probe(6, (16, 24), (16, 24), steps=2)
    found = check(model, probe, "2", reference.windows((2, 2, 0, 1), (3, 2, 1, 1)), quantile)
    again = explain.dissect(model, probe, "2", quantile=quantile, batch_size=4, **COMMON)["2"]
    assert torch.equal(again.both, found.both)


class Units(nn.Module):
    """Units that are dead, rarely positive, saturated or zero most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.top = nn.ReLU6()
        with torch.no_grad():
            self.conv.weight[0], self.conv.bias[0] = 0, 2  # constant
            self.conv.weight[1], self.conv.bias[1] = 0, -1  # never positive
            self.conv.bias[2] = -0.488  # hardly ever
            self.conv.weight[3] *= 400
            self.conv.bias[3] *= 400  # at zero or at six
            self.conv.weight[4] *= 3

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.relu(self.conv(x))).mean((2, 3))


@pytest.mark.parametrize("quantile", QUANTILES)
@pytest.mark.parametrize("layer", ["conv", "relu", "top"])
def test_dead_rare_and_saturated_units(
    quantile: float, layer: str, check: Check, make_probe: Any, reference: Any
) -> None:
    torch.manual_seed(2)
    found = check(Units(), make_probe(5, (16, 24), (16, 24)), layer, reference.windows((3, 1, 1, 1)), quantile)
    assert found.dead[:2].all() and (found.iou[:2] == 0).all()
    if quantile == 0:
        assert found.dead.all() and torch.equal(found.thresholds, found.peak)
    if layer != "conv" and quantile == 0.05:
        assert found.thresholds[2] == 0 and not found.dead[2]  # fewer positive than the quantile: all of them count
    if layer == "top":
        assert found.thresholds[3] == 6 and found.dead[3]  # a plateau at the maximum, nothing is above it


@pytest.mark.parametrize("image, grid", [((47, 33), (23, 38)), ((49, 31), (11, 13))])
def test_pixels_that_lie_on_centres(image: Any, grid: Any, check: Check, make_probe: Any, reference: Any) -> None:
    """They have the value of that position alone: of a unit that is seldom positive and cut at 0, a next one does not count."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    model[0].bias.data -= 0.3
    for seed in range(3):
        found = check(model, make_probe(4, image, grid, seed=seed), "1", reference.windows((3, 1, 0, 1)), 0.6)
        assert (found.thresholds == 0).any()


def test_labels_that_say_the_same_twice(check: Check, make_probe: Any, probe_of: Any, reference: Any) -> None:
    """Pixels are counted, not entries: in two layers, in a layer and for the whole image, or twice for the whole image."""
    probe = make_probe(4)
    for n, one in enumerate(probe.annotations):
        maps = torch.cat([one.maps, one.maps[:1], one.maps[:1].flip(1)])
        probe.annotations[n] = explain.Annotation(maps, ((), (1,), (3, 3), (3, 2, 6))[n])
    windows = STACKS["stride"]
    found = check(stack(windows), probe, "2", reference.windows(*windows))
    assert (found.labels <= found.annotated[found.vocabulary.kind]).all()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])
def test_label_maps_of_any_integers(kind: torch.dtype, check: Check, make_probe: Any, reference: Any) -> None:
    probe = make_probe(3)
    probe.annotations = [explain.Annotation(one.maps.to(kind), one.whole) for one in probe.annotations]
    check(stack(STACKS["stride"]), probe, "2", reference.windows(*STACKS["stride"]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_other_precision(dtype: torch.dtype, check: Check, make_probe: Any, reference: Any) -> None:
    """Half precision is computed in float32; what a float64 network returns is compared in float32."""
    model = stack(STACKS["stride"]).to(dtype)
    maps: Callable[[Tensor], Tensor] = (lambda output: output.float()) if dtype == torch.float64 else planes
    check(model, make_probe(4), "2", reference.windows(*STACKS["stride"]), maps=maps)


class Reused(nn.Module):
    """In-place ReLUs of every style, and a convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.relu = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        x = self.relu(self.twice(x) + x)
        return torch.relu_(self.twice(x)).add_(1).mean((2, 3))


@pytest.mark.parametrize("layer, extra", [("stem", ()), ("twice", ((3, 1, 1, 1),) * 2), ("relu", ((3, 1, 1, 1),))])
def test_what_a_layer_returned_is_looked_at(
    layer: str, extra: Any, check: Check, make_probe: Any, reference: Any
) -> None:
    """Before the in-place operation that follows writes over it; of a layer that runs twice, the last time."""
    found = check(Reused(), make_probe(4), layer, reference.windows((3, 2, 1, 1), *extra))
    if layer != "relu":
        assert (found.floor < 0).all()


def test_several_layers_in_one_call(make_probe: Any, reference: Any, check: Check, equal: Any) -> None:
    model, probe = Reused(), make_probe(4)
    together = explain.dissect(model, probe, ("twice", "stem"), quantile=0.05, batch_size=1, **COMMON)
    assert list(together) == ["twice", "stem"]
    for layer in together:
        alone = explain.dissect(model, probe, layer, quantile=0.05, batch_size=1, **COMMON)
        assert torch.equal(alone[layer].both, together[layer].both)
        assert torch.equal(alone[layer].thresholds, together[layer].thresholds)


def test_vision_transformer(check: Check, make_probe: Any, reference: Any) -> None:
    """The class token stands in front of the grid of patches and is dropped, from thresholds too."""
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
    probe = make_probe(3, (32, 32), (16, 20))
    tokens: Callable[[Tensor], Tensor] = lambda output: output[:, 1:].mT.unflatten(2, (4, 4))  # noqa: E731
    for layer in ("encoder.layers.encoder_layer_0", "encoder.ln"):
        found = check(model, probe, layer, reference.cells, maps=tokens)
        assert found.size == (4, 4) and len(found) == 16 and not found.field.measured
    check(model, probe, "conv_proj", reference.windows((8, 8, 0, 1)))


def test_swin_keeps_its_channels_last(check: Check, make_probe: Any, reference: Any) -> None:
    model = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=3)
    probe = make_probe(3, (32, 48), (16, 24))
    for layer, size in (("features.1", (8, 12)), ("features.3", (4, 6)), ("norm", (4, 6))):
        found = check(model, probe, layer, reference.cells, maps=lambda output: output.permute(0, 3, 1, 2))
        assert found.size == size


def test_a_layer_without_space_speaks_for_the_whole_image(check: Check, make_probe: Any, reference: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    probe = make_probe(8)
    found = check(model, probe, "4", reference.cells, 0.3, maps=lambda output: output[:, :, None, None])
    pixels = 16 * 24
    assert (found.size, {int(one) % pixels for one in found.area.flatten()}) == ((1, 1), {0})
    check(model, probe, "2", reference.cells, 0.3)


@pytest.mark.parametrize("layers", ["last", ("last", "first")])
def test_memory_batches_and_order_change_nothing(layers: Any, make_probe: Any, small_net: Any, equal: Any) -> None:
    probe = make_probe(9, [(16, 24), (16, 24), (12, 12)], [(8, 12), (16, 24)])
    model = small_net().requires_grad_(False)
    for one in model.parameters():
        one.copy_((one * 16).round() / 16)  # sums are exact, whatever their order
    probe.images = [(image * 16).round() / 16 for image in probe.images]
    model.norm.eps = 0.0
    expected = explain.dissect(model, probe, layers, quantile=0.05)
    for batch_size in (1, 2, 4, 100):
        for memory in (1 << 30, 20_000, 0):
            found = explain.dissect(model, probe, layers, quantile=0.05, batch_size=batch_size, memory=memory)
            assert equal(found, expected), (batch_size, memory)
    order = [4, 2, 8, 0, 1, 7, 3, 6, 5]
    found = explain.dissect(model, probe.take(order), layers, quantile=0.05)
    for layer in found:
        one, other = found[layer], expected[layer]
        for name in ("thresholds", "both", "area", "labels", "annotated", "peak", "floor", "top_values"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_basis_replaces_the_units(make_probe: Any, small_net: Any) -> None:
    """Looking at the rows of a matrix equals looking at the layer of a network that multiplies by it."""
    model, probe, rows = small_net(), make_probe(5), torch.randn(4, 6)
    mixed = nn.Sequential(*list(model.children())[:4], nn.Conv2d(6, 4, 1, bias=False))
    mixed[4].weight.data = rows[:, :, None, None]
    found = explain.dissect(nn.Sequential(*mixed[:4]), probe, "3", basis={"3": rows}, quantile=0.05)["3"]
    expected = explain.dissect(mixed, probe, "4", quantile=0.05)["4"]
    torch.testing.assert_close(found.thresholds, expected.thresholds)
    assert torch.equal(found.both, expected.both) and torch.equal(found.area, expected.area)
