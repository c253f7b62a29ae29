"""Guided backpropagation: a gradient that follows only positive evidence.

Springenberg, Dosovitskiy, Brox & Riedmiller 2015 (arXiv 1412.6806): at every ReLU with input x the upstream signal R
becomes

    max(R, 0) · [x > 0].

The pictures are sharp and hardly depend on the class: on random networks they restore the image (Nie, Zhang & Patel
2018, arXiv 1805.07039). Read them beside the map of another class.
"""

from __future__ import annotations

from explain.method import Maps, Method, pixel_maps
from explain.passes import Pass


def guided_backprop(run: Pass) -> Maps:
    """Return the largest magnitude over the channels of the guided signal."""
    return pixel_maps(run.pixel_gradient("guided"))


METHOD = Method(
    name="guided_backprop",
    title="Guided backpropagation",
    family="backward rule",
    needs=frozenset({"relu"}),
    paper="Springenberg et al. 2015, arXiv 1412.6806",
    description="Sharp outlines of what excites the network; hardly depends on the class.",
    cost=(1, 1),
    compute=guided_backprop,
)
