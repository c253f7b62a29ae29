"""Segmentation networks as the source of concepts: what they say, and that nothing stale is ever said."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from explain.dissection.probe import Probe
from explain.errors import ProbeError
from workbench.errors import OptionError
from workbench.probes import SegmenterProbe, torchvision_segmenter
from workbench.samples import sample_data

ROOT = Path(__file__).parents[2]


class Bright(nn.Module):
    """Label 1 where a picture is bright, 2 where it is very bright."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold
        self.calls: Any = []

    def forward(self, images: Tensor) -> Tensor:
        grey = images.mean(1)
        return (grey > self.threshold).long() + (grey > 0.8).long()


class Fake(nn.Module):
    """A network in torchvision's manner: logits that are the pixels of three channels, not normalised any more."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        std, mean = (torch.tensor(v).view(1, -1, 1, 1) for v in ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406)))
        return {"out": images * std + mean, "aux": images}


def test_the_annotation_is_what_the_segmenter_says() -> None:
    images = torch.rand(3, 3, 5, 6)
    probe = SegmenterProbe(images, Bright(), ("bright", "glaring"), "light")
    assert isinstance(probe, Probe)
    for i in range(3):
        assert torch.equal(probe.annotation(i).maps, Bright()(images[i][None]))
    layers = SegmenterProbe(images, lambda x: torch.ones(1, 4, 2, 2, dtype=torch.uint8), ("a",), digest="ones")
    assert layers.annotation(0).maps.shape == (4, 2, 2)
    named = sample_data("shapes", "test", 2)
    assert SegmenterProbe(named, Bright(), ("a", "b")).ids == named.ids


def test_it_is_asked_once_per_image_and_only_when_needed() -> None:
    asked: list[float] = []

    def segment(images: Tensor) -> Tensor:
        asked.append(float(images[0, 0, 0, 0]))
        return torch.zeros(1, 2, 2, dtype=torch.int64)

    images = (torch.arange(40) / 64).view(-1, 1, 1, 1).expand(40, 3, 2, 2)
    probe = SegmenterProbe(images, segment, ("a",), digest="zeros")
    assert probe.digest
    assert asked == []
    for index in (0, 1, 0, 1):
        probe.annotation(index)
    assert asked == [0, 1 / 64]
    for index in range(40):
        probe.annotation(index)
    assert len(probe._kept) < 40
    probe.annotation(0)  # long gone from memory, and asked again
    assert asked.count(0.0) == 2


def test_classes_of_torchvision_without_the_background() -> None:
    images = torch.eye(3).view(3, 3, 1, 1)  # the class is the number of the image
    labels = {
        background: torchvision_segmenter(Fake(), background)(images).flatten().tolist()
        for background in (0, 1, 2, None)
    }
    assert labels == {0: [0, 1, 2], 1: [1, 0, 2], 2: [1, 2, 0], None: [1, 2, 3]}


def test_a_network_of_torchvision_end_to_end() -> None:
    torch.manual_seed(0)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).train()
    state = copy.deepcopy(network.state_dict())
    probe = SegmenterProbe(torch.rand(2, 3, 48, 64), torchvision_segmenter(network), ("a", "b", "c"))
    maps = probe.annotation(1).maps
    assert maps.shape == (1, 48, 64)
    assert torch.equal(
        maps,
        SegmenterProbe(torch.stack([probe.image(1)]), torchvision_segmenter(network.eval()), ("a", "b", "c"))
        .annotation(0)
        .maps,
    )
    assert network.train().training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())
    assert len(probe.digest) == 64


def test_later_changes_to_the_module_do_not_reach_the_probe() -> None:
    segment = Bright(0.5)
    probe = SegmenterProbe(torch.full((2, 3, 2, 2), 0.4), segment, ("a", "b"))
    segment.threshold = 0.1
    assert probe.annotation(0).maps.max() == 0
    assert SegmenterProbe(torch.full((2, 3, 2, 2), 0.4), segment, ("a", "b")).annotation(0).maps.max() == 1


def digest_of(segment: Any, **options: Any) -> str:
    return SegmenterProbe(torch.zeros(1, 3, 2, 2), segment, ("a", "b"), **options).digest


NOTEBOOK = """
import torch
from torch import nn
LEVEL = 0.5
def helper(x):
    return (x.mean(1) > LEVEL).long()
class Segment(nn.Module):
    def __init__(self, f=None):
        super().__init__()
        self.names = ["a", "b"]
        self.f = f
    def forward(self, x):
        return helper(x)
"""


def cell(source: str) -> Any:
    """Run a cell of a notebook and return the class that it defines."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(source, space)
    return space["Segment"]


