"""What people type on the command line, and what it means: models, images, numbers, sizes; and file names for images."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from .errors import OptionError

if TYPE_CHECKING:
    from .images import ImageSet
    from .models import VisionModel


def load_model(
    source: str,
    device: str,
    stem: str | None,
    head_activation: str | None,
    input_size: str | None,
    mean: str | None,
    std: str | None,
) -> VisionModel:
    """Load a classifier; all arguments but ``source`` as the options of the same names."""
    from .models import load

    preset = {key: numbers(text) for key, text in (("mean", mean), ("std", std)) if text is not None}
    size = None if input_size is None else size_of(input_size)
    return load(
        source, device=device, stem=stem, head_activation=head_activation, input_size=size, preset=preset or None
    )


def read_images(source: str, model: VisionModel, limit: int | None) -> ImageSet:
    """Read photos, a folder, or ``sample:NAME``, at the size of ``model``."""
    import workbench as wb

    if source == "sample:photos":
        return wb.read_images(wb.sample_photos(), model, limit=limit)
    if source.startswith("sample:"):
        return wb.sample_data(source.removeprefix("sample:"), n=limit or 16)
    return wb.read_images(source, model, limit=limit)


def method_names(text: str) -> tuple[str, ...]:
    """Read ``all``, or names with commas between them."""
    import explain as engine

    return tuple(engine.METHODS) if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())


def number(text: str) -> float:
    """Read ``0.03`` or ``8/255``.

    Raises:
        OptionError: it is neither.
    """
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise OptionError("This is not a number", text, "Write it as 0.03 or as a fraction, 8/255.") from None


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them."""
    return tuple(number(part) for part in text.split(","))


def attack_names(text: str) -> str | tuple[str, ...]:
    """Read the name of a preset, or names of attacks with commas between them."""
    import attacks as engine

    return text if text in engine.PRESETS else tuple(name.strip() for name in text.split(",") if name.strip())


def attack_options(given: Sequence[str]) -> dict[str, dict[str, bool | int | float]]:
    """Read options of attacks, each as ``attack.name=value``, into a mapping per attack.

    Raises:
        OptionError: one of them is written otherwise.
    """
    found: dict[str, dict[str, bool | int | float]] = {}
    for text in given:
        whole, value = option(text, "pgd.steps=40")
        attack, _, name = whole.rpartition(".")
        if not attack or not name:
            raise OptionError("This option does not say of which attack it is", text, "Write it as pgd.steps=40.")
        found.setdefault(attack, {})[name] = value
    return found


def option(text: str, example: str) -> tuple[str, bool | int | float]:
    """Read ``name=value``, where the value is a number, a fraction, true or false.

    Raises:
        OptionError: it is written otherwise.
    """
    name, equals, value = text.partition("=")
    if not name.strip() or not equals:
        raise OptionError("This is not an option with a value", text, f"Write it as {example}.")
    word = value.strip().lower()
    if word in ("true", "false"):
        return name.strip(), word == "true"
    return name.strip(), int(word) if word.lstrip("+-").isdecimal() else number(word)


def size_of(text: str) -> tuple[int, int, int]:
    """Read channels, height and width, as ``3x64x64``.

    Raises:
        OptionError: it says something else.
    """
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise OptionError("This is not an input size", text, "Write channels, height and width as 3x64x64.")
    return int(parts[0]), int(parts[1]), int(parts[2])


def typed_again() -> str:
    """Return the command line as a shell would take it again."""
    return shlex.join(["workbench", *sys.argv[1:]])


def file_names(ids: tuple[str, ...]) -> list[str]:
    """Return one file name per image, all different even where capitals do not count: ``a/b.png`` and ``a_b.png``."""
    names: list[str] = []
    taken: set[str] = set()
    for image_id in ids:
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in image_id).lstrip(".")[-100:] or "image"
        name, count = plain, 2
        while name.casefold() in taken:
            name, count = f"{plain}-{count}", count + 1
        taken.add(name.casefold())
        names.append(name)
    return names
