"""Network dissection: which concept each unit detects, how sure that is, and what breaks when the unit is removed.

After D. Bau, B. Zhou, A. Khosla, A. Oliva, A. Torralba, "Network Dissection", CVPR 2017, and D. Bau et al., "Understanding the
role of individual units in a deep neural network", PNAS 2020. Start reading at ``engine``.

==============  ===========================================================================
``probe``       what is asked of a concept-annotated set of images
``units``       a layer's output as maps, one per unit, whatever the layout
``options``     what decides the result, checked before anything runs
``field``       where the positions of a map lie on the image: receptive fields, measured
``positions``   what they are measured in: every operator as it treats positions
``quantile``    exact thresholds from values that are not kept
``grid``        the pixels on which a unit is active
``tally``       counting them against the concepts
``run``         the two passes
``gathered``    what one layer has gathered on the way
``journal``     results by content, and states of long runs
``estimate``    what a run would take
``results``     the tables
``regions``     which detectors fired on an image, and where; most activating images
``tail``        a network from one layer on, without some of its units
``ablation``    what breaks without them
``rotation``    other bases of the same space
``control``     the same network untrained
``comparison``  two models, or checkpoints of one
``moved``       which units an attack moved
``matching``    concepts from scores of whole images
==============  ===========================================================================
"""

from __future__ import annotations

from explain.dissection.ablation import Ablation, AblationCurve, ablate, ablation_curve, balanced_accuracy
from explain.dissection.comparison import Comparison, compare
from explain.dissection.control import randomised
from explain.dissection.engine import dissect
from explain.dissection.estimate import Estimate, estimate
from explain.dissection.matching import ConceptMatch, match_concepts
from explain.dissection.moved import MovedUnits, moved_units
from explain.dissection.probe import Annotation, Probe
from explain.dissection.regions import Fired, TopImages, fired, top_images
from explain.dissection.results import Dissection, Interval, LayerDissection
from explain.dissection.rotation import random_rotation, rotation_power

__all__ = [
    "Ablation",
    "AblationCurve",
    "Annotation",
    "Comparison",
    "ConceptMatch",
    "Dissection",
    "Estimate",
    "Fired",
    "Interval",
    "LayerDissection",
    "MovedUnits",
    "Probe",
    "TopImages",
    "ablate",
    "ablation_curve",
    "balanced_accuracy",
    "compare",
    "dissect",
    "estimate",
    "fired",
    "match_concepts",
    "moved_units",
    "random_rotation",
    "randomised",
    "rotation_power",
    "top_images",
]
