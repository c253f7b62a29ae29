"""Arguments and options that several commands share, with the help that a person reads."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(help="A checkpoint file, a torchvision name, sample:NAME, or timm:NAME.", metavar="MODEL")
]
Images = Annotated[
    str,
    typer.Argument(
        help="A photo, a folder of photos, sample:shapes, sample:digits or sample:photos.", metavar="IMAGES"
    ),
]
Limit = Annotated[int | None, typer.Option(help="Use at most so many images.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")]
Stem = Annotated[str | None, typer.Option(help="For a ResNet checkpoint with a 3×3 stem: cifar or imagenet.")]
HeadActivation = Annotated[
    str | None, typer.Option(help="What stands between the linear layers of a replaced head: relu, gelu, tanh, none.")
]
InputSize = Annotated[
    str | None, typer.Option(help="Channels, height and width, as 3x64x64, if the file does not say.")
]
Mean = Annotated[str | None, typer.Option(help="Normalisation mean per channel, as 0.5,0.5,0.5.")]
Std = Annotated[str | None, typer.Option(help="Normalisation standard deviation per channel.")]
Methods = Annotated[
    str, typer.Option(help="Comma-separated: saliency, guided_backprop, deconvnet, gradcam, gradcam++, or all.")
]
Target = Annotated[
    int | None, typer.Option(help="Class index to explain; the predicted class of each image otherwise.")
]
Layer = Annotated[str | None, typer.Option(help="Layer for the CAM methods; the last spatial one otherwise.")]
Norm = Annotated[str, typer.Option(help="linf, l2, l1 or l0.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Epsilons = Annotated[str, typer.Option("--eps", help="Comma-separated budgets, such as 1/255,2/255.")]
Attacks = Annotated[
    str, typer.Option(help="fast, standard or thorough; or names with commas, as workbench attacks lists them.")
]
AttackOption = Annotated[
    list[str] | None, typer.Option("--option", help="Option of the attack, as steps=40; may be repeated.")
]
EightBit = Annotated[
    bool, typer.Option("--eight-bit", help="Round to whole grey levels, as a saved picture does, before judging.")
]
