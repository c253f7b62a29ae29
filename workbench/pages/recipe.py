""" "Copy as Python": the calls that make a result again, outside the browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .loading import PRESET_FIELDS, Options, Photos
from .uploads import safe_name

if TYPE_CHECKING:
    from ..models import VisionModel
    from .sidebar import Choice, ModelChoice


def python(
    choice: ModelChoice,
    options: Options,
    model: VisionModel,
    photos: Photos,
    methods: tuple[str, ...],
    target: int | None,
    layer: str | None,
) -> str:
    """Return a script that loads the same model and images and computes the same maps."""
    arguments = [f"methods={methods!r}", "ids=images.ids"]
    arguments += [] if target is None else [f"target={target}"]
    arguments += [] if layer is None else [f"layer={layer!r}"]
    return "\n".join(
        [
            "import explain",
            *_subject(choice, options, model, photos),
            f"maps = explain.explain(model, images.images, {', '.join(arguments)})",
            f"maps[{methods[0]!r}].maps  # (N, H, W)",
            "",
            'wb.report(model, images, "report.html", explanations=maps)',
        ]
    )


def linear(
    choice: ModelChoice,
    options: Options,
    model: VisionModel,
    photos: Photos,
    target: int | None,
    space: str,
    mode: str,
) -> str:
    """Return a script that loads the same model and images and takes them apart in the same way."""
    arguments = [] if target is None else [f"target={target}"]
    arguments += [f"space={space!r}", f"mode={mode!r}", "attack=False"]
    return "\n".join(
        [
            *_subject(choice, options, model, photos),
            f"found = wb.interpret(model, images, {', '.join(arguments)})",
            "found.votes  # (N, H, W); with found.shares.bias they add up to the logit",
            "found.frame()",
            "found.lens.column((0, 3, 5))  # what channel 0 of the pixel in row 3, column 5 does to every class",
        ]
    )


def _subject(choice: ModelChoice, options: Options, model: VisionModel, photos: Photos) -> list[str]:
    return [
        "import workbench as wb",
        "",
        f"# model {model.digest[:12]}, images {photos.images.digest[:12]}",
        f"model = wb.load({_load(choice, options)})",
        *photos.recipe,
    ]


def sources(choice: Choice) -> tuple[str, str]:
    """Return what a person would type for the model and the images, for the report."""
    return _source(choice.model), f"sample:{choice.images.data}" if choice.images.data else "photos/"


def _source(choice: ModelChoice) -> str:
    return choice.source if choice.upload is None else safe_name(choice.upload.name)


def _load(choice: ModelChoice, options: Options) -> str:
    keywords = [f"{name}={value!r}" for name, value in options if name not in PRESET_FIELDS]
    preset = {name: value for name, value in options if name in PRESET_FIELDS}
    return ", ".join([repr(_source(choice)), *keywords, *([f"preset={preset!r}"] if preset else [])])
