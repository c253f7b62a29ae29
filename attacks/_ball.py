"""The set an attack may move in: the epsilon ball around each image, within the box [0, 1].

One place knows what a norm means. Epsilon is one number per image, so that images of one batch can have different
budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import _random

NORMS = ("linf", "l2")


def distance(x: torch.Tensor, y: torch.Tensor, norm: str) -> torch.Tensor:
    """Norm of ``x - y`` per image: ``(n, C, H, W)`` → ``(n,)``."""
    difference = (x - y).flatten(1)
    return difference.abs().amax(1) if norm == "linf" else difference.norm(dim=1)


def widest(norm: str, size: int) -> float:
    """The smallest epsilon whose ball holds the whole box of ``size`` numbers, whatever the image."""
    return 1.0 if norm == "linf" else size**0.5


@dataclass(frozen=True)
class Ball:
    """``{x' in [0, 1]: |x' - centre| <= epsilon}`` per image.

    Attributes:
        centre: images ``(n, C, H, W)`` in [0, 1].
        epsilon: radius per image, ``(n, 1, 1, 1)``.
        norm: one of :data:`NORMS`.
    """

    centre: torch.Tensor
    epsilon: torch.Tensor
    norm: str

    @classmethod
    def around(cls, x: torch.Tensor, epsilon: float | torch.Tensor, norm: str) -> Ball:
        """Ball around images ``x`` with one radius for all, or radii ``(n,)``."""
        radius = torch.as_tensor(epsilon, dtype=x.dtype, device=x.device).expand(len(x))
        return cls(x, radius.view(-1, 1, 1, 1), norm)

    def __getitem__(self, rows: torch.Tensor) -> Ball:
        return Ball(self.centre[rows], self.epsilon[rows], self.norm)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Bring ``x`` into the set; both constraints hold up to float rounding (below 1e-6).

        linf: exact, since ball and box are both boxes. l2: scale into the ball, then clip to the box. Clipping moves
        every coordinate towards the centre, which lies in the box, so it cannot leave the ball again. The result is
        feasible, though not the nearest feasible point, as in every common implementation of PGD.
        """
        if self.norm == "linf":
            low, high = (self.centre - self.epsilon).clamp(min=0), (self.centre + self.epsilon).clamp(max=1)
            return torch.minimum(torch.maximum(x, low), high)
        delta = x - self.centre
        length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return (self.centre + delta * (self.epsilon / length.clamp(min=1e-12)).clamp(max=1)).clamp(0, 1)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """Direction of steepest ascent of unit norm; zero where the gradient is zero."""
        if self.norm == "linf":
            return gradient.sign()
        # Dividing by the largest entry first keeps tiny gradients from underflowing when squared.
        largest = gradient.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
        scaled = gradient / torch.where(largest > 0, largest, 1)
        length = scaled.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return scaled / length.clamp(min=1)

    def random(self, seed: int, keys: list[str], *stream: object) -> torch.Tensor:
        """A point drawn uniformly from each ball, then projected to the box."""
        shape = self.centre.shape[1:]
        if self.norm == "linf":
            delta = 2 * _random.uniform(seed, keys, shape, *stream).to(self.centre) - 1
        else:
            delta = self.steepest(_random.normal(seed, keys, shape, *stream, "direction").to(self.centre))
            radius = _random.uniform(seed, keys, (1, 1, 1), *stream, "radius").to(self.centre)
            delta = delta * radius ** (1 / shape.numel())
        return self.project(self.centre + self.epsilon * delta)
