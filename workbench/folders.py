"""Which pictures a source holds, under which names, and what its sub-folders say about their classes.

A wrong label is worse than none: every accuracy and every attack that follows would be wrong without a trace. So the
names of sub-folders are trusted only where they fit the model, and whatever is not plain is said in a notice.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .errors import ImageError, OptionError

if TYPE_CHECKING:
    from .models import VisionModel

# The second kind cannot be read, but a person who gives photos wants to hear that and not find them silently missing.
_READ = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
_REPORTED = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw")
_SYNSET = re.compile(r"n\d{8}")  # WordNet numbers: ImageNet's own folder names, in the order of its classes


@dataclass(frozen=True)
class Picture:
    """One entry of a source: ``name`` is its id, ``data`` what :func:`~workbench.decode.decode` takes.

    ``folder`` is the class folder, when the source is laid out as ``source/class/picture`` throughout.
    """

    name: str
    data: Any
    folder: str | None = None


@dataclass(frozen=True)
class Labelling:
    """Class number by name (of a picture, or while working it out, of a folder); empty when nobody knows."""

    labels: Mapping[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def find(source: Any) -> tuple[list[Picture], list[tuple[str, ImageError]]]:
    """List the pictures of ``source`` under unique names, and what is unusable at first sight.

    A folder is walked in sorted order; lists keep theirs. See :func:`~workbench.images.read_images` for what is taken.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if path.is_dir():
            return _folder(path)
        if re.match(r"https?://", str(source)):
            raise ImageError("an address in the web is not read", source, "Download the picture and give the file.")
        if not path.exists():
            raise ImageError("no such file or folder", source, "Check the path.")
        return [Picture(_clean(path.name), path)], []
    if _in_memory(source) or (isinstance(source, tuple) and len(source) == 2 and _in_memory(source[1])):
        source = [source]
    if not isinstance(source, Iterable) or hasattr(source, "detach"):
        kind = type(source).__name__
        raise ImageError("this is no picture, file or folder", kind, "A tensor makes an image set with ImageSet.of.")
    return _listed(list(source))


def _in_memory(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview | Image.Image | np.ndarray)


def _listed(entries: list[Any]) -> tuple[list[Picture], list[tuple[str, ImageError]]]:
    entries = [Path(e).expanduser().absolute() if isinstance(e, str | os.PathLike) else e for e in entries]
    parents = [e.parent for e in entries if isinstance(e, Path)]
    base = os.path.commonpath(parents) if parents else ""
    pictures: list[Picture] = []
    skipped: list[tuple[str, ImageError]] = []
    used: set[str] = set()
    for number, entry in enumerate(entries):
        name, data = entry if isinstance(entry, tuple) and len(entry) == 2 else (f"image-{number}", entry)
        if isinstance(entry, Path):
            name = entry.relative_to(base).as_posix()
        if isinstance(entry, Path) and entry.is_dir():
            skipped.append((_clean(name), ImageError("a folder inside a list", None, "Read it by itself.")))
        elif isinstance(entry, Path) or _in_memory(data):
            pictures.append(Picture(_unique(_clean(str(name)), used), data))
        else:
            raise ImageError(
                "this is no picture",
                type(data).__name__,
                "Give paths, bytes, PIL images, uint8 arrays, or pairs of a name and one of these.",
            )
    return pictures, skipped


def _folder(root: Path) -> tuple[list[Picture], list[tuple[str, ImageError]]]:
    skipped: list[tuple[str, ImageError]] = []
    seen: set[tuple[int, int]] = set()  # folders by identity, so that links that lead back up end the walk

    def walk(folder: Path) -> list[Path]:
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                return []
            seen.add((status.st_dev, status.st_ino))
            entries = [e for e in sorted(folder.iterdir()) if not e.name.startswith(".") and e.name != "__MACOSX"]
        except OSError as error:
            name = _clean(folder.relative_to(root).as_posix())
            skipped.append((name, ImageError("the folder cannot be opened", error.strerror, "Check its permissions.")))
            return []
        found = [e for e in entries if e.suffix.lower() in _READ + _REPORTED and not e.is_dir()]
        return found + [p for e in entries if e.is_dir() for p in walk(e)]

    paths = sorted((p.relative_to(root) for p in walk(root)), key=lambda p: p.parts)
    by_class = all(len(p.parts) == 2 for p in paths)
    used: set[str] = set()
    pictures = [Picture(_unique(_clean(p.as_posix()), used), root / p, p.parts[0] if by_class else None) for p in paths]
    return pictures, skipped


def _clean(name: str) -> str:
    """Turn any name that a stranger sent into a relative path with forward slashes that prints and encodes."""
    parts = [p for p in name.replace("\\", "/").split("/") if p not in ("", ".", "..")]
    return "".join(c if c.isprintable() else "?" for c in "/".join(parts)) or "unnamed"


def _unique(name: str, used: set[str]) -> str:
    path, number, candidate = Path(name), 1, name
    while candidate in used:
        number += 1
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}").as_posix()
    used.add(candidate)
    return candidate


