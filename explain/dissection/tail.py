"""A network from one layer on: what it answers when some of the layer's units are set to zero.

What the images are at some place before the layer is computed once and kept. What follows is run for many sets of units at a
time, in the cheapest way that is proven right on this network before it is used:

* ``"linear"``: the answer is a linear layer applied to the layer's output, or to its mean over positions: removing units
  subtracts their contributions, and no pass is needed at all;
* ``"tail"``: the network runs on two images, and at a later place their two rows are replaced by those of many: at the layer's
  output, or where something passes by the layer (a skip connection), at the input of a block around it. Whatever still
  passes by that place has two rows too few or too many, so it cannot go unnoticed;
* ``"full"``: the whole network, with the units set to zero as the layer returns them. Always right.

Cheap ways are tried on the images on which the layer is loudest, with halves of its units removed, and with noise in the place of
its output, which no rectifier behind it leaves as it is. A layer that runs several times loses its units in the last run,
the one that dissection looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from explain.dissection.units import Units
from explain.errors import ExplainError
from explain.inputs import check_logits
from explain.view import View

Way = Literal["linear", "tail", "full"]
Progress = Callable[[int, int, str], None]

_ROWS = 1024  # of a tail run: enough to forget the two images in front
_BYTES = 1 << 27  # of what is put in their place, and of answers in closed form
_TRIED = 5  # rows in a trial: neither one, which would fit anything, nor two
_CLOSE = 1e-4  # of the largest logit: a float32 network in another order of summation


class _NoEntry(BaseException):
    """A block is given more than one tensor, or runs more than once. No error of the network: nothing may take it for one."""


class Answers(NamedTuple):
    """What a network answers to N images.

    Attributes:
        classes: int64 ``(..., N)``, the predicted ones.
        margins: ``(..., N)``, logit of the label less the greatest of the others.
    """

    classes: Tensor
    margins: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Answers:
        """Read logits ``(..., N, K)``."""
        at = labels.expand(logits.shape[:-1])[..., None]
        others = logits.scatter(-1, at, -torch.inf).amax(-1)
        return cls(logits.argmax(-1), logits.gather(-1, at)[..., 0] - others)


class _Seen(NamedTuple):
    """One pass over n images: the logits, the output of the layer's last run, and what there was at the place of entry."""

    logits: Tensor
    output: Tensor
    entry: Tensor


@dataclass(frozen=True, eq=False)
class _Linear:
    """The linear layer at the end: ``weight`` as ``(K, U, P)``; the output's mean over positions, or each of P."""

    weight: Tensor
    mean: bool

    def contributions(self, maps: Tensor) -> Tensor:
        """Return what each unit adds to each logit, ``(N, U, K)``, from maps ``(U, N, h, w)``."""
        flat = maps.flatten(2)
        values = flat.mean(2, keepdim=True) if self.mean else flat
        return torch.einsum("unp,kup->nuk", values, self.weight)


