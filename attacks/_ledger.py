"""The books of an evaluation: what is known about each image so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ._session import Strike


@dataclass
class Ledger:
    """What is known about each image so far; all ``(N,)`` except ``images``."""

    labels: torch.Tensor
    predicted: torch.Tensor
    images: torch.Tensor
    broken_at: torch.Tensor
    credit: torch.Tensor
    distance: torch.Tensor
    fooled_as: torch.Tensor
    forwards: torch.Tensor
    backwards: torch.Tensor

    @classmethod
    def open(cls, images: torch.Tensor, labels: torch.Tensor, predicted: torch.Tensor) -> Ledger:
        """A ledger after the clean pass: misclassified images count as broken at 0."""
        wrong = predicted != labels
        none = torch.full(labels.shape, torch.inf, dtype=torch.float64, device=labels.device)
        return cls(
            labels=labels,
            predicted=predicted,
            images=images.clone(),
            broken_at=torch.where(wrong, 0, none),
            credit=torch.full_like(labels, -1),
            distance=torch.where(wrong, 0, none),
            fooled_as=predicted.clone(),
            forwards=torch.ones_like(labels),
            backwards=torch.zeros_like(labels),
        )

    def standing(self) -> torch.Tensor:
        """Rows that nothing has broken."""
        return self.broken_at.isinf().nonzero().flatten()

    def record(self, strike: Strike, epsilon: float, place: int) -> None:
        """Enter what the attack at ``place`` of the cascade did with budget ``epsilon``."""
        self.forwards[strike.rows] += strike.forwards
        self.backwards[strike.rows] += strike.backwards
        rows = strike.rows[strike.broken]
        self.images[rows] = strike.images[strike.broken]
        self.broken_at[rows] = epsilon
        self.credit[rows] = place
        self.distance[rows] = strike.distance[strike.broken].double()
        self.fooled_as[rows] = strike.fooled_as[strike.broken]

    def frame(self, ids: Sequence[str], cascade: Sequence[str]) -> pd.DataFrame:
        """One row per image; columns as in :class:`attacks.Evaluation`."""
        import pandas as pd

        credit = [
            cascade[place] if place >= 0 else ("clean" if at == 0 else "")
            for place, at in zip(self.credit.tolist(), self.broken_at.tolist(), strict=True)
        ]
        return pd.DataFrame(
            {
                "id": list(ids),
                "label": self.labels.cpu().numpy(),
                "predicted": self.predicted.cpu().numpy(),
                "clean_correct": (self.predicted == self.labels).cpu().numpy(),
                "broken_at": self.broken_at.cpu().numpy(),
                "attack": credit,
                "distance": self.distance.cpu().numpy(),
                "forwards": self.forwards.cpu().numpy(),
                "backwards": self.backwards.cpu().numpy(),
                "fooled_as": self.fooled_as.cpu().numpy(),
            }
        )
