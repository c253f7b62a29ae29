"""The catalogue of methods: one file each, and one line here."""

from __future__ import annotations

from explain.method import Method
from explain.methods import deconvnet, gradcam, gradcam_plus_plus, guided_backprop, saliency

#: Every method by name, in the order in which people see them.
METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD for module in (saliency, guided_backprop, deconvnet, gradcam, gradcam_plus_plus)
}