def test_the_digest_of_a_module_hangs_on_all_that_it_computes_with() -> None:
    base = cell(NOTEBOOK)()
    hooked, patched = cell(NOTEBOOK)(), cell(NOTEBOOK)()
    hooked.register_forward_hook(lambda module, args, output: output + 1)
    patched.forward = lambda x: x.argmax(1)

    def above(threshold: float) -> Any:
        return lambda x: x > threshold

    variants = [
        base,
        cell(NOTEBOOK.replace("LEVEL = 0.5", "LEVEL = 0.6"))(),
        cell(NOTEBOOK.replace("x.mean(1) >", "x.mean(1) <"))(),
        cell(NOTEBOOK.replace("x.mean(1)", "x.amax(1)"))(),
        cell(NOTEBOOK.replace("return helper(x)", "return helper(x) * 0"))(),
        cell(NOTEBOOK.replace('["a", "b"]', '["a", "c"]'))(),
        cell(NOTEBOOK)(lambda x: x),
        cell(NOTEBOOK)(above(0.5)),
        cell(NOTEBOOK)(above(0.6)),
        cell(NOTEBOOK)(torch.zeros(2)),
        cell(NOTEBOOK)(torch.ones(2)),
        cell(NOTEBOOK)(nn.Linear(2, 2)),
        hooked,
        patched,
    ]
    digests = [digest_of(variant) for variant in variants]
    assert len(set(digests)) == len(variants)
    assert digest_of(cell("# moved down\n\n" + NOTEBOOK)()) == digests[0]
    assert digest_of(base, digest="v2") != digests[0]
    weighted = torchvision_segmenter(nn.Conv2d(3, 3, 1))
    before = digest_of(weighted)
    assert digest_of(weighted) == before
    with torch.no_grad():
        weighted.network.weight[0, 0, 0, 0] += 1  # type: ignore[operator, index]
    assert digest_of(weighted) != before
    assert digest_of(torchvision_segmenter(Fake(), 0)) != digest_of(torchvision_segmenter(Fake(), None))


@pytest.mark.slow
def test_another_process_finds_the_same_digest() -> None:
    code = (
        "import torch\nfrom workbench.probes import SegmenterProbe, torchvision_segmenter\n"
        "from torchvision.models.segmentation import lraspp_mobilenet_v3_large as make\ntorch.manual_seed(0)\n"
        "net = torchvision_segmenter(make(weights=None, weights_backbone=None, num_classes=3))\n"
        "print(SegmenterProbe(torch.zeros(1, 3, 2, 2), net, ('a', 'b')).digest)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    torch.manual_seed(0)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    assert digest_of(torchvision_segmenter(network)) == done.stdout.strip()


def test_a_function_needs_a_digest() -> None:
    def segment(images: Tensor) -> Tensor:
        return images[:, 0].long()

    with pytest.raises(OptionError, match=r"nobody can tell when this segmenter changes.*digest="):
        digest_of(segment)
    assert digest_of(segment, digest="first") != digest_of(segment, digest="second")
    module = Bright()
    module.calls = {"lock": threading.Lock}
    digest_of(module)
    module.forward = Unknown()  # type: ignore[method-assign, assignment]
    with pytest.raises(OptionError, match=r"parts of this segmenter change: module\.\.forward"):
        digest_of(module)
    digest_of(module, digest="mine")
    module.calls = threading.Lock()
    with pytest.raises(OptionError, match=r"cannot be copied: TypeError.*digest="):
        digest_of(module)


class Unknown:
    """Something that says nothing about itself."""

    def __call__(self, images: Tensor) -> Tensor:
        return images[:, 0].long()

    def __deepcopy__(self, memo: dict) -> Unknown:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("no")


@pytest.mark.parametrize(
    ("segment", "told"),
    [
        (lambda x: x, r"returns no label numbers for image-0: \(1, 3, 2, 2\), torch.float32"),
        (lambda x: {"out": x}, "returns no tensor for image-0: dict"),
        (lambda x: x.long()[:, :, 0, 0], "returns no label numbers"),
        (lambda x: x.long()[:, 0] + 3, "label numbers without a name for image-0: 3 to 3, for 2 concepts"),
        (lambda x: x.long()[:, 0] - 1, "label numbers without a name"),
        (lambda x: 1 / 0, "the segmenter fails on image-0: ZeroDivisionError"),
    ],
)
def test_segmenters_that_do_not_segment(segment: Any, told: str) -> None:
    probe = SegmenterProbe(torch.zeros(1, 3, 2, 2), segment, ("a", "b"), digest="x")
    with pytest.raises(ProbeError, match=told) as caught:
        probe.annotation(0)
    assert caught.value.fix
