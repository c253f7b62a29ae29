"""Concepts without annotated pixels: units matched to an images × concepts matrix of scores.

T. Oikarinen, T.-W. Weng, "CLIP-Dissect", ICLR 2023: any model that scores images against texts gives such a matrix; it is taken
as it is, so nothing is downloaded. A unit is summarised by the mean of its map, and the concept is the one that its most
activating images are most specifically about, by soft-WPMI (their equation 3 with a soft membership of images): with p(c|x) the
softmax over concepts of the scaled scores, and wᵢ falling from 0.998 to 0.97 over the unit's 100 most activating images,

    score(c) = Σᵢ log(1 + wᵢ (p(c|xᵢ) − 1)) − λ · log mean over units of exp of that sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from explain.dissection.options import check_count, check_image
from explain.dissection.units import Units
from explain.errors import InputError
from explain.view import private_view

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, str], None]

_TOP, _FIRST, _LAST = 100, 0.998, 0.97


class ScoredProbe(Protocol):
    """Images with a score for every concept; ``workbench.probes.ScoreProbe`` is one."""

    @property
    def concepts(self) -> tuple[str, ...]: ...

    @property
    def scores(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Tensor: ...


@dataclass(frozen=True, repr=False, eq=False)
class ConceptMatch:
    """The scores of U units of one layer for C concepts.

    Attributes:
        layer: dotted name.
        concepts: C names.
        scores: ``(U, C)``, soft-WPMI in nats; comparable between concepts of one unit.
    """

    layer: str
    concepts: tuple[str, ...]
    scores: Tensor

    def __repr__(self) -> str:
        return f"ConceptMatch({self.layer!r}: {len(self.scores)} units × {len(self.concepts)} concepts)"

    def frame(self) -> pd.DataFrame:
        """Return one row per unit: ``layer, unit, concept, score, second, lead``; ``lead`` is how far the best is ahead."""
        import pandas as pd

        best = self.scores.topk(min(2, len(self.concepts)), dim=1)
        names = [[self.concepts[i] for i in row] for row in best.indices.tolist()]
        values = best.values.tolist()
        return pd.DataFrame(
            {
                "layer": self.layer,
                "unit": range(len(names)),
                "concept": [row[0] for row in names],
                "score": [row[0] for row in values],
                "second": [row[-1] if len(row) > 1 else None for row in names],
                "lead": [row[0] - row[-1] if len(row) > 1 else float("nan") for row in values],
            }
        )


def match_concepts(
    model: nn.Module,
    probe: ScoredProbe,
    layers: str | Sequence[str] | None = None,
    *,
    temperature: float = 10.0,
    lam: float = 1.0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> dict[str, ConceptMatch]:
    """Match every unit of some layers to the concept that its most activating images are about.

    Args:
        model: maps images in [0, 1] to anything.
        probe: N images and ``scores`` ``(N, C)``.
        layers: dotted names; ``None`` for the last layer with space.
        temperature: what scores are multiplied with before the softmax over concepts; 10 suits cosine similarities.
        lam: weight λ of what all units have in common.
        batch_size: images per pass; changes no result.
        progress: called as ``progress(done, total, what)``.

    Returns:
        By layer.

    Raises:
        InputError: the scores do not belong to the images.
    """
    scores = torch.as_tensor(probe.scores).double()
    if not len(probe) or not len(probe.concepts):
        raise InputError(
            "There is nothing to match", f"{len(probe)} images, {len(probe.concepts)} concepts", "Pass some."
        )
    if (
        scores.ndim != 2
        or tuple(scores.shape) != (len(probe), len(probe.concepts))
        or not bool(scores.isfinite().all())
    ):
        raise InputError(
            "The scores must be finite, one row per image and one column per concept",
            f"{tuple(scores.shape)} for {len(probe)} images and {len(probe.concepts)} concepts",
            "Check the file of scores.",
        )
    check_count("batch_size", batch_size, 1)
    view = private_view(model)
    units = Units(view, [layers] if isinstance(layers, str) else layers)
    means: dict[str, list[Tensor]] = {}
    step = 1 if view.notices else batch_size
    for start in range(0, len(probe), step):
        stop = min(start + step, len(probe))
        images = [check_image(probe.image(index), str(index)) for index in range(start, stop)]
        same = len({tuple(image.shape) for image in images}) == 1
        for part in [torch.stack(images)] if same else [image[None] for image in images]:
            for name, maps in units.maps(part).items():
                means.setdefault(name, []).append(maps.double().mean((2, 3)).cpu())
        if progress is not None:
            progress(stop, len(probe), "activations")
    membership = (temperature * scores).softmax(1)
    return {
        name: ConceptMatch(name, tuple(probe.concepts), _soft_wpmi(torch.cat(parts, 1), membership, lam))
        for name, parts in means.items()
    }


def _soft_wpmi(activations: Tensor, membership: Tensor, lam: float) -> Tensor:
    """Return ``(U, C)`` from mean activations ``(U, N)`` and p(c|x) ``(N, C)``."""
    count = min(_TOP, activations.shape[1])
    weights = torch.linspace(_FIRST, _LAST, count, dtype=torch.float64)
    best = activations.topk(count, dim=1).indices
    sums = torch.stack([(1 + weights[:, None] * (membership[rows] - 1)).log().sum(0) for rows in best])
    common = sums.logsumexp(0) - torch.log(torch.tensor(len(sums), dtype=torch.float64))
    return sums - lam * common
