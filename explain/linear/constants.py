"""The bias, constant by constant: b = Σ ⟨c, ∂y/∂c⟩ over everything that the frozen network adds.

After S. Srinivas and F. Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019, eq. 4,
for any operator: biases of convolutions and linear layers, the effective shift β − μ·γ/√(σ²+ε) of batch normalisation,
class token and position embedding, numbers in the code, the mean that a preprocessing subtracts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from explain.linear.book import base_name
from explain.linear.circuit import Circuit, Recording, gradients
from explain.linear.tape import Entry
from explain.view import undisturbed

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
    """Compute the terms of each image: one replay per recording, and one backward pass per image.

    Args:
        circuit: the network.
        recordings: all of them, in order.
        ids: one name per image.
        target: int64 ``(N,)``, flattened output per image.
    """
    names = _parameter_names(circuit)
    terms: dict[str, _Term] = {}
    zero = target.new_zeros((), dtype=recordings[0].y.dtype)
    first = 0
    for recording in recordings:
        leaves, outputs = _with_leaves(circuit, recording, names, target[first : first + len(recording.x)])
        for image, y in enumerate(outputs, first):
            grads = gradients(y, [leaf.value for leaf in leaves], keep=True)
            for leaf, grad in zip(leaves, grads, strict=True):
                term = terms.setdefault(leaf.name, _Term(leaf.layer, leaf.operator, [zero] * len(ids)))
                term.values[image] = term.values[image] + _contribution(leaf.value.detach(), grad)
        first += len(recording.x)
    values = [torch.stack(term.values) for term in terms.values()]
    return BiasTerms(
        tuple(terms),
        tuple(term.layer for term in terms.values()),
        tuple(term.operator for term in terms.values()),
        torch.stack(values, 1) if values else zero.expand(len(ids), 0),
        target,
        ids,
    )


@dataclass(frozen=True)
class _Leaf:
    value: Tensor
    name: str
    layer: str
    operator: str


def _with_leaves(
    circuit: Circuit, recording: Recording, names: dict[int, str], target: Tensor
) -> tuple[list[_Leaf], list[Tensor]]:
    """Replay zero with every constant a leaf of the graph; return the leaves, and the chosen output of each image."""
    leaves: list[_Leaf] = []
    path: list[str] = []

    def constant(value: Tensor, entry: Entry, label: str) -> Tensor:
        # In the network's own precision at least, so that the gradient is not rounded to the constant's.
        kind = torch.promote_types(value.dtype, recording.x.dtype)
        leaf = value.detach().to(kind, copy=True).requires_grad_()
        layer, operator = path[-1] if path else "", base_name(entry.func).strip("_")
        known = None if label else names.get(value.untyped_storage().data_ptr())
        leaves.append(_Leaf(leaf, known or f"{layer or 'network'} {label or f'{operator} constant'}", layer, operator))
        return leaf

    y = circuit.replay(recording, torch.zeros_like(recording.x), constant, path)
    with undisturbed(y.device):
        chosen = [y.flatten(1)[image, output] for image, output in enumerate(target.tolist())]
    return (leaves, chosen) if y.requires_grad else ([], [])


def _contribution(constant: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return constant.new_zeros((), dtype=constant.real.dtype)
    # A mask of -inf that only feeds a frozen softmax has gradient 0, and 0 is what it contributes.
    product = torch.where(gradient == 0, gradient, constant * gradient.conj())
    return (product.real if product.is_complex() else product).sum()


def _parameter_names(circuit: Circuit) -> dict[int, str]:
    """Return the address of each parameter and buffer → its name; views of it (an expanded class token) count."""
    names: dict[int, str] = {}
    view = circuit.view
    for prefix, module in (("", view.root), ("preprocessing ", view.forward)):
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            names.setdefault(tensor.untyped_storage().data_ptr(), prefix + name)
    return names
