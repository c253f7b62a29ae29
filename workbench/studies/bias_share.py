"""How much of a classifier's score comes from its biases, and could it decide without them?

With every decision frozen at an image, the score is A·x + b: votes of the pixels plus what all constants of the network
contribute. Navarrete Michelini et al. looked at popular ImageNet networks and saw b dominate. How the two share the
score depends on what x is: a normalisation in front of the network moves a part of b into A·x and back. Both are shown.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from ..errors import OptionError
from .study import Progress, Study, StudyResult

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    import explain

    from ..images import ImageSet
    from ..models import VisionModel

CLASSIFIERS = ("shapes-vgg", "shapes-resnet", "shapes-mobilenet", "digits-lenet", "digits-mlp")
SPACES: tuple[Literal["raw", "normalised"], ...] = ("raw", "normalised")
HALF = 0.5
_CHUNK = 25  # images per step of the progress bar
_SPLIT_IMAGES = 40  # terms of single constants are computed image by image
_TITLES = (
    "Share of b, % (median, quartiles), and images whose margin is negative without b and with b only, %",
    "Accuracy of f, A·x and b, %, and where b comes from, %",
)
_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm")


def run(
    n: int = 200, seed: int = 0, *, models: Sequence[str] = CLASSIFIERS, progress: Progress | None = None
) -> StudyResult:
    """Measure the share of the biases in trained sample networks, on their test images.

    Args:
        n: images per network; digits have 450 at most.
        seed: of the images.
        models: sample networks, without ``sample:``.
        progress: called as ``progress(done, total, what)``; an exception from it cancels.

    Raises:
        OptionError: ``n`` is less than 1, or a network does not exist.
    """
    import pandas as pd
    import torch

    from .. import __version__
    from ..models import load
    from ..models.small import SAMPLES

    started = time.perf_counter()
    for name in models:
        if name not in SAMPLES:
            raise OptionError("There is no sample network of that name", name, f"There are: {', '.join(SAMPLES)}.")
    rows, digests = [], {}
    for index, name in enumerate(models):
        model, images = load(f"sample:{name}"), _images(SAMPLES[name].data, n, seed)
        digests[name] = {"model": model.digest, "images": images.digest}
        for number, space in enumerate(SPACES):
            done = (index * len(SPACES) + number) * n
            total = len(models) * len(SPACES) * n
            step = None if progress is None else _shifted(progress, done, total, f"{name}, {space} pixels")
            rows.append({"model": name, "space": space, **measure(model, images, space, step)})
    table = pd.DataFrame(rows)
    verdict, sentence = judge(table)
    provenance = {
        "options": {"n": n, "seed": seed, "models": list(models), "mode": "secant", "split_images": _SPLIT_IMAGES},
        "digests": digests,
        "versions": {"workbench": __version__, "torch": torch.__version__},
        "seconds": time.perf_counter() - started,
    }
    return StudyResult(STUDY, table, summarise(table), verdict, sentence, provenance)


def measure(
    model: VisionModel,
    images: ImageSet,
    space: Literal["raw", "normalised"] = "raw",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the figures of one network in one space, over labelled images.

    Keys: ``images``; ``accuracy`` of the network, ``accuracy_pixels`` of A·x alone and ``accuracy_bias`` of b alone;
    ``bias_share`` and ``margin_bias_share``, medians, with ``_q25`` and ``_q75``; ``negative_without_bias``, share of
    images whose predicted class loses its margin over the runner-up when b is left out, and ``negative_bias_only``, when
    A·x is; ``residual``, the largest relative defect of A·x + b = f(x); and of the first ``split_images`` images the
    average part of preprocessing, normalisation shifts and biases in b (parts of the absolute sums, since they cancel).
    """
    import numpy as np
    import torch

    import explain

    labels = images.labels
    if labels is None:
        raise OptionError("The accuracy needs images with labels", repr(images), "Use a labelled set.")
    found: dict[str, list[Tensor]] = {}
    for first in range(0, len(images), _CHUNK):
        part = slice(first, first + _CHUNK)
        lens = explain.linear_interpreter(model, images.images[part], space=space)
        shares, truth = lens.shares(), labels[part].to(lens.outputs.device)
        for name, values in {
            "accuracy": lens.outputs.argmax(1) == truth,
            "accuracy_pixels": lens.apply(lens.inputs).argmax(1) == truth,
            "accuracy_bias": lens.bias.argmax(1) == truth,
            "bias_share": shares.bias_share,
            "margin_bias_share": margin_bias_share(shares),
            "negative_without_bias": shares.margin_pixels < 0,
            "negative_bias_only": shares.margin_bias < 0,
            "residual": lens.residual,
        }.items():
            found.setdefault(name, []).append(values.double().cpu())
        if progress is not None:
            progress(min(first + _CHUNK, len(images)), len(images), "")
    whole = {name: torch.cat(values).numpy() for name, values in found.items()}
    row: dict[str, Any] = {"images": len(images)}
    for name, figures in whole.items():
        if name in ("bias_share", "margin_bias_share"):
            quartiles = np.quantile(figures, (0.5, 0.25, 0.75))
            row |= dict(zip((name, f"{name}_q25", f"{name}_q75"), map(float, quartiles), strict=True))
        else:
            row[name] = float(figures.max() if name == "residual" else figures.mean())
    few = images.images[:_SPLIT_IMAGES]
    return {**row, "split_images": len(few), **split(explain.linear_interpreter(model, few, space=space))}


