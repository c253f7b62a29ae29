"""One forward pass per batch, and as few backward passes as the methods need, shared by all of them.

Nothing but the pixels or the layer ever requires a gradient. If no method asks for pixels, no graph exists before the
layer: the backward pass stops there, and memory stays near that of a forward pass without gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explain.anatomy import require_space
from explain.errors import ModelError, NotApplicable
from explain.inputs import check_logits, check_target
from explain.operators import Layout, Operators, Rule
from explain.view import View

_OTHER_LAYER = "Choose another layer; explain.layers(model, images) lists them."


@dataclass(frozen=True)
class Spot:
    """Where class activation maps are made.

    Attributes:
        name: the layer.
        after_relu: if the network applies a ReLU directly to the output, look at what comes after it (a layer that was
            chosen automatically). Grad-CAM++ assumes A ≥ 0, and what is cut off there never reaches the score.
    """

    name: str
    after_relu: bool


class _Tap:
    """Catches what one layer returns, and hands the network a copy that it may overwrite in place."""

    def __init__(self, spot: Spot | None, rewrite: bool) -> None:
        self.spot = spot
        self.operators = Operators(rewrite, after_relu=self._relu)
        self.caught: Tensor | None = None
        self.layout: Layout | None = None
        self.calls = 0
        self.rectified = False
        self._handed_on: Tensor | None = None

    def run(self, view: View, images: Tensor) -> object:
        """Run the network with the tap in place."""
        with ExitStack() as stack:
            if self.spot is not None:
                layer = view.root.get_submodule(self.spot.name)
                stack.callback(layer.register_forward_hook(self._hook).remove)
            stack.enter_context(self.operators)
            return view(images)

    def _hook(self, module: nn.Module, args: object, output: object) -> Tensor | None:
        """Catch the output of the layer; of several calls the last one counts."""
        self.calls += 1
        self.rectified = False
        self.caught = None
        if not isinstance(output, Tensor):
            return None
        self.layout = self.operators.layout(output.shape)
        self._handed_on = self._catch(output)
        return self._handed_on

    def _relu(self, x: Tensor, y: Tensor) -> Tensor:
        """Catch instead what a ReLU makes of it."""
        if self.spot is None or not self.spot.after_relu or x is not self._handed_on:
            return y
        self.rectified = True
        return self._catch(y)

    def _catch(self, value: Tensor) -> Tensor:
        # Without a graph behind it (no method wants pixels), the value becomes the leaf where the backward pass ends.
        self.caught = value if value.requires_grad else value.detach().requires_grad_()
        return self.caught.clone()


class Pass:
    """One batch of images through a private view.

    Args:
        view: the network.
        images: ``(N, C, H, W)``, already in the view's device and dtype, and its own to write to.
        target: int64 ``(N,)``, the classes to explain, or ``None`` for the predicted ones.
        needs: union of the needs of the methods, which decides what is computed.
        spot: where class activation maps are made, if any method needs that.

    Attributes:
        view: the network.
        images: the images.
        logits: ``(N, K)``.
        target: int64 ``(N,)``.
        spot: where class activation maps are made.
        operators: what the network called.
    """

    def __init__(
        self, view: View, images: Tensor, target: Tensor | None, needs: Collection[str], spot: Spot | None = None
    ) -> None:
        self.view = view
        self._wants_gradient = "gradient" in needs
        self._many_backwards = "relu" in needs
        self._gradients: dict[Rule, Tensor] = {}
        self._pair: tuple[Tensor, Tensor] | None = None
        self._ran: set[Rule] = set()
        self._tap = _Tap(spot, rewrite="relu" in needs)
        self.spot = spot
        self.operators = self._tap.operators
        self.images = images.requires_grad_("gradient" in needs or "relu" in needs)
        # The network gets a copy: it may start with an in-place operation, which a leaf does not allow.
        logits = check_logits(self._tap.run(view, self.images.clone()), len(images))
        self.logits = logits.detach()
        self.target = check_target(target, self.logits)
        self._score = logits.gather(1, self.target[:, None]).sum()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.images.shape[2], self.images.shape[3]

    def pixel_gradient(self, rule: Rule = "plain") -> Tensor:
        """Return dS/dI ``(N, C, H, W)`` for the score S of each image's target, under a backward rule for ReLU.

        Raises:
            NotApplicable: a rule was asked for and the network called no ReLU.
            ModelError: no gradient reaches the pixels.
        """
        if rule != "plain":
            self._require_rewritten()
        if rule not in self._gradients:
            self._backward(rule)
        return self._gradients[rule]

    def layer_pair(self) -> tuple[Tensor, Tensor]:
        """Return the layer's activations A ``(N, K, h, w)`` and dS/dA, channels first.

        Raises:
            NotApplicable: the layer has no space or did not run, or the score does not depend on it.
        """
        self._require_layer()
        if "plain" not in self._ran:
            self._backward("plain")
        if self._pair is None:
            raise NotApplicable("the score does not depend on the layer's output", None, _OTHER_LAYER)
        return self._pair

    @property
    def layer_notes(self) -> tuple[str, ...]:
        """What to know about the layer."""
        notes = []
        if self._tap.rectified:
            notes.append("the layer's output is taken after the ReLU that the network applies to it")
        if self._tap.calls > 1:
            notes.append(f"the layer runs {self._tap.calls} times; the last run is explained")
        return tuple(notes)

    def _require_layer(self) -> None:
        if self.spot is None or not self._tap.calls:
            name = None if self.spot is None else repr(self.spot.name)
            raise NotApplicable("the layer does not run in evaluation mode", name, _OTHER_LAYER)
        caught = self._tap.caught
        require_space(self.spot.name, None if caught is None else caught.shape[1:], self._tap.layout)

    def _require_rewritten(self) -> None:
        if any(isinstance(module, torch.jit.ScriptModule) for module in self.view.forward.modules()):
            raise NotApplicable("the network contains TorchScript, whose ReLU calls cannot be seen")
        if not self.operators.rewritten:
            used = ", ".join(sorted(self.operators.others)) or "no other non-linearity that torch could see"
            fix = "Use a method without a ReLU rule (saliency)."
            raise NotApplicable("no ReLU was called", f"the network uses {used}", fix)

    def _backward(self, rule: Rule) -> None:
        """Run one backward pass and keep what it gives; the plain one serves pixels and layer together."""
        wants_pixels = rule != "plain" or self._wants_gradient
        caught = self._tap.caught if rule == "plain" else None
        inputs = [self.images] * wants_pixels + ([] if caught is None else [caught])
        found = self._gradients_of_score(inputs, rule)
        self._ran.add(rule)
        if wants_pixels and found[0] is None:
            raise ModelError(
                "The score does not depend on the pixels",
                None,
                "The forward of the network cuts the graph (torch.no_grad, detach, rounding, numpy): compute without that.",
            )
        if wants_pixels and found[0] is not None:
            self._gradients[rule] = found[0]
        if caught is not None and found[-1] is not None:
            order = (0, 3, 1, 2) if self._tap.layout == "NHWC" else tuple(range(caught.ndim))
            self._pair = caught.detach().permute(order), found[-1].permute(order)

    def _gradients_of_score(self, inputs: Sequence[Tensor], rule: Rule) -> Sequence[Tensor | None]:
        if not self._score.requires_grad:
            return [None] * len(inputs)
        self.operators.switch.rule = rule
        try:
            return torch.autograd.grad(self._score, inputs, retain_graph=self._many_backwards, allow_unused=True)
        except RuntimeError as error:
            raise ModelError(
                "The gradient of the score cannot be computed", error, "Look for in-place operations in its forward."
            ) from error