def spread(pictures: list[Picture], limit: int | None) -> list[Picture]:
    """Keep ``limit`` pictures, evenly over the class folders: the first of each, then the second of each, ..."""
    if limit is None:
        return pictures
    if limit < 1:
        raise OptionError("limit must be at least 1", limit, "Leave it away to read everything.")
    taken: Counter[str | None] = Counter()
    rounds = []
    for picture in pictures:
        rounds.append(taken[picture.folder])
        taken[picture.folder] += 1
    first = sorted(range(len(pictures)), key=rounds.__getitem__)[:limit]
    return [pictures[i] for i in sorted(first)]


def label_pictures(
    pictures: list[Picture], model: VisionModel | None, how: str | Mapping[str, int] | Sequence[int] | None
) -> Labelling:
    """Give each picture a class number of ``model``, or none to all of them.

    Args:
        pictures: what :func:`find` found.
        model: whose classes the labels must index; ``None`` numbers the folders in sorted order.
        how: ``"auto"``, ``"sorted"``, a mapping from folder to class number, one number per picture, or ``None``; see
            :func:`~workbench.images.read_images`.

    Raises:
        OptionError: ``how`` insists on labels that cannot be had.
    """
    count = None if model is None else model.num_classes
    names = () if model is None else tuple(model.classes)
    if how is None:
        return Labelling(classes=names)
    if isinstance(how, Sequence) and not isinstance(how, str):
        if len(how) != len(pictures) or not all(_is_class(i, count) for i in how):
            found = f"{list(how[:5])} for {len(pictures)} pictures and {count or 'any'} classes"
            raise OptionError("labels do not match", found, "Give one class number per picture, in their order.")
        return Labelling({p.name: i for p, i in zip(pictures, how, strict=True)}, names)
    folders = sorted({p.folder for p in pictures if p.folder is not None})
    if how == "auto":
        known = _auto(folders, names, count) if folders else _flat(pictures)
    elif not folders:
        raise OptionError(
            "there are no class folders to take labels from", how, "Lay them out as source/class/picture."
        )
    elif how == "sorted":
        if count is not None and len(folders) > count:
            raise OptionError(f"more class folders than the model's {count} classes", len(folders), "Use a mapping.")
        known = Labelling(_in_order(folders), names or tuple(folders))
    elif isinstance(how, Mapping):
        wrong = [f for f in folders if not _is_class(how.get(f), count)]
        if wrong:
            raise OptionError("no class number that the model has, for folder", _some(wrong), "Add or correct it.")
        known = Labelling({f: how[f] for f in folders}, names)
    else:
        raise OptionError("labels cannot be this", how, "Use 'auto', 'sorted', None, a mapping, or a list of numbers.")
    by_name = {p.name: known.labels[p.folder] for p in pictures if p.folder is not None and known.labels}
    return Labelling(by_name, known.classes or names, known.notices)


def _in_order(folders: list[str]) -> dict[str, int]:
    return {folder: i for i, folder in enumerate(folders)}


def _flat(pictures: list[Picture]) -> Labelling:
    nested = any("/" in p.name and isinstance(p.data, Path) for p in pictures)
    told = "no labels: the pictures do not all lie in source/class/picture; give the folder that holds the classes"
    return Labelling(notices=(told,) if nested else ())


def _is_class(number: object, count: int | None) -> bool:
    return isinstance(number, int) and number >= 0 and (count is None or number < count)


def _auto(folders: list[str], names: tuple[str, ...], count: int | None) -> Labelling:
    """Trust folders that are the model's class names, then class numbers, then (where nothing speaks against) order."""
    in_order = _in_order(folders)
    if count is None:
        return Labelling(in_order, tuple(folders)) if len(folders) > 1 else Labelling()
    known = _by_name(names)
    unknown = [f for f in folders if _plain(f) not in known]
    if not unknown:
        return Labelling({f: known[_plain(f)] for f in folders}, names)
    if all(f.isascii() and f.isdecimal() and int(f) < count for f in folders):
        numbers = {f: int(f) for f in folders}
        told = "sub-folder names are taken as class numbers"
        if len(folders) == count and numbers != in_order:
            told += " (torchvision's ImageFolder would sort them as text, 10 before 2: if the model was trained so, "
            told += "pass labels='sorted')"
        return Labelling(numbers, names, (told,))
    if len(folders) == count and (not names or all(_SYNSET.fullmatch(f) for f in folders)):
        told = f"labels follow the sorted sub-folders (0 is {folders[0]}, {count - 1} is {folders[-1]}): "
        told += "right if the model was trained on these folders"
        return Labelling(in_order, names or tuple(folders), (told,))
    if names:
        told = f"no labels: the model has no class of the name {_some(unknown)}"
    else:
        told = f"no labels: {len(folders)} sub-folders, but the model has {count} classes without names"
    return Labelling(notices=(f"{told}. Rename the folders, or pass labels={{{folders[0]!r}: <class number>, ...}}",))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _by_name(names: tuple[str, ...]) -> dict[str, int]:
    """Class number by name, without the names that several classes share."""
    shared = {name for name, n in Counter(map(_plain, names)).items() if n > 1}
    return {_plain(name): i for i, name in enumerate(names) if _plain(name) not in shared}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