def margin_bias_share(shares: explain.linear.Shares) -> Tensor:
    """Return |b| / (|A·x| + |b|) ``(N,)`` of the margin, from 0 to 1."""
    pixels, bias = shares.margin_pixels.abs(), shares.margin_bias.abs()
    return bias / (pixels + bias)


def split(lens: explain.LinearInterpreter) -> dict[str, float]:
    """Return the average part of three kinds of constants in the bias of the predicted class; the parts add up to 1."""
    terms = lens.bias_terms()
    kinds = [
        "from_preprocessing" if name.startswith("preprocessing ") else "from_shifts" if by in _NORMS else "from_biases"
        for name, by in zip(terms.names, terms.operators, strict=True)
    ]
    sums = {
        kind: terms.values[:, [k == kind for k in kinds]].sum(1).abs().double()
        for kind in ("from_preprocessing", "from_shifts", "from_biases")
    }
    total = sum(sums.values())
    return {kind: float((values / total).mean()) for kind, values in sums.items()}


def judge(table: pd.DataFrame) -> tuple[str, str]:
    """Return the verdict and its reason, by the criterion of the protocol and from nothing but the table."""
    score, margin = table.bias_share >= HALF, table.margin_bias_share >= HALF
    heavy, light = score & margin, ~score & ~margin
    verdict = "confirmed" if heavy.all() else "refuted" if light.all() else "mixed"
    counts = [
        f"with {space} pixels, biases make up at least half of the score in {int(score[here].sum())} of "
        f"{int(here.sum())} networks, and at least half of the margin in {int(margin[here].sum())}"
        for space in table.space.unique()
        for here in [table.space == space]
    ]
    return verdict, f"{verdict.capitalize()} for these networks, {table.images.max()} images each: {'; '.join(counts)}."


def summarise(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the table as text for reading, in two parts of the same rows."""
    import pandas as pd

    def percent(row: Any, name: str) -> str:
        return f"{100 * row[name]:.0f}"

    def quartiles(row: Any, name: str) -> str:
        return f"{percent(row, name)} ({percent(row, f'{name}_q25')}–{percent(row, f'{name}_q75')})"

    rows = cast("list[dict[str, Any]]", table.to_dict("records"))
    shares = [
        {
            "network": row["model"],
            "x": row["space"],
            "score": quartiles(row, "bias_share"),
            "margin": quartiles(row, "margin_bias_share"),
            "without b": percent(row, "negative_without_bias"),
            "with b only": percent(row, "negative_bias_only"),
        }
        for row in rows
    ]
    rest = [
        {
            "network": row["model"],
            "x": row["space"],
            "f": percent(row, "accuracy"),
            "A·x": percent(row, "accuracy_pixels"),
            "b": percent(row, "accuracy_bias"),
            "mean/std": percent(row, "from_preprocessing"),
            "shifts": percent(row, "from_shifts"),
            "biases": percent(row, "from_biases"),
            "residual": f"{row['residual']:.0e}",
        }
        for row in rows
    ]
    return dict(zip(_TITLES, (pd.DataFrame(shares), pd.DataFrame(rest)), strict=True))


def _images(data: str, n: int, seed: int) -> ImageSet:
    from ..samples import sample_data

    everything = len(sample_data(data)) if data == "digits" else n  # shapes never end
    return sample_data(data, "test", min(n, everything), seed)


def _shifted(progress: Progress, before: int, total: int, what: str) -> Progress:
    return lambda done, _, __: progress(before + done, total, what)


STUDY = Study(
    name="bias-share",
    claim="Popular classification networks rely heavily on their bias parameters.",
    source=(
        "P. Navarrete Michelini, H. Liu, Y. Lu, X. Jiang, A Tour of Convolutional Networks Guided by Linear Interpreters, "
        "ICCV 2019, arXiv:1908.05168"
    ),
    protocol=(
        "Five trained sample networks, 200 test images each (seed 0). Each image is frozen in secant mode, once with x = raw "
        "pixels in [0, 1] and once with x = normalised pixels; the score of the predicted class, and its margin over the "
        "runner-up, are then A·x + b exactly. Share of the biases in either: |b| / (|A·x| + |b|), median over the images. "
        "Beside it: the accuracy of A·x alone and of b alone, and where b comes from (first 40 images). "
        "Criterion: a network relies heavily on biases if both medians are at least one half, lightly if neither is. "
        "Confirmed if all networks do so heavily with both kinds of pixels, refuted if all do so lightly, mixed otherwise. "
        "The claim was made for ImageNet networks; these are small ones, so the verdict is about them."
    ),
    run=run,
)
