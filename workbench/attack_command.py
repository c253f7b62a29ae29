"""What ``workbench attack``, ``attacks`` and ``transfer`` do: one attack on each image, the catalogue, and models compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .console import print_json, print_notices, print_table, printable, progress_bar
from .errors import OptionError
from .evaluate_command import ADVERSARIALS, write_adversarials
from .typed import file_names, number, option, read_images

if TYPE_CHECKING:
    from torch import Tensor

    from attacks import AttackResult, TransferMatrix

    from .images import ImageSet
    from .models import VisionModel


@dataclass(frozen=True)
class Request:
    """What was typed.

    Attributes:
        images: the images.
        attack: name of the attack.
        norm, epsilon: ``None`` where the attack is to choose.
        options: the attack's own, each as ``name=value``.
        settings: of ``attacks.attack``: seed and, of a single attack, eight_bit.
        out: a folder, or for a comparison a file; ``None``: nothing is written.
        limit: at most so many images.
        as_json: whether a machine reads the answer.
    """

    images: str
    attack: str
    norm: str | None
    epsilon: str | None
    options: Sequence[str]
    settings: dict[str, Any]
    out: Path | None
    limit: int | None
    as_json: bool

    @property
    def asked(self) -> dict[str, Any]:
        """Arguments of the call: budget, settings and the attack's own options."""
        own = dict(option(text, "steps=40") for text in self.options)
        return {"epsilon": None if self.epsilon is None else number(self.epsilon), **self.settings, **own}


def attack(request: Request, target: int | None, load: Callable[[], VisionModel]) -> None:
    """Attack each image once, print what became of it, and write the adversarial images if there is a folder for them.

    Args:
        request: what was typed.
        target: the class to reach; away from the label otherwise.
        load: loads the model.

    Raises:
        OptionError: options make no sense together.
    """
    import torch

    import attacks as engine

    from .report.linear_files import writable_folder

    _check_budget(request)
    folder = None if request.out is None else writable_folder(request.out)
    model = load()
    photos = read_images(request.images, model, request.limit)
    labels = _labels(model, photos)
    targets = None if target is None else torch.full_like(labels, target)
    with progress_bar("Attacking", request.as_json) as progress:
        found = engine.attack(
            model, photos.images, labels, request.attack, norm=request.norm, targets=targets, ids=photos.ids,
            progress=progress, **request.asked,
        )  # fmt: skip
    if folder is not None:
        _write(folder, found)
    if request.as_json:
        about = {"attack": found.attack, "norm": found.norm, "epsilon": found.epsilon}
        print_json({**about, "median_distance": _median(found), "images": found.frame().to_dict("records")})
        return
    print_notices(model, photos)
    _print(found, model, photos)
    if folder is not None and not request.settings["eight_bit"]:
        typer.echo(_as_saved(found, model))


def _check_budget(request: Request, transferred: bool = False) -> None:
    """Refuse an attack without the budget that it needs, in the words of the command line; ``transferred``: each does."""
    import attacks as engine

    from .report.credit import attack_called

    if request.attack not in engine.ATTACKS and ":" not in request.attack:
        return  # the engine knows which name was meant
    method = attack_called(request.attack)
    norm = request.norm or ("linf" if "linf" in method.norms else method.norms[0])
    if request.epsilon is None and norm != "linf" and (transferred or not method.minimal):
        raise OptionError(f"A budget is needed in {norm}", None, f"Add --eps {'10' if norm == 'l0' else '0.5'}, say.")


def _labels(model: VisionModel, photos: ImageSet) -> Tensor:
    """Return the true classes, or what the model answers where nobody knows them."""
    return answers(model, photos.images) if photos.labels is None else photos.labels


def answers(model: VisionModel, images: Tensor) -> Tensor:
    """Return what the model answers to images ``(N, C, H, W)``, ``(N,)`` on the CPU."""
    import torch

    with torch.no_grad():
        parts = torch.split(images, 32)
        return torch.cat([model(part.to(model.device)).argmax(dim=1).cpu() for part in parts])


def _write(folder: Path, found: AttackResult) -> None:
    from .report import figures

    for index, name in enumerate(file_names(found.ids)):
        picture = figures.to_rgb(found.images[index].cpu().numpy())
        (folder / f"{name}.{file_names((found.attack,))[0]}.png").write_bytes(figures.to_png_bytes(picture))
    hits = found.success.nonzero().flatten().tolist()
    write_adversarials(folder / ADVERSARIALS, {found.ids[index]: found.images[index] for index in hits})


def _as_saved(found: AttackResult, model: VisionModel) -> str:
    """Say for how many images rounding to a picture file undoes the attack."""
    import torch

    hits = found.success.nonzero().flatten()
    rounded = (found.images[hits] * 255).round() / 255
    with torch.no_grad():
        seen = [model(part.to(model.device)).argmax(1).cpu() for part in torch.split(rounded, 32)]
    goal = found.labels if found.targets is None else found.targets
    on_goal = torch.cat([goal[:0], *seen]) == goal[hits]
    kept = int((on_goal if found.targets is not None else ~on_goal).sum())
    return f"As PNG, rounded to whole grey levels, {kept} of these {len(hits)} still do; with --eight-bit all that are found do."


