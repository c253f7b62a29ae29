"""The call that makes a report again, as Python and as a command line; strings in it are literals, whatever they hold."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import EPSILONS, METHODS

if TYPE_CHECKING:
    from attacks import Evaluation

    from ..images import ImageSet
    from ..models import VisionModel
    from .build import Options

_AGAIN = 2000  # images that may be generated once more only to be sure
_GENERATED = re.compile(r"(shapes|digits)/(train|test)/(\d{1,9})(?:/(\d+))?")


@dataclass(frozen=True)
class Recipe:
    """How to make a report again.

    Attributes:
        python: a script.
        command: a command line, or ``None`` where none says the same.
        exact: whether the script runs as it is; else it holds a path that a person must fill in.
    """

    python: str
    command: str | None
    exact: bool


@dataclass(frozen=True)
class _Origin:
    """Where the model or the images came from: an expression, and what the command line takes (``None``: nothing)."""

    expression: str
    words: tuple[str, ...] | None
    exact: bool = True


def recipe(
    given: tuple[Any, Any],
    model: VisionModel,
    images: ImageSet,
    options: Options,
    evaluation: Evaluation,
    sources: tuple[str, str] | None,
    file: str,
) -> Recipe:
    """Return the recipe of a report on ``given``, a model and images as the caller passed them."""
    typed_model, typed_images = sources or (None, None)
    net = _model_origin(typed_model or given[0], model)
    data = _images_origin(typed_images or given[1], images, limited=typed_images is not None)
    asked = _asked(options, evaluation)
    own = _beyond_the_report(evaluation)
    lines = ["import workbench as wb"]
    if own:
        lines.insert(0, "import attacks")
    lines += ["", f"model = {net.expression}", f"images = {data.expression}"]
    if own:
        lines.append(_evaluate(own, asked, evaluation))
        asked = {key: value for key, value in asked.items() if key not in ("norm", "epsilons", "attacks")}
        asked["evaluation"] = "evaluation"
    arguments = ["model", "images", repr(file), *(f"{key}={value}" for key, value in asked.items())]
    lines.append(_call("wb.report", arguments))
    exact = net.exact and data.exact
    if "generator" in own and own["generator"]["source"] is None:
        exact = False
        lines.append("# The generator was in memory: attacks.save_generator(generator, path) keeps yours.")
    if (evaluation.samples["attack"] == "replay").any():
        exact = False
        lines.append("# Stored adversarial images were tried first: evaluate(..., replay={id: image}) with yours.")
    return Recipe("\n".join(lines), _command(net, data, options, evaluation, asked, file), exact)


def _model_origin(source: Any, model: VisionModel) -> _Origin:
    if isinstance(source, str | os.PathLike):
        return _Origin(f"wb.load({os.fspath(source)!r})", (os.fspath(source),))
    if model.name == model.architecture and model.name.startswith("sample:"):
        return _Origin(f"wb.load({model.name!r})", (model.name,))
    return _Origin(f"wb.load({'path/to/' + model.name!r})  # put your file here", None, exact=False)


def _images_origin(source: Any, images: ImageSet, limited: bool) -> _Origin:
    if isinstance(source, str) and source == "sample:photos":
        expression = f"wb.read_images(wb.sample_photos(), model, limit={len(images)})"
        return _Origin(expression, (source, "--limit", str(len(images))))
    if isinstance(source, str | os.PathLike) and not str(source).startswith("sample:"):
        # A limit of all there are changes nothing, and whoever read the images may have set one.
        most = len(images) + len(images.skipped)
        limit, words = (f", limit={most}", ("--limit", str(most))) if limited else ("", ())
        return _Origin(f"wb.read_images({os.fspath(source)!r}, model{limit})", (os.fspath(source), *words))
    generated = _generated(images)
    if generated is not None:
        return generated
    if isinstance(source, list | tuple) and source and all(isinstance(one, str | os.PathLike) for one in source):
        return _Origin(f"wb.read_images({[os.fspath(one) for one in source]!r}, model)", None)
    return _Origin('wb.read_images("path/to/photos", model)  # put your folder here', None, exact=False)


def _generated(images: ImageSet) -> _Origin | None:
    """Recognise a sample set by its ids, and make sure by making it again."""
    found = _GENERATED.fullmatch(images.ids[0])
    if found is None or len(images) > _AGAIN:
        return None
    from ..samples import sample_data

    name, split, number, index = found.groups()
    seed = int(number) if index is not None else 0
    for n in (len(images), None) if name == "digits" else (len(images),):
        try:
            again = sample_data(name, split, n, seed)
        except ValueError:
            continue
        if again.digest == images.digest:
            words = (f"sample:{name}", "--limit", str(n)) if n is not None and (split, seed) == ("test", 0) else None
            return _Origin(f"wb.sample_data({name!r}, {split!r}, n={n}, seed={seed})", words)
    return None


def _asked(options: Options, evaluation: Evaluation) -> dict[str, str]:
    """Return the arguments that differ from their defaults, as code."""
    epsilons = tuple(evaluation.epsilons)
    names = evaluation.provenance.get("attacks", "fast")
    methods = (options.methods,) if isinstance(options.methods, str) else tuple(options.methods)
    values = {
        "methods": (repr(methods), methods != METHODS),
        "target": (_target(options.target), options.target is not None),
        "layer": (repr(options.layer), options.layer is not None),
        "norm": (repr(evaluation.norm), evaluation.norm != "linf"),
        "epsilons": (f"({', '.join(map(_number, epsilons))},)", epsilons != EPSILONS),
        "attacks": (repr(names if isinstance(names, str) else tuple(names)), names != "fast"),
        "max_images": (repr(options.max_images), options.max_images != 24),
        "title": (repr(options.title), options.title is not None),
        "seed": (repr(evaluation.seed), evaluation.seed != 0),
        "lite": ("True", options.lite),
    }
    return {key: code for key, (code, differs) in values.items() if differs}


def _target(target: Any) -> str:
    return repr(target.tolist() if hasattr(target, "tolist") else target)


def _number(value: float) -> str:
    steps = round(value * 255)
    return f"{steps} / 255" if steps and steps / 255 == value else repr(value)


def _beyond_the_report(evaluation: Evaluation) -> dict[str, Any]:
    """Return what was asked of the evaluation that the report's own call has no place for."""
    usual: dict[str, Any] = {"options": {}, "eight_bit": False, "eot": 1, "generator": None}
    made = evaluation.provenance
    return {key: made[key] for key, value in usual.items() if made.get(key, value) != value}


