"""One model, one set of images, any number of attacks on any of them: batches, verification, accounting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from ._ball import distance
from ._frozen import frozen_view
from ._losses import is_broken
from ._victim import Victim
from .errors import AttackError

if TYPE_CHECKING:
    from .registry import Attack

ProgressCallback = Callable[[int, int, str], object]

# Projections are exact up to float32 rounding; absolute for budgets up to 1, relative above.
TOLERANCE = 1e-6

# Numbers in the images that one attack holds at once: about 128 MB per copy, of which it makes a handful.
_GROUP = 2**25


class Progress:
    """Reports ``(done, total, what)`` before every pass, so that raising cancels within one batch.

    The unit is one forward pass of one image, counted as if nothing broke; :meth:`settle` skips what need not be done.
    """

    def __init__(self, callback: ProgressCallback | None, total: int) -> None:
        self.what = "clean images"
        self._callback = callback
        self._total = total
        self._settled = 0
        self._done = 0

    def __call__(self, passes: int) -> None:
        if self._callback is not None:
            self._callback(min(self._done, self._total), self._total, self.what)
        self._done += passes

    def settle(self, passes: int) -> None:
        """Replace what was reported since the last call by what it settled."""
        self._settled += passes
        self._done = self._settled


class Strike(NamedTuple):
    """What one attack did to ``n`` images, verified on the returned images; on the device of the session's images.

    Attributes:
        rows: int64 ``(n,)``, which images of the session.
        images: ``(n, C, H, W)`` within budget and box.
        broken: bool ``(n,)``.
        distance: ``(n,)`` from the clean image, in the norm.
        fooled_as: int64 ``(n,)``, the model's answer to the returned image.
        forwards: int64 ``(n,)``, verification included.
        backwards: int64 ``(n,)``.
    """

    rows: torch.Tensor
    images: torch.Tensor
    broken: torch.Tensor
    distance: torch.Tensor
    fooled_as: torch.Tensor
    forwards: torch.Tensor
    backwards: torch.Tensor


class Session:
    """Holds a frozen view of a model and checked images, and strikes rows of them.

    Everything is kept where the images are; what an attack works on moves to the device of the model.

    Attributes:
        images: ``(N, C, H, W)``.
        ids: one id per image.
        norm: norm of every budget and distance.
        clean: the model's logits of all images, ``(N, K)``: one forward each.
        device: where the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        ids: Sequence[str],
        *,
        norm: str,
        seed: int,
        batch_size: int,
        progress: Progress,
    ) -> None:
        self.images = images
        self.ids = tuple(ids)
        self.norm = norm
        self.progress = progress
        self._seed = seed
        self._batch_size = batch_size
        self._view = frozen_view(model)
        tensors = [*self._view.parameters(), *self._view.buffers()]
        self.device = tensors[0].device if tensors else images.device
        everything = torch.arange(len(images), device=images.device)
        self.clean = torch.cat([self.logits(images[rows]) for rows in self._groups(everything)])
        progress.settle(len(images))
        if self.clean.isnan().any():
            bad = int(self.clean.isnan().any(1).sum())
            fix = "Check its weights, and that it expects pixels in [0, 1]."
            raise AttackError("The model answers NaN to clean images", f"{bad} of {len(images)} images", fix)

    def _groups(self, rows: torch.Tensor) -> list[torch.Tensor]:
        size = max(self._batch_size, _GROUP // self.images[0].numel())
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def victim(self, ids: Sequence[str], batch_size: int | None = None) -> Victim:
        """The model, for an attack on the images called ``ids``."""
        return Victim(self._view, ids, self._seed, self.device, batch_size or self._batch_size, self.progress)

    def logits(self, x: torch.Tensor, together: bool = False) -> torch.Tensor:
        """Logits ``(n, K)`` of any images, outside of all accounting; ``together``: as one batch, whatever its size."""
        rows = torch.arange(len(x), device=self.device)
        victim = self.victim([""] * len(x), len(x) if together else None)
        return victim.logits(x.to(self.device), rows).to(x.device)

    def strike(
        self,
        attack: Attack,
        rows: torch.Tensor,
        goal: torch.Tensor,
        epsilon: float | torch.Tensor,
        *,
        targeted: bool = False,
    ) -> Iterator[Strike]:
        """Attack images ``rows`` ``(n,)`` and yield the verified outcome of each group that fits into memory.

        Args:
            attack: The attack, with its options.
            rows: Which images; those that need no attack should not be among them.
            goal: ``(N,)`` classes to leave, or to reach when ``targeted``; indexed by ``rows``.
            epsilon: One budget, or ``(n,)``.
            targeted: Whether ``goal`` is to be reached.
        """
        budgets = torch.as_tensor(epsilon, dtype=torch.float32, device=rows.device).expand(len(rows))
        for group, budget in zip(self._groups(rows), self._groups(budgets), strict=True):
            x, labels, budget = (t.to(self.device) for t in (self.images[group], goal[group], budget))
            victim = self.victim([self.ids[row] for row in group.tolist()])
            found = attack.function(victim, x, labels, budget, norm=self.norm, targeted=targeted)
            # Nothing an attack says about itself is believed: an image outside the rules is replaced by the clean one.
            lengths = distance(found, x, self.norm)
            box = found.flatten(1)
            fair = (lengths <= budget + TOLERANCE * budget.clamp(min=1)) & (box.amin(1) >= 0) & (box.amax(1) <= 1)
            found = torch.where(fair.view(-1, 1, 1, 1), found, x)
            logits = victim.logits(found, torch.arange(len(x), device=self.device))
            outcome = (
                found,
                is_broken(logits, labels, targeted),
                distance(found, x, self.norm),
                logits.argmax(1),
                victim.forwards,
                victim.backwards,
            )
            yield Strike(group, *(tensor.to(rows.device) for tensor in outcome))
