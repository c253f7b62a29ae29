"""What ``workbench dissect`` does: read a probe, say what it costs, dissect with controls, and write page and tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .console import gently, print_json, print_table, printable, progress_bar
from .errors import OptionError
from .typed import typed_again

if TYPE_CHECKING:
    from torch import Tensor

    from explain import Probe
    from explain.dissection import Estimate

    from .dissecting import Findings
    from .models import VisionModel
    from .probes import ScoreProbe
    from .report.dissection_words import SummaryRow

    Progress = Callable[[int, int, str], None]

_SLOW = 20.0  # seconds, from which on a person wants to know before
_MEASURED = 128  # images, from which on measuring a batch of them is a small part of the work
_ROWS = 20  # of a table of matches in the terminal


@dataclass(frozen=True)
class Request:
    """What was typed.

    Attributes:
        source, probe: the model and the probe.
        layers: names with commas between them.
        compare: models, "random" or "rotated".
        options: of ``explain.dissect``: quantile, iou_threshold, permutations, seed, memory.
        ablate: ``None``: if the images' classes are known.
        attack: whether to attack.
        out: the folder.
        cache: where results and states are kept; ``None``: inside ``out``.
        limit: at most so many images.
        images: how many images to estimate for, besides.
        as_json: whether a machine reads the answer.
    """

    source: str
    probe: str
    layers: str | None
    compare: Sequence[str]
    options: dict[str, Any]
    ablate: bool | None
    attack: bool
    out: Path
    cache: Path | None
    limit: int | None
    images: int | None
    as_json: bool

    @property
    def kept(self) -> Path:
        """Where results and states are kept."""
        return self.out / "cache" if self.cache is None else self.cache


def dissect(request: Request, load: Callable[[str], VisionModel], dry: bool) -> None:
    """Dissect a network and write the folder, or only say what that would cost.

    Args:
        request: what was typed.
        load: loads a model by what was typed for it.
        dry: only say what it would cost.

    Raises:
        OptionError: options make no sense together.
    """
    from .probes import ScoreProbe, read_probe
    from .report.linear_files import writable_folder

    if request.images is not None and not dry:
        raise OptionError("--images is a number to estimate for", request.images, "Add --dry-run, or use --limit.")
    if not dry:
        writable_folder(request.out)
    model = load(request.source)
    probe = read_probe(request.probe, model, n=request.limit)
    if isinstance(probe, ScoreProbe):
        if request.compare or request.attack or request.ablate or dry:
            raise OptionError(
                "Scores of whole images can only be matched with units", request.probe, "Leave the other options out."
            )
        _match(request, model, probe)
        return
    layers = _layers(request, model)
    if dry:
        _say_costs(request, model, probe, layers)
        return
    others = _others(request, model, load)
    if not request.as_json:
        _warn_if_slow(request, model, probe, layers)
    with _stoppable(request), progress_bar("Dissecting", request.as_json) as progress, gently(progress) as tick:
        found = _investigate(request, model, probe, layers, others, tick)
        _write(request, found, tick)


def _investigate(
    request: Request,
    model: VisionModel,
    probe: Probe,
    layers: tuple[str, ...],
    others: dict[str, VisionModel | None],
    tick: Progress,
) -> Findings:
    from .dissecting import investigate

    labels = _labels(request, model, probe)
    ablate = labels is not None if request.ablate is None else request.ablate
    return investigate(
        model, probe, layers, against=others, labels=labels, ablate=ablate, attack=request.attack, cache=request.kept,
        progress=tick, **request.options,
    )  # fmt: skip


def _write(request: Request, found: Findings, tick: Progress) -> None:
    from .report import dissection_words as said
    from .report.dissection_files import tables, write_tables
    from .report.dissection_page import dissection_page
    from .report.linear_files import write_page

    page = dissection_page(found, sources=(request.source, request.probe), command=typed_again(), progress=tick)
    made = tables(found)
    write_tables(request.out, made)
    written = write_page(request.out, page)
    if request.as_json:
        comparison = {} if found.comparison is None else {"comparison": made["comparison.csv"].to_dict("records")}
        print_json(
            {
                "folder": str(request.out), "page": str(written), "tables": sorted(made),
                "images": len(found.probe), "layers": made["layers.csv"].to_dict("records"), **comparison,
                "categories": made["categories.csv"].to_dict("records"),
                "notes": list(said.notes(found)), "skipped": [list(one) for one in said.skipped(found)],
                "cached": bool(found.dissection.provenance.get("reused")),
            }
        )  # fmt: skip
        return
    for note in said.notes(found):
        typer.secho(printable(f"Note: {note}"), err=True, fg=typer.colors.YELLOW)
    for name, reason in said.skipped(found):
        typer.secho(printable(f"Skipped {name}: {reason}"), err=True, fg=typer.colors.YELLOW)
    _print_summary(said.summary_rows(found), bool(found.others))
    typer.echo(printable(f"{said.headline(found.last)}."))
    typer.echo(printable(said.honest(found.last)))
    typer.echo(f"The page is {written}; open it in a browser, it needs no network.")


def _print_summary(rows: Sequence[SummaryRow], compared: bool) -> None:
    columns = ["network"] * compared + ["layer", "detectors", "concepts", "mean IoU", "chance"]
    table = [
        [
            *([row.model] * compared),
            row.layer,
            f"{row.detectors} of {row.units}{_bracketed(row.detectors_interval)}",
            row.unique,
            row.mean_iou,
            row.chance,
        ]
        for row in rows
    ]
    print_table(columns, table)


def _bracketed(interval: str) -> str:
    return f" [{interval.replace(' to ', '–')}]" if interval else ""


def _match(request: Request, model: VisionModel, probe: ScoreProbe) -> None:
    """Match units with scores of whole images, and write the table."""
    import pandas as pd

    import explain

    with progress_bar("Matching", request.as_json) as progress:
        matches = explain.match_concepts(model, probe, _layers(request, model), progress=progress)
    frame = pd.concat([one.frame() for one in matches.values()], ignore_index=True)
    path = request.out / "matches.csv"
    frame.to_csv(path, index=False, errors="replace")
    if request.as_json:
        skipped = [list(one) for one in probe.skipped]
        print_json({"table": str(path), "images": len(probe), "units": frame.to_dict("records"), "skipped": skipped})
        return
    for name, reason in probe.skipped:
        typer.secho(printable(f"Skipped {name}: {reason}"), err=True, fg=typer.colors.YELLOW)
    best = frame.sort_values("lead", ascending=False, kind="stable").head(_ROWS)
    rows = zip(*(best[name].tolist() for name in ("layer", "unit", "concept", "second", "lead")), strict=True)
    print_table(
        ["layer", "unit", "concept", "before", "lead (nats)"],
        [[layer, str(unit), concept, second or "", f"{lead:.2f}"] for layer, unit, concept, second, lead in rows],
    )
    typer.echo(f"The {len(best)} clearest of {len(frame)} units; {path} has all.")
    typer.echo("Scores order concepts by images, not by places: they give no IoU and no level of chance.")


def _layers(request: Request, model: VisionModel) -> tuple[str, ...]:
    from .dissecting import default_layers

    if request.layers is None:
        return default_layers(model)
    names = tuple(name.strip() for name in request.layers.split(",") if name.strip())
    if not names:
        raise OptionError("No layer is named", request.layers, "Write --layers a,b, or leave it out.")
    return names


def _others(request: Request, model: VisionModel, load: Callable[[str], VisionModel]) -> dict[str, VisionModel | None]:
    """Load what the network is compared with, by the name that is shown."""
    from .dissecting import CONTROLS

    others: dict[str, VisionModel | None] = {}
    for typed in request.compare:
        name = typed if ":" in typed else Path(typed).name
        name = typed if name in others or name == model.name else name
        if name in others or name == model.name:
            raise OptionError("A network is compared with itself", typed, "Name another one, random or rotated.")
        others[name] = None if typed in CONTROLS else load(typed)
    return others


def _labels(request: Request, model: VisionModel, probe: Probe) -> Tensor | None:
    """Return the images' classes if they are known, and are what the network was trained to tell."""
    if request.probe not in ("shapes", "sample:shapes"):
        return None
    import torch

    from .samples import sample_data

    known = sample_data("shapes", n=len(probe))
    if model.num_classes != len(known.classes) or (model.classes and tuple(model.classes) != tuple(known.classes)):
        return None
    if model.classes or known.labels is None:
        return known.labels
    # A nameless network with as many classes may know other things: then its answers have nothing to do with the labels.
    few = min(len(probe), 50)
    with torch.no_grad():
        answers = model(torch.stack([probe.image(i) for i in range(few)]).to(model.device)).argmax(1).cpu()
    return known.labels if float((answers == known.labels[:few]).double().mean()) > 0.5 else None


