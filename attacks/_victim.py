"""The model as an attack sees it: frozen, counted per image, with randomness that belongs to each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from ._frozen import frozen_view
from ._provenance import content_ids
from .errors import AttackError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def nobody(x: torch.Tensor, logits: torch.Tensor, rows: torch.Tensor) -> None:
    """The witness of a victim that nobody watches."""


class Victim:
    """Answers the questions of one attack on N images; every question names the rows it is about.

    Args:
        view: A frozen model (:func:`attacks._frozen.frozen_view`): images in [0, 1] → logits ``(n, K)``.
        ids: One key per image; with ``seed`` it determines that image's randomness.
        seed: Seed of all randomness.
        device: Where the images live.
        batch_size: Images per pass. Attacks ask about all images still standing at once, and the answer is put together
            here from full batches: broken images leave room for others, and shapes stay the same, which convolution
            libraries and allocators reward.
        tick: Called with the number of images before each pass; raising from it ends the attack.
        eot: Passes over which every answer is averaged, for models that are random (expectation over transformation,
            Athalye et al., arXiv:1707.07397).

    Attributes:
        eot: as given.
        forwards: forward passes per image, int64 ``(N,)``.
        backwards: backward passes per image, int64 ``(N,)``.
        blind: bool ``(N,)``, images that were asked for a gradient and answered with zero.
        witness: called with every question ``x``, its answer ``logits`` and its ``rows``, once they are counted.
    """

    def __init__(
        self,
        view: nn.Module,
        ids: Sequence[str],
        seed: int = 0,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        tick: Callable[[int], object] = lambda n: None,
        eot: int = 1,
    ) -> None:
        self.ids = list(ids)
        self.seed = seed
        self.forwards = torch.zeros(len(self.ids), dtype=torch.int64, device=device)
        self.backwards = torch.zeros_like(self.forwards)
        self.blind = torch.zeros_like(self.forwards, dtype=torch.bool)
        self._view = view
        self._batch_size = batch_size
        self._tick = tick
        self.eot = eot
        self.witness: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object] = nobody
        floats = [p for p in view.parameters() if p.is_floating_point()]
        self._dtype = floats[0].dtype if floats else torch.float32

    @classmethod
    def of(cls, model: nn.Module | Victim, x: torch.Tensor) -> Victim:
        """Take a victim as it is; make one of a plain model, with seed 0 and the images' content as ids."""
        return model if isinstance(model, Victim) else cls(frozen_view(model), content_ids(x), device=x.device)

    def keys(self, rows: torch.Tensor) -> list[str]:
        """Ids of ``rows``, for :mod:`attacks._random`."""
        return [self.ids[row] for row in rows.tolist()]

    def logits(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, K)`` of attempts ``x`` ``(n, C, H, W)`` at images ``rows`` ``(n,)``: one forward each."""
        self.forwards[rows] += self.eot
        with torch.no_grad(), full_precision(x):
            logits = _joined([self.differentiable(part) for part in self._batches(x)])
        self.witness(x, logits, rows)
        return logits

    def gradient(
        self, x: torch.Tensor, labels: torch.Tensor, loss: Loss, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits ``(n, K)``, loss ``(n,)`` and its gradient at ``x``: one forward and one backward each.

        Where the model cuts the graph, or the gradient is NaN, it is zero here: the sanity checks report that.
        """
        logits, values, gradients = self.gradients(x, labels, lambda *pair: loss(*pair).unsqueeze(1), rows)
        return logits, values.squeeze(1), gradients.squeeze(1)

    def gradients(
        self, x: torch.Tensor, classes: torch.Tensor, losses: Loss, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits ``(n, K)``, m losses ``(n, m)`` and their gradients at ``x``, ``(n, m, C, H, W)``: one forward each.

        ``losses(logits, classes)`` with ``classes`` ``(n, ...)`` gives ``(n, m)``; every column costs one backward.
        """
        self.forwards[rows] += self.eot
        with torch.inference_mode(False), torch.enable_grad(), full_precision(x):
            parts = zip(self._batches(x), self._batches(classes), strict=True)
            answers = [self._mean(partial(self._backward, losses=losses), *part) for part in parts]
        logits, values, gradients = (_joined(tensors) for tensors in zip(*answers, strict=True))
        self.backwards[rows] += self.eot * values.shape[1]
        self.blind[rows] |= ~gradients.flatten(1).any(1)
        self.witness(x, logits, rows)
        return logits, values, gradients

    def differentiable(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, K)`` with their graph, for code that differentiates by itself and counts its passes."""
        return self._mean(lambda x: (self._forward(x),), x)[0]

    def _mean(self, ask: Callable[..., tuple[torch.Tensor, ...]], *questions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answers = [ask(*questions) for _ in range(self.eot)]
        return answers[0] if self.eot == 1 else tuple(torch.stack(each).mean(0) for each in zip(*answers, strict=True))

    def _batches(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [tensor[start : start + self._batch_size] for start in range(0, len(tensor), self._batch_size)]

    def _backward(
        self, x: torch.Tensor, labels: torch.Tensor, losses: Loss
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # What a caller made under inference mode cannot take part in autograd; a copy can.
        x, labels = (t.clone() if t.is_inference() else t.detach() for t in (x, labels))
        x.requires_grad_()
        logits = self._forward(x)
        values = losses(logits, labels)
        count = values.shape[1]
        if not values.requires_grad:
            return logits, values, x.detach().new_zeros(len(x), count, *x.shape[1:])
        totals = values.sum(0)
        gradients = [torch.autograd.grad(totals[k], x, retain_graph=k + 1 < count)[0] for k in range(count)]
        together = gradients[0].unsqueeze(1) if count == 1 else torch.stack(gradients, 1)
        return logits.detach(), values.detach(), together.nan_to_num(0, 0, 0)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        self._tick(len(x))
        # The copy protects our images from models that normalise their input in place.
        try:
            logits = self._view(x.to(self._dtype, copy=True))
        except torch.OutOfMemoryError as error:
            raise AttackError("The device has too little memory", f"{len(x)} images", "Lower batch_size.") from error
        except Exception as error:
            raise AttackError(
                "The model fails on these images",
                f"shape {tuple(x.shape)}, {(str(error) or type(error).__name__).splitlines()[0]}",
                "Pass images with the channels and size that the model was made for.",
            ) from error
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise AttackError(
                f"The model must return logits (N, K) with K of at least 2; for {len(x)} images it returned",
                shape,
                "Wrap it in a Module that returns one tensor of class logits.",
            )
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The parts in one tensor; a single one need not be copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def full_precision(x: torch.Tensor) -> torch.autocast:
    """A caller's autocast would reach into forward and backward alike, and decide verdicts by its rounding."""
    return torch.autocast(x.device.type, enabled=False)
