"""Grad-CAM++: Grad-CAM whose weights do not favour large objects over several small ones.

Chattopadhyay et al. 2018 (arXiv 1710.11063), Eq. 19 and 20, with Y = exp(S) and a piecewise linear network: for
activations A^k of a layer and g = ∂S/∂A^k,

    α_ij = g_ij² / (2 g_ij² + (Σ_ab A_ab) g_ij³) = 1 / (2 + g_ij Σ_ab A_ab),    0 where g_ij = 0,
    w_k  = Σ_ij α_ij relu(exp(S) g_ij),    L = relu(Σ_k w_k A^k).

exp(S) is one positive factor per image and is left out. The second form of α has no quotient of vanishing numbers and
needs no epsilon: at the last stage of a ResNet g² is about 1e-6. Where g ≤ 0 the weight is zero whatever α is.

The equation assumes A ≥ 0, as after a ReLU; then 0 < α ≤ 1/2. On a layer with negative values Σ A can be negative and
the denominator vanish: such a sum counts as zero, which keeps α in that range, and the map carries a note.
"""

from __future__ import annotations

import torch

from explain.method import Maps, Method, cam_maps
from explain.passes import Pass

_SIGNED = "the layer has negative activations, which Eq. 19 excludes: a channel with a negative sum counts as zero sum"


def gradcam_plus_plus(run: Pass) -> Maps:
    """Return the rectified sum of activations, weighted by Eq. 19 and 20."""
    activation, gradient = run.layer_pair()
    total = activation.sum(dim=(2, 3), keepdim=True)
    positive = gradient.relu()
    alpha = 1 / (2 + positive * total.clamp(min=0))
    weight = (alpha * positive).sum(dim=(2, 3))
    cam = torch.einsum("nk,nkhw->nhw", weight, activation).relu()
    return cam_maps(cam, run.size, (_SIGNED,) if bool((activation < 0).any()) else ())


METHOD = Method(
    name="gradcam++",
    title="Grad-CAM++",
    family="cam",
    needs=frozenset({"layer"}),
    paper="Chattopadhyay et al. 2018, arXiv 1710.11063",
    description="Like Grad-CAM, weighted so that several instances of the class all show.",
    cost=(1, 1),
    compute=gradcam_plus_plus,
)
