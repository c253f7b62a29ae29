"""Images with a score per concept instead of label maps: for concepts that nobody can outline, as CLIP-Dissect has them
(Oikarinen and Weng 2023, arXiv 2204.10965). The scores come from wherever: CLIP, a tagger, people.

Without label maps there is no IoU. ``explain.match_concepts`` compares units and concepts by their values over the images.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from explain.digest import feed_tensor
from explain.dissection.probe import Annotation
from explain.errors import NotApplicable

from ..errors import ImageError
from ..folders import find
from ._base import BaseProbe, Skipped, check_concepts, check_ids, evenly, nothing_left
from ._pictures import FilePictures, Recipe, Size, header_size, pictures_of
from ._tables import inside, read_table

if TYPE_CHECKING:
    from hashlib import _Hash

    from ..images import ImageSet
    from ..models import VisionModel

_LAYOUT = "Beside scores.npy (N, C) lie concepts.txt, one name per line, and images/ with N pictures, in sorted order."


class ScoreProbe(BaseProbe):
    """Images, and how much each concept is in each of them.

    Args:
        images: an image set, a tensor ``(N, C, H, W)`` in [0, 1], or a sequence of ``(C, H, W)``.
        scores: floating point ``(N, C)``; only their order and proportions matter.
        concepts: C names.
        ids: unique names; those of the image set, or numbers, by default.
        categories: one per concept, or one for all.

    Attributes:
        scores: float32 ``(N, C)``.

    Raises:
        ImageError: images or scores that cannot be.
        OptionError: concepts or ids that do not fit them.
    """

    def __init__(
        self,
        images: ImageSet | Tensor | Sequence[Tensor] | FilePictures,
        scores: Tensor | np.ndarray,
        concepts: Sequence[str],
        ids: Sequence[str] | None = None,
        *,
        categories: Sequence[str] | str = "concept",
        skipped: Skipped = (),
    ) -> None:
        pictures, known = pictures_of(images)
        names, kinds = check_concepts(concepts, categories)
        super().__init__(pictures, check_ids(ids if ids is not None else known, len(pictures)), names, kinds, skipped)
        self.scores = _checked(scores, len(pictures), len(names))

    def annotation(self, index: int) -> Annotation:
        """Refuse: there are no label maps.

        Raises:
            NotApplicable: always.
        """
        fix = "Use explain.match_concepts(model, probe), which compares values over images; dissect needs label maps."
        raise NotApplicable("this probe has scores of whole images, and no label maps", self, fix)

    def _feed(self, state: _Hash) -> None:
        feed_tensor(state, self.scores)


def read_scores(
    path: str | os.PathLike[str],
    images_folder: str | os.PathLike[str] | None = None,
    model: VisionModel | None = None,
    *,
    size: Size = None,
    limit: int | None = None,
    channels: int = 3,
) -> ScoreProbe:
    """Read scores from a file. The pictures are decoded when asked for.

    * CSV: the header is ``image`` and the concepts; a row is a picture's path and its scores. Rows that cannot be used
      are left out and reported in ``skipped`` with their line.
    * ``.npy``: a matrix ``(N, C)``; ``concepts.txt`` beside it has a name per line, and its rows are the pictures of the
      folder, in sorted order.

    Args:
        path: the file.
        images_folder: where the pictures are; by default ``images/`` beside the file, for CSV also the file's own folder.
        model: the network the images are for; its preset scales and crops them.
        size: without a model, height and width that each picture is scaled to cover and cropped to; by default each has
            its own.
        limit: at most so many pictures, spread evenly.
        channels: 3, or 1 for grey; the model's where there is one.

    Raises:
        ImageError: a file is missing or broken, or no row can be used.
        OptionError: a size or limit that makes no sense.
    """
    file = Path(path).expanduser()
    recipe = Recipe.cropped(model, size, channels)
    beside = file.parent / "images"
    folder = Path(images_folder).expanduser() if images_folder is not None else beside
    if file.suffix.lower() == ".npy":
        rows, scores, concepts = _from_matrix(file, folder)
        skipped: list[tuple[str, str]] = []
    else:
        folder = folder if images_folder is not None or beside.is_dir() else file.parent
        rows, scores, concepts, skipped = _from_csv(file, folder)
    sizes, kept = [], []
    for i, (name, picture) in enumerate(rows):
        try:
            sizes.append(recipe.crop or header_size(picture))
            kept.append(i)
        except ImageError as error:
            skipped.append((name, error.what))
    if not kept:
        raise nothing_left(
            "no picture with scores can be used", file, tuple(skipped), f"Check the paths below {folder}."
        )
    chosen = evenly(len(kept), limit)
    names = [rows[kept[i]][0] for i in chosen]
    pictures = FilePictures([rows[kept[i]][1] for i in chosen], names, recipe, [sizes[i] for i in chosen])
    return ScoreProbe(pictures, scores[[kept[i] for i in chosen]], concepts, names, skipped=tuple(skipped))


def _from_csv(file: Path, folder: Path) -> tuple[list[tuple[str, Path]], np.ndarray, list[str], list[tuple[str, str]]]:
    table = read_table(file, ("image",))
    concepts = [column for column in table.header if column != "image"]
    if not concepts or not all(concepts):
        raise ImageError(
            f"{file.name} needs a name for every column", table.header, "Its first line: image,concept,..."
        )
    broken = list(table.broken)
    rows: dict[str, Path] = {}
    scores = []
    for line, cells in table.rows:
        try:
            if cells["image"] in rows:
                raise ImageError("the picture has a row already", cells["image"])
            picture = inside(folder, cells["image"])
            scores.append([_number(cells[concept], concept) for concept in concepts])
            rows[cells["image"]] = picture
        except ImageError as error:
            broken.append((line, error.what if error.value is None else f"{error.what}: {error.value}"))
    matrix = np.array(scores, np.float32).reshape(len(rows), len(concepts))
    return list(rows.items()), matrix, concepts, [(table.at(line), reason) for line, reason in sorted(broken)]


def _number(cell: str, concept: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ImageError(f"the score of {concept} is no number", repr(cell[:50]))
    return value


def _from_matrix(file: Path, folder: Path) -> tuple[list[tuple[str, Path]], np.ndarray, list[str]]:
    try:
        # A memory map, as a header that announces more than the file holds would else have that much memory allocated.
        scores = np.array(np.load(file, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise ImageError(f"{file.name} cannot be opened", error.strerror, "Check the path.") from None
    except Exception:  # a damaged header raises anything; objects, which could run code, ValueError
        raise ImageError(f"{file.name} is no matrix of numbers", None, "Save it with numpy.save, as floats.") from None
    names = file.parent / "concepts.txt"
    try:
        concepts = [line.strip() for line in names.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise ImageError("concepts.txt cannot be opened", error.strerror, _LAYOUT) from None
    except UnicodeDecodeError:
        raise ImageError("concepts.txt is not UTF-8 text", None, "Save it again as UTF-8.") from None
    if not folder.is_dir():
        raise ImageError("there is no folder of pictures", folder, _LAYOUT)
    found, _ = find(folder)
    if scores.ndim != 2 or scores.shape != (len(found), len(concepts)):
        told = f"{scores.shape} for {len(found)} pictures and {len(concepts)} concepts"
        raise ImageError(f"{file.name} does not fit", told, _LAYOUT)
    return [(picture.name, picture.data) for picture in found], scores, concepts


def _checked(scores: Any, count: int, concepts: int) -> Tensor:
    known = torch.from_numpy(scores) if isinstance(scores, np.ndarray) and scores.dtype.kind == "f" else scores
    if not isinstance(known, Tensor) or not known.is_floating_point() or tuple(known.shape) != (count, concepts):
        kind = getattr(scores, "dtype", type(scores).__name__)
        found = f"{tuple(getattr(scores, 'shape', ()))}, {kind}, for {count} images and {concepts} concepts"
        raise ImageError("scores must be floating point (images, concepts)", found, "Pass one row per image.")
    finite = known.isfinite()
    if not bool(finite.all()):
        row, column = (~finite).nonzero()[0].tolist()
        raise ImageError(
            "a score is not finite", f"image {row}, concept {column}", "Replace it, or leave the image out."
        )
    return known.detach().float()
