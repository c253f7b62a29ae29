"""What all probes share: checked names, pictures from somewhere, and a digest over everything that they say.

Dissection caches its results by a probe's digest, so the digest is over content: names, options, pixels and labels, and
never over paths or times of change. A class adds what its annotation depends on in ``_feed``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ImageError, OptionError

if TYPE_CHECKING:
    from hashlib import _Hash

    from torch import Tensor

    from explain.dissection.probe import Annotation

Skipped = tuple[tuple[str, str], ...]


class Pictures(Protocol):
    """Pixels by number, wherever they are."""

    def __len__(self) -> int: ...

    def size(self, index: int) -> tuple[int, int]: ...

    def read(self, index: int) -> Tensor: ...

    def feed(self, state: _Hash) -> None: ...


class BaseProbe:
    """Base of all probes of the workbench; see :class:`explain.dissection.probe.Probe` for what is asked of them.

    Attributes:
        concepts: C names; label number ``i`` is ``concepts[i - 1]``.
        categories: one per concept.
        ids: one unique name per image.
        skipped: ``(where, reason)`` of entries that were left out when the source was opened.
        notices: what a person should know about how the source was read.
    """

    def __init__(
        self,
        pictures: Pictures,
        ids: Sequence[str],
        concepts: Sequence[str],
        categories: Sequence[str],
        skipped: Skipped = (),
        notices: tuple[str, ...] = (),
    ) -> None:
        self._pictures = pictures
        self.ids = tuple(ids)
        self.concepts = tuple(concepts)
        self.categories = tuple(categories)
        self.skipped = skipped
        self.notices = notices

    def __len__(self) -> int:
        return len(self.ids)

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of image ``index``."""
        return self._pictures.size(index)

    def image(self, index: int) -> Tensor:
        """Return image ``index``, float32 ``(C, H, W)`` in [0, 1].

        Raises:
            ProbeError: it cannot be read.
        """
        return self._pictures.read(index)

    def annotation(self, index: int) -> Annotation:
        """Return what is seen in image ``index``.

        Raises:
            ProbeError: it cannot be read.
        """
        raise NotImplementedError

    @cached_property
    def digest(self) -> str:
        """sha256 over everything that images and annotations say, in hex; computed on first use."""
        said = [type(self).__name__, self.ids, self.concepts, self.categories]
        state = hashlib.sha256(json.dumps(said).encode())
        self._pictures.feed(state)
        self._feed(state)
        return state.hexdigest()

    def _feed(self, state: _Hash) -> None:
        """Add what the annotations depend on."""

    def __repr__(self) -> str:
        kinds = len(set(self.categories))
        lost = f", {len(self.skipped)} skipped" if self.skipped else ""
        told = f"{len(self.concepts)} concepts in {kinds} {'category' if kinds == 1 else 'categories'}"
        return f"{type(self).__name__}({len(self)} images, {told}{lost})"


def check_concepts(concepts: Sequence[str], categories: Sequence[str] | str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names and categories as tuples of one length; one category may stand for all.

    Raises:
        OptionError: they are no lists of names, differ in length, or name one concept twice.
    """
    if isinstance(concepts, str):
        raise OptionError(
            "concepts must be a list of names", repr(concepts), "Pass one name per label number, from 1 up."
        )
    names = tuple(concepts)
    kinds = (categories,) * len(names) if isinstance(categories, str) else tuple(categories)
    if not names or not all(isinstance(name, str) and name for name in (*names, *kinds)):
        raise OptionError("concepts and categories must be names", names[:5], "Pass one of each per label number.")
    if len(names) != len(kinds):
        found = f"{len(names)} concepts, {len(kinds)} categories"
        raise OptionError("there must be one category per concept", found, "Pass one of each per label number.")
    twice = [f"{name} ({kind})" for (name, kind), n in Counter(zip(names, kinds, strict=True)).items() if n > 1]
    if twice:
        raise OptionError("a concept is named twice", ", ".join(twice[:3]), "Give each label number a name of its own.")
    return names, kinds


def check_ids(ids: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Return one unique name per image, ``image-0``, ``image-1``, ... by default.

    Raises:
        OptionError: there are more or fewer than images, or two are the same.
    """
    if ids is None:
        return tuple(f"image-{i}" for i in range(count))
    names = tuple(str(name) for name in ids)
    twice = [name for name, n in Counter(names).items() if n > 1]
    if len(names) != count or twice:
        found = f"{twice[0]!r} twice" if twice else f"{len(names)} ids for {count} images"
        raise OptionError(
            "there must be one id per image, all different", found, "Leave ids out to have them numbered."
        )
    return names


def evenly(count: int, limit: int | None) -> list[int]:
    """Return at most ``limit`` of ``count`` positions, spread evenly over all of them.

    Raises:
        OptionError: ``limit`` is less than 1.
    """
    if limit is None or limit >= count:
        return list(range(count))
    if limit < 1:
        raise OptionError("limit must be at least 1", limit, "Leave it away to read everything.")
    return [i * count // limit for i in range(limit)]


def feed_file(state: _Hash, path: Path) -> None:
    """Add the content of a file; a file that is gone adds that it is."""
    try:
        with path.open("rb") as file:
            state.update(hashlib.file_digest(file, "sha256").digest())
    except OSError:
        state.update(b"unreadable")


def nothing_left(what: str, source: Any, skipped: Skipped, fix: str) -> ImageError:
    """Return the error for a source of which nothing can be used, with the first reasons."""
    if not skipped:
        return ImageError(what, source, fix)
    more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    reasons = "; ".join(f"{where}: {reason}" for where, reason in skipped[:3])
    return ImageError(f"{what} in {source}", f"{reasons}{more}", fix)
