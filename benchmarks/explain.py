"""How long Grad-CAM++ and a bundle of methods take beside captum and pytorch-grad-cam, as ratios on the same machine.

    python -m benchmarks.explain [--repetitions 7]

Every cell is the median over alternating runs of (their seconds / our seconds): above 1 we are faster. One thread, random
weights. pytorch-grad-cam takes part if it is installed. captum has no Grad-CAM++; its Grad-CAM does the same passes.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torchvision
from captum.attr import GuidedBackprop, LayerGradCam, Saliency
from torch import Tensor, nn

import explain

#: Network and its last spatial layer, which is given by name so that both sides know it.
NETWORKS = {"resnet18": "layer4", "resnet50": "layer4", "vgg16": "features.29", "mobilenet_v3_small": "features"}
SHAPES = ((32, 64), (8, 224))
BUNDLE = ("saliency", "guided_backprop", "gradcam", "gradcam++")
Work = Callable[[], object]


def ours(model: nn.Module, images: Tensor, layer: str, methods: tuple[str, ...]) -> Work:
    """One call of this project."""
    return lambda: explain.explain(model, images, 1, methods, layer)


def captum_cam(model: nn.Module, images: Tensor, layer: str) -> Work:
    """Grad-CAM by captum, enlarged to the images."""
    peer, size = LayerGradCam(model, model.get_submodule(layer)), images.shape[2:]
    return lambda: LayerGradCam.interpolate(peer.attribute(images, 1, relu_attributions=True), size, "bilinear")


def grad_cam(model: nn.Module, images: Tensor, layer: str, name: str) -> Work | None:
    """A CAM by pytorch-grad-cam, if it is installed."""
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        return None
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    peer = getattr(pytorch_grad_cam, name)(model, [model.get_submodule(layer)])
    return lambda: peer(images, [ClassifierOutputTarget(1)] * len(images))


def captum_bundle(model: nn.Module, images: Tensor, layer: str) -> Work:
    """The bundle one method after the other: captum, and pytorch-grad-cam for Grad-CAM++ (captum's Grad-CAM without it)."""
    saliency, guided, cam = Saliency(model), GuidedBackprop(model), captum_cam(model, images, layer)
    plus_plus = grad_cam(model, images, layer, "GradCAMPlusPlus") or cam

    def run() -> None:
        saliency.attribute(images.clone().requires_grad_(), 1)
        guided.attribute(images.clone().requires_grad_(), 1)
        cam()
        plus_plus()

    return run


def ratio(theirs: Work | None, our: Work, repetitions: int) -> str:
    """Return the median of theirs / ours over alternating runs, with the extremes."""
    if theirs is None:
        return "not installed"
    found = []
    for repetition in range(repetitions + 1):
        seconds = []
        for work in (theirs, our):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        if repetition:  # the first pair warms up
            found.append(seconds[0] / seconds[1])
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # captum warns on every call that it sets hooks
    print("| network, images | Grad-CAM++ / captum Grad-CAM | / pytorch-grad-cam | bundle of 4 / one by one |")
    print("|---|---|---|---|")
    for name in options.networks:
        for count, size in SHAPES:
            torch.manual_seed(0)
            layer = NETWORKS[name]
            model, images = torchvision.models.get_model(name, weights=None).eval(), torch.rand(count, 3, size, size)
            plus_plus, bundle = ours(model, images, layer, ("gradcam++",)), ours(model, images, layer, BUNDLE)
            cells = (
                ratio(captum_cam(model, images, layer), plus_plus, options.repetitions),
                ratio(grad_cam(model, images, layer, "GradCAMPlusPlus"), plus_plus, options.repetitions),
                ratio(captum_bundle(model, images, layer), bundle, options.repetitions),
            )
            print(f"| {name} {count}x{size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
