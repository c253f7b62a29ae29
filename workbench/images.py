"""Photos and labelled folders become pixels: float32 ``(N, C, H, W)`` in [0, 1], the only space people and attacks see."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class ConceptMaps:
    """Pixel-exact concept annotation of an image set, in the form that ``TensorProbe`` takes.

    Attributes:
        labels: integer maps ``(N, L, H, W)``; 0 is unlabelled, number ``i`` is ``names[i - 1]``.
        names: one name per label number, from 1 up.
        categories: one category per label number, from 1 up.
    """

    labels: torch.Tensor
    names: tuple[str, ...]
    categories: tuple[str, ...]


@dataclass(frozen=True)
class ImageSet:
    """Images with what is known about them.

    Attributes:
        images: float32 ``(N, C, H, W)`` in [0, 1].
        labels: int64 ``(N,)``, an index into ``classes``, or ``None`` when nobody knows the truth.
        ids: one stable name per image (a relative path, or ``shapes/test/0/17``): randomness and results hang on it.
        classes: class names that ``labels`` index; empty when unknown.
        digest: sha256 over pixels, labels and ids.
        notices: what a person should know about how the pixels were made ("photo.png: transparency put on white").
        skipped: ``(name, reason)`` of files that could not be read.
        evidence: bool ``(N, H, W)``: the pixels that decide the class, where the data set knows them.
        concepts: concept annotation, where the data set has it.
    """

    images: torch.Tensor
    labels: torch.Tensor | None
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    digest: str
    notices: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    evidence: torch.Tensor | None = field(default=None, repr=False)
    concepts: ConceptMaps | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.images)
