"""The commands about generators, each a thin skin: what ``workbench generate train | attack | evaluate`` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import (
    Device,
    EightBit,
    HeadActivation,
    Images,
    InputSize,
    Json,
    Limit,
    Mean,
    Model,
    Seed,
    Std,
    Stem,
)
from .typed import load_model, number

app = typer.Typer(help="Train a network that attacks towards every class in one pass, use it, and measure it.")

Generator = Annotated[
    str,
    typer.Argument(help="A file that generate train wrote, or sample:NAME.", metavar="GENERATOR"),
]
Budget = Annotated[
    str | None, typer.Option("--eps", help="Another budget than it was trained for: the change is scaled to it.")
]


@app.command()
def train(
    model: Model,
    images: Annotated[
        str,
        typer.Argument(
            help="Images to learn from: a folder, sample:shapes or sample:digits (their training split).",
            metavar="IMAGES",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Name of the two files to write, NAME.safetensors and NAME.json.")
    ] = Path("generator"),
    epsilon: Annotated[str, typer.Option("--eps", help="Budget: the largest change of a number.")] = "8/255",
    steps: Annotated[int, typer.Option(help="Steps of the optimiser.", min=1)] = 2000,
    batch_size: Annotated[int, typer.Option(help="Images per step.", min=1)] = 64,
    rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 2e-3,
    loss: Annotated[
        str, typer.Option(help="hinge, ce (cross-entropy) or miss (probability of the other classes).")
    ] = "hinge",
    augment: Annotated[
        bool, typer.Option("--augment", help="Show the model resized, shifted and noisy views, for transfer.")
    ] = False,
    curriculum: Annotated[
        float, typer.Option(help="Budget at the start, in units of --eps; it changes to --eps in a straight line.")
    ] = 1.0,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many measurements, of 20, without a better one.", min=1)
    ] = None,
    width: Annotated[int, typer.Option(help="Channels of the generator's first layer.", min=1)] = 24,
    blocks: Annotated[int, typer.Option(help="Its residual blocks.", min=1)] = 2,
    conditioning: Annotated[str, typer.Option(help="How the class gets in: film or concat.")] = "film",
    targets: Annotated[
        str | None, typer.Option(help="Classes to reach, with commas between them; all of them otherwise.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Another model to attack at once; may be repeated.", metavar="MODEL")
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
    """Train a generator against a model; a training that was stopped, even killed, goes on with the same command."""
    from . import generate_command

    options = {
        "epsilon": number(epsilon), "steps": steps, "batch_size": batch_size, "rate": rate, "loss": loss,
        "augment": augment, "curriculum": curriculum, "patience": patience, "width": width, "blocks": blocks,
        "conditioning": conditioning, "seed": seed,
    }  # fmt: skip
    generate_command.train(
        generate_command.Training(model, images, tuple(source or ()), targets, options, out, limit, as_json),
        lambda name: load_model(name, device, stem, head_activation, input_size, mean, std),
    )


@app.command()
def attack(
    generator: Generator,
    model: Model,
    images: Images,
    target: Annotated[int | None, typer.Option(help="Class to reach; every class otherwise.")] = None,
    epsilon: Budget = None,
    eight_bit: EightBit = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the versions of the images: PNG, and versions.npz.")
    ] = None,
    limit: Limit = None,
    device: Device = "cpu",
    stem: Stem = None,
    head_activation: HeadActivation = None,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    as_json: Json = False,
) -> None:
    """Make versions of images that the model sees as other classes, and say which ones it does."""
    from . import generate_command

    budget = None if epsilon is None else number(epsilon)
    generate_command.attack(
        generate_command.Use(generator, images, budget, eight_bit, device, out, limit, as_json),
        target,
        lambda: load_model(model, device, stem, head_activation, input_size, mean, std),
    )


@app.command()
def evaluate(
    generator: Generator,
    model: Model,
    images: Images,
    other: Annotated[
        list[str] | None,
        typer.Option(help="Another model to show the images to; may be repeated.", metavar="MODEL"),
    ] = None,
    against: Annotated[
        str, typer.Option(help="Attacks to compare with, with commas; pgd:40 takes 40 steps. Empty for none.")
    ] = "pgd:40",
    epsilon: Budget = None,
    eight_bit: EightBit = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for targets.csv, confusion.csv and summary.csv.")
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
    """Say how often a generator reaches each class, how well that carries over to other models, and how fast it is."""
    from . import generate_command

    budget = None if epsilon is None else number(epsilon)
    generate_command.evaluate(
        generate_command.Use(generator, images, budget, eight_bit, device, out, limit, as_json),
        against,
        tuple(other or ()),
        seed,
        model,
        lambda name: load_model(name, device, stem, head_activation, input_size, mean, std),
    )  # fmt: skip
