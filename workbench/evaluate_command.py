"""What ``workbench evaluate`` does: attack a labelled set, say how many images stand, how sure that is and what it cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .console import gently, print_json, print_notices, print_table, printable, progress_bar
from .errors import OptionError
from .typed import attack_names, attack_options, read_images

if TYPE_CHECKING:
    from attacks import Evaluation

    from .images import ImageSet
    from .models import VisionModel

ADVERSARIALS = "adversarials.npz"


@dataclass(frozen=True)
class Request:
    """What was typed.

    Attributes:
        source, images: the model and the labelled images.
        epsilons: the budgets.
        attacks: a preset, or names with commas between them.
        options: of attacks, each as ``attack.name=value``.
        replay: file of adversarial images found before.
        generator: file or name of a generator that joins the attacks.
        settings: of ``attacks.evaluate``: norm, seed, eight_bit, eot, batch_size.
        out: the folder.
        journal: where steps are kept; ``None``: inside ``out``.
        limit: at most so many images.
        as_json: whether a machine reads the answer.
    """

    source: str
    images: str
    epsilons: Sequence[float]
    attacks: str
    options: Sequence[str]
    replay: Path | None
    generator: str | None
    settings: dict[str, Any]
    out: Path
    journal: Path | None
    limit: int | None
    as_json: bool

    @property
    def kept(self) -> Path:
        """Where steps are kept."""
        return self.out / "journal" if self.journal is None else self.journal


def evaluate(request: Request, load: Callable[[], VisionModel]) -> None:
    """Measure robust accuracy, print it, and write tables, adversarial images and a page.

    Args:
        request: what was typed.
        load: loads the model.

    Raises:
        OptionError: options make no sense.
    """
    import attacks as engine

    from .generators import load_generator
    from .report import report as make_report
    from .report.linear_files import PAGE, writable_folder

    names, options = attack_names(request.attacks), attack_options(request.options)
    folder = writable_folder(request.out)
    model = load()
    joining = None if request.generator is None else load_generator(request.generator, model.device)
    photos = read_images(request.images, model, request.limit)
    stored = None if request.replay is None else _stored(request.replay, photos)
    with _stoppable(request), progress_bar("Evaluating", request.as_json) as progress, gently(progress) as tick:
        found = engine.evaluate(
            model, photos.images, photos.labels, epsilons=request.epsilons, attacks=names, options=options, ids=photos.ids,
            replay=stored, generator=joining, journal=request.kept, progress=tick, **request.settings,
        )  # fmt: skip
    write_tables(folder, found)
    if not request.as_json:
        print_notices(model, photos)
        print_evaluation(found, model.name)
    with progress_bar("Drawing the page", request.as_json) as progress:
        sources = request.source, request.images
        make_report(model, photos, folder / PAGE, evaluation=found, sources=sources, progress=progress)
    if request.as_json:
        print_json({"folder": str(request.out), "page": str(folder / PAGE), **_record(found)})
    else:
        typer.echo(f"Tables, adversarial images and the page {PAGE} are in {printable(str(folder))}/.")


def write_tables(folder: Path, found: Evaluation) -> None:
    """Write the frames as CSV, and the adversarial images found as :func:`_stored` reads them."""
    for name, frame in (
        ("curve", found.frame()), ("samples", found.samples), ("stages", found.stages), ("checks", found.checks)
    ):  # fmt: skip
        frame.to_csv(folder / f"{name}.csv", index=False, errors="replace")
    write_adversarials(folder / ADVERSARIALS, found.adversarials())


def write_adversarials(file: Path, found: dict[str, Any]) -> None:
    """Write images by id: ``ids (n,)`` and ``images (n, C, H, W)``."""
    import numpy as np

    pictures = [image.cpu().numpy() for image in found.values()]
    np.savez_compressed(file, ids=np.array(list(found), dtype=str), images=np.stack(pictures) if pictures else [])


def _stored(file: Path, photos: ImageSet) -> dict[str, Any]:
    """Read what :func:`write_adversarials` wrote, and say if nothing of it is about these images."""
    import zipfile

    import numpy as np
    import torch

    fix = f"Name the {ADVERSARIALS} that an earlier run left in its folder."
    try:
        with np.load(file, allow_pickle=False) as arrays:
            stored = dict(zip(arrays["ids"].tolist(), torch.from_numpy(arrays["images"]), strict=True))
    except FileNotFoundError:
        raise OptionError("There is no such file of adversarial images", file, fix) from None
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise OptionError("These are no adversarial images of an earlier run", file, fix) from error
    if not set(stored) & set(photos.ids):
        typer.secho(printable(f"Note: {file} has nothing about these images."), err=True, fg=typer.colors.YELLOW)
    return stored


def print_evaluation(found: Evaluation, name: str) -> None:
    """Print verdict, curve, credit and cost; what the checks found stands before every number."""
    from .report import credit, words
    from .report.figures import epsilon_text

    if (kept := credit.resumed(found)) is not None:
        typer.echo(f"Going on from an earlier run: {kept}.", err=True)
    trusted = found.trustworthy
    if (distrust := words.distrust(found)) is not None:
        typer.secho(f"UNTRUSTWORTHY. {printable(distrust)}", fg=typer.colors.RED, bold=True)
        for check in found.checks.loc[~found.checks["passed"]].itertuples():
            typer.secho(printable(f"  ✗ {check.check}: {check.detail}"), fg=typer.colors.RED)
        typer.echo("")
    relative = words.relative(found)
    said = "no labels: share of its own predictions that survive" if relative else "robust accuracy"
    typer.echo(printable(f"{name}, {said} under {found.norm} attack"))
    rows = []
    for row in found.curve.to_dict("records"):
        n, share, epsilon = int(row["n"]), row["robust_accuracy"], row["epsilon"]
        budget = epsilon_text(epsilon, found.norm) if epsilon else "unchanged"
        cells = [budget, f"{round(share * n)} of {n}", f"{share:.1%}", f"{row['low']:.1%} – {row['high']:.1%}"]
        rows.append(cells if trusted else [*cells, "untrustworthy" if epsilon else ""])
    columns = ["budget", "surviving" if relative else "still right", "share", "95 % interval"]
    print_table(columns if trusted else [*columns, ""], rows)
    typer.echo("")
    print_table(
        ["attack", "tried", "broke", "passes per image\n(forward + backward)", "seconds"],
        [
            [
                one.attack,
                "" if one.tried is None else str(one.tried),
                str(one.credited),
                one.passes,
                "" if one.tried is None else f"{one.seconds:.1f}",
            ]
            for one in credit.credits_of(found)
        ],
    )
    typer.echo(credit.order(found))
    typer.echo(f"In all {credit.cost(found)}, in {found.seconds:.1f} s with the checks.")
    if trusted:
        untested = int(found.checks["value"].isna().sum())
        left = f"; {untested} had nothing to test" if untested else ""
        typer.echo(f"The {len(found.checks)} sanity checks passed{left}. An upper bound: other attacks may find more.")


def _record(found: Evaluation) -> dict[str, Any]:
    tables = {name: getattr(found, name).to_dict("records") for name in ("curve", "stages", "checks")}
    samples = found.samples
    return {
        "trustworthy": found.trustworthy, "norm": found.norm, **tables, "images": samples.to_dict("records"),
        "forwards": int(samples["forwards"].sum()), "backwards": int(samples["backwards"].sum()),
        "seconds": found.seconds, "journal": found.provenance.get("journal"),
    }  # fmt: skip


@contextlib.contextmanager
def _stoppable(request: Request) -> Iterator[None]:
    """Say how to go on with a run that a person stops."""
    try:
        yield
    except KeyboardInterrupt:
        if not request.as_json:
            kept = printable(str(request.kept))
            typer.echo(f"What was found is in {kept}: the same command goes on from there.", err=True)
        raise
