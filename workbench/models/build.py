"""From an identification to a network with weights: built without storage, then given the checkpoint's own tensors."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from .families import FAMILIES
from .identification import Head, Identification
from .meta import EmptyOnMeta, build_torchvision

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
}


def build(found: Identification, *, head_activation: str | None = None, transform_input: bool = False) -> nn.Module:
    """Return the identified network in eval mode, float32, with the checkpoint's weights.

    Args:
        found: see :func:`workbench.models.identification.identify_checkpoint`.
        head_activation: what stands between the linear layers of a replaced head: ``"relu"``, ``"gelu"``, ``"hardswish"``,
            ``"tanh"`` or ``"none"``; needed only where the file leaves it open.
        transform_input: for googlenet and inception_v3, whether the network re-normalises its input as torchvision's own
            weights expect.

    Raises:
        ModelError: a choice is open that ``head_activation`` decides, or the weights do not fit after all.
    """
    if found.head.hides_activations and head_activation not in ACTIVATIONS:
        layers = ", ".join(str(position) for position, *_ in found.head.linears)
        raise ModelError(
            "The head of this network has several linear layers, and what stands between them cannot be seen in the file",
            f"{found.checkpoint.name}: layers {layers} of `{found.head.path}`",
            'Pass head_activation="relu" (the usual choice), "gelu", "hardswish", "tanh" or "none" (dropout only).',
        )
    network = _build_empty(found, transform_input)
    if found.head.replaced:
        with EmptyOnMeta():
            _replace_head(network, found.head, ACTIVATIONS[head_activation or "none"])
    _load(network, found)
    return network.eval()


def _build_empty(found: Identification, transform_input: bool) -> nn.Module:
    if found.family is not None:
        with EmptyOnMeta():
            return FAMILIES[found.family][1](found.num_classes, **found.options)
    if found.architecture.startswith("sample:"):
        from .small import SAMPLES

        with EmptyOnMeta():
            return SAMPLES[found.architecture.removeprefix("sample:")].build()
    options: dict[str, Any] = dict(found.options)
    if found.architecture in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "transform_input": transform_input}
    if not found.head.replaced:
        options["num_classes"] = found.num_classes
    network = build_torchvision(found.architecture, **options)
    if found.in_channels != 3:
        _replace_stem(network, found.in_channels)
    return network


def _replace_stem(network: nn.Module, in_channels: int) -> None:
    name, stem = next((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    with EmptyOnMeta():
        new = nn.Conv2d(
            in_channels, stem.out_channels, stem.kernel_size, stem.stride, stem.padding, bias=stem.bias is not None  # type: ignore[arg-type]
        )  # fmt: skip
    network.set_submodule(name, new)


def _replace_head(network: nn.Module, head: Head, activation: type[nn.Module]) -> None:
    if head.linears[0][0] is None:
        _, out, width, bias = head.linears[0]
        network.set_submodule(head.path, nn.Linear(width, out, bias=bias))
        return
    by_position = {position: nn.Linear(width, out, bias=bias) for position, out, width, bias in head.linears}
    if head.own_layout:
        block = network.get_submodule(head.path)
        layers = [by_position.get(index, layer) for index, layer in enumerate(block.children())]
    else:
        last = max(position for position in by_position if position is not None)
        layers = [
            by_position.get(index) or (activation() if index - 1 in by_position else nn.Identity())
            for index in range(last + 1)
        ]
    network.set_submodule(head.path, nn.Sequential(*layers))


def _moved(head: Head) -> dict[str, str]:
    """Return where each tensor of the head goes: file's name → network's name."""
    moved = {}
    for position, *_ in head.linears:
        step = [] if position is None else [str(position)]
        for leaf in ("weight", "bias"):
            source = ".".join([*([head.source] if head.source else []), *step, leaf])
            moved[source] = ".".join([head.path, *step, leaf])
    return moved


def _load(network: nn.Module, found: Identification) -> None:
    wanted = network.state_dict()
    moved = _moved(found.head)
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    # Versions of the modules' own formats: the shapes fit today's, and MNASNet refuses a state dict without one.
    state._metadata = wanted._metadata  # type: ignore[attr-defined]
    for key, tensor in found.checkpoint.tensors.items():
        key = moved.get(key, key)
        if key in wanted:
            state[key] = tensor.float() if tensor.is_floating_point() else tensor
    for key in wanted.keys() - state.keys():
        if key.endswith("num_batches_tracked"):  # older files have no step counters; nothing reads them in eval mode
            state[key] = torch.zeros((), dtype=torch.long)
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(
            "The weights do not fit the network that their shapes suggest",
            f"{found.checkpoint.name}: {found.architecture}",
            "Build the network in Python, load the weights, and pass the module: wb.load(module).",
        ) from error
