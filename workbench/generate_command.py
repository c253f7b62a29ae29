"""What ``workbench generate`` does: train a generator, make its versions of images, and measure it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .attack_command import answers
from .console import gently, print_json, print_notices, print_table, printable, progress_bar
from .errors import OptionError
from .typed import file_names, read_images

if TYPE_CHECKING:
    from torch import Tensor

    from attacks import GeneratorEvaluation, MultiTargetGenerator

    from .images import ImageSet
    from .models import VisionModel

_MANY = 20  # classes, from which on only the ends of a table are shown
VERSIONS = "versions.npz"


@dataclass(frozen=True)
class Training:
    """What was typed for a training.

    Attributes:
        model, images: the model to attack, and what to learn from.
        sources: further models to attack at once.
        targets: classes to reach, with commas between them; ``None`` for all.
        options: of ``attacks.train_generator``.
        out: name of the files.
        limit: at most so many images.
        as_json: whether a machine reads the answer.
    """

    model: str
    images: str
    sources: Sequence[str]
    targets: str | None
    options: dict[str, Any]
    out: Path
    limit: int | None
    as_json: bool

    @property
    def name(self) -> Path:
        """The files' name without an ending."""
        return self.out.with_suffix("") if self.out.suffix in (".safetensors", ".json") else self.out

    @property
    def state(self) -> Path:
        """The file from which a training that was stopped goes on."""
        return self.name.with_name(f"{self.name.name}.training")


@dataclass(frozen=True)
class Use:
    """What was typed for using a generator.

    Attributes:
        generator, images: file or sample, and the images.
        epsilon: ``None``: the generator's own.
        eight_bit: whether to round to whole grey levels.
        device: where the generator goes.
        out: a folder; ``None``: nothing is written.
        limit: at most so many images.
        as_json: whether a machine reads the answer.
    """

    generator: str
    images: str
    epsilon: float | None
    eight_bit: bool
    device: str
    out: Path | None
    limit: int | None
    as_json: bool


# ---- train


def train(request: Training, load: Callable[[str], VisionModel]) -> None:
    """Train, showing success on images kept aside, and write the generator.

    Args:
        request: what was typed.
        load: loads a model by what was typed for it.

    Raises:
        OptionError: options make no sense.
    """
    import attacks as engine

    model, *others = models = [load(source) for source in (request.model, *request.sources)]
    for other in others:
        if other.input_size != model.input_size:
            sizes = " and ".join("×".join(map(str, one.input_size)) for one in (model, other))
            raise OptionError("The models take images of different sizes", sizes, "Attack models of one size together.")
    photos = _to_learn_from(request, model)
    reach = None if request.targets is None else _classes(request.targets)
    with _stoppable(request), progress_bar("Training", request.as_json) as progress, gently(progress) as tick:
        generator = engine.train_generator(
            models,
            photos.images,
            photos.labels,
            classes=reach,
            checkpoint=request.state,
            progress=tick,
            **request.options,
        )
    files = engine.save_generator(
        generator, request.name, model=request.model, also=list(request.sources), images=request.images
    )
    request.state.unlink(missing_ok=True)
    history = generator.history
    if request.as_json:
        print_json({"files": [str(file) for file in files], "epsilon": generator.epsilon, "history": history})
        return
    print_notices(model, photos)
    best = max(history, key=lambda record: record["success"])
    shares = [(model.class_name(k), share) for k, share in enumerate(best["per_target"]) if share is not None]
    print_table(["target", "reached"], [[name, f"{share:.0%}"] for name, share in _ends(shares, lambda one: one[1])])
    typer.echo(
        f"Reached {best['success']:.1%} of the pairs of an image kept aside and another class, in {best['seconds']:.0f} s "
        f"of training ({best['step']:,} steps). {generator.parameter_count:,} parameters."
    )
    typer.echo(printable(f"The generator is in {files[0]} and {files[1].name}."))


def _to_learn_from(request: Training, model: VisionModel) -> ImageSet:
    """Read the images: of the samples, the split for training."""
    import workbench as wb

    if request.images.startswith("sample:") and request.images != "sample:photos":
        return wb.sample_data(request.images.removeprefix("sample:"), "train", n=request.limit)
    return read_images(request.images, model, request.limit)


