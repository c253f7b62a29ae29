"""The generated table of what every torchvision classifier's tensors look like, and how it is made.

80 of 80 architectures differ in the names and shapes of their tensors even without the classification head
(``num_batches_tracked`` left aside), so a bare state dict determines its network. Looking one up needs no torch.

Make the table anew after a torchvision release with
``python -c "from workbench.models import signatures; signatures.write_table()"``; a test compares it with the installed
torchvision and fails when they differ.
"""

from __future__ import annotations

import functools
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("architectures.json.gz")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Signature:
    """The tensors of one architecture.

    Attributes:
        name: torchvision's name, or ``sample:NAME``.
        head: dotted name of the last layer, whose first dimension is the number of classes.
        tensors: shapes by name, head and auxiliary heads included, ``num_batches_tracked`` left out.
        stem: the first convolution, whose second dimension is the number of input channels; ``None`` without one.
    """

    name: str
    head: str
    tensors: Shapes
    stem: str | None

    def is_head(self, key: str) -> bool:
        """Whether ``key`` belongs to the head or to a head that is used in training only."""
        return key.startswith((f"{self.head}.", *self.aux))

    @property
    def aux(self) -> tuple[str, ...]:
        """Prefixes of the heads that are used in training only."""
        return {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}.get(self.name, ())

    @functools.cached_property
    def body(self) -> Shapes:
        """Shapes of everything but the heads."""
        return {key: shape for key, shape in self.tensors.items() if not self.is_head(key)}


@functools.cache
def signatures() -> dict[str, Signature]:
    """Return the table, by architecture name."""
    table = json.loads(gzip.decompress(TABLE.read_bytes()))
    return {
        name: Signature(name, entry["head"], {k: tuple(s) for k, s in entry["tensors"].items()}, entry["stem"])
        for name, entry in table.items()
    }


def shapes_of(network: Any) -> Shapes:
    """Return the shapes of a module's state dict without batch norm's step counters."""
    return {
        key: tuple(tensor.shape)
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def describe(name: str, network: Any) -> dict[str, Any]:
    """Return the table's entry for ``network``."""
    from torch import nn

    tensors = shapes_of(network)
    layers = [(key, layer) for key, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    head = [key for key, _ in layers if not key.startswith(("aux", "Aux"))][-1]
    first = layers[0]
    stem = f"{first[0]}.weight" if isinstance(first[1], nn.Conv2d) else None
    return {"head": head, "stem": stem, "tensors": {key: list(shape) for key, shape in tensors.items()}}


def generate() -> dict[str, dict[str, Any]]:
    """Build every classifier of the installed torchvision, and our samples, without weights, and describe them."""
    import torchvision

    from .meta import EmptyOnMeta, build_torchvision
    from .small import SAMPLES

    table = {
        name: describe(name, build_torchvision(name))
        for name in torchvision.models.list_models(module=torchvision.models)
    }
    with EmptyOnMeta():
        for name, sample in SAMPLES.items():
            # Samples that are torchvision networks with another head are found under torchvision's own names.
            if type(network := sample.build()).__module__.startswith("workbench."):
                table[f"sample:{name}"] = describe(name, network)
    return table


def write_table() -> None:
    """Write the table into the package."""
    text = json.dumps(generate(), separators=(",", ":"), sort_keys=True)
    TABLE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
