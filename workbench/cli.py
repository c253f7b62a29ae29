"""The command line: each command is a thin skin on a public function, and no command imports torch before it must."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from . import cli_attacks, cli_generate
from .cli_options import (
    Attacks,
    Device,
    Epsilons,
    HeadActivation,
    Images,
    InputSize,
    Json,
    Layer,
    Limit,
    Mean,
    Methods,
    Model,
    Norm,
    Seed,
    Std,
    Stem,
    Target,
)
from .console import print_json, print_notices, print_table, printable, progress_bar, run
from .errors import OptionError
from .typed import attack_names, file_names, load_model, method_names, numbers, read_images, size_of

app = typer.Typer(
    help="Why does an image classifier decide so, and how easily is it fooled?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def models(as_json: Json = False) -> None:
    """List the architectures that checkpoints are matched against, and the samples."""
    from .models.signatures import signatures

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "parameters": sum(math.prod(shape) for key, shape in s.tensors.items() if ".running_" not in key),
            "head": s.head,
        }
        for name, s in signatures().items()
    ]
    if as_json:
        print_json({"models": rows})
        return
    print_table(["name", "parameters", "head"], [[row["name"], f"{row['parameters']:,}", row["head"]] for row in rows])


@app.command()
def identify(
    file: Annotated[Path, typer.Argument(help="A checkpoint file.")], stem: Stem = None, as_json: Json = False
) -> None:
    """Say which network a checkpoint belongs to."""
    from .models import identify as identify_file

    found = identify_file(file, stem=stem)
    facts: dict[str, Any] = {
        "file": file.name,
        "architecture": found.architecture,
        "classes": found.num_classes,
        "input channels": found.in_channels,
        "tensors matched": found.matched,
        "class names": list(found.checkpoint.classes),
        "said in the file": dict(found.checkpoint.hints or {}),
        "sha256": found.checkpoint.digest,
        "notices": list(found.notices),
    }
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        if not value:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{name} {said}" for name, said in value.items())
        lines = value if key == "notices" else [", ".join(value) if isinstance(value, list) else str(value)]
        for place, line in enumerate(lines):
            typer.echo(f"{'' if place else key + ':':18}{printable(line)}")


@app.command()
def explain(
    model: Model,
    images: Images,
    methods: Methods = "all",
    target: Target = None,
    layer: Layer = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the maps.")] = Path("maps"),
    limit: Limit = None,
    device: Device = "cpu",
    stem: Stem = None,
    head_activation: HeadActivation = None,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    as_json: Json = False,
) -> None:
    """Write one map per image and method: an overlay as PNG, and the numbers as NPZ."""
    import numpy as np

    import explain as engine

    from .report import figures

    vision = load_model(model, device, stem, head_activation, input_size, mean, std)
    photos = read_images(images, vision, limit)
    out.mkdir(parents=True, exist_ok=True)
    with progress_bar("Explaining", as_json) as progress:
        found = engine.explain(
            vision,
            photos.images,
            target,
            method_names(methods),
            layer,
            ids=photos.ids,
            skip_inapplicable=True,
            progress=progress,
        )
    numbers: dict[str, Any] = {name: one.maps.cpu().numpy() for name, one in found.items()}
    np.savez_compressed(out / "maps.npz", ids=np.array(photos.ids), **numbers)
    for name, one in found.items():
        scale = figures.shared_scale(one.maps.cpu().numpy())
        for index, stem_name in enumerate(file_names(photos.ids)):
            overlay = figures.map_overlay(
                photos.images[index].numpy(), one.maps[index].cpu().numpy(), scale_max=scale, signed=one.signed
            )
            (out / f"{stem_name}.{name}.png").write_bytes(figures.to_png_bytes(overlay))
    frame = found.frame()
    if as_json:
        print_json({"folder": str(out), "maps": frame.to_dict("records"), "skipped": dict(found.skipped)})
        return
    print_notices(vision, photos)
    predictions = found.logits.softmax(dim=1).max(dim=1)
    print_table(
        ["image", "prediction", "probability"],
        [
            [image_id, vision.class_name(int(index)), f"{float(p):.1%}"]
            for image_id, index, p in zip(photos.ids, predictions.indices, predictions.values, strict=True)
        ],
    )
    for name, reason in found.skipped.items():
        typer.echo(f"{name} was left out: {reason}")
    typer.echo(f"{len(found) * len(photos)} maps are in {out}/")


@app.command()
def interpret(
    model: Model,
    images: Images,
    target: Target = None,
    space: Annotated[str, typer.Option(help="What x is: raw pixels in [0, 1], or normalised ones.")] = "raw",
    mode: Annotated[str, typer.Option(help="How smooth units are frozen: secant or tangent.")] = "secant",
    no_attack: Annotated[bool, typer.Option("--no-attack", help="Leave the attack out, which takes longest.")] = False,
    pixel: Annotated[
        str | None,
        typer.Option(help="For a network that returns images: row,column in its answer.", metavar="ROW,COLUMN"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for index.html, pictures and tables.")] = Path(
        "linear"
    ),
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "cpu",
    stem: Stem = None,
    head_activation: HeadActivation = None,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    as_json: Json = False,
) -> None:
    """Split each answer exactly into pixels and bias, and hold the radius of that linear system against an attack."""
    from . import interpret_command

    options = {"space": space, "mode": mode}
    if pixel is not None or interpret_command.returns_images(model):
        refused = {"--target": target, "--stem": stem, "--head-activation": head_activation}
        interpret_command.look(
            model,
            images,
            pixel,
            options=options,
            load={
                "device": device,
                "input_size": None if input_size is None else size_of(input_size),
                "mean": None if mean is None else numbers(mean),
                "std": None if std is None else numbers(std),
            },
            refused=[name for name, value in refused.items() if value is not None] + ["--no-attack"] * no_attack,
            out=out,
            limit=limit,
            as_json=as_json,
        )
        return
    interpret_command.answers(
        lambda: load_model(model, device, stem, head_activation, input_size, mean, std),
        model,
        images,
        options={**options, "target": target, "attack": not no_attack, "seed": seed},
        out=out,
        limit=limit,
        as_json=as_json,
    )


@app.command()
def dissect(
    model: Model,
    probe: Annotated[
        str,
        typer.Option(
            help="shapes; a folder in Broden's layout; one with images/, masks/, concepts.csv; a CSV or .npy of scores."
        ),
    ] = "shapes",
    layers: Annotated[
        str | None, typer.Option(help="Comma-separated; otherwise a few over the depth, to the last with space.")
    ] = None,
    quantile: Annotated[float, typer.Option(help="Share of its values for which a unit counts as active.")] = 0.005,
    iou_threshold: Annotated[float, typer.Option(help="A unit with a greater IoU is a detector.")] = 0.04,
    permutations: Annotated[int, typer.Option(help="How often annotations are dealt out anew, for chance.")] = 3,
    compare: Annotated[
        list[str] | None, typer.Option(help="Another model, random (untrained) or rotated; may be repeated.")
    ] = None,
    ablate: Annotated[
        bool | None, typer.Option("--ablate/--no-ablate", help="Remove units; default: if classes are known.")
    ] = None,
    attack: Annotated[bool, typer.Option("--attack", help="Say which units PGD moves.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for index.html and tables.")] = Path("dissection"),
    cache: Annotated[Path | None, typer.Option(help="Folder of results, to go on from; OUT/cache otherwise.")] = None,
    memory: Annotated[int, typer.Option(help="Megabytes that activations may take.", min=1)] = 1024,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    estimate_for: Annotated[
        int | None, typer.Option("--images", help="With --dry-run: for so many images, besides.", min=1)
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "cpu",
    stem: Stem = None,
    head_activation: HeadActivation = None,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    as_json: Json = False,
) -> None:
    """Say which concept each unit of some layers detects, how well, how sure that is, and what breaks without it."""
    from . import dissect_command

    options = {
        "quantile": quantile, "iou_threshold": iou_threshold, "permutations": permutations, "seed": seed,
        "memory": memory * 1_000_000,
    }  # fmt: skip
    dissect_command.dissect(
        dissect_command.Request(
            model,
            probe,
            layers,
            tuple(compare or ()),
            options,
            ablate,
            attack,
            out,
            cache,
            limit,
            estimate_for,
            as_json,
        ),
        lambda source: load_model(source, device, stem, head_activation, input_size, mean, std),
        dry_run,
    )


for _command in (cli_attacks.attack, cli_attacks.attacks, cli_attacks.evaluate, cli_attacks.transfer):
    app.command()(_command)
app.add_typer(cli_generate.app, name="generate", no_args_is_help=True)


@app.command()
def report(
    model: Model,
    images: Images,
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")] = Path("report.html"),
    methods: Methods = "all",
    target: Target = None,
    layer: Layer = None,
    norm: Norm = "linf",
    epsilons: Epsilons = "1/255,2/255,4/255,8/255",
    attacks: Attacks = "fast",
    limit: Limit = None,
    seed: Seed = 0,
    lite: Annotated[bool, typer.Option("--lite", help="Small, without scripts.")] = False,
    device: Device = "cpu",
    stem: Stem = None,
    head_activation: HeadActivation = None,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    as_json: Json = False,
) -> None:
    """Write one HTML file: predictions, maps, a robustness curve, and how to make it again."""
    from .report import report as make_report

    vision = load_model(model, device, stem, head_activation, input_size, mean, std)
    photos = read_images(images, vision, limit)
    with progress_bar("Working", as_json) as progress:
        made = make_report(
            vision, photos, out, methods=method_names(methods), target=target, layer=layer, norm=norm,
            epsilons=numbers(epsilons), attacks=attack_names(attacks), seed=seed, lite=lite, sources=(model, images),
            progress=progress,
        )  # fmt: skip
    size = len(made.html.encode())
    if as_json:
        print_json({"report": str(out), "bytes": size, "model": vision.digest, "images": photos.digest})
        return
    print_notices(vision, photos)
    typer.echo(f"The report is in {out} ({size / 1e6:.1f} MB). Open it in a browser; it needs no network.")


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(help="Which one; left out, they are listed.", metavar="[NAME]")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Images per network; the protocol's number otherwise.", min=1)
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the table as CSV.", metavar="FILE.csv")] = None,
    as_json: Json = False,
) -> None:
    """Re-run a published claim: claim, protocol, table, verdict."""
    from .studies import STUDIES

    if name is None:
        listed = [{"name": one.name, "claim": one.claim, "source": one.source} for one in STUDIES.values()]
        if as_json:
            print_json({"studies": listed})
        else:
            print_table(["name", "claim", "source"], [list(one.values()) for one in listed])
        return
    if name not in STUDIES:
        raise OptionError("There is no study of that name", name, f"There is: {', '.join(STUDIES)}.")
    chosen = STUDIES[name]
    if not as_json:
        typer.echo(f"Claim: {chosen.claim}\nSource: {chosen.source}\nProtocol: {chosen.protocol}\n")
    with progress_bar("Measuring", as_json) as progress:
        found = chosen.run(**({} if limit is None else {"n": limit}), seed=seed, progress=progress)
    if out is not None:
        found.table.to_csv(out, index=False)
    if as_json:
        print_json(found.record())
        return
    for title, table in found.summary.items():
        typer.echo(title)
        print_table([str(column) for column in table.columns], table.to_numpy().tolist())
        typer.echo("")
    typer.echo(f"Verdict: {found.sentence}")


@app.command()
def serve(
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; the next free one is taken when it is busy.", min=0, max=65535)
    ] = 8501,
) -> None:
    """Serve the app to this machine's browser."""
    from .serve import serve as run

    run(port)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this installation: versions, devices, limits, and a two-second self-test."""
    from .doctor import checkup

    found = checkup()
    if as_json:
        print_json({"checks": [vars(check) for check in found], "healthy": all(check.ok for check in found)})
    else:
        for check in found:
            typer.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name + ':':22}{check.found}")
            if check.fix:
                typer.echo(f"{'':28}{check.fix}")
    if not all(check.ok for check in found):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    run(app)
