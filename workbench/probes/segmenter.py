"""A segmentation network as the source of concepts, for images that nobody has annotated (Bau et al. 2020, PNAS).

Results of dissection are cached by the probe's digest, and what a segmenter says hangs on code as much as on weights. So
a module is copied when the probe is made, and its digest is over weights, settings and its own code; of any other
callable nothing is known, and the digest has to be given.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explain.dissection.probe import Annotation
from explain.errors import ProbeError
from explain.fingerprint import fingerprint

from ..errors import OptionError
from ._base import BaseProbe, check_concepts, check_ids
from ._pictures import pictures_of

if TYPE_CHECKING:
    from hashlib import _Hash

    from ..images import ImageSet

_KEPT = 32  # annotations in memory; each is recomputed in one forward pass
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as in torchvision's weights


class SegmenterProbe(BaseProbe):
    """Images whose annotation is what a segmentation model says of them, computed when asked for.

    Args:
        images: an image set, a tensor ``(N, C, H, W)`` in [0, 1], or a sequence of ``(C, H, W)``.
        segment: maps images ``(B, C, H, W)`` to label numbers, integers ``(B, h, w)`` or ``(B, L, h, w)``, 0 for none. A
            module is copied and put in eval mode: later changes to it do not reach the probe. See
            :func:`torchvision_segmenter`.
        concepts: one name per label number, from 1 up.
        categories: one per concept, or one for all.
        digest: what stands for ``segment`` in the probe's digest. Needed unless it is a module, and then it must change
            whenever what ``segment`` computes does. For a module it is added to the digest of its weights, settings and
            code.
        ids: unique names; those of the image set, or numbers, by default.

    Raises:
        ImageError: images that cannot be.
        OptionError: concepts or ids that do not fit, or a missing digest.
    """

    def __init__(
        self,
        images: ImageSet | Tensor | Sequence[Tensor],
        segment: Callable[[Tensor], Tensor],
        concepts: Sequence[str],
        categories: Sequence[str] | str = "object",
        *,
        digest: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        pictures, known = pictures_of(images)
        names, kinds = check_concepts(concepts, categories)
        super().__init__(pictures, check_ids(ids if ids is not None else known, len(pictures)), names, kinds)
        self._device: torch.device | None = None
        if isinstance(segment, nn.Module):
            segment = _copied(segment)
            self._device = next((t.device for t in (*segment.parameters(), *segment.buffers())), None)
            given = digest
            digest, unknown = fingerprint(segment, f"{given}")
            if unknown and not given:
                fix = 'Pass digest="..." as well, and change it whenever these do: results are cached by it.'
                raise OptionError("nobody can tell when parts of this segmenter change", ", ".join(unknown[:3]), fix)
        elif not digest or not isinstance(digest, str):
            fix = 'Pass digest="..." and change it whenever what the function computes does: results are cached by it.'
            raise OptionError("nobody can tell when this segmenter changes", type(segment).__name__, fix)
        self._segment, self._segmenter_digest = segment, digest
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._lock = Lock()

    def annotation(self, index: int) -> Annotation:
        """Return what the segmenter says of image ``index``, int64 ``(L, h, w)``.

        Raises:
            ProbeError: it fails, or returns something else than label numbers.
        """
        with self._lock:  # one pass at a time: a network's memory is not for several
            if index not in self._kept:
                self._kept[index] = self._run(index)
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(index)
            return Annotation(self._kept[index])

    def _run(self, index: int) -> Tensor:
        image = self.image(index)[None]
        name = self.ids[index]
        try:
            with torch.no_grad():
                found: Any = self._segment(image if self._device is None else image.to(self._device))
        except Exception as error:  # whatever a network raises on an image that it was not made for
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise ProbeError(f"the segmenter fails on {name}", reason, "Try it on this image alone.") from error
        fix = "It must return integers (B, h, w) or (B, L, h, w); torchvision_segmenter wraps torchvision's networks."
        if not isinstance(found, Tensor):
            raise ProbeError(f"the segmenter returns no tensor for {name}", type(found).__name__, fix)
        if (
            found.is_floating_point()
            or found.is_complex()
            or found.ndim not in (3, 4)
            or len(found) != 1
            or 0 in found.shape
        ):
            told = f"{tuple(found.shape)}, {found.dtype}"
            raise ProbeError(f"the segmenter returns no label numbers for {name}", told, fix)
        maps = found[0].long().cpu()
        low, high = int(maps.min()), int(maps.max())
        if low < 0 or high > len(self.concepts):
            told = f"{low} to {high}, for {len(self.concepts)} concepts"
            raise ProbeError(
                f"the segmenter returns label numbers without a name for {name}", told, "Name all of them."
            )
        return maps if maps.ndim == 3 else maps[None]

    def _feed(self, state: _Hash) -> None:
        state.update(self._segmenter_digest.encode())


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).eval().requires_grad_(False)
    except Exception as error:  # whatever a part that cannot be copied raises
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        fix = 'Pass a function that calls it, and digest="...", which must change whenever the network does.'
        raise OptionError("this segmenter cannot be copied", reason, fix) from error


class TorchvisionSegmenter(nn.Module):
    """A segmentation network of torchvision that maps images in [0, 1] to label numbers."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, background: int | None) -> None:
        super().__init__()
        self.network = network
        self.background = background
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return label numbers ``(B, H, W)``: the classes in their order without the background, from 1 up."""
        answer = self.network((images - self.mean) / self.std)
        classes = (answer["out"] if isinstance(answer, dict) else answer).argmax(1)
        if self.background is None:
            return classes + 1
        labels = torch.where(classes < self.background, classes + 1, classes)
        return torch.where(classes == self.background, 0, labels)


def torchvision_segmenter(model: nn.Module, background: int | None = 0) -> TorchvisionSegmenter:
    """Return a segmenter for :class:`SegmenterProbe` of a segmentation network of torchvision.

    The concepts are then its classes without the background: ``weights.meta["categories"][1:]``. Such networks were
    trained on pictures of about 520 pixels and see little in small ones.

    Args:
        model: maps images normalised as ImageNet to ``{"out": logits (B, K, H, W)}``, or to the logits.
        background: the class that becomes 0, none; ``None`` if every class is a concept.
    """
    return TorchvisionSegmenter(model, background)
