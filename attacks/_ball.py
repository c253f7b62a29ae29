"""The set an attack may move in: the epsilon ball around each image, within the box [0, 1].

One place knows what a norm means: linf the largest change of a number, l2 the Euclidean length of the change, l1 the sum
of absolute changes, l0 how many of the C·H·W numbers change. Epsilon is one number per image, so that images of one batch
can have different budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import _random

NORMS = ("linf", "l2", "l1", "l0")
DUAL = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}  # order of the norm that measures gradients
TOLERANCE = 1e-6


def within(distances: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
    """Whether distances keep to budgets, up to float32 rounding: absolute for budgets up to 1, relative above."""
    return distances <= budgets + TOLERANCE * budgets.clamp(min=1)


def distance(x: torch.Tensor, y: torch.Tensor, norm: str) -> torch.Tensor:
    """Norm of ``x - y`` per image: ``(n, C, H, W)`` → ``(n,)``."""
    return length(x - y, norm)


def length(delta: torch.Tensor, norm: str) -> torch.Tensor:
    """Norm per image: ``(n, C, H, W)`` → ``(n,)``."""
    flat = delta.flatten(1)
    return torch.linalg.vector_norm(flat, {"linf": torch.inf, "l2": 2, "l1": 1, "l0": 0}[norm], dim=1)


def widest(norm: str, size: int) -> float:
    """The smallest epsilon whose ball holds the whole box of ``size`` numbers, whatever the image."""
    return {"linf": 1.0, "l2": size**0.5}.get(norm, float(size))


def rounded(found: torch.Tensor, x: torch.Tensor, budget: torch.Tensor | None, norm: str) -> torch.Tensor:
    """Round to multiples of 1/255 as a saved file does: to the nearest, or towards the clean image where that is too far."""
    nearest = (found * 255).round() / 255
    if budget is None:
        return nearest
    inward = torch.where(found > x, (found * 255).floor(), (found * 255).ceil()) / 255
    fits = within(distance(nearest, x, norm), budget).view(-1, 1, 1, 1)
    return torch.where(fits, nearest, inward)


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
        feasible, though not the nearest feasible point, as in every common implementation of PGD. l1 and l0: the
        nearest feasible point.
        """
        if self.norm == "linf":
            low, high = (self.centre - self.epsilon).clamp(min=0), (self.centre + self.epsilon).clamp(max=1)
            return torch.minimum(torch.maximum(x, low), high)
        if self.norm == "l1":
            return self._project_l1(x)
        delta = x - self.centre
        if self.norm == "l0":
            # Kept are the changes that come closest to where they should be, within the box, for being kept.
            boxed = x.clamp(0, 1)
            gain = delta.square() - (x - boxed).square()
            kept = gain.flatten(1).argsort(1, descending=True).argsort(1) + 1 <= self.epsilon.flatten(1)
            return torch.where(kept.view_as(x), boxed, self.centre)
        length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return (self.centre + delta * (self.epsilon / length.clamp(min=1e-12)).clamp(max=1)).clamp(0, 1)

    def _project_l1(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest point of l1 ball and box: shrink every change by one λ per image, then clip (Croce & Hein 2021).

        The length left after shrinking and clipping falls piecewise linearly in λ. Its kinks are where a change reaches
        zero and where it leaves the face of the box; sorting them gives λ exactly.
        """
        delta = (x - self.centre).flatten(1)
        centre = self.centre.flatten(1)
        size, room = delta.abs(), torch.where(delta > 0, 1 - centre, centre)
        epsilon = self.epsilon.flatten(1)
        # Shrunk by λ a change is min(max(size - λ, 0), room): slope -1 between size - room and size.
        kinks = torch.cat([(size - room).clamp(min=0), size], 1)
        order = kinks.argsort(1)
        kinks = kinks.gather(1, order)
        slopes = torch.cat([-torch.ones_like(size), torch.ones_like(size)], 1).gather(1, order).cumsum(1)
        falls = slopes[:, :-1] * (kinks[:, 1:] - kinks[:, :-1])
        start = torch.minimum(size, room).sum(1, keepdim=True)
        lengths = torch.cat([start, start + falls.cumsum(1)], 1)  # at each kink
        place = (lengths > epsilon).sum(1, keepdim=True).clamp(min=1) - 1
        slope = slopes.gather(1, place)
        shift = (lengths.gather(1, place) - epsilon) / torch.where(slope < 0, -slope, 1)
        shrink = torch.where(start > epsilon, kinks.gather(1, place) + shift, 0)
        moved = torch.minimum((size - shrink).clamp(min=0), room) * delta.sign()
        # Rounding grows with the number of coordinates; what is over goes.
        over = moved.abs().sum(1, keepdim=True).clamp(min=1e-12)
        moved = moved * (epsilon / over).clamp(max=1)
        return (centre + moved).view_as(x).clamp(0, 1)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """Direction of steepest ascent of unit norm (linf, l2); zero where the gradient is zero."""
        if self.norm == "linf":
            return gradient.sign()
        # Dividing by the largest entry first keeps tiny gradients from underflowing when squared.
        largest = gradient.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
        scaled = gradient / torch.where(largest > 0, largest, 1)
        length = scaled.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return scaled / length.clamp(min=1)

    def random(self, seed: int, keys: list[str], *stream: object) -> torch.Tensor:
        """A point drawn uniformly from each ball (linf, l2, l1), then projected to the box."""
        shape = self.centre.shape[1:]
        if self.norm == "linf":
            delta = 2 * _random.uniform(seed, keys, shape, *stream).to(self.centre) - 1
        elif self.norm == "l1":
            # Exponential spacings with random signs are uniform on the sphere; one spacing more, and in the ball.
            spacings = -(-_random.uniform(seed, keys, (shape.numel() + 1,), *stream, "spacings")).log1p()
            signs = _random.normal(seed, keys, shape, *stream, "signs").sign().to(self.centre)
            shares = (spacings / spacings.sum(1, keepdim=True))[:, :-1]
            delta = signs * shares.view(-1, *shape).to(self.centre)
        else:
            delta = self.steepest(_random.normal(seed, keys, shape, *stream, "direction").to(self.centre))
            radius = _random.uniform(seed, keys, (1, 1, 1), *stream, "radius").to(self.centre)
            delta = delta * radius ** (1 / shape.numel())
        return self.project(self.centre + self.epsilon * delta)
