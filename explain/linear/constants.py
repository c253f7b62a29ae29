"""The bias, constant by constant: b = Σ ⟨c, ∂y/∂c⟩ over everything that the frozen network adds.

After S. Srinivas and F. Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019, eq. 4,
for any operator: biases of convolutions and linear layers, the effective shift β − μ·γ/√(σ²+ε) of batch normalisation,
class token and position embedding, numbers in the code, the mean that a preprocessing subtracts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explain.linear.book import base_name
from explain.linear.circuit import Circuit, Recording, gradients
from explain.linear.tape import Entry

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class BiasTerms:
    """What each constant contributes to one output per image.

    Attributes:
        names: of the constants: a parameter's dotted name, or the layer and what it adds.
        layers: the layer that adds each; the first, if one constant is added in several places.
        operators: the operator that adds each.
        values: ``(N, T)``; a row sums to the bias of that output. Constants that only feed frozen decisions have 0.
        target: int64 ``(N,)``, the output, counted in the flattened output.
        ids: one name per image.
    """

    names: tuple[str, ...]
    layers: tuple[str, ...]
    operators: tuple[str, ...]
    values: Tensor
    target: Tensor
    ids: tuple[str, ...]

    def __repr__(self) -> str:
        return f"BiasTerms({len(self.names)} constants, {len(self.ids)} images)"

    @property
    def total(self) -> Tensor:
        """``(N,)``: the bias of the chosen output."""
        return self.values.sum(1)

    def frame(self) -> pd.DataFrame:
        """Return one row per image and constant: ``image, target, layer, constant, operator, value``."""
        import pandas as pd

        rows = [
            (image, target, layer, name, operator, value)
            for image, target, values in zip(self.ids, self.target.tolist(), self.values.tolist(), strict=True)
            for layer, name, operator, value in zip(self.layers, self.names, self.operators, values, strict=True)
        ]
        return pd.DataFrame(rows, columns=["image", "target", "layer", "constant", "operator", "value"])


@dataclass
class _Term:
    layer: str
    operator: str
    values: list[Tensor]


def bias_terms(circuit: Circuit, recordings: Sequence[Recording], ids: tuple[str, ...], target: Tensor) -> BiasTerms:
    """Compute the terms of each image.

    Args:
        circuit: the network.
        recordings: of single images.
        ids: one name per image.
        target: int64 ``(N,)``, flattened output per image.
    """
    names = _parameter_names(circuit)
    terms: dict[str, _Term] = {}
    zero = target.new_zeros((), dtype=recordings[0].y.dtype)
    for image, (recording, output) in enumerate(zip(recordings, target.tolist(), strict=True)):
        for name, entry, value in _of_one(circuit, recording, output, names):
            term = terms.setdefault(name, _Term(entry.layer, base_name(entry.func), [zero] * len(recordings)))
            term.values[image] = term.values[image] + value
    values = [torch.stack(term.values) for term in terms.values()]
    return BiasTerms(
        tuple(terms),
        tuple(term.layer for term in terms.values()),
        tuple(term.operator for term in terms.values()),
        torch.stack(values, 1) if values else zero.expand(len(recordings), 0),
        target,
        ids,
    )


def _of_one(
    circuit: Circuit, recording: Recording, output: int, names: dict[int, str]
) -> list[tuple[str, Entry, Tensor]]:
    leaves: list[tuple[Tensor, Entry, str]] = []

    def constant(value: Any, entry: Entry, label: str) -> Tensor:
        leaf = value.detach().clone().requires_grad_()
        known = names.get(value.untyped_storage().data_ptr())
        if label:
            name = f"{entry.layer or 'network'} {label}"
        else:
            name = known or f"{entry.layer or 'network'} {base_name(entry.func).strip('_')} constant"
        leaves.append((leaf, entry, name))
        return leaf

    y = circuit.replay(recording, torch.zeros_like(recording.x), constant).flatten(1)[0, output]
    if not leaves or not y.requires_grad:
        return []
    grads = gradients(y, [leaf for leaf, _, _ in leaves])
    found = []
    for (leaf, entry, name), grad in zip(leaves, grads, strict=True):
        # A mask of -inf that only feeds a frozen softmax has gradient 0, and 0 is what it contributes.
        product = torch.zeros_like(leaf) if grad is None else torch.where(grad == 0, grad, leaf.detach() * grad.conj())
        found.append((name, entry, (product.real if product.is_complex() else product).sum()))
    return found


def _parameter_names(circuit: Circuit) -> dict[int, str]:
    """Return the address of each parameter and buffer → its name; views of it (an expanded class token) count."""
    names: dict[int, str] = {}
    view = circuit.view
    for prefix, module in (("", view.root), ("preprocessing ", view.forward)):
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            names.setdefault(tensor.untyped_storage().data_ptr(), prefix + name)
    return names