def _estimate(
    request: Request, model: VisionModel, probe: Probe, layers: Sequence[str], images: int | None
) -> Estimate:
    from explain.dissection import estimate

    options = {key: request.options[key] for key in ("quantile", "permutations", "memory")}
    return estimate(model, probe, layers, images=images, **options)


def _say_costs(request: Request, model: VisionModel, probe: Probe, layers: Sequence[str]) -> None:
    """Print what it would take, for this probe and for another number of images."""
    counts = [None] if request.images is None else [None, request.images]
    found = [_estimate(request, model, probe, layers, count) for count in counts]
    times = 1 + len(request.compare)
    if request.as_json:
        print_json({"layers": list(layers), "times": times, "estimates": [vars(one) for one in found]})
        return
    typer.echo(printable(f"Layers: {', '.join(layers)}"))
    for one in found:
        typer.echo(str(one))
    if times > 1:
        typer.echo(f"As long again for each of the {times - 1} comparisons.")


def _warn_if_slow(request: Request, model: VisionModel, probe: Probe, layers: Sequence[str]) -> None:
    """Say what it will take, unless that is little, or a run is gone on with."""
    if len(probe) < _MEASURED or any(request.kept.glob("dissection-*")):
        return
    found = _estimate(request, model, probe, layers, None)
    if found.seconds * (1 + len(request.compare)) > _SLOW:
        typer.echo(f"{found}{', for each network' if request.compare else ''}", err=True)


@contextlib.contextmanager
def _stoppable(request: Request) -> Iterator[None]:
    """Say how to go on with a run that a person stops."""
    try:
        yield
    except KeyboardInterrupt:
        if not request.as_json:
            typer.echo(f"What was computed is in {request.kept}: the same command goes on from there.", err=True)
        raise