class Tail:
    """One layer of one network, and everything behind it.

    Args:
        view: the network.
        layer: dotted name.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: int64 ``(N,)``.
        batch_size: images per full pass.

    Attributes:
        view: the network.
        site: where the units are.
        classes: K.
        way: how sets of units are removed.
        entry: the module whose input is replaced, or the layer itself for its output.
    """

    def __init__(self, view: View, layer: str, images: Tensor, labels: Tensor, batch_size: int) -> None:
        self.view, self._images, self._labels = view, images, labels.to(view.device)
        self._batch_size = 1 if view.notices else batch_size
        self._units = Units(view, [layer])
        (self.site,) = self._units.sites(images[0]).values()
        self._linear: _Linear | None = None
        self.entry = self.site.layer
        self.way: Way = "full"
        self.classes = self._run(images[:1]).logits.shape[1]
        self._find_way()

    def __len__(self) -> int:
        return len(self._images)

    def answers(self, masks: Tensor, progress: Progress | None = None) -> tuple[Answers, Answers]:
        """Return what the network answers, and what it answers without some of the units.

        Args:
            masks: bool ``(J, U)``: J sets of units to set to zero.
            progress: called as ``progress(done, total, what)``, in hundredths of images.

        Returns:
            Answers ``(N,)`` and ``(J, N)``, on the CPU.
        """
        masks = masks.to(self.view.device)
        parts: list[tuple[Answers, Answers]] = []
        for start in range(0, len(self), self._batch_size):
            part = slice(start, start + self._batch_size)
            seen = self._run(self._images[part])
            told = _share(progress, start, len(seen.logits), len(self))
            whole = Answers.of(seen.logits, self._labels[part])
            parts.append((whole, self._without_each(self._images[part], self._labels[part], seen, masks, told)))
        whole_parts, without = zip(*parts, strict=True)
        return _joined(whole_parts), _joined(without)

    def _without_each(
        self, images: Tensor, labels: Tensor, seen: _Seen, masks: Tensor, told: Callable[[float], None]
    ) -> Answers:
        """Return the answers to some images without each set of units."""
        if self._linear is not None:
            contributions = self._linear.contributions(self.site.read(seen.output))
            step = max(1, _BYTES // (seen.logits.numel() * seen.logits.element_size()))
            parts = []
            for some in torch.split(masks.to(seen.logits), step):  # all sets at once would take sets × images × classes
                lost = torch.einsum("ju,nuk->jnk", some, contributions)
                parts.append(Answers.of(seen.logits - lost, labels))
            told(1.0)
            return Answers(*(torch.cat(one) for one in zip(*parts, strict=True)))
        whole = Answers.of(seen.logits, labels)
        found = Answers(*(one.expand(len(masks), -1).clone() for one in whole))
        # Setting to zero what is zero already changes nothing: most units of a rectified layer are silent on most images.
        loud = (self.site.every(seen.output) != 0).any(2)
        sets, rows = (masks.to(seen.logits) @ loud.to(seen.logits) > 0).nonzero(as_tuple=True)
        most = self._batch_size if self.way == "full" else _ROWS
        step = max(1, min(most, _BYTES // (seen.entry[0].numel() * seen.entry.element_size())))
        for start in range(0, len(sets), step):
            some, row = sets[start : start + step], rows[start : start + step]
            answers = Answers.of(self._without(images, seen, row, masks[some]), labels[row])
            for into, one in zip(found, answers, strict=True):
                into[some, row] = one
            told(min(1.0, (start + step) / len(sets)))
        told(1.0)
        return found

    def _without(self, images: Tensor, seen: _Seen, rows: Tensor, masks: Tensor) -> Tensor:
        """Return the logits of the images ``rows``, each without a set of units of its own, ``(n, U)``."""
        if self.way == "full":
            return self._forward(images[rows.cpu()], lambda output: self._silence(output.clone(), masks))
        entry = seen.entry[rows]  # a copy: what follows may write into it
        pair = self._images[[0, min(1, len(self) - 1)]]
        if self.entry == self.site.layer:
            silenced = self._silence(entry, masks)
            return self._forward(pair, lambda output: silenced)
        return self._forward(pair, lambda output: self._silence(output.clone(), masks), entry)

    def _silence(self, output: Tensor, masks: Tensor) -> Tensor:
        """Set units ``(n, U)`` of n images to zero, in place: only they are touched."""
        row, unit = masks.nonzero(as_tuple=True)
        (output if self.site.channels_first else output.movedim(-1, 1))[row, unit] = 0
        return output

    def _run(self, images: Tensor) -> _Seen:
        entries: list[Tensor] = []
        outputs: list[Tensor] = []

        def catch(output: Tensor) -> Tensor:
            outputs.append(output.detach().clone())
            return output

        def enter(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
            if len(args) != 1 or given:
                raise _NoEntry
            entries.append(args[0].detach().clone())

        with ExitStack() as stack:
            if self.entry != self.site.layer:
                module = self.view.root.get_submodule(self.entry)
                stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            logits = self._forward(images, catch)
        if len(entries) > 1:
            raise _NoEntry
        return _Seen(check_logits(logits, len(images)), outputs[-1], (entries or outputs)[-1])

    def _forward(self, images: Tensor, change: Callable[[Tensor], Tensor], entry: Tensor | None = None) -> Tensor:
        """Run the network; ``change`` is given what the layer returns in its last run, and what it returns goes on. ``entry``
        replaces what the block at the place of entry is given."""
        runs = 0

        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            nonlocal runs
            runs += 1
            return change(output) if runs == self.site.calls else output

        with ExitStack() as stack:
            stack.callback(self.view.root.get_submodule(self.site.layer).register_forward_hook(hook).remove)
            if entry is not None:
                block = self.view.root.get_submodule(self.entry)
                stack.callback(block.register_forward_pre_hook(lambda _, __: (entry,)).remove)
            stack.enter_context(self._units.quietly())
            answer: Tensor = self.view(self.view.load(images))
            return answer

    def _find_way(self) -> None:
        """Try the cheap ways on two images, against the whole network."""
        images = self._loudest()
        seen = self._run(images)
        half = torch.arange(self.site.units, device=self.view.device) % 2 == 0
        masks = torch.stack([half, ~half, torch.zeros_like(half), half, ~half])
        rows = torch.arange(_TRIED, device=self.view.device) % len(images)
        pairs = [(row[None], mask[None]) for row, mask in zip(rows, masks, strict=True)]
        expected = torch.cat([self._without(images, seen, row, mask) for row, mask in pairs])
        for linear in self._linear_ends(images, seen):
            lost = torch.einsum("ju,nuk->jnk", masks.to(expected), linear.contributions(self.site.read(seen.output)))
            found = (seen.logits - lost)[torch.arange(_TRIED, device=rows.device), rows]
            if _same(found, expected) and self._is_linear(linear, images, seen):
                self._linear, self.way = linear, "linear"
                return
        if self.view.notices or self._units.drew_random:
            return
        self.way = "tail"
        for entry in self._entries():
            self.entry = entry
            try:
                if _same(self._without(images, self._run(images), rows, masks), expected):
                    return
            except (ExplainError, _NoEntry):
                continue  # rows of two images met rows of five, or the block is not given one tensor: not here
        self.way, self.entry = "full", self.site.layer

    def _loudest(self) -> Tensor:
        """Return the two images, of the first some, on which the layer's output is greatest; one if there is one."""
        some = self._images[: self._batch_size] if self._batch_size > 1 else self._images[:1]
        output = self._run(some).output
        return some[output.abs().flatten(1).mean(1).topk(min(2, len(some))).indices.to(some.device)]

    def _is_linear(self, linear: _Linear, images: Tensor, seen: _Seen) -> bool:
        """Whether the network is that linear layer for any output of the layer: it is given noise of both signs."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(seen.output.shape, generator=generator).to(seen.output) * seen.output.std()
        answers = self._forward(images, lambda _: noise)
        change = linear.contributions(self.site.read(noise)) - linear.contributions(self.site.read(seen.output))
        return _same(seen.logits + change.sum(1), answers)

    def _entries(self) -> Iterator[str]:
        """Yield the layer's own output, and then the blocks around it from the inside out."""
        yield self.site.layer
        block = self.site.layer.rpartition(".")[0]
        while block:
            yield block
            block = block.rpartition(".")[0]

    def _linear_ends(self, images: Tensor, seen: _Seen) -> Iterator[_Linear]:
        """Yield what the end of the network would be if its last linear layer saw the output directly."""
        ends: list[tuple[nn.Linear, Tensor, Any]] = []
        with ExitStack() as stack:
            for module in self.view.root.modules():
                if isinstance(module, nn.Linear):
                    keep = lambda m, args, out: ends.append((m, args[0].detach().clone(), out))  # noqa: E731
                    stack.callback(module.register_forward_hook(keep).remove)
            self._run(images)
        if not ends or not isinstance(ends[-1][2], Tensor) or not torch.equal(ends[-1][2], seen.logits):
            return
        last, given, _ = ends[-1]
        maps = self.site.read(seen.output).transpose(0, 1).flatten(2)  # (n, U, P)
        for mean, flat in ((True, maps.mean(2)), (False, maps.flatten(1))):
            if _same(flat, given):
                yield _Linear(last.weight.reshape(len(last.weight), maps.shape[1], -1), mean)


def _same(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= _CLOSE * expected.abs().max())


def _joined(parts: tuple[Answers, ...]) -> Answers:
    return Answers(*(torch.cat(some, -1).cpu() for some in zip(*parts, strict=True)))


def _share(progress: Progress | None, start: int, count: int, total: int) -> Callable[[float], None]:
    """Return what turns the share that is done of ``count`` images from ``start`` on into progress."""

    def told(share: float) -> None:
        if progress is not None:
            progress(round(100 * (start + share * count)), 100 * total, "removing units")

    return told
