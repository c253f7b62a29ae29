"""What dissecting costs, beside NetDissect-Lite's way and beside the bare forward pass, as ratios in the same process.

    python -m benchmarks.dissect [--repetitions 5] [--images 40] [--threads 1] [--only tally thresholds ...]

Every figure is the median over alternating runs. NetDissect-Lite's algorithm is restated in ``netdissect_lite``.

* tally: counting 512 units of 7 × 7 and 256 of 14 × 14 (ResNet-18, random weights, 224 px) against 32 concepts in 4 label maps
  of 112 × 112, as Broden's for 224 px, and of 224 × 224; IoUs are compared with the loops fed our interpolation;
* thresholds: 300 × 512 × 7 × 7 and larger, against its memmap and quantile sketch;
* run: ``explain.dissect`` of one layer, everything included, / a forward pass over the same images (five times as many);
* shapes: 300 images, four layers of ``shapes-vgg``, 41 concepts, in seconds;
* ablation: removing each unit of a layer / a full forward pass per unit;
* memory: what a streaming run adds to its process at its peak, for growing numbers of images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import explain
import workbench as wb
from benchmarks import netdissect_lite as lite
from benchmarks.timing import Work, medians
from explain.dissection.field import Axis, Field
from explain.dissection.grid import Grid
from explain.dissection.probe import Annotation
from explain.dissection.quantile import TopValues, rank_from_top
from explain.dissection.tally import Tally, Vocabulary, iou, read_labels
from workbench.probes import TensorProbe

QUANTILE = 0.005
CONCEPTS, LAYERS = 32, 4
CPU = torch.device("cpu")


def blobs(count: int, channels: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth random images ``(N, C, size, size)`` in [0, 1]."""
    coarse = torch.rand(count, channels, 8, 8, generator=generator)
    return F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)


