"""Concept-annotated image sets, one file per source; each is a probe for ``explain.dissect``.

    probe = wb.read_probe("shapes")                    # generated, every pixel known
    probe = wb.read_probe("broden1_227/", model)       # Broden's layout, scaled to what the model takes
    probe = wb.TensorProbe(images, labels, concepts, categories)

=============  ==================================================================================
``tensor``     images and label maps in memory
``shapes``     the generated shapes
``broden``     a folder in Broden's layout
``folder``     ``images/``, ``masks/`` and ``concepts.csv``
``dataset``    a segmentation dataset of torchvision
``segmenter``  what a segmentation network says of images
``scores``     scores of whole images instead of label maps
=============  ==================================================================================

What a source holds that cannot be used is left out and reported in ``.skipped``. Images and annotations are read when
asked for; what cannot be read then raises ``explain.ProbeError``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explain.dissection.probe import Annotation, Probe

from ..errors import OptionError
from ..images import ImageSet
from ._base import BaseProbe, evenly
from ._pictures import Size, check_channels, pair
from .broden import BrodenProbe
from .dataset import DatasetProbe
from .folder import FolderProbe
from .scores import ScoreProbe, read_scores
from .segmenter import SegmenterProbe, torchvision_segmenter
from .shapes import shapes_probe
from .tensor import TensorProbe

if TYPE_CHECKING:
    from ..models import VisionModel

__all__ = [
    "Annotation",
    "BrodenProbe",
    "DatasetProbe",
    "FolderProbe",
    "Probe",
    "ScoreProbe",
    "SegmenterProbe",
    "TensorProbe",
    "read_probe",
    "read_scores",
    "shapes_probe",
    "torchvision_segmenter",
]

_LAYOUTS = (
    'Give "shapes"; a folder in Broden\'s layout (index.csv, label.csv, images/); a folder with images/, masks/ and '
    "concepts.csv; a CSV or .npy file of scores; an image set with concepts; or a probe."
)


def read_probe(source: Any, model: VisionModel | None = None, *, size: Size = None, n: int | None = None) -> Probe:
    """Open a concept-annotated image set, whatever it is.

    Args:
        source: ``"shapes"`` (or ``"sample:shapes"``); a folder in Broden's layout; a folder with ``images/``, ``masks/`` and
            ``concepts.csv``; a file of scores, see :func:`read_scores`; an image set with ``.concepts``; or a probe, which
            is returned as it is.
        model: the network the images are for: they are scaled to its input and made grey or RGB as it takes them.
        size: height and width (or the side of a square) to scale to instead; by default the model's.
        n: at most so many images, spread evenly; for shapes how many to make, 300 by default.

    Raises:
        OptionError: the source is none of these, or an option makes no sense for it.
        ImageError: the source cannot be used; says why.
    """
    if isinstance(source, BaseProbe) or (
        not isinstance(source, ImageSet | str | os.PathLike) and isinstance(source, Probe)
    ):
        if size is not None or n is not None:
            raise OptionError("a probe is taken as it is", f"size={size}, n={n}", "Pass them where it is made.")
        return source
    if size is None and model is not None:
        size = model.input_size[1:]
    channels = None if model is None else check_channels(model.input_size[0])
    if isinstance(source, ImageSet):
        chosen = source if n is None else source.subset(evenly(len(source), n))
        return TensorProbe.of(chosen, size=size, channels=channels)
    if not isinstance(source, str | os.PathLike):
        raise OptionError("this is no source of concepts", type(source).__name__, _LAYOUTS)
    if source in ("shapes", "sample:shapes"):
        return shapes_probe(300 if n is None else n, size=size, channels=channels)
    path = Path(source).expanduser()
    if (path / "index.csv").is_file():
        return BrodenProbe(path, size=size, limit=n, channels=channels or 3)
    if (path / "concepts.csv").is_file() and (path / "images").is_dir():
        return FolderProbe(path, size=size, limit=n, channels=channels or 3)
    if path.is_file() and path.suffix.lower() in (".csv", ".npy"):
        preset = model if pair(size) == (None if model is None else tuple(model.input_size[1:])) else None
        return read_scores(path, model=preset, size=None if preset else size, limit=n, channels=channels or 3)
    raise OptionError("this is no source of concepts" if path.exists() else "there is no such file", source, _LAYOUTS)
