"""What an attack is done with before it is done with all: images that leave once broken, kept for a process that is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ._ball import Ball, distance, within
from ._losses import is_broken
from ._victim import Victim, nobody

if TYPE_CHECKING:
    from ._journal import Journal

_EVERY = 1.0  # seconds between writes,
_SHARE = 0.05  # or more, lest they take more than this share of the time


class Finished:
    """The first broken attempt at each of ``n`` images, on the disk within a second, while the attack goes on.

    Only for attacks that let an image go as soon as it is broken: then this attempt is what they return, and the passes up to
    it are all that the image costs.

    Args:
        journal: Where to keep it.
        key: Of the strike.
        ball: The budgets of the n images. What lies outside counts for nothing.
        labels: ``(n,)`` classes to leave, or to reach when ``targeted``.
        targeted: Whether ``labels`` are to be reached.

    Attributes:
        known: bool ``(n,)``, which images an earlier process had finished.
    """

    def __init__(self, journal: Journal, key: str, ball: Ball, labels: torch.Tensor, targeted: bool) -> None:
        self._journal, self._key, self._ball, self._labels, self._targeted = journal, key, ball, labels, targeted
        self._parts: list[dict[str, torch.Tensor]] = []
        self.known = torch.zeros_like(labels, dtype=torch.bool)
        begun = journal.begun(key)
        if begun is not None:
            self._parts.append({name: tensor.to(labels.device) for name, tensor in begun.items()})
            self.known[self._parts[0]["rows"]] = True
        self._broken = self.known.clone()
        self._next = time.monotonic() + _EVERY

    @contextmanager
    def watching(self, victim: Victim, rows: torch.Tensor) -> Iterator[None]:
        """Keep what ``victim`` sees broken; ``rows`` ``(m,)`` says which of the n images its m are."""

        def witness(x: torch.Tensor, logits: torch.Tensor, asked: torch.Tensor) -> None:
            places = rows[asked]
            new = is_broken(logits, self._labels[places], self._targeted) & ~self._broken[places]
            new &= within(distance(x, self._ball.centre[places], self._ball.norm), self._ball.epsilon[places].flatten())
            if new.any():
                self._broken[places[new]] = True
                counts = {name: getattr(victim, name)[asked[new]] for name in ("forwards", "backwards", "blind")}
                self._parts.append({"rows": places[new], "images": x[new].detach().clone(), **counts})
            if time.monotonic() > self._next:
                self._write()

        victim.witness = witness
        try:
            yield
        except BaseException:  # cancelled, or failed: what is finished need not be done again
            self._write()
            raise
        finally:
            victim.witness = nobody

    def enter(self, images: torch.Tensor, victim: Victim) -> None:
        """Where an earlier process had finished some, put them into ``images`` ``(n, C, H, W)`` and the counts of ``victim``."""
        begun = self._parts[0]
        images[begun["rows"]] = begun["images"]
        for name in ("forwards", "backwards", "blind"):
            getattr(victim, name)[begun["rows"]] = begun[name]

    def _write(self) -> None:
        if not self._parts:
            return
        begin = time.monotonic()
        self._parts = [{name: torch.cat([part[name] for part in self._parts]) for name in self._parts[0]}]
        self._journal.begin(self._key, self._parts[0])
        end = time.monotonic()
        self._next = end + max(_EVERY, (end - begin) / _SHARE)