def annotations(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Label maps ``(N, 4, size, size)``: in each layer eight concepts, in patches, some of it unlabelled."""
    each = CONCEPTS // LAYERS
    numbers = torch.randint(0, each + 1, (count, LAYERS, 7, 7), generator=generator)
    labels = torch.where(numbers > 0, numbers + each * torch.arange(LAYERS)[:, None, None], 0)
    return F.interpolate(labels.float(), size=size, mode="nearest").long()


def resnet() -> nn.Module:
    """ResNet-18 with random weights."""
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval().requires_grad_(False)


def tally(images: int, repetitions: int) -> None:
    """Count as the loops do, and as we do."""
    generator = torch.Generator().manual_seed(0)
    model, x = resnet(), blobs(images, 3, 224, generator)
    names = [str(i) for i in range(CONCEPTS)]
    vocabulary = Vocabulary.of(names, [str(i * LAYERS // CONCEPTS) for i in range(CONCEPTS)])
    caught: dict[str, Tensor] = {}
    handles = []
    for layer in ("layer3", "layer4"):
        hook = lambda m, a, out, layer=layer: caught.__setitem__(layer, out)  # noqa: E731
        handles.append(model.get_submodule(layer).register_forward_hook(hook))
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    print(
        "| tally | label maps | loops / ours | ours / forward | IoU apart by | same best concept |\n|---|---|---|---|---|---|"
    )
    for layer in ("layer4", "layer3"):
        maps = caught[layer].transpose(0, 1).contiguous()
        units, _, height, width = maps.shape
        thresholds = maps.flatten(1).quantile(1 - QUANTILE, dim=1, interpolation="lower")
        field = Field(Axis((224 / height - 1) / 2, 224 / height), Axis((224 / width - 1) / 2, 224 / width), False)
        for size in (112, 224):
            labels = annotations(images, size, generator)
            features, label_maps = caught[layer].numpy(), [one.numpy() for one in labels]
            whole: list[tuple[int, ...]] = [()] * images

            def loops(upsample: lite.Upsample = lite.pillow, features: np.ndarray = features, maps: list = label_maps,
                      whole: list = whole, thresholds: Tensor = thresholds) -> lite.Tally:  # fmt: skip
                return lite.tally(features, thresholds.numpy(), maps, whole, vocabulary.kind.numpy(), upsample)

            def ours(field: Field = field, maps: Tensor = maps, thresholds: Tensor = thresholds, labels: Tensor = labels,
                     size: int = size, side: tuple[int, int] = (height, width)) -> Tally:  # fmt: skip
                counted = Tally(1, len(maps), vocabulary, CPU)
                grid = Grid(field, side, (224, 224), (size, size), CPU)
                for start in range(0, images, 32):
                    part = slice(start, start + 32)
                    own = read_labels([Annotation(one) for one in labels[part]], (size, size), CONCEPTS, CPU)
                    group = torch.zeros(len(own.maps), dtype=torch.int64)
                    counted.add(grid.active(maps[:, part], thresholds), own, group)
                return counted

            def forward() -> None:
                with torch.no_grad():
                    for part in x.split(32):
                        model(part)

            seconds = medians({"loops": loops, "ours": ours, "forward": forward}, repetitions)
            found = ours()
            mine = iou(found.both[0], found.area[0], found.labels[0], vocabulary.kind).numpy()
            theirs = lite.iou(loops(_interpolated), vocabulary.kind.numpy())
            same = (mine.argmax(1) == theirs.argmax(1)).mean()
            print(
                f"| {units} units {height}×{width} | {size} px | {seconds['loops'] / seconds['ours']:.1f} | "
                f"{seconds['ours'] / seconds['forward']:.3f} | {np.abs(mine - theirs).max():.1e} | {same:.0%} |",
                flush=True,
            )


def _interpolated(values: lite.Floats, size: tuple[int, int]) -> lite.Floats:
    """Bilinear in float64, centres between pixels, edges held: our interpolation, one map at a time."""
    large = F.interpolate(torch.from_numpy(np.asarray(values, np.float64))[None, None], size=size, mode="bilinear")
    return large[0, 0].numpy()


def thresholds(repetitions: int) -> None:
    """Fix thresholds from the same activations."""
    print("| thresholds | sketch / ours | its error of T, median and largest | ours exact |\n|---|---|---|---|")
    for count, units, side in ((300, 512, 7), (300, 256, 14), (1000, 512, 7)):
        activations = torch.rand(count, units, side, side, generator=torch.Generator().manual_seed(0)) ** 3
        keep = rank_from_top(QUANTILE, count * side * side) + 1

        def ours(activations: Tensor = activations, units: int = units, keep: int = keep) -> Tensor:
            values = TopValues(units, keep, CPU)
            for part in activations.split(32):
                values.add(part.transpose(0, 1).flatten(1))
            return values.thresholds(QUANTILE)

        with tempfile.TemporaryDirectory() as folder:

            def sketch(activations: Tensor = activations, folder: str = folder) -> np.ndarray:
                kept = lite.store(activations.numpy(), Path(folder, "activations"))
                return lite.thresholds(kept, QUANTILE)

            seconds = medians({"sketch": sketch, "ours": ours}, repetitions)
            theirs = sketch()
        mine = ours()
        whole = activations.transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
        error = np.abs(theirs / mine.numpy() - 1)
        exact = torch.equal(mine, whole[:, keep - 1])
        print(
            f"| {count}×{units}×{side}×{side} | {seconds['sketch'] / seconds['ours']:.1f} | {np.median(error):.2%}, "
            f"{error.max():.2%} | {exact} |",
            flush=True,
        )


def run(images: int, repetitions: int) -> None:
    """Dissect one layer, and run the network alone."""
    print("| whole run, one layer | in memory / forward | streaming / forward |\n|---|---|---|")
    generator = torch.Generator().manual_seed(0)
    labels = annotations(images, 112, generator)
    names = [str(i) for i in range(CONCEPTS)]
    kinds = [str(i * LAYERS // CONCEPTS) for i in range(CONCEPTS)]
    large = TensorProbe(blobs(images, 3, 224, generator), labels, names, kinds)
    shapes = TensorProbe.of(wb.sample_data("shapes", n=300))
    cases: list[tuple[str, nn.Module, TensorProbe, str]] = [
        ("resnet18 layer4, 224 px", resnet(), large, "layer4"),
        ("resnet18 layer3, 224 px", resnet(), large, "layer3"),
        ("shapes-vgg relu6, 64 px", wb.load("sample:shapes-vgg"), shapes, "relu6"),
        ("shapes-resnet layer4, 64 px", wb.load("sample:shapes-resnet"), shapes, "layer4"),
    ]
    for name, model, probe, layer in cases:
        x = torch.stack([probe.image(i) for i in range(len(probe))])
        _ = probe.digest  # of the data, once; not part of any run

        def forward(model: nn.Module = model, x: Tensor = x) -> None:
            with torch.no_grad():
                for part in x.split(32):
                    model(part)

        def dissect(memory: int, model: nn.Module = model, probe: TensorProbe = probe, layer: str = layer) -> object:
            return explain.dissect(model, probe, layer, memory=memory)

        works: dict[str, Work] = {
            "forward": forward, "memory": lambda: dissect(1 << 30), "streaming": lambda: dissect(0),
        }  # fmt: skip
        seconds = medians(works, repetitions)
        print(
            f"| {name} | {seconds['memory'] / seconds['forward']:.2f} | {seconds['streaming'] / seconds['forward']:.2f} |",
            flush=True,
        )


def shapes(repetitions: int) -> None:
    """Dissect four layers of the sample network, everything included."""
    model, probe = wb.load("sample:shapes-vgg"), TensorProbe.of(wb.sample_data("shapes", n=300))
    layers = ("relu1", "relu3", "relu5", "relu6")
    seconds = medians({"all": lambda: explain.dissect(model, probe, layers)}, repetitions)["all"]
    concepts = sum(
        bool((one.maps == i).any()) for i in range(1, 1 + len(probe.concepts)) for one in [_everything(probe)]
    )
    print(f"300 images, {len(layers)} layers of shapes-vgg, {concepts} concepts seen: {seconds:.2f} s", flush=True)


def _everything(probe: TensorProbe) -> Annotation:
    return Annotation(torch.cat([probe.annotation(i).maps for i in range(len(probe))]))


def ablation(repetitions: int) -> None:
    """Remove each unit, and run the whole network once per unit."""
    print("| unit ablation, 100 images | way | full forward per unit / ours |\n|---|---|---|")
    data = wb.sample_data("shapes", n=100)
    assert data.labels is not None
    labels = data.labels
    cases = (("shapes-vgg", "relu6"), ("shapes-vgg", "relu5"), ("shapes-resnet", "layer4"), ("shapes-resnet", "layer3"),
             ("shapes-resnet", "layer4.0.conv1"), ("shapes-mobilenet", "features.12"))  # fmt: skip
    for name, layer in cases:
        model = wb.load(f"sample:{name}")
        found = explain.ablate(model, data.images, labels, layer)

        def forward(model: nn.Module = model) -> None:
            with torch.no_grad():
                for part in data.images.split(64):
                    model(part)

        def ours(model: nn.Module = model, layer: str = layer) -> object:
            return explain.ablate(model, data.images, labels, layer)

        seconds = medians({"forward": forward, "ours": ours}, repetitions)
        units = len(found.importance)
        print(
            f"| {name} {layer}, {units} units | {found.way} | {units * seconds['forward'] / seconds['ours']:.1f} |",
            flush=True,
        )


def memory() -> None:
    """Dissect growing numbers of images in processes of their own, nothing kept."""
    print("| streaming | images | memory on top of the process |\n|---|---|---|")
    for images in (250, 1000, 4000):
        arguments = [sys.executable, "-m", "benchmarks.dissect", "--only", "peak", "--images", str(images)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        print(f"| shapes-vgg relu1 to relu6 | {images} | {json.loads(done.stdout)['peak'] / 1e6:.0f} MB |", flush=True)


class _Endless:
    """A probe that keeps nothing: a few images over and over, each time a little darker."""

    def __init__(self, images: int) -> None:
        self._kept = TensorProbe.of(wb.sample_data("shapes", n=50))
        self.concepts, self.categories = self._kept.concepts, self._kept.categories
        self.ids = tuple(map(str, range(images)))
        self.digest = f"endless {images}"

    def __len__(self) -> int:
        return len(self.ids)

    def size(self, index: int) -> tuple[int, int]:
        return self._kept.size(index % 50)

    def image(self, index: int) -> Tensor:
        return self._kept.image(index % 50) * (1 - 0.5 * index / len(self))

    def annotation(self, index: int) -> Annotation:
        return self._kept.annotation(index % 50)


def peak(images: int) -> None:
    """Print by how much one streaming run raises the memory of the process, as JSON."""
    layers, model = ("relu1", "relu3", "relu5", "relu6"), wb.load("sample:shapes-vgg")
    explain.dissect(model, _Endless(50), layers, batch_size=16)  # what torch sets up once
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from here
    before = _status("VmRSS")
    explain.dissect(model, _Endless(images), layers, memory=1 << 24, batch_size=16)
    print(json.dumps({"peak": _status("VmHWM") - before}))


def _status(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return 1024 * int(line.split()[1])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parts = ("tally", "thresholds", "run", "shapes", "ablation", "memory")
    parser.add_argument("--only", nargs="*", default=list(parts), choices=[*parts, "peak"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    works: dict[str, Work] = {
        "tally": lambda: tally(options.images, options.repetitions),
        "thresholds": lambda: thresholds(options.repetitions),
        "run": lambda: run(5 * options.images, options.repetitions),
        "shapes": lambda: shapes(options.repetitions),
        "ablation": lambda: ablation(options.repetitions),
        "memory": memory,
        "peak": lambda: peak(options.images),
    }
    for part in options.only:
        works[part]()
        if part != "peak":
            print()


if __name__ == "__main__":
    main()
