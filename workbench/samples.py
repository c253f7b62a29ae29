"""Data that the workbench brings along: the generated ``shapes``, scikit-learn's ``digits``, and real photographs.

``shapes`` exists because an explanation can only be judged where the truth is known. Its ten classes are five kinds of
object times the colour, red or blue, of *one* deciding part; everything else varies freely and is known per pixel.
Changing that colour alone gives the counterfactual twin of an image, with label ``label ^ 1``, and the pixels that
differ are exactly ``evidence``. Data with a ground truth for attributions follows Yang and Kim, "Benchmarking
Attribution Methods with Relative Feature Importance" (2019), and Arras et al., "CLEVR-XAI" (2022).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from . import shapes
from .drawings import CLASSES, CONCEPTS
from .errors import OptionError
from .images import ConceptMaps, ImageSet

DATA = ("shapes", "digits")
_SHAPES_DEFAULT = {"train": 8000, "test": 1000}
_DIGITS_TEST = 450

# Package and file of photographs that travel inside packages the workbench needs anyway; the best looking ones first.
_PHOTOS = (
    ("skimage", "data/chelsea.png"),
    ("foolbox", "data/imagenet_00_243.jpg"),
    ("foolbox", "data/imagenet_17_22.jpg"),
    ("skimage", "data/coffee.png"),
    ("foolbox", "data/imagenet_07_609.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("foolbox", "data/imagenet_04_949.jpg"),
    ("skimage", "data/rocket.jpg"),
    ("foolbox", "data/imagenet_15_99.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("foolbox", "data/imagenet_16_251.jpg"),
    ("skimage", "data/astronaut.png"),
)


def sample_data(
    name: Literal["shapes", "digits"] | str,
    split: Literal["train", "test"] | str = "test",
    n: int | None = None,
    seed: int = 0,
    *,
    instances: int | None = None,
) -> ImageSet:
    """Return images whose truth is known.

    * ``"shapes"``: generated, ``(N, 3, 64, 64)``, ten classes that hang on the colour of one part, with ``.evidence``
      and ``.concepts``. Every (split, seed) is an endless stream of its own, and image ``i`` of it does not depend on
      ``n``. Ten consecutive images, from a multiple of ten on, hold each class once.
    * ``"digits"``: scikit-learn's handwritten digits, ``(N, 1, 8, 8)``, 1347 for training and 450 for testing, by a
      stratified split that never changes. ``seed`` matters only when ``n`` is given: it then chooses which ``n``, and a
      greater ``n`` adds to a smaller one. Ids carry the number of the image in scikit-learn's set.

    Args:
        name: "shapes" or "digits".
        split: "train" or "test"; they share no image.
        n: number of images; by default 8000 / 1000 shapes for training / testing, and all digits of the split.
        seed: non-negative.
        instances: shapes only: exactly 1, 2 or 3 objects in every image, instead of one to three at random.

    Raises:
        OptionError: for a name, split or number that does not exist.
    """
    _check(name, split, n, seed, instances)
    return _digits(split, n, seed) if name == "digits" else _shapes(split, n, seed, instances, twins=False)


def counterfactual_twins(
    split: Literal["train", "test"] | str = "test", n: int | None = None, seed: int = 0, *, instances: int | None = None
) -> ImageSet:
    """Return the twins of ``sample_data("shapes", split, n, seed, instances=instances)``, in the same order.

    The twin of an image is the same scene, down to the noise, with the deciding part in the other colour, hence with
    label ``label ^ 1``. The two differ in every pixel of ``.evidence``, which both share, and in no other.

    Raises:
        OptionError: as :func:`sample_data`.
    """
    _check("shapes", split, n, seed, instances)
    return _shapes(split, n, seed, instances, twins=True)


def sample_photos() -> list[Path]:
    """Return a dozen photographs (animals, vehicles, food, places) that travel inside packages the workbench needs.

    They lie in scikit-learn, scikit-image and foolbox, none of which is imported. What a package does not have, or a
    package that is missing, is left out.
    """
    found = []
    for package, file in _PHOTOS:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder, file)).is_file():
                found.append(path)
    return found


def _check(name: str, split: str, n: int | None, seed: int, instances: int | None) -> None:
    if name not in DATA:
        raise OptionError("there is no sample data of that name", name, f"Choose one of: {', '.join(DATA)}.")
    if split not in shapes.SPLITS:
        raise OptionError("there is no split of that name", split, 'Choose "train" or "test".')
    if n is not None and n < 1:
        raise OptionError("the number of images must be at least 1", n, "Leave n out for all of the split.")
    if seed < 0:
        raise OptionError("the seed must not be negative", seed, "Any whole number from 0 up will do.")
    if instances is not None and name != "shapes":
        raise OptionError("only shapes have a number of instances", instances, "Leave instances out.")
    if instances is not None and instances not in shapes.INSTANCES:
        raise OptionError("an image has 1, 2 or 3 instances", instances, "Leave instances out for a random number.")


def _shapes(split: str, n: int | None, seed: int, instances: int | None, twins: bool) -> ImageSet:
    made = shapes.generate(split, _SHAPES_DEFAULT[split] if n is None else n, seed, instances, twins)
    categories, names = zip(*CONCEPTS, strict=True)
    # The name says all that the picture depends on, so no two different pictures share one.
    suffix = (f"/x{instances}" if instances else "") + ("/twin" if twins else "")
    return ImageSet.of(
        torch.from_numpy(made.images),
        torch.from_numpy(made.labels),
        ids=[f"shapes/{split}/{seed}/{i}{suffix}" for i in range(len(made.labels))],
        classes=CLASSES,
        evidence=torch.from_numpy(made.evidence),
        concepts=ConceptMaps(torch.from_numpy(made.concepts), names, categories),
    )


def _digits(split: str, n: int | None, seed: int) -> ImageSet:
    # Imported here because they take longer than all else in this file, and shapes do without.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(
        np.arange(len(digits.target)), test_size=_DIGITS_TEST, stratify=digits.target, random_state=0
    )
    rows = train if split == "train" else test
    if n is not None:
        if n > len(rows):
            fix = f"The {split} split has {len(rows)} images; leave n out for all of them."
            raise OptionError("there are not so many digits", n, fix)
        rows = np.random.default_rng(seed).permutation(rows)[:n]
    return ImageSet.of(
        torch.from_numpy(digits.images[rows].astype(np.float32) / 16)[:, None],
        torch.from_numpy(digits.target[rows].astype(np.int64)),
        ids=[f"digits/{split}/{row}" for row in rows],
        classes=[str(name) for name in digits.target_names],
    )
