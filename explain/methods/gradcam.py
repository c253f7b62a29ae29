"""Grad-CAM: which positions of a layer speak for the class.

Selvaraju et al. 2017 (arXiv 1610.02391), Eq. 1 and 2: for activations A^k of a layer and g = ∂S/∂A^k,

    w_k = mean_ij g_ij,    L = relu(Σ_k w_k A^k).

On a network that ends in global average pooling and one linear layer this is CAM, up to the positive factor 1/(h·w).
"""

from __future__ import annotations

import torch

from explain.method import Maps, Method, cam_maps
from explain.passes import Pass


def gradcam(run: Pass) -> Maps:
    """Return the rectified sum of activations, weighted by their mean gradient."""
    activation, gradient = run.layer_pair()
    weight = gradient.mean(dim=(2, 3))
    return cam_maps(torch.einsum("nk,nkhw->nhw", weight, activation).relu(), run.size)


METHOD = Method(
    name="gradcam",
    title="Grad-CAM",
    family="cam",
    needs=frozenset({"layer"}),
    paper="Selvaraju et al. 2017, arXiv 1610.02391",
    description="Which regions of the last feature maps speak for the class.",
    cost=(1, 1),
    compute=gradcam,
)
