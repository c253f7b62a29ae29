"""What the linear interpreter says about a set of images, with the attack that its radius is held against.

``explain.linear_interpreter`` gives the linear systems; here they are asked everything that a person wants to see at once:
votes, bias, spectrum, and beside the distance at which the frozen network would change its mind, the smallest distance at
which an attack really changes it (an upper bound: a stronger attack may find less).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import explain

from ..errors import OptionError
from .nearest import nearest

if TYPE_CHECKING:
    import pandas as pd

    from explain.linear import BiasTerms, Change, GateAgreement, JacobianGap, LinearInterpreter, Shares, Spectrum

    from ..images import ImageSet

Progress = Callable[[int, int, str], None]

_PATTERNS = 16  # singular values where there are too many outputs to compute all
_STEPS = 1000


@dataclass(frozen=True, repr=False, eq=False)
class Attacked:
    """The nearest adversarial images found, and what moved on the way there.

    Attributes:
        images: ``(N, C, H, W)`` in [0, 1]; the image itself where none was found.
        distance: ``(N,)``, l2 in pixels of [0, 1]; infinite where none was found.
        fooled_as: int64 ``(N,)``, what the model sees then.
        success: bool ``(N,)``.
        change: the change of the outputs, split exactly into pixels, decisions and bias.
        agreement: whose decisions stayed; ``None`` for a network that decides nothing.
    """

    images: torch.Tensor
    distance: torch.Tensor
    fooled_as: torch.Tensor
    success: torch.Tensor
    change: Change
    agreement: GateAgreement | None

    def __repr__(self) -> str:
        return f"Attacked({int(self.success.sum())} of {len(self.success)} images, median l2 {float(self.distance.median()):.3g})"


@dataclass(frozen=True, repr=False, eq=False)
class Interpretation:
    """One classifier on N images, as linear systems. All tensors are on the model's device.

    Attributes:
        lens: the linear systems.
        shares: one output per image, and its lead over the runner-up, split into pixels and bias.
        votes: ``(N, H, W)``.
        terms: the bias, constant by constant.
        spectrum: singular values and vectors.
        gap: A against the Jacobian.
        target: int64 ``(N,)``, the class explained.
        radius: ``(N,)``, l2 in pixels of [0, 1] at which target and runner-up would tie if no decision changed;
            negative where the target is not the predicted class. (``shares.margin_radius`` is the same in units of x.)
        attack: the nearest adversarial images, or ``None`` if not asked for.
        provenance: of the linear systems, with seed and seconds of everything.
    """

    lens: LinearInterpreter
    shares: Shares
    votes: torch.Tensor
    terms: BiasTerms
    spectrum: Spectrum
    gap: JacobianGap
    target: torch.Tensor
    radius: torch.Tensor
    attack: Attacked | None
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return len(self.target)

    def __repr__(self) -> str:
        return f"Interpretation({len(self)} images; {self.lens!r})"

    @property
    def predicted(self) -> torch.Tensor:
        """int64 ``(N,)``: the class that the model answers."""
        return self.lens.outputs.argmax(1)

    def frame(self) -> pd.DataFrame:
        """Return one row per image: the shares, and ``predicted, radius, residual, effective_rank, stable_rank,
        jacobian_gap, jacobian_cosine``; with an attack ``attack_radius, fooled_as``.

        ``margin_radius`` is in units of x, ``radius`` and ``attack_radius`` in pixels of [0, 1].
        """
        frame = self.shares.frame()
        frame.insert(1, "predicted", self.predicted.tolist())
        more = {
            "radius": self.radius,
            "residual": self.lens.residual,
            "effective_rank": self.spectrum.effective_rank,
            "stable_rank": self.spectrum.stable_rank,
            "jacobian_gap": self.gap.ratio,
            "jacobian_cosine": self.gap.cosine,
        }
        if self.attack is not None:
            more |= {"attack_radius": self.attack.distance, "fooled_as": self.attack.fooled_as}
        return frame.assign(**{name: values.tolist() for name, values in more.items()})


def interpret(
    model: nn.Module,
    images: ImageSet,
    *,
    target: int | Sequence[int] | torch.Tensor | None = None,
    space: str = "raw",
    mode: str = "secant",
    attack: bool = True,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Interpretation:
    """Open a classifier up as one exact linear system per image.

    Args:
        model: a ``VisionModel``, or any module from images in [0, 1] to logits ``(N, K)``.
        images: an ``ImageSet``.
        target: class, one for all or one per image; ``None`` for the predicted class of each image.
        space: what x is, "raw" pixels in [0, 1] or "normalised" ones; see ``explain.linear_interpreter``.
        mode: "secant" or "tangent"; see there.
        attack: whether to search the nearest adversarial images, which takes longer than all else.
        seed: of the attack.
        batch_size: images per pass; bounds the memory, changes no result.
        progress: called with steps done, their total and what is going on; what it raises cancels the work.

    Raises:
        OptionError: the model is no classifier.
        ExplainError: as ``explain.linear_interpreter``.
        AttackError: as ``attacks.attack``.
    """
    started = time.perf_counter()
    stage = _Stages(progress)
    pixels, ids = images.images, images.ids
    known: dict[str, Any] = {"mode": mode, "batch_size": batch_size, "ids": ids}
    options: dict[str, Any] = {**known, "space": space}
    lens = explain.linear_interpreter(model, pixels, **options, progress=stage.part(0, 0.1))
    if lens.outputs.ndim != 2 or lens.outputs.shape[1] < 2:
        found = "×".join(map(str, lens.outputs.shape[1:]))
        raise OptionError(
            "The model is no classifier, so it has no classes to vote for",
            f"one output is {found}",
            "For a network from images to images, ask about one pixel: workbench.interpretation.look.look_at.",
        )
    shares = lens.shares(target)
    chosen = shares.target
    radius = shares.margin_radius
    if space == "normalised":  # distances between pictures are distances between pixels, whatever x is
        radius = explain.linear_interpreter(model, pixels, **known).shares(chosen).margin_radius
    terms = lens.bias_terms(chosen)
    found_spectrum = _spectrum(lens, stage.part(0.1, 0.4))
    gap = lens.jacobian_gap()
    attacked = _attack(model, images, lens, seed, stage.part(0.4, 1.0)) if attack else None
    stage.part(1.0, 1.0)(1, 1, "done")
    provenance = {**lens.provenance, "seed": seed, "attack": attack, "seconds": time.perf_counter() - started}
    return Interpretation(
        lens, shares, lens.votes(chosen), terms, found_spectrum, gap, chosen, radius, attacked, provenance
    )


def _spectrum(lens: LinearInterpreter, progress: Progress) -> Spectrum:
    """Compute the spectrum in parts, so that a person sees it advance."""
    outputs = lens.outputs.shape[1]
    rank = None if outputs <= 128 else _PATTERNS
    found: list[Spectrum] = []
    parts = lens.parts() if rank is None else (lens.pick(i) for i in range(len(lens)))
    for part in parts:
        progress(sum(len(one.values) for one in found), len(lens), "singular patterns")
        found.append(part.svd(rank))
    values, left, right = (torch.cat([getattr(one, name) for one in found]) for name in ("values", "left", "right"))
    return explain.linear.Spectrum(values, left, right, found[0].complete, lens.ids)


def _attack(model: nn.Module, images: ImageSet, lens: LinearInterpreter, seed: int, progress: Progress) -> Attacked:
    labels = lens.outputs.argmax(1)
    near = nearest(model, images, labels.cpu(), seed, progress)
    try:
        agreement = lens.gate_agreement(near.images)
    except explain.NotApplicable:
        agreement = None
    distance, seen = (one.to(lens.outputs.device) for one in (near.distance, near.fooled_as))
    return Attacked(near.images, distance, seen, distance.isfinite(), lens.change(near.images), agreement)


class _Stages:
    """One progress out of those of the stages."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def part(self, start: float, end: float) -> Progress:
        def report(done: int, total: int, what: str) -> None:
            if self._progress is not None:
                self._progress(round(_STEPS * (start + (end - start) * done / max(total, 1))), _STEPS, what)

        return report
