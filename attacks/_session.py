"""One model, one set of images, any number of attacks on any of them: batches, verification, accounting."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from ._ball import Ball, distance, rounded, within
from ._finished import Finished
from ._frozen import frozen_view
from ._journal import source_digest
from ._losses import is_broken, lead
from ._provenance import images_digest, model_digest
from ._victim import Victim
from .errors import AttackError

if TYPE_CHECKING:
    from ._journal import Journal
    from .registry import Attack

ProgressCallback = Callable[[int, int, str], object]

# Images that one attack holds at once: enough that broken ones leave full batches behind, few enough that little is lost
# when the process is killed, and, in numbers, about 16 MB per copy, of which an attack makes a dozen.
_GROUP = 128
_GROUP_NUMBERS = 2**22


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
        self._shown = 0

    def __call__(self, passes: int) -> None:
        if self._callback is not None:
            self._shown = min(max(self._shown, self._done), self._total)
            self._callback(self._shown, self._total, self.what)
        self._done += passes

    def settle(self, passes: int) -> None:
        """Replace what was reported since the last call by what it settled."""
        self._settled += passes
        self._done = self._settled


class Strike(NamedTuple):
    """What one attack did to ``n`` images, verified on the returned images; on the device of the session's images.

    Attributes:
        rows: int64 ``(n,)``, which images of the session.
        images: ``(n, C, H, W)`` within budget and box; where not broken, not kept in a journal.
        broken: bool ``(n,)``.
        distance: ``(n,)`` from the clean image, in the norm.
        fooled_as: int64 ``(n,)``, the model's answer to the returned image.
        margin: ``(n,)``, how far the returned image is beyond the goal, in logits; positive where broken.
        forwards: int64 ``(n,)``, verification included.
        backwards: int64 ``(n,)``.
        blind: bool ``(n,)``, where the attack met a gradient of exactly zero.
        kind: what the attack sees of the model, as :attr:`attacks.Attack.kind`.
    """

    rows: torch.Tensor
    images: torch.Tensor
    broken: torch.Tensor
    distance: torch.Tensor
    fooled_as: torch.Tensor
    margin: torch.Tensor
    forwards: torch.Tensor
    backwards: torch.Tensor
    blind: torch.Tensor
    kind: str


class Session:
    """Holds a frozen view of a model and checked images, and strikes rows of them.

    Everything is kept where the images are; what an attack works on moves to the device of the model.

    Attributes:
        images: ``(N, C, H, W)``.
        ids: one id per image.
        norm: norm of every budget and distance.
        seed, eight_bit, eot: as for :func:`attacks.evaluate`.
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
        eight_bit: bool = False,
        eot: int = 1,
        journal: Journal | None = None,
    ) -> None:
        """See :func:`attacks.evaluate`."""
        self.images = images
        self.ids = tuple(ids)
        self.norm = norm
        self.progress = progress
        self.seed = seed
        self._batch_size = batch_size
        self.eight_bit = eight_bit
        self.eot = eot
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
        self._journal = journal
        if journal is not None:
            setting = (model_digest(model), images_digest(images, ids), source_digest(), norm, seed, eight_bit, eot)
            self._key = hashlib.sha256(repr(setting).encode()).hexdigest()[:32]
            journal.check_model(self._key, self.clean)

    def _groups(self, rows: torch.Tensor) -> list[torch.Tensor]:
        size = max(self._batch_size, min(_GROUP, _GROUP_NUMBERS // self.images[0].numel()))
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def victim(self, ids: Sequence[str], batch_size: int | None = None) -> Victim:
        """The model, for an attack on the images called ``ids``."""
        size = batch_size or self._batch_size
        return Victim(self._view, ids, self.seed, self.device, size, self.progress, self.eot)

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
        epsilon: float | torch.Tensor | None,
        *,
        targeted: bool = False,
    ) -> Iterator[Strike]:
        """Attack images ``rows`` ``(n,)`` and yield the verified outcome of each group that fits into memory.

        Args:
            attack: The attack, with its options.
            rows: Which images; those that need no attack should not be among them.
            goal: ``(N,)`` classes to leave, or to reach when ``targeted``; indexed by ``rows``.
            epsilon: One budget, or ``(n,)``. What a minimal attack finds may lie beyond, and ``None`` is for these.
            targeted: Whether ``goal`` is to be reached.
        """
        budgets = None if epsilon is None else torch.as_tensor(epsilon, device=rows.device).float().expand(len(rows))
        groups = self._groups(rows)
        parts = [None] * len(groups) if budgets is None else self._groups(budgets)
        for group, budget in zip(groups, parts, strict=True):
            key = "" if self._journal is None else self._name(attack, group, goal, budget, targeted)
            kept = None if self._journal is None else self._journal.load(key)
            if kept is not None:
                yield self._recall(kept, group, attack.kind)
                continue
            x, labels = self.images[group].to(self.device), goal[group].to(self.device)
            radius = None if budget is None else budget.to(self.device)
            victim, found = self._attacked(attack, key, group, x, labels, radius, targeted)
            limit = None if attack.minimal else radius
            boxed = attack.options.get("boxed", True)
            strike = self._verified(victim, group, x, found, labels, limit, targeted, attack.kind, boxed=boxed)
            if self._journal is not None:
                self._keep(key, strike)
            yield strike

    def _attacked(
        self,
        attack: Attack,
        key: str,
        group: torch.Tensor,
        x: torch.Tensor,
        labels: torch.Tensor,
        radius: torch.Tensor | None,
        targeted: bool,
    ) -> tuple[Victim, torch.Tensor]:
        """What the attack returns, and the victim with its counts; in a journal, images that are finished stay so."""
        names = [self.ids[row] for row in group.tolist()]
        victim = self.victim(names)
        if self._journal is None or not attack.leaves:
            return victim, attack.function(victim, x, labels, radius, norm=self.norm, targeted=targeted)
        assert radius is not None  # minimal attacks are not of this kind
        finished = Finished(self._journal, key, Ball.around(x, radius, self.norm), labels, targeted)
        left = (~finished.known).nonzero().flatten()
        asked = victim if len(left) == len(x) else self.victim([names[row] for row in left.tolist()])
        found = x.clone()
        if len(left):
            with finished.watching(asked, left):
                found[left] = attack.function(
                    asked, x[left], labels[left], radius[left], norm=self.norm, targeted=targeted
                )
        if asked is not victim:
            for name in ("forwards", "backwards", "blind"):
                getattr(victim, name)[left] = getattr(asked, name)
            finished.enter(found, victim)
        return victim, found

    def offer(
        self, rows: torch.Tensor, images: torch.Tensor, goal: torch.Tensor, budgets: torch.Tensor
    ) -> Iterator[Strike]:
        """Bring given images ``(n, C, H, W)`` into the budgets ``(n,)`` of ``rows``, and see whether they fool the model."""
        for group, part, budget in zip(*map(self._groups, (rows, images, budgets)), strict=True):
            x, found, labels = (t.to(self.device) for t in (self.images[group], part, goal[group]))
            radius = budget.float().to(self.device)
            victim = self.victim([self.ids[row] for row in group.tolist()])
            found = Ball.around(x, radius, self.norm).project(found)
            yield self._verified(victim, group, x, found, labels, radius, targeted=False, kind="replay")

    def _verified(
        self,
        victim: Victim,
        rows: torch.Tensor,
        x: torch.Tensor,
        found: torch.Tensor,
        labels: torch.Tensor,
        budget: torch.Tensor | None,
        targeted: bool,
        kind: str,
        *,
        boxed: bool = True,
    ) -> Strike:
        """Nothing an attack says about itself is believed: an image outside the rules is replaced by the clean one."""
        if self.eight_bit:
            found = rounded(found, x, budget, self.norm)
        flat = found.flatten(1)
        fair = (flat.amin(1) >= 0) & (flat.amax(1) <= 1) if boxed else flat.isfinite().all(1)
        if budget is not None:
            fair &= within(distance(found, x, self.norm), budget)
        found = torch.where(fair.view(-1, 1, 1, 1), found, x)
        logits = victim.logits(found, torch.arange(len(x), device=self.device))
        home = rows.device
        return Strike(
            rows=rows,
            images=found.to(home),
            broken=is_broken(logits, labels, targeted).to(home),
            distance=distance(found, x, self.norm).to(home),
            fooled_as=logits.argmax(1).to(home),
            margin=lead(logits, labels, targeted).to(home),
            forwards=victim.forwards.to(home),
            backwards=victim.backwards.to(home),
            blind=victim.blind.to(home),
            kind=kind,
        )

    def _name(
        self, attack: Attack, rows: torch.Tensor, goal: torch.Tensor, budget: torch.Tensor | None, targeted: bool
    ) -> str:
        numbers = (rows.tolist(), goal[rows].tolist(), None if budget is None else budget.tolist(), targeted)
        asked = (self._key, attack.name, sorted(attack.options.items()), numbers)
        return hashlib.sha256(repr(asked).encode()).hexdigest()[:32]

    def _keep(self, key: str, strike: Strike) -> None:
        assert self._journal is not None
        tensors = {name: value for name, value in strike._asdict().items() if name not in ("rows", "kind")}
        self._journal.save(key, {**tensors, "images": strike.images[strike.broken]})

    def _recall(self, kept: dict[str, torch.Tensor], rows: torch.Tensor, kind: str) -> Strike:
        kept = {name: value.to(rows.device) for name, value in kept.items()}
        images = self.images[rows].clone()
        images[kept["broken"]] = kept.pop("images")
        return Strike(rows=rows, images=images, kind=kind, **kept)
