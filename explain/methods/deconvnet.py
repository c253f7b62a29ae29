"""DeconvNet: the network run backwards, each ReLU applied to the signal that comes back instead of to its own input.

Zeiler & Fergus 2014 (arXiv 1311.2901): at every ReLU the upstream signal R becomes max(R, 0), whatever the input was;
max-pooling sends it back to the position that won ("switches"), and everything else is transposed as in the gradient.
"""

from __future__ import annotations

from explain.method import Maps, Method, pixel_maps
from explain.passes import Pass


def deconvnet(run: Pass) -> Maps:
    """Return the largest magnitude over the channels of the deconvolved signal."""
    return pixel_maps(run.pixel_gradient("deconv"))


METHOD = Method(
    name="deconvnet",
    title="DeconvNet",
    family="backward rule",
    needs=frozenset({"relu"}),
    paper="Zeiler & Fergus 2014, arXiv 1311.2901",
    description="What the network would draw if run backwards from the class; hardly depends on the class.",
    cost=(1, 1),
    compute=deconvnet,
)
