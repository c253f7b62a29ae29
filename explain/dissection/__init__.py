"""Network dissection: which concept each unit detects, how sure that is, and what breaks when the unit is removed."""

from __future__ import annotations

from explain.dissection.engine import dissect
from explain.dissection.probe import Annotation, Probe
from explain.dissection.results import Dissection, LayerDissection

__all__ = ["Annotation", "Dissection", "LayerDissection", "Probe", "dissect"]
