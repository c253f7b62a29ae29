"""What dissection asks of a probe: images one by one, and for each the concepts that are seen in it, and where.

The engine stands alone, so it knows probes by this protocol only; ``workbench.probes`` has one for every source. An
image and its annotation cover the same picture, each at a size of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Annotation:
    """The concepts of one image.

    Attributes:
        maps: integer label maps ``(L, h, w)``: 0 is unlabelled, number ``i`` is the probe's ``concepts[i - 1]``. Several
            layers, because a pixel can have several labels (a colour, an object, a part); L may be 0, and then ``h × w``
            is the grid on which labels of the whole image count their pixels.
        whole: labels that hold for the whole image (a scene); they count as covering all of it.
    """

    maps: Tensor
    whole: tuple[int, ...] = ()


@runtime_checkable
class Probe(Protocol):
    """A concept-annotated set of images. Reading must be repeatable: dissection may read an image twice.

    Attributes:
        concepts: C names; label number ``i`` is ``concepts[i - 1]``.
        categories: C names, one per concept: the kind of thing it is ("colour", "object").
        ids: N names, one per image.
        digest: sha256 over everything that images and annotations say, in hex. Results are cached by it.
    """

    @property
    def concepts(self) -> tuple[str, ...]: ...

    @property
    def categories(self) -> tuple[str, ...]: ...

    @property
    def ids(self) -> tuple[str, ...]: ...

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of image ``index``, without reading its pixels."""
        ...

    def image(self, index: int) -> Tensor:
        """Return image ``index``, float32 ``(C, H, W)`` in [0, 1].

        Raises:
            ProbeError: it cannot be read; dissection leaves it out and reports it.
        """
        ...

    def annotation(self, index: int) -> Annotation:
        """Return what is seen in image ``index``.

        Raises:
            ProbeError: it cannot be read; dissection leaves it out and reports it.
        """
        ...
