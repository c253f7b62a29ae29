"""Singular values and vectors of A: which patterns the frozen network listens to, and how many there are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from explain.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from explain.linear.interpreter import LinearInterpreter

_ALL = 128
"""With so many outputs or fewer, A is built row by row: exact, and cheaper than iterating."""
_SOME = 16


@dataclass(frozen=True, repr=False, eq=False)
class Spectrum:
    """A ≈ Σ sᵢ·uᵢ·vᵢᵀ for each image.

    Attributes:
        values: ``(N, r)``, singular values, the largest first.
        left: ``(N, r, *out)``, as classes mix.
        right: ``(N, r, *in)``, as patterns of the input.
        complete: whether these are all singular values.
        ids: one name per image.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    complete: bool
    ids: tuple[str, ...]

    def __repr__(self) -> str:
        which = "all" if self.complete else "the largest"
        return f"Spectrum({which} {self.values.shape[1]} singular values, {len(self.ids)} images)"

    @property
    def effective_rank(self) -> Tensor:
        """``(N,)``: exp of the entropy of sᵢ²/Σs² (Roy & Vetterli 2007, with energies); of these values only if not complete, and
        NaN where A is 0."""
        p = self.values.square() / self.values.square().sum(1, keepdim=True)
        return torch.special.entr(p).sum(1).exp()

    @property
    def stable_rank(self) -> Tensor:
        """``(N,)``: Σs²/s₁²; a lower bound if not complete."""
        return self.values.square().sum(1) / self.values[:, 0].square()

    def frame(self) -> pd.DataFrame:
        """Return one row per image and singular value: ``image, index, value, energy``; energies sum to 1."""
        import pandas as pd

        energy = self.values.square() / self.values.square().sum(1, keepdim=True)
        rows = [
            (image, index, value, share)
            for image, values, shares in zip(self.ids, self.values.tolist(), energy.tolist(), strict=True)
            for index, (value, share) in enumerate(zip(values, shares, strict=True))
        ]
        return pd.DataFrame(rows, columns=["image", "index", "value", "energy"])


def spectrum(lens: LinearInterpreter, rank: int | None) -> Spectrum:
    """Compute the spectrum of each image; see ``LinearInterpreter.svd``."""
    outputs, inputs = math.prod(lens.outputs.shape[1:]), math.prod(lens.inputs.shape[1:])
    full = min(outputs, inputs)
    if rank is None:
        rank = full if full <= _ALL else _SOME
    if not isinstance(rank, int) or not 1 <= rank <= full:
        raise InputError("There are not so many singular values", rank, f"A has {full}: pass a rank from 1 to {full}.")
    if outputs <= _ALL:
        matrices = (matrix for part in lens.parts() for matrix in part.rows())
        found = [_by_rows(matrix, rank) for matrix in matrices]
    elif rank > full // 4 and outputs <= inputs:
        found = [_by_rows(lens.pick(image).rows()[0], rank) for image in range(len(lens))]
    else:
        found = [_iterated(lens, image, rank) for image in range(len(lens))]
    values, left, right = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Spectrum(
        values,
        left.view(len(lens), rank, *lens.outputs.shape[1:]),
        right.view(len(lens), rank, *lens.inputs.shape[1:]),
        rank == full,
        lens.ids,
    )


def _by_rows(rows: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(rows.flatten(1).double(), full_matrices=False)
    return values[:rank].to(rows), left.T[:rank].to(rows), right[:rank].to(rows)


def _iterated(lens: LinearInterpreter, image: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    import numpy as np
    from scipy.sparse.linalg import svds

    operator = lens.operator(image)
    if rank >= min(operator.shape):
        raise InputError(
            "All singular values of a matrix this large would be computed one by one",
            rank,
            f"Pass a rank below {min(operator.shape) // 4}.",
        )
    start = np.random.default_rng(0).standard_normal(min(operator.shape)).astype(operator.dtype)
    left, values, right = svds(operator, k=rank, v0=start, random_state=0)
    order = np.argsort(values)[::-1]
    parts = (values[order], left.T[order], right[order])
    x = lens.inputs
    first, second, third = (torch.as_tensor(part.copy(), dtype=x.dtype, device=x.device) for part in parts)
    return first, second, third