def _median(found: AttackResult) -> float | None:
    """Return the median distance of the images that the attack itself fooled the model on."""
    moved = found.distance[found.success & (found.distance > 0)]
    return float(moved.quantile(0.5)) if len(moved) else None


def _print(found: AttackResult, model: VisionModel, photos: ImageSet) -> None:
    from .report import words
    from .report.figures import epsilon_text

    truth = "label" if photos.labels is not None else "prediction"
    print_table(
        ["image", truth, "after the attack", "fooled", f"{found.norm} distance"],
        [
            [name, model.class_name(int(a)), model.class_name(int(b)), "yes" if bool(s) else "no",
             words.distance(float(d), found.norm)]
            for name, a, b, s, d in zip(
                found.ids, found.labels, found.fooled_as, found.success, found.distance, strict=True
            )
        ],
    )  # fmt: skip
    within = "" if found.epsilon is None else f" at {found.norm} ε = {epsilon_text(found.epsilon, found.norm)}"
    hits = f"{int(found.success.sum())} of {words.count(len(photos), 'image')}"
    median = _median(found)
    nearest = f"; median distance {words.distance(median, found.norm)}" if found.epsilon is None and median else ""
    typer.echo(f"{hits} fool the model{within}{nearest}.")


def listing(as_json: bool) -> None:
    """Print every attack, ours and foolbox's."""
    import attacks as engine

    frame = engine.listing()
    if as_json:
        print_json({"attacks": frame.to_dict("records")})
        return
    yes = {True: "yes", False: ""}
    print_table(
        ["name", "norms", "sees", "nearest", "targeted"],
        [
            [one["name"], one["norms"], one["kind"], yes[one["minimal"]], yes[one["targeted"]]]
            for one in frame.to_dict("records")
        ],
        whole=True,
    )
    typer.echo('"Nearest" looks for the nearest adversarial image and needs no --eps; all others spend a budget.')


def transfer(request: Request, sources: Sequence[str], load: Callable[[str], VisionModel]) -> None:
    """Attack every model, show the images found to every model, and print who is fooled by whose.

    Args:
        request: what was typed.
        sources: what was typed for the models.
        load: loads a model by what was typed for it.

    Raises:
        OptionError: the models cannot be compared.
    """
    import attacks as engine

    if len(sources) < 2:
        raise OptionError("One model has nothing to be compared with", sources[0], "Name a second one.")
    _check_budget(request, transferred=True)
    models = _named(sources, load)
    first, *others = models
    for name in others:
        if models[name].input_size != models[first].input_size:
            sizes = ", ".join(f"{one}: {'×'.join(map(str, models[one].input_size))}" for one in (first, name))
            raise OptionError("The models take images of different sizes", sizes, "Compare models of one size.")
    photos = read_images(request.images, models[first], request.limit)
    with progress_bar("Attacking", request.as_json) as progress:
        found = engine.transfer(
            models, photos.images, _labels(models[first], photos), request.attack, ids=photos.ids, progress=progress,
            norm=request.norm or "linf", **{key: value for key, value in request.asked.items() if value is not None},
        )  # fmt: skip
    frame = found.frame()
    if request.out is not None:
        frame.to_csv(request.out, index=False, errors="replace")
    if request.as_json:
        print_json(
            {"attack": found.attack, "norm": found.norm, "epsilon": found.epsilon, "pairs": frame.to_dict("records")}
        )
        return
    print_notices(models[first], photos)
    if photos.labels is None:
        typer.secho(printable(f"Note: no labels; what {first} predicts counts as right."), err=True, fg="yellow")
    _print_matrix(found)


def _named(sources: Sequence[str], load: Callable[[str], VisionModel]) -> dict[str, VisionModel]:
    models: dict[str, VisionModel] = {}
    for typed in sources:
        name = typed if ":" in typed else Path(typed).name
        name = typed if name in models else name
        if name in models:
            raise OptionError("A model is compared with itself", typed, "Name each model once.")
        models[name] = load(typed)
    return models


def _print_matrix(found: TransferMatrix) -> None:
    from .report.figures import epsilon_text

    cells = {(row.source, row.target): _share(row) for row in found.frame().itertuples()}
    print_table(
        ["made on", *(f"shown to\n{name}" for name in found.models)],
        [[source, *(cells[source, target] for target in found.models)] for source in found.models],
    )
    budget = epsilon_text(found.epsilon, found.norm)
    typer.echo(
        f"Share of images that fool the model they are shown to, of those that both models have right, with the 95 % "
        f"interval. {found.attack} at {found.norm} ε = {budget}, {len(found.ids)} images, {found.seconds:.1f} s."
    )


def _share(row: Any) -> str:
    return f"{row.rate:.0%} of {row.n}\n[{row.low:.0%} – {row.high:.0%}]" if row.n else "no image\n"
