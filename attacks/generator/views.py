"""Views of images that a network should see alike, so that what fools one fools others: resized, shifted, a little noisy.

After the diverse inputs of Xie et al., "Improving Transferability of Adversarial Examples with Input Diversity",
arXiv:1803.06978.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

_SMALLEST, _LARGEST = 0.8, 1.1
_SHIFT = 0.1  # of height and width
_NOISE = 0.02
_SHARE = 0.7  # of the images that are seen otherwise


def view(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """A random view of each image, ``(n, C, H, W)`` in [0, 1], differentiable; 3 of 10 are left as they are."""
    n = len(images)
    size = _SMALLEST + (_LARGEST - _SMALLEST) * torch.rand(n, generator=random)
    shift = _SHIFT * (2 * torch.rand(n, 2, generator=random) - 1)
    changed = torch.rand(n, generator=random) < _SHARE
    size, shift = torch.where(changed, size, 1), torch.where(changed[:, None], shift, 0)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0] = affine[:, 1, 1] = 1 / size
    affine[:, :, 2] = shift
    grid = F.affine_grid(affine.to(images), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    noise = _NOISE * torch.randn(images.shape, generator=random) * changed.view(-1, 1, 1, 1)
    return (moved + noise.to(images)).clamp(0, 1)
