"""The plainest layout on disk: pictures, label maps of the same name, and a table that names the numbers.

images/kitchen/1.jpg       pictures, in sub-folders or not
masks/kitchen/1.png        where which label is seen, and/or
masks/parts/kitchen/1.png  further layers, each a sub-folder of masks/ whose name is none of a sub-folder of images/
concepts.csv               number,name,category
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from explain.dissection.probe import Annotation
from explain.errors import ProbeError

from ..errors import ImageError
from ..folders import Picture, find
from ._base import BaseProbe, evenly, feed_file, nothing_left
from ._labels import folder_labels
from ._masks import read_mask, stacked
from ._pictures import FilePictures, Recipe, Size, header_size, reading

if TYPE_CHECKING:
    from hashlib import _Hash

_PROPORTIONS = 1.25  # a label map this much wider or narrower than its picture does not cover the same picture


class FolderProbe(BaseProbe):
    """A folder with ``images/``, ``masks/`` and ``concepts.csv``. Pixels are read when asked for.

    A label map is a PNG whose pixels are label numbers: grey or palette, or RGB with R + 256 G. It covers the whole
    picture, at a size of its own. A picture without one counts as unlabelled.

    Args:
        folder: that holds the three.
        size: height and width that the images are scaled to, as a whole, without cropping; by default each has its own.
        limit: at most so many images, spread evenly over their sorted names.
        channels: 3, or 1 for grey.

    Raises:
        ImageError: ``concepts.csv`` is missing or broken, or there is no picture, or none with a label map.
        OptionError: a size or limit that makes no sense.
    """

    def __init__(
        self, folder: str | os.PathLike[str], size: Size = None, limit: int | None = None, *, channels: int = 3
    ) -> None:
        root = Path(folder).expanduser()
        recipe = Recipe.whole(size, channels)
        labels = folder_labels(root / "concepts.csv")
        for part in ("images", "masks"):
            if not (root / part).is_dir():
                raise ImageError(f"the folder {part} is missing", root, "It needs images/, masks/ and concepts.csv.")
        found, failed = find(root / "images")
        skipped = [(f"images/{name}", str(error)) for name, error in failed]
        pictures: list[Picture] = []
        sizes: list[tuple[int, int]] = []
        masks: list[list[str]] = []
        layers = _layers(root)
        stems: dict[str, str] = {}
        for picture in found:
            stem = Path(picture.data).relative_to(root / "images").with_suffix("").as_posix()
            if stem in stems:
                skipped.append(
                    (f"images/{picture.name}", f"images/{stems[stem]} has the same name, and so the same masks")
                )
                continue
            try:
                # With a size the header is not needed: then a damaged file is found, and reported, when it is read.
                sizes.append(recipe.crop or header_size(picture.data))
            except ImageError as error:
                skipped.append((f"images/{picture.name}", error.what))
                continue
            stems[stem] = picture.name
            pictures.append(picture)
            masks.append([layer + stem for layer in layers if (root / f"masks/{layer}{stem}.png").is_file()])
        if not any(masks):
            what = "no picture has a label map" if pictures else "no picture of this probe can be used"
            raise nothing_left(what, root, tuple(skipped), "images/a.jpg goes with masks/a.png or masks/LAYER/a.png.")
        notices = _notices(root, pictures, masks)
        keep = evenly(len(pictures), limit)
        self._root, self._numbering, self._table = root, labels.numbering, labels.digests
        self._masks = [masks[i] for i in keep]
        self._paths = [Path(pictures[i].data) for i in keep]
        names = [pictures[i].name for i in keep]
        files = FilePictures(self._paths, [f"images/{name}" for name in names], recipe, [sizes[i] for i in keep])
        super().__init__(files, names, labels.concepts, labels.categories, tuple(skipped), notices)

    def annotation(self, index: int) -> Annotation:
        """Return the label maps of image ``index``, int64 ``(L, h, w)``, at the size of the largest of them.

        Without any, L is 0 and the size that of the image.

        Raises:
            ProbeError: a file cannot be read, holds a number that ``concepts.csv`` does not have, or has proportions
                other than the picture's.
        """
        layers = []
        for name in self._masks[index]:
            where = f"masks/{name}.png"
            with reading(where):
                layers.append(self._numbering(read_mask(self._root / where)))
                height, width = header_size(self._paths[index])
            stretch = layers[-1].shape[1] * height / (layers[-1].shape[0] * width)
            # Half a pixel of rounding matters in tiny maps only.
            if not 1 / _PROPORTIONS <= stretch <= _PROPORTIONS and min(layers[-1].shape) > 2:
                found = f"{layers[-1].shape[0]} x {layers[-1].shape[1]} for {height} x {width}"
                raise ProbeError(
                    f"{where} has not the proportions of its picture", found, "It must cover all of the picture."
                )
        size = max((layer.shape for layer in layers), key=lambda shape: shape[0] * shape[1], default=self.size(index))
        return Annotation(stacked(layers, (size[0], size[1])))

    def _feed(self, state: _Hash) -> None:
        for digest in self._table:
            state.update(digest)
        for names in self._masks:
            state.update(f"{names}".encode())
            for name in names:
                feed_file(state, self._root / f"masks/{name}.png")


def _layers(root: Path) -> list[str]:
    """Return the prefixes of layers below ``masks/``; the first, empty one is that of masks/STEM.png."""
    folders = {path.name for path in (root / "images").iterdir() if path.is_dir()}
    found = sorted(path.name for path in (root / "masks").iterdir() if path.is_dir() and not path.name.startswith("."))
    return ["", *(f"{name}/" for name in found if name not in folders)]


def _notices(root: Path, pictures: list[Picture], masks: list[list[str]]) -> tuple[str, ...]:
    notices = []
    bare = [picture.name for picture, names in zip(pictures, masks, strict=True) if not names]
    if bare:
        notices.append(
            f"{len(bare)} of {len(pictures)} pictures have no label map and count as unlabelled: {_some(bare)}"
        )
    used = {f"{name}.png" for names in masks for name in names}
    found = (path.relative_to(root / "masks").as_posix() for path in sorted((root / "masks").rglob("*.png")))
    orphans = [name for name in found if name not in used]
    if orphans:
        notices.append(f"{len(orphans)} label maps belong to no picture: {_some(orphans)}")
    return tuple(notices)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
