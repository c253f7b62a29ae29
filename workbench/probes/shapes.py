"""The generated shapes as a probe: every pixel's colour, object, part, texture and scene is known exactly."""

from __future__ import annotations

from typing import Literal

from ..samples import sample_data
from ._pictures import Size
from .tensor import TensorProbe


def shapes_probe(
    n: int = 300,
    split: Literal["train", "test"] | str = "test",
    seed: int = 0,
    *,
    instances: int | None = None,
    size: Size = None,
    channels: int | None = None,
) -> TensorProbe:
    """Return a probe of :func:`workbench.sample_data` ``("shapes", split, n, seed, instances=instances)``.

    Args:
        n: number of images.
        split: "train" or "test".
        seed: non-negative.
        instances: exactly 1, 2 or 3 objects in every image, instead of one to three at random.
        size: height and width that the images are scaled to; label maps stay 64 × 64, pixel-exact.
        channels: 1 or 3: turn the images into grey.

    Raises:
        OptionError: for a split or number that does not exist.
    """
    images = sample_data("shapes", split, n, seed, instances=instances)
    return TensorProbe.of(images, size=size, channels=channels)
