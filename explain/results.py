"""What comes out: maps as tensors on the model's device, a tidy frame on request, and what is needed to repeat them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explain.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from explain.view import View


@dataclass(frozen=True, repr=False, eq=False)
class Explanation:
    """The maps of one method.

    Attributes:
        method: name of the method, a key of ``explain.METHODS``.
        maps: float32 ``(N, H, W)`` at the size of the images, not normalised (see :func:`normalise`). Like all tensors
            here, on the model's device.
        target: int64 ``(N,)``, the class explained per image.
        layer: dotted name of the target layer, or ``None`` for methods that need none.
        signed: whether maps can be negative.
        seconds: time of this method alone, with the backward passes that it was the first to need; the forward pass and
            everything shared is in ``Explanations.provenance["seconds"]``.
        rewritten: number of ReLU calls per forward pass whose backward rule was replaced.
        values: float32 ``(N, C, H, W)``, signed values per pixel and channel, for methods on pixels.
        cam: float32 ``(N, h, w)``, the map at the size of the layer before it was enlarged, for class activation maps.
        notes: what a person should know when looking at these maps.
    """

    method: str
    maps: Tensor
    target: Tensor
    layer: str | None
    signed: bool
    seconds: float
    rewritten: int
    values: Tensor | None = None
    cam: Tensor | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        where = f", layer={self.layer!r}" if self.layer else ""
        notes = f", {len(self.notes)} notes" if self.notes else ""
        return f"Explanation({self.method!r}, maps={tuple(self.maps.shape)}{where}{notes})"


@dataclass(frozen=True, repr=False, eq=False)
class Explanations(Mapping[str, Explanation]):
    """The maps of several methods for one batch of images; a mapping from method name to :class:`Explanation`.

    Attributes:
        results: the explanations, in the order asked for.
        logits: float32 ``(N, K)``.
        target: int64 ``(N,)``, the class explained per image.
        skipped: method name → why it does not apply.
        ids: one name per image; its number where none was given.
        provenance: model and image digests, options, versions, seconds.
    """

    results: dict[str, Explanation]
    logits: Tensor
    target: Tensor
    skipped: dict[str, str]
    ids: tuple[str, ...]
    provenance: dict[str, Any]

    def __getitem__(self, method: str) -> Explanation:
        return self.results[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        skipped = f", skipped: {', '.join(self.skipped)}" if self.skipped else ""
        return f"Explanations({', '.join(self.results) or 'none'}; {len(self.target)} images{skipped})"

    def frame(self) -> pd.DataFrame:
        """Return one row per method and image: ``method, image, target, layer, maximum, mean, seconds``.

        ``maximum`` and ``mean`` are the map's; a maximum of 0 is an empty map. ``seconds`` is for all images together.
        """
        import pandas as pd

        columns = ["method", "image", "target", "layer", "maximum", "mean", "seconds"]
        rows = [
            (name, image, target, one.layer, maximum, mean, one.seconds)
            for name, one in self.results.items()
            for image, target, maximum, mean in zip(
                self.ids,
                one.target.tolist(),
                one.maps.amax((1, 2)).tolist(),
                one.maps.mean((1, 2)).tolist(),
                strict=True,
            )
        ]
        return pd.DataFrame(rows, columns=columns)


def normalise(maps: Tensor) -> Tensor:
    """Divide each map ``(..., H, W)`` by its own largest magnitude, for display.

    Relative to the map alone, without an epsilon: a faint map and its double look the same, and a zero map stays zero.
    """
    peak = maps.abs().amax(dim=(-2, -1), keepdim=True)
    return torch.where(peak > 0, maps / peak, torch.zeros_like(maps))


def image_names(ids: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Return one name per image: ``ids``, or its number.

    Raises:
        InputError: there are not ``count`` ids.
    """
    if ids is None:
        return tuple(str(number) for number in range(count))
    if len(ids) != count:
        raise InputError(f"There are {count} images, and a different number of ids", len(ids), "Pass one id per image.")
    return tuple(ids)


def provenance(model: nn.Module, view: View, images: Tensor, options: dict[str, Any], started: float) -> dict[str, Any]:
    """Return what is needed to repeat a computation that began at ``started`` (of ``time.perf_counter``)."""
    pixels = images.detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(str(tuple(pixels.shape)).encode())
    digest.update(pixels.numpy().data)
    return {
        "model": getattr(model, "name", type(view.root).__name__),
        "model_digest": getattr(model, "digest", None),
        "images_digest": digest.hexdigest(),
        "options": options,
        "versions": {"torch": torch.__version__},
        "device": str(view.device),
        "seconds": time.perf_counter() - started,
    }
