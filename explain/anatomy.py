"""What a network is made of, seen while it runs: which modules ran, what they gave, and which one a CAM looks at.

The automatic target layer is **the last module whose output has space**: four dimensions, more than 1×1 positions. Of
several modules that return the same tensor (the last ReLU, its block, its stage) the outermost is taken, and pooled
copies are passed over in favour of what was pooled, as the CAM papers do. If the network applies a ReLU directly to
that output (functional style, or DenseNet's final ``F.relu``), the map is made after it: see ``explain.passes.Spot``.

Whether a 4-D output is ``NCHW`` or ``NHWC`` (Swin, ConvNeXt's inner layers) is told by who made that shape last: a
convolution puts channels first, linear maps and layer normalisation work on the last dimension.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from explain.errors import LayerError, NotApplicable
from explain.inputs import check_images
from explain.operators import Layout, Operators
from explain.view import View, private_view, undisturbed

_POOLING = (
    nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.FractionalMaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One module of a network, as it was when the network ran.

    Attributes:
        name: dotted name inside the innermost network.
        kind: class name.
        shape: shape of its output without the batch dimension (the last call's, if it ran several times), or ``None``
            when it did not run or does not return one tensor.
        parameters: number of parameters in it, those of its children included.
        layout: what the dimensions mean: ``"NCHW"``, ``"NHWC"``, ``"tokens"`` (N, T, D), or ``None`` for anything else.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    layout: Layout | None

    @property
    def spatial(self) -> bool:
        """Whether a CAM can be made from it: more than 1×1 positions."""
        return _has_space(self.shape, self.layout)


@dataclass(frozen=True)
class Step:
    """One call of one module; ``pooled`` says that its output comes straight from a pooling module."""

    name: str
    module: nn.Module
    shape: tuple[int, ...] | None
    layout: Layout | None
    pooled: bool


class Trace:
    """The calls of one forward pass in the order in which they returned."""

    def __init__(self, operators: Operators) -> None:
        self.steps: list[Step] = []
        self._operators = operators
        self._newest: Tensor | None = None

    def add(self, name: str, module: nn.Module, output: Any) -> None:
        """Note that ``module`` returned ``output``."""
        is_tensor = isinstance(output, Tensor)
        passed_on = is_tensor and output is self._newest
        self.steps.append(
            Step(
                name,
                module,
                tuple(output.shape[1:]) if is_tensor else None,
                self._operators.layout(output.shape) if is_tensor else None,
                self.steps[-1].pooled if passed_on else isinstance(module, _POOLING),
            )
        )
        self._newest = output if is_tensor else None

    @property
    def drew_random(self) -> bool:
        """Whether the network drew random numbers."""
        return self._operators.drew_random

    def close(self) -> None:
        """Let go of the last tensor."""
        self._newest = None


def dry_run(view: View, images: Tensor) -> Trace:
    """Run the first of ``images`` through the view, without gradients, and return what ran."""
    operators = Operators()
    trace = Trace(operators)
    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: trace.add(name, module, output))
        for name, module in view.root.named_modules()
        if name
    ]
    try:
        with undisturbed(view.device), torch.no_grad(), operators:
            view(view.load(images[:1]))
    finally:
        for handle in handles:
            handle.remove()
        trace.close()
    return trace


def layers(model: nn.Module, images: Tensor) -> tuple[Layer, ...]:
    """List the modules of ``model`` in the order in which they return, those that did not run at the end.

    Args:
        model: maps images to logits; nothing on it is changed.
        images: ``(N, C, H, W)`` in [0, 1]; only the first is run, for the shapes.

    Raises:
        ExplainError: the images or the model cannot be used.
    """
    check_images(images, model)
    view = private_view(model)
    steps = {step.name: step for step in dry_run(view, images).steps}
    ran = [_layer(step) for step in steps.values()]
    idle = [_layer(Step(n, m, None, None, False)) for n, m in view.root.named_modules() if n and n not in steps]
    return (*ran, *idle)


def default_layer(model: nn.Module, images: Tensor) -> str:
    """Return the name of the layer that class activation maps look at unless told otherwise.

    Args:
        model: maps images to logits; nothing on it is changed.
        images: ``(N, C, H, W)`` in [0, 1]; only the first is run.

    Raises:
        NotApplicable: no layer has space, or the network reasons in tokens.
    """
    check_images(images, model)
    return choose(dry_run(private_view(model), images)).name


def choose(trace: Trace) -> Step:
    """Pick the target layer from a dry run.

    Raises:
        NotApplicable: nothing has space, or what has is only the patch embedding before the tokens of a transformer.
    """
    spatial = [number for number, step in enumerate(trace.steps) if _has_space(step.shape, step.layout)]
    # What is inside a block that ends at 1×1 is a part of it only (a branch, the squeezed inside of a bottleneck).
    shrunk = tuple(f"{step.name}." for step in trace.steps if _ends_without_space(step))
    spatial = [number for number in spatial if not trace.steps[number].name.startswith(shrunk)] or spatial
    if not spatial:
        raise NotApplicable(
            "no layer of the network has a spatial output (N, C, H, W) with more than 1×1 positions",
            None,
            "Use a method that explains pixels (saliency), or larger images if the network shrinks these to 1×1.",
        )
    number = next((n for n in reversed(spatial) if not trace.steps[n].pooled), spatial[-1])
    step = trace.steps[number]
    tokens = [s.name for s in trace.steps[number + 1 :] if s.layout == "tokens" and s.module._parameters]
    if tokens:
        raise NotApplicable(
            f"the network reasons in tokens, {len(tokens)} layers of them after its last spatial layer {step.name!r}",
            None,
            f"Token layers are not supported yet: explain pixels (saliency), or pass layer={step.name!r} knowingly.",
        )
    return step


def require_space(name: str, shape: Sequence[int] | None, layout: Layout | None) -> None:
    """Refuse a layer without space.

    Args:
        name: the layer.
        shape: shape of its output without the batch dimension, or ``None`` when that is not one tensor.
        layout: what the dimensions mean.

    Raises:
        NotApplicable: there are no more than 1×1 positions.
    """
    if not _has_space(shape, layout):
        found = "no single tensor" if shape is None else f"outputs of shape (N, {', '.join(map(str, shape))})"
        raise NotApplicable(
            f"layer {name!r} gives {found}, not maps with more than 1×1 positions",
            None,
            "Choose a layer with a spatial output; explain.layers(model, images) lists them.",
        )


def find(root: nn.Module, name: str) -> str:
    """Return ``name`` as ``root`` knows it; prefixes of wrappers (``module.``, ``network.``) are dropped if need be.

    Raises:
        LayerError: there is no such module; close names are listed.
    """
    known = [known for known, _ in root.named_modules() if known]
    short = name
    while short not in known and short.startswith(("network.", "module.", "_orig_mod.")):
        short = short.partition(".")[2]
    if short in known:
        return short
    close = (
        difflib.get_close_matches(name, known, n=5, cutoff=0.5) or [child for child in known if "." not in child][:8]
    )
    raise LayerError("The network has no layer of that name", repr(name), f"Close names: {', '.join(close)}.")


def _has_space(shape: Sequence[int] | None, layout: Layout | None) -> bool:
    if shape is None or layout not in ("NCHW", "NHWC"):
        return False
    height, width = shape[1:] if layout == "NCHW" else shape[:2]
    return height * width > 1


def _ends_without_space(step: Step) -> bool:
    if step.shape is None or len(step.shape) != 3 or step.pooled or isinstance(step.module, nn.Sequential):
        return False
    return not _has_space(step.shape, step.layout)


def _layer(step: Step) -> Layer:
    count = sum(parameter.numel() for parameter in step.module.parameters())
    return Layer(step.name, type(step.module).__name__, step.shape, count, step.layout)