def _classes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise OptionError("These are no class numbers", text, "Write them as 0,3,7.") from None


@contextlib.contextmanager
def _stoppable(request: Training) -> Iterator[None]:
    """Say how to go on with a training that a person stops."""
    try:
        yield
    except KeyboardInterrupt:
        if not request.as_json:
            kept = printable(str(request.state))
            typer.echo(f"What was learnt is in {kept}: the same command goes on from there.", err=True)
        raise


# ---- attack


def attack(request: Use, target: int | None, load: Callable[[], VisionModel]) -> None:
    """Make the versions, print what the model sees in them, and write them if there is a folder.

    Args:
        request: what was typed.
        target: the class to reach; every class otherwise.
        load: loads the model.

    Raises:
        OptionError: the target is no class.
    """
    import torch

    from .report import words
    from .report.linear_files import writable_folder

    generator, model = _fitting(request, load())
    if target is not None and not 0 <= target < generator.num_classes:
        fix = f"It has {generator.num_classes} classes, numbered 0 to {generator.num_classes - 1}."
        raise OptionError("The model has no such class", target, fix)
    folder = None if request.out is None else writable_folder(request.out)
    photos = read_images(request.images, model, request.limit)
    aims = torch.tensor(generator.targets if target is None else [target])
    versions = []
    with progress_bar("Generating", request.as_json) as progress:
        for done, image in enumerate(photos.images):
            if progress is not None:
                progress(done, len(photos), "Generating")
            copies = image.expand(len(aims), -1, -1, -1)
            versions.append(generator(copies, aims, epsilon=request.epsilon, eight_bit=request.eight_bit))
    made = torch.stack(versions)
    clean, seen = answers(model, photos.images), answers(model, made.flatten(0, 1)).view(len(photos), len(aims))
    labels = clean if photos.labels is None else photos.labels
    if folder is not None:
        _write(folder, photos, aims, made)
    counted = labels[:, None] != aims[None, :]
    reached = (seen == aims) & counted
    if request.as_json:
        rows = [
            {"id": name, "label": int(labels[i]), "predicted": int(clean[i]), "seen": seen[i].tolist()}
            for i, name in enumerate(photos.ids)
        ]
        print_json({"epsilon": request.epsilon or generator.epsilon, "targets": aims.tolist(), "images": rows})
        return
    print_notices(model, photos)
    truth = "label" if photos.labels is not None else "prediction"
    print_table(
        ["image", truth, "classes reached", "not reached"],
        [
            [name, model.class_name(int(labels[i])), f"{int(reached[i].sum())} of {int(counted[i].sum())}",
             _named(model, aims[counted[i] & ~reached[i]])]
            for i, name in enumerate(photos.ids)
        ],
    )  # fmt: skip
    budget = words.budget(request.epsilon or generator.epsilon, "linf")
    total = int(counted.sum())
    typer.echo(f"{words.share(int(reached.sum()), total)} versions are seen as the class wanted, where {budget}.")
    if folder is not None:
        typer.echo(printable(f"They are in {folder}/."))


def _named(model: VisionModel, classes: Tensor) -> str:
    names = [model.class_name(one) for one in classes.tolist()]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _write(folder: Path, photos: ImageSet, aims: Tensor, made: Tensor) -> None:
    import numpy as np

    from .report import figures

    for i, name in enumerate(file_names(photos.ids)):
        for j, aim in enumerate(aims.tolist()):
            picture = figures.to_rgb(made[i, j].numpy())
            (folder / f"{name}.to-{aim}.png").write_bytes(figures.to_png_bytes(picture))
    np.savez_compressed(
        folder / VERSIONS, ids=np.array(photos.ids, dtype=str), targets=aims.numpy(), images=made.numpy()
    )


# ---- evaluate


