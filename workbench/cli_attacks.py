"""The commands about attacks, each a thin skin: what ``workbench attack | attacks | evaluate | transfer`` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import (
    AttackOption,
    Attacks,
    Device,
    EightBit,
    Epsilons,
    HeadActivation,
    Images,
    InputSize,
    Json,
    Limit,
    Mean,
    Model,
    Norm,
    Seed,
    Std,
    Stem,
)
from .typed import load_model, numbers


def attack(
    model: Model,
    images: Images,
    name: Annotated[str, typer.Option("--attack", help="Its name, as workbench attacks lists it.")] = "pgd",
    norm: Annotated[str | None, typer.Option(help="linf, l2, l1 or l0; the attack's usual one otherwise.")] = None,
    epsilon: Annotated[
        str | None,
        typer.Option("--eps", help="Budget, such as 8/255 (the default for linf); the nearest image needs none."),
    ] = None,
    target: Annotated[int | None, typer.Option(help="Class to reach; away from the label otherwise.")] = None,
    option: AttackOption = None,
    eight_bit: EightBit = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the adversarial images: PNG, and adversarials.npz.")
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
    """Attack each image once and say which ones fooled the model, and how near that was."""
    from . import attack_command

    settings = {"seed": seed, "eight_bit": eight_bit}
    attack_command.attack(
        attack_command.Request(images, name, norm, epsilon, tuple(option or ()), settings, out, limit, as_json),
        target,
        lambda: load_model(model, device, stem, head_activation, input_size, mean, std),
    )


def attacks(as_json: Json = False) -> None:
    """List the attacks, the workbench's own and foolbox's."""
    from .attack_command import listing

    listing(as_json)


def evaluate(
    model: Model,
    images: Images,
    norm: Norm = "linf",
    epsilons: Epsilons = "1/255,2/255,4/255,8/255",
    attacks: Attacks = "standard",
    option: Annotated[
        list[str] | None, typer.Option(help="Option of an attack, as pgd.steps=40; may be repeated.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="adversarials.npz of an earlier run, to try first.", metavar="FILE.npz")
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(help="A generator for this model, file or sample:NAME, to join the attacks.", metavar="GENERATOR"),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for index.html, tables and adversarial images.")
    ] = Path("evaluation"),
    journal: Annotated[
        Path | None, typer.Option(help="Folder of finished steps, to go on from; OUT/journal otherwise.")
    ] = None,
    eight_bit: EightBit = False,
    eot: Annotated[int, typer.Option(help="Passes to average over, for a model that is random.", min=1)] = 1,
    batch_size: Annotated[int, typer.Option(help="Images per pass; changes speed and memory only.", min=1)] = 64,
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
    """Measure robust accuracy with its uncertainty, cost, and the checks that say how far to trust it.

    A run that was stopped, even killed, goes on when the same command is given again.
    """
    from . import evaluate_command

    settings = {"norm": norm, "seed": seed, "eight_bit": eight_bit, "eot": eot, "batch_size": batch_size}
    evaluate_command.evaluate(
        evaluate_command.Request(
            model,
            images,
            numbers(epsilons),
            attacks,
            tuple(option or ()),
            replay,
            generator,
            settings,
            out,
            journal,
            limit,
            as_json,
        ),
        lambda: load_model(model, device, stem, head_activation, input_size, mean, std),
    )


def transfer(
    models: Annotated[
        list[str],
        typer.Argument(help="Two models or more, each as elsewhere: file, name, sample:NAME.", metavar="MODEL"),
    ],
    images: Annotated[str, typer.Option("--images", help="Photos, as elsewhere: a folder, sample:shapes.")],
    name: Annotated[str, typer.Option("--attack", help="Its name; those that spend a budget transfer better.")] = "pgd",
    norm: Norm = "linf",
    epsilon: Annotated[
        str | None, typer.Option("--eps", help="Budget, such as 8/255, which is the default for linf.")
    ] = None,
    option: AttackOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the pairs as CSV.", metavar="FILE.csv")] = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Say which models are fooled by images made on which others."""
    from . import attack_command

    attack_command.transfer(
        attack_command.Request(images, name, norm, epsilon, tuple(option or ()), {"seed": seed}, out, limit, as_json),
        models,
        lambda source: load_model(source, device, None, None, None, None, None),
    )
