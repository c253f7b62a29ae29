"""Why does an image classifier decide so: maps of the evidence, by methods that keep their papers' definitions.

    maps = explain.explain(model, images, methods=("saliency", "gradcam++"))
    maps["gradcam++"].maps          # (N, H, W)

``model`` is any ``torch.nn.Module`` that maps images in [0, 1] to logits. This folder stands alone: it needs torch, and
pandas only for ``.frame()``. Start reading at ``engine``; a method's formula is in ``methods``, what it is computed
from in ``passes``, the backward rules of ReLU in ``operators``, and why the model stays untouched in ``view``.
"""

from __future__ import annotations

from explain.anatomy import Layer, default_layer, layers
from explain.dissection import (
    Ablation,
    Annotation,
    Dissection,
    LayerDissection,
    Probe,
    ablate,
    ablation_curve,
    compare,
    dissect,
    fired,
    match_concepts,
    moved_units,
    random_rotation,
    randomised,
    top_images,
)
from explain.engine import explain
from explain.errors import ExplainError, InputError, LayerError, ModelError, NotApplicable, ProbeError
from explain.linear import LinearInterpreter, linear_interpreter
from explain.method import Method
from explain.methods import METHODS
from explain.results import Explanation, Explanations, normalise

__all__ = [
    "METHODS",
    "Ablation",
    "Annotation",
    "Dissection",
    "ExplainError",
    "Explanation",
    "Explanations",
    "InputError",
    "Layer",
    "LayerDissection",
    "LayerError",
    "LinearInterpreter",
    "Method",
    "ModelError",
    "NotApplicable",
    "Probe",
    "ProbeError",
    "ablate",
    "ablation_curve",
    "compare",
    "default_layer",
    "dissect",
    "explain",
    "fired",
    "layers",
    "linear_interpreter",
    "match_concepts",
    "moved_units",
    "normalise",
    "random_rotation",
    "randomised",
    "top_images",
]