def evaluate(
    request: Use, against: str, others: Sequence[str], seed: int, source: str, load: Callable[[str], VisionModel]
) -> None:
    """Measure the generator on every image and class, and print what it reaches, where else, and how fast.

    Args:
        request: what was typed.
        against: attacks to compare with, as ``pgd:40,apgd``.
        others: what was typed for further models.
        seed: of the other attacks.
        source: what was typed for the model.
        load: loads a model by what was typed for it.

    Raises:
        OptionError: options make no sense.
    """
    import attacks as engine

    from .report.figures import epsilon_text
    from .report.linear_files import writable_folder

    rivals = dict(_rival(part) for part in against.split(",") if part.strip())
    generator, model = _fitting(request, load(source))
    folder = None if request.out is None else writable_folder(request.out)
    further = {name: load(name) for name in others}
    photos = read_images(request.images, model, request.limit)
    with progress_bar("Measuring", request.as_json) as progress:
        found = engine.evaluate_generator(
            generator, model, photos.images, photos.labels, others=further, rivals=rivals, epsilon=request.epsilon,
            name=source, eight_bit=request.eight_bit, ids=photos.ids, seed=seed, progress=progress,
        )  # fmt: skip
    tables = {"targets": found.frame(), "summary": found.summary(), "confusion": found.confusion()}
    if folder is not None:
        for name, frame in tables.items():
            frame.to_csv(folder / f"{name}.csv", index=name == "confusion", errors="replace")
    if request.as_json:
        confusion = tables.pop("confusion").to_numpy().tolist()
        told = {name: frame.to_dict("records") for name, frame in tables.items()}
        print_json({"epsilon": found.epsilon, **told, "confusion": confusion})
        return
    print_notices(model, photos)
    _print(found, model)
    budget = epsilon_text(found.epsilon, "linf")
    typer.echo(
        f"{len(photos)} images, each towards every class other than its {'label' if photos.labels is not None else 'prediction'}"
        f", linf ε = {budget}. Not seen as the label: as another class than the image shows, reached or not."
    )
    if folder is not None:
        typer.echo(printable(f"The tables are in {folder}/."))


def _rival(text: str) -> tuple[str, dict[str, int]]:
    """Read ``pgd`` or ``pgd:40``."""
    name, colon, steps = text.strip().partition(":")
    if colon and not steps.isdecimal():
        raise OptionError("This is no number of steps", text, "Write the attack as pgd:40, or as pgd.")
    return name, {"steps": int(steps)} if colon else {}


def _print(found: GeneratorEvaluation, model: VisionModel) -> None:
    targets = found.frame()
    own = targets[(targets["attack"] == "generator") & (targets["model"] == found.models[0])]
    print_table(
        ["target", "reached", "share", "95 % interval"],
        [
            [model.class_name(row["target"]), f"{row['reached']} of {row['n']}", f"{row['success']:.0%}",
             f"{row['low']:.0%} – {row['high']:.0%}"]
            for row in _ends(own.to_dict("records"), lambda row: row["success"])
        ],
    )  # fmt: skip
    typer.echo("")
    print_table(
        ["made by", "shown to", "class reached", "not seen as the label", "ms per image"],
        [_row(row) for row in found.summary().itertuples()],
    )


def _row(row: Any) -> list[str]:
    return [row.attack, row.model, f"{row.success:.1%}", f"{row.error:.1%}", f"{1000 * row.seconds:.3g}"]


def _fitting(request: Use, model: VisionModel) -> tuple[MultiTargetGenerator, VisionModel]:
    """Return the generator and the model, if they fit.

    Raises:
        OptionError: the numbers of classes or channels differ.
    """
    from .generators import load_generator

    generator = load_generator(request.generator, request.device)
    for what, theirs, ours in (
        ("classes", model.num_classes, generator.num_classes), ("channels", model.input_size[0], generator.channels),
    ):  # fmt: skip
        if theirs != ours:
            fix = f"It was made for a model of {ours}; name the model that it was trained against."
            raise OptionError(f"The generator does not fit a model of so many {what}", theirs, fix)
    return generator, model


def _ends(rows: Sequence[Any], share: Callable[[Any], float]) -> list[Any]:
    """Return all rows where there are few; of many, those reached most and least."""
    if len(rows) <= _MANY:
        return list(rows)
    ordered = sorted(rows, key=share, reverse=True)
    return ordered[: _MANY // 2] + ordered[-_MANY // 2 :]