def _evaluate(own: dict[str, Any], asked: dict[str, str], evaluation: Evaluation) -> str:
    labels = [] if evaluation.provenance.get("labels") == "model predictions" else ["images.labels"]
    same = [f"{key}={asked[key]}" for key in ("norm", "epsilons", "seed") if key in asked]
    names = asked.get("attacks", "'fast'")
    same += [f"attacks={names}"] if names != "'standard'" else []
    more = [f"{key}={value!r}" for key, value in own.items() if key != "generator"]
    if "generator" in own:
        more.append(f"generator=wb.load_generator({own['generator']['source'] or 'path/to/generator'!r})")
    return _call("evaluation = attacks.evaluate", ["model", "images.images", *labels, "ids=images.ids", *same, *more])


def _call(function: str, arguments: list[str]) -> str:
    line = f"{function}({', '.join(arguments)})"
    return line if len(line) <= 88 else f"{function}(\n    " + ",\n    ".join(arguments) + ",\n)"


def _command(
    net: _Origin, data: _Origin, options: Options, evaluation: Evaluation, asked: dict[str, str], file: str
) -> str | None:
    """Return the command line, or ``None``: it has no words for some arguments, nor for things in memory."""
    if net.words is None or data.words is None or {"max_images", "title", "evaluation"} & set(asked):
        return None
    if options.target is not None and not isinstance(options.target, int):
        return None
    source, *more = data.words
    words = ["workbench", "report", *net.words, source, "--out", file, *more]
    if "methods" in asked:
        words += ["--methods", ",".join([options.methods] if isinstance(options.methods, str) else options.methods)]
    if "epsilons" in asked:
        words += ["--eps", asked["epsilons"].strip("(),").replace(" ", "")]
    if "attacks" in asked:
        names = evaluation.provenance["attacks"]
        words += ["--attacks", names if isinstance(names, str) else ",".join(names)]
    for key, value in (("target", options.target), ("layer", options.layer)):
        words += [f"--{key}", str(value)] if value is not None else []
    for key in ("norm", "seed"):
        words += [f"--{key}", asked[key].strip("'")] if key in asked else []
    words += ["--lite"] if options.lite else []
    return shlex.join(words)
