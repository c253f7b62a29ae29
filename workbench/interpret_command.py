"""What ``workbench interpret`` does: a classifier's answers, or one pixel of a network that returns images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .console import print_json, print_notices, print_table, printable, progress_bar
from .errors import OptionError
from .typed import file_names, read_images, typed_again

if TYPE_CHECKING:
    from .images import ImageSet
    from .models import ImageModel, VisionModel

_FEW = 4  # images where nobody says how many: singular patterns of images take seconds each


def returns_images(source: str) -> bool:
    """Tell whether what a person typed for a model names a network from images to images."""
    from .models.small import IMAGE_SAMPLES

    return source.startswith("sample:") and source.removeprefix("sample:") in IMAGE_SAMPLES


def answers(
    load: Callable[[], VisionModel],
    source: str,
    images: str,
    *,
    options: dict[str, Any],
    out: Path,
    limit: int | None,
    as_json: bool,
) -> None:
    """Interpret a classifier's answers and write the folder.

    Args:
        load: loads the classifier, once the folder is known to be one.
        source: what was typed for the model.
        images: what was typed for the images.
        options: of ``interpret``.
        out: the folder.
        limit: at most so many images.
        as_json: whether a machine reads the answer.

    Raises:
        OptionError: the folder cannot be written to.
    """
    from .interpretation import interpret
    from .report.linear_cards import Subject
    from .report.linear_files import writable_folder, write_files, write_page
    from .report.linear_page import linear_page, table
    from .report.numbers import precision

    folder = writable_folder(out)
    vision = load()
    photos = read_images(images, vision, limit)
    with progress_bar("Interpreting", as_json) as progress:
        found = interpret(vision, photos, **options, progress=progress)
        subject = Subject.of(found, photos, vision)
        page = linear_page(subject, vision, sources=(source, images), command=typed_again(), progress=progress)
        write_files(folder, subject, file_names(photos.ids))
    written = write_page(folder, page)
    lens = found.lens
    exact = float(lens.residual.max())
    if as_json:
        about = {"x": lens.input_name, "space": lens.space, "mode": lens.mode, "residual": exact}
        print_json({"folder": str(out), "page": str(written), **about, "images": found.frame().to_dict("records")})
        return
    print_notices(vision, photos)
    for note in lens.notes:
        typer.secho(printable(f"Note: {note}"), err=True, fg=typer.colors.YELLOW)
    explained = "prediction" if options["target"] is None else "class"
    columns = ["image", explained, "logit", "pixels", "bias", "share\nof bias", "margin\nradius", "attack\nradius"]
    rows = [
        [row.id, row.target, row.logit, row.pixels, row.bias, f"{row.share:.0%}", row.radius, row.attack]
        for row in table(subject)
    ]
    shown = len(columns) - (found.attack is None)
    print_table(columns[:shown], [row[:shown] for row in rows])
    typer.echo(
        f"x is {lens.input_name}; logit = pixels + bias to {precision(exact)}. Radii are l2 distances in pixels of [0, 1]."
    )
    typer.echo(f"The page is {written}; open it in a browser, it needs no network.")


def look(
    source: str,
    images: str,
    pixel: str | None,
    *,
    options: dict[str, Any],
    load: dict[str, Any],
    refused: Sequence[str],
    out: Path,
    limit: int | None,
    as_json: bool,
) -> None:
    """Interpret one pixel and write the folder.

    Args:
        source: what was typed for the model.
        images: what was typed for the images.
        pixel: what was typed for the pixel.
        options: of ``look_at``.
        load: options of ``load_image_model``.
        refused: options that were given and mean nothing here.
        out: the folder.
        limit: at most so many images.
        as_json: whether a machine reads the answer.

    Raises:
        OptionError: options make no sense together.
    """
    if not returns_images(source):
        raise OptionError("Only a network that returns images has a pixel to look at", source, "Leave --pixel out.")
    if refused:
        raise OptionError("A network that returns images has no use for this option", refused[0], "Leave it out.")
    place = None if pixel is None else _place_of(pixel)
    from .interpretation.look import look_at
    from .models import load_image_model
    from .report.linear_files import writable_folder, write_page
    from .report.numbers import plain, precision
    from .report.pixel_page import pixel_page, write_pixel_files

    folder = writable_folder(out)
    network = load_image_model(source, **load)
    photos = read(images, network, limit)
    with progress_bar("Interpreting", as_json) as progress:
        found = look_at(network, photos, place, **options, progress=progress)
        page = pixel_page(found, photos, network, command=typed_again(), progress=progress)
        write_pixel_files(folder, found, file_names(photos.ids))
    written = write_page(folder, page)
    exact, frame = float(found.lens.residual.max()), found.frame()
    if as_json:
        about = {"x": found.lens.input_name, **options, "residual": exact}
        print_json({"folder": str(out), "page": str(written), **about, "pixels": frame.to_dict("records")})
        return
    print_notices(network, photos)
    numbers = [[plain(float(number), 4) for number in frame[column]] for column in ("value", "pixels", "bias")]
    rows = zip(frame["image"], map(str, frame["channel"]), *numbers, strict=True)
    print_table(["image", "channel", "value", "pixels", "bias"], [list(row) for row in rows])
    typer.echo(
        f"Pixel {found.pixel[0]},{found.pixel[1]} of the answer; x is {found.lens.input_name}; "
        f"value = pixels + bias to {precision(exact)}."
    )
    typer.echo(f"The page is {written}; open it in a browser, it needs no network.")


def read(source: str, network: ImageModel, limit: int | None) -> ImageSet:
    """Read what the network is given; samples are averaged down to the size that it enlarges.

    Args:
        source: what was typed for the images.
        network: says the size.
        limit: at most so many; a few of a sample by default.
    """
    import workbench as wb

    if source == "sample:photos":
        return wb.read_images(wb.sample_photos(), preset=network.preset, limit=limit or _FEW)
    if not source.startswith("sample:"):
        return wb.read_images(source, preset=network.preset, limit=limit)
    whole = wb.sample_data(source.removeprefix("sample:"), n=limit or _FEW)
    factor, rest = divmod(whole.images.shape[2], network.input_size[1])
    if factor < 2 or rest:
        return whole
    notice = f"The sample's images were averaged down {factor} times, to the size that the network enlarges."
    return wb.ImageSet.of(wb.shrink(whole.images, factor), ids=whole.ids, notices=(notice,))


def _place_of(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise OptionError("This is not a pixel", text, "Write row and column as 20,30.")
    return int(parts[0]), int(parts[1])
