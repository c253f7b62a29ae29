"""Saliency: how much the score moves when a pixel does.

Simonyan, Vedaldi & Zisserman 2013 (arXiv 1312.6034), section 3: for the unnormalised score S of the class,

    M_ij = max_ch |∂S/∂I_ij,ch|.
"""

from __future__ import annotations

from explain.method import Maps, Method, pixel_maps
from explain.passes import Pass


def saliency(run: Pass) -> Maps:
    """Return the largest gradient magnitude over the channels."""
    return pixel_maps(run.pixel_gradient())


METHOD = Method(
    name="saliency",
    title="Saliency",
    family="gradient",
    needs=frozenset({"gradient"}),
    paper="Simonyan et al. 2013, arXiv 1312.6034",
    description="Where a small change of a pixel changes the score most.",
    cost=(1, 1),
    compute=saliency,
)
