"""The books of an evaluation: what is known about each image so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ._ball import within
from ._cascade import REPLAY
from ._losses import margin

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ._session import Strike

# An image is nearly broken when less than this share of its lead is left.
_NEARLY = 0.03


@dataclass
class Ledger:
    """What is known about each image so far; all ``(N,)`` except ``images`` and ``epsilons``.

    Budgets descend image by image: what breaks an image within one budget is tried at the next smaller one, and an image
    that stands against an attack at one budget is not tried with smaller ones.

    Attributes:
        epsilons: the budgets, float64, ascending.
        labels: classes to leave.
        predicted: the model's answers to the clean images.
        images: nearest adversarial images found, clean where there is none.
        broken_at: smallest budget that holds an adversarial; 0 when wrong from the start, inf when none does.
        credit: number of the stage that found it; -1 for none, -2 for what was given.
        distance: of ``images`` where broken.
        fooled_as: the model's answers to ``images``.
        forwards, backwards: passes.
        lead: how far the label's logit is ahead at the clean image.
        blind: whether an attack met a gradient of exactly zero there.
        climbed, probed: greatest margin against the label reached at the budget that is next, by attacks that follow
            gradients and by those that do not.
    """

    epsilons: torch.Tensor
    labels: torch.Tensor
    predicted: torch.Tensor
    images: torch.Tensor
    broken_at: torch.Tensor
    credit: torch.Tensor
    distance: torch.Tensor
    fooled_as: torch.Tensor
    forwards: torch.Tensor
    backwards: torch.Tensor
    lead: torch.Tensor
    blind: torch.Tensor
    climbed: torch.Tensor
    probed: torch.Tensor

    @classmethod
    def open(
        cls,
        images: torch.Tensor,
        labels: torch.Tensor,
        logits: torch.Tensor,
        epsilons: Sequence[float],
        passes: int = 1,
    ) -> Ledger:
        """A ledger after the clean pass (or several): misclassified images count as broken at 0."""
        predicted = logits.argmax(1)
        wrong = predicted != labels
        none = torch.full(labels.shape, torch.inf, dtype=torch.float64, device=labels.device)
        return cls(
            epsilons=torch.tensor(epsilons, dtype=torch.float64, device=labels.device),
            labels=labels,
            predicted=predicted,
            images=images.clone(),
            broken_at=torch.where(wrong, 0, none),
            credit=torch.full_like(labels, -1),
            distance=torch.where(wrong, 0, none),
            fooled_as=predicted.clone(),
            forwards=torch.full_like(labels, passes),
            backwards=torch.zeros_like(labels),
            lead=-margin(logits, labels).double(),
            blind=torch.zeros_like(wrong),
            climbed=-none,
            probed=-none,
        )

    def next(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of ``rows`` that stand at some budget, and for each the largest one: what to try."""
        below = torch.searchsorted(self.epsilons, self.broken_at[rows])
        standing = below > 0
        return rows[standing], self.epsilons[below[standing] - 1]

    def standing(self) -> torch.Tensor:
        """Rows that stand at some budget."""
        return self.next(torch.arange(len(self.labels), device=self.labels.device))[0]

    def doubtful(self, rows: torch.Tensor) -> torch.Tensor:
        """Those of ``rows`` where the gradient may not have told all.

        It was zero or led away from the boundary, something that does not follow it got further, or it all but broke the
        image. Each image is judged by itself, so that the answer does not depend on which are evaluated together.
        """
        lead, climbed = self.lead[rows], self.climbed[rows]
        misled = self.blind[rows] | (climbed <= -lead) | (self.probed[rows] > climbed)
        return rows[misled | (climbed > -_NEARLY * lead)]

    def record(self, strike: Strike, place: int) -> None:
        """Enter what the attack at ``place`` of the cascade did."""
        self.forwards[strike.rows] += strike.forwards
        self.backwards[strike.rows] += strike.backwards
        self.blind[strike.rows] |= strike.blind
        reached = self.climbed if strike.kind == "gradient" else self.probed
        reached[strike.rows] = torch.maximum(reached[strike.rows], strike.margin.double())
        # The smallest budget that holds what was found.
        fits = within(strike.distance.double().unsqueeze(1), self.epsilons)
        level = torch.where(fits, self.epsilons, torch.inf).amin(1)
        better = strike.broken & (level < self.broken_at[strike.rows])
        rows = strike.rows[better]
        self.images[rows] = strike.images[better]
        self.broken_at[rows] = level[better]
        self.credit[rows] = place
        self.distance[rows] = strike.distance[better].double()
        self.fooled_as[rows] = strike.fooled_as[better]
        self.climbed[rows] = self.probed[rows] = -torch.inf

    def frame(self, ids: Sequence[str], cascade: Sequence[str]) -> pd.DataFrame:
        """One row per image; columns as in :class:`attacks.Evaluation`."""
        import pandas as pd

        credit = [
            cascade[place] if place >= 0 else "replay" if place == REPLAY else "clean" if at == 0 else ""
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
