""" "Copy as Python": the calls that make a result again, outside the browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .loading import PRESET_FIELDS, Options, Photos
from .moved import TOP
from .removed import how_many, knows_shapes
from .uploads import safe_name

if TYPE_CHECKING:
    from attacks import MultiTargetGenerator

    from ..models import VisionModel
    from . import versions as versions_page
    from .attacked import Request
    from .dissected import Shown
    from .removed import Removal
    from .sidebar import Choice, ModelChoice

FITTED = 64  # pictures that the statistics of an untrained network are fitted to


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


def attack(choice: ModelChoice, options: Options, model: VisionModel, photos: Photos, request: Request) -> str:
    """Return a script that loads the same model and picture and attacks it in the same way."""
    arguments = [repr(request.attack), f"norm={request.norm!r}"]
    if request.epsilon is not None:
        steps = 255 * request.epsilon
        arguments.append(f"epsilon={steps:.10g} / 255" if request.norm == "linf" else f"epsilon={request.epsilon!r}")
    arguments += [] if request.target is None else [f"targets=[{request.target}]"]
    arguments += ["ids=image.ids", *(["eight_bit=True"] if request.eight_bit else [])]
    return "\n".join(
        [
            "import attacks",
            *_subject(choice, options, model, photos),
            f"image = images.subset([{request.index}])",
            "predicted = model(image.images).argmax(1)",
            f"found = attacks.attack(model, image.images, predicted, {', '.join(arguments)})",
            "found.images  # (1, C, H, W)",
            "found.frame()",
        ]
    )


def versions(
    choice: ModelChoice,
    options: Options,
    model: VisionModel,
    photos: Photos,
    request: versions_page.Request,
    generator: MultiTargetGenerator,
) -> str:
    """Return a script that loads the same model, picture and generator and makes the same versions."""
    source = generator.source or "generator"
    arguments = [] if request.epsilon is None else [f"epsilon={255 * request.epsilon:.10g} / 255"]
    arguments += ["eight_bit=True"] if request.eight_bit else []
    hint = "" if generator.source else "  # where you unpacked it"
    return "\n".join(
        [
            *_subject(choice, options, model, photos),
            f"image = images.subset([{request.index}])",
            f"generator = wb.load_generator({source!r}){hint}",
            f"versions = generator.every({', '.join(['image.images', *arguments])})  # (1, K, C, H, W)",
            "model(versions[0]).argmax(1)  # what the network sees, by class wanted",
        ]
    )


def dissection(shown: Shown, photos: Photos | None) -> str:
    """Return a script that dissects the same model in the same way, and repeats what was asked about its units.

    Args:
        shown: the result.
        photos: the pictures that are looked at with it, if they are for this model.
    """
    request, layer = shown.request, shown.request.layers[-1]
    options = f"quantile={request.quantile!r}, iou_threshold={request.threshold!r}"
    arguments = f"probe, {request.layers!r}, {options}"
    lines = [
        *_model(*shown.source, shown.model, f"probe {shown.probe.digest[:12]}"),
        f'probe = wb.read_probe("shapes", model, n={request.count})',
        f"found = explain.dissect(model, {arguments})",
        "found.summary(), found.frame(), found.concepts()",
    ]
    compared = ['"trained": found']
    if request.control:
        compared.append('"untrained": untrained')
        lines += [
            f"few = torch.stack([probe.image(i) for i in range({min(FITTED, len(shown.probe))})])",
            f"untrained = explain.dissect(explain.randomised(model, few), {arguments})",
        ]
    if request.rotated:
        compared.append('"rotated basis": rotated')
        lines += [
            "basis = {name: explain.random_rotation(len(one)) for name, one in found.items()}",
            f"rotated = explain.dissect(model, {arguments}, basis=basis)",
        ]
    if len(compared) > 1:
        lines += [f"explain.compare({{{', '.join(compared)}}}).summary()"]
    best = int(shown.found[layer].best.argmax())
    lines += ["", f"explain.top_images(model, probe, found, {layer!r}, units=[{best}])"]
    if photos is not None:
        lines += [*photos.recipe, f"explain.fired(model, images.images, found, {layer!r}, ids=images.ids).frame()"]
    for name, removal in shown.removals.items():
        lines += _removal(shown.model, name, removal)
    attacked, stacked = any(one.attack for one in shown.removals.values()), request.control or shown.removals
    imports = [*(["import attacks"] if attacked else []), "import explain", *(["import torch"] if stacked else [])]
    return "\n".join([*imports, *lines])


def _removal(model: VisionModel, layer: str, removal: Removal) -> list[str]:
    """Return the lines that remove the units of a layer and, if that was asked for, attack."""
    images, attacked = how_many(model)
    lines = ["", "answers = {}", 'for split in ("train", "test"):']
    lines += [
        f"    data = wb.probes.shapes_probe({images}, split, size=model.input_size[1:], channels=model.input_size[0])",
        "    pixels = torch.stack([data.image(i) for i in range(len(data))])",
    ]
    if knows_shapes(model):
        lines.append(f'    answers[split] = pixels, wb.sample_data("shapes", split, n={images}).labels')
    else:
        lines.append("    answers[split] = pixels, torch.cat([model(part).argmax(1) for part in pixels.split(32)])")
    lines.append(f'ablation = explain.ablate(model, *answers["train"], {layer!r})')
    lines += [
        f'curve = explain.ablation_curve(model, *answers["test"], ablation, label={label})' for label in removal.curves
    ]
    if removal.attack is not None:
        lines += [
            f'images, labels = (part[:{attacked}] for part in answers["test"])',
            'adversarial = attacks.attack(model, images, labels, "pgd", epsilon=8 / 255)',
            f"moved = explain.moved_units(model, images, adversarial.images, {layer!r})",
            f"moved.relation(ablation, {min(TOP, len(removal.ablation.importance) - 1)})",
        ]
    return lines


def _subject(choice: ModelChoice, options: Options, model: VisionModel, photos: Photos) -> list[str]:
    return [*_model(choice, options, model, f"images {photos.images.digest[:12]}"), *photos.recipe]


def _model(choice: ModelChoice, options: Options, model: VisionModel, seen: str) -> list[str]:
    return [
        "import workbench as wb",
        "",
        f"# model {model.digest[:12]}, {seen}",
        f"model = wb.load({_load(choice, options)})",
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
