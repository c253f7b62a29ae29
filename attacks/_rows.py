"""State of an attack with one row per image that is still in it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch


@dataclass
class Rows:
    """Base of a dataclass whose every field has one row per image: tensors, or a :class:`attacks._ball.Ball`."""

    def keep(self, stay: torch.Tensor) -> None:
        """Drop the images where ``stay`` ``(n,)`` is false from every field: they cost nothing more."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[stay])
