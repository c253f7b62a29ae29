"""Models: from a name, a file of unknown architecture or a module to a frozen :class:`VisionModel`.

=================  ============================================================================
``sniff``          what a file is, by its bytes; refusals that need no parsing
``convert``        the isolated reader of pickle checkpoints (``_reader`` runs in the child)
``checkpoint``     containers unwrapped, masks folded, hints kept
``signatures``     generated table of torchvision's classifiers
``identify``       names and shapes → architecture; ``families`` for those without a name
``build``          architecture + tensors → network; ``meta`` builds without storage
``presets``        preprocessing and torchvision's weight files
``vision``         :class:`VisionModel`
``load``           the front door
=================  ============================================================================
"""

from .identify import Identification
from .load import identify, load
from .vision import Layer, Preset, VisionModel

__all__ = ["Identification", "Layer", "Preset", "VisionModel", "identify", "load"]
