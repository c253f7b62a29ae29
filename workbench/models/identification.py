"""Which network do these tensors belong to? Decided by names and shapes alone, without building anything.

1. An entry of the signature table whose body fits exactly, with any number of classes, a replaced head, another number
   of input channels, or (ViT) another image size.
2. A member of a parametric family that has no name of its own (:mod:`workbench.models.families`).
3. Otherwise the nearest architectures and what differs. Nothing is guessed silently.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnknownArchitecture
from .checkpoint import Checkpoint
from .signatures import Shapes, Signature, signatures

# Architectures whose last block ``classifier`` holds several linear layers; people replace the block whole.
_WITH_BLOCK = ("alexnet", "vgg", "mobilenet_v3")


@dataclass(frozen=True)
class Head:
    """The classification head found in a file.

    Attributes:
        path: where it belongs in the architecture (``fc``, ``classifier``).
        source: where it was found in the file; the same as ``path`` unless it was renamed.
        linears: ``(position, out_features, in_features, has_bias)`` of each linear layer; the position is its index in a
            ``Sequential``, or ``None`` for a single layer that stands alone.
        replaced: whether it differs from the architecture's own head in more than the number of classes.
        own_layout: whether the layers stand where the architecture has its own, so that what stands between is known.
    """

    path: str
    source: str
    linears: tuple[tuple[int | None, int, int, bool], ...]
    replaced: bool = False
    own_layout: bool = False

    @property
    def num_classes(self) -> int:
        return self.linears[-1][1]

    @property
    def hides_activations(self) -> bool:
        """Whether a layer without weights stands between two linear layers: ReLU or dropout, the file cannot say."""
        positions = [position for position, *_ in self.linears if position is not None]
        return not self.own_layout and any(later - earlier > 1 for earlier, later in itertools.pairwise(positions))


@dataclass(frozen=True)
class Candidate:
    """A near miss: how much of ``architecture`` the file matches and what differs."""

    architecture: str
    matched: int
    total: int
    missing: tuple[str, ...]
    differing: tuple[str, ...]
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{_some(names)} {what}" for names, what in self._groups() if names]
        return f"{self.architecture} (matches {self.matched} of {self.total} tensors; {'; '.join(parts)})"

    def _groups(self) -> tuple[tuple[tuple[str, ...], str], ...]:
        return ((self.unknown, "unknown"), (self.missing, "missing"), (self.differing, "of another shape"))


@dataclass(frozen=True)
class Identification:
    """What a checkpoint turned out to be.

    Attributes:
        architecture: torchvision's name, ``sample:NAME``, or a description such as ``resnet (basic, 1-1-1-1)``.
        num_classes: number of logits.
        in_channels: number of input channels.
        options: what to pass to the builder beside the number of classes.
        head: the head found in the file.
        matched: number of tensors that fit.
        family: ``None`` for a named architecture, else the parametric family.
        notices: what a person should know, in sentences.
        checkpoint: the clean state dict that was identified.
    """

    architecture: str
    num_classes: int
    in_channels: int
    head: Head
    matched: int
    checkpoint: Checkpoint = field(repr=False)
    options: dict[str, Any] = field(default_factory=dict)
    family: str | None = None
    notices: tuple[str, ...] = ()


def identify_checkpoint(checkpoint: Checkpoint, *, stem: str | None = None) -> Identification:
    """Find the architecture of an unwrapped checkpoint.

    Args:
        checkpoint: see :func:`workbench.models.checkpoint.open_checkpoint`.
        stem: ``"imagenet"`` or ``"cifar"`` where the shapes leave the strides of a ResNet's stem open.

    Raises:
        UnknownArchitecture: nothing fits; the nearest architectures are in ``.candidates`` and in the message.
    """
    from .families import infer

    variants = list(checkpoint.stripped())
    for variant in variants:
        shapes = variant.shapes()
        for signature in signatures().values():
            if (found := _match(shapes, signature, variant)) is not None:
                return found
    for variant in variants:
        if (found := infer(variant, stem=stem)) is not None:
            return found
    candidates = max((nearest(variant.shapes()) for variant in variants), key=lambda found: found[0].matched)
    raise unknown(checkpoint, candidates)


def nearest(shapes: Shapes, count: int = 3) -> tuple[Candidate, ...]:
    """Return the architectures that share most tensors with ``shapes``, best first."""
    found = []
    for signature in signatures().values():
        head = {key for key in signature.tensors if key.startswith(f"{signature.head}.")}
        known = signature.body.keys() | head
        same = {key for key in known & shapes.keys() if shapes[key][-1:] == signature.tensors[key][-1:]}
        same = {key for key in same if key in head or shapes[key] == signature.tensors[key]}
        found.append(
            Candidate(
                signature.name,
                matched=len(same),
                total=len(known),
                missing=tuple(sorted(known - shapes.keys())),
                differing=tuple(sorted((known & shapes.keys()) - same)),
                unknown=tuple(sorted(key for key in shapes.keys() - known if not signature.is_head(key))),
            )
        )
    return tuple(sorted(found, key=lambda c: (-c.matched / max(c.total, len(shapes)), c.architecture))[:count])


def unknown(checkpoint: Checkpoint, candidates: tuple[Candidate, ...]) -> UnknownArchitecture:
    """Return the error that names the nearest architectures."""
    best = candidates[0]
    if best.matched >= 3:
        others = [
            f"{c.architecture} ({c.matched} of {c.total})" for c in candidates[1:] if c.matched * 2 >= best.matched
        ]
        closest = f"Closest: {'; then '.join([str(best), *others])}."
    else:
        closest = "It resembles none of torchvision's classifiers."
    if any(key.endswith("attn.qkv.weight") for key in checkpoint.tensors):
        closest = "The names are those of timm's transformers: build it with timm.create_model(…, num_classes=…)."
    error = UnknownArchitecture(
        "These tensors fit no network that the workbench can build",
        f"{checkpoint.name or 'checkpoint'} ({len(checkpoint.tensors)} tensors)",
        f"{closest} If the network is your own code, build it in Python, load the weights, and pass the module: wb.load(module).",
    )
    error.candidates = candidates
    return error


def _match(shapes: Shapes, signature: Signature, checkpoint: Checkpoint) -> Identification | None:
    if signature.name.startswith("sample:") and shapes != signature.tensors:
        return None
    body, notices, options = signature.body, list(checkpoint.notices), {}
    in_channels = 3 if signature.stem is None else signature.tensors[signature.stem][1]
    block = False
    for key, shape in body.items():
        own = shapes.get(key)
        if own == shape:
            continue
        if key.startswith("classifier.") and signature.name.startswith(_WITH_BLOCK):
            block = True
            continue
        if own is None or len(own) != len(shape):
            return None
        if key == signature.stem and own[0] == shape[0] and own[2:] == shape[2:]:
            in_channels = own[1]
            notices.append(f"The network has {own[1]} input channel{'s' if own[1] > 1 else ''} instead of {shape[1]}.")
        elif key == "encoder.pos_embedding" and own[2] == shape[2] and _is_square(own[1] - 1):
            options["image_size"] = int((own[1] - 1) ** 0.5) * signature.tensors["conv_proj.weight"][-1]
            notices.append(f"Its position embedding is for images of {options['image_size']} px.")
        else:
            return None
    rest = {key: shape for key, shape in shapes.items() if key not in body or (block and key.startswith("classifier."))}
    aux = {key for key in rest if signature.aux and key.startswith(signature.aux)}
    if aux:
        notices.append("Its auxiliary heads are used in training only and were left out.")
    rest = {key: shape for key, shape in rest.items() if key not in aux}
    head = _find_block(rest, signature) if block else _find_head(rest, signature)
    if head is None:
        return None
    if not signature.name.startswith("sample:"):
        notices.append("What a file does not hold (strides, activations, pooling) is torchvision's own.")
    if head.replaced:
        notices.append(f"Its head is not {signature.name}'s own: {_describe(head)}.")
    return Identification(
        architecture=signature.name,
        num_classes=head.num_classes,
        in_channels=in_channels,
        head=head,
        matched=len(shapes) - len(aux),
        checkpoint=checkpoint,
        options=options,
        notices=tuple(notices),
    )


def _find_head(rest: Shapes, signature: Signature) -> Head | None:
    """Interpret ``rest``, everything that is not body, as a head; ``None`` if it is none of this architecture."""
    own = signature.tensors[f"{signature.head}.weight"]
    names = {key for key in signature.tensors if key.startswith(f"{signature.head}.")}
    if set(rest) == names and rest[f"{signature.head}.weight"][1:] == own[1:]:
        bias = f"{signature.head}.bias" in rest
        return Head(signature.head, signature.head, ((None, rest[f"{signature.head}.weight"][0], own[1], bias),))
    if len(own) != 2:
        return None
    if (chain := linear_chain(rest, own[1])) is not None:
        return Head(signature.head, *chain, replaced=True)
    return None


def _find_block(rest: Shapes, signature: Signature) -> Head | None:
    own = sorted(
        (key for key in signature.tensors if key.startswith("classifier.") and key.endswith("weight")), key=_natural
    )
    if (chain := linear_chain(rest, signature.tensors[own[0]][1])) is None:
        return None
    positions = [int(key.split(".")[1]) for key in own]
    # Whoever keeps the positions of an AlexNet or VGG keeps its ReLUs; MobileNetV3's Hardswish is not what people write.
    own_layout = [position for position, *_ in chain[1]] == positions and not signature.name.startswith("mobilenet")
    return Head("classifier", *chain, replaced=True, own_layout=own_layout)


def linear_chain(shapes: Shapes, in_features: int) -> tuple[str, tuple[tuple[int | None, int, int, bool], ...]] | None:
    """Read ``shapes`` as one linear layer or a ``Sequential`` of them: ``(common name, layers)``, or ``None``."""
    weights = sorted((key for key in shapes if key.endswith("weight")), key=_natural)
    paths = [key.removesuffix("weight").removesuffix(".") for key in weights]
    known = {f"{path}.{leaf}".lstrip(".") for path in paths for leaf in ("weight", "bias")}
    if not weights or not set(shapes) <= known:
        return None
    linears: list[tuple[int | None, int, int, bool]] = []
    width = in_features
    for key, path in zip(weights, paths, strict=True):
        if len(shapes[key]) != 2 or shapes[key][1] != width:
            return None
        leaf = path.rpartition(".")[2]
        out, width = shapes[key]
        linears.append((int(leaf) if leaf.isdigit() else None, out, width, f"{path}.bias".lstrip(".") in shapes))
        width = out
    if len(linears) == 1 and linears[0][0] is None:
        return paths[0], tuple(linears)
    parents = {path.rpartition(".")[0] for path in paths}
    if len(parents) != 1 or any(position is None or position > 50 for position, *_ in linears):
        return None
    return parents.pop(), tuple(linears)


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _natural(key: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]


def _describe(head: Head) -> str:
    sizes = " → ".join(str(size) for size in (head.linears[0][2], *(out for _, out, _, _ in head.linears)))
    where = "" if head.source == head.path else f", named `{head.source}` in the file"
    return f"linear {sizes}{where}"


def _some(names: tuple[str, ...], limit: int = 3) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
