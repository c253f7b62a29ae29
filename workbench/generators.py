"""Generators of adversarial images by name or path; the samples lie in ``sample_models/generators/``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .bundle import bundled
from .errors import ModelError

if TYPE_CHECKING:
    import torch

    from attacks import MultiTargetGenerator

_SAMPLE = "sample:"


def load_generator(
    source: str | os.PathLike[str] | MultiTargetGenerator, device: str | torch.device = "cpu"
) -> MultiTargetGenerator:
    """Load a generator that attacks every class: ``load_generator("sample:shapes-vgg")(images, targets)``.

    Args:
        source: ``"sample:NAME"``, the path of a file that :func:`attacks.save_generator` or ``workbench generate train``
            wrote, or a generator (returned as it is).
        device: where it goes.

    Returns:
        A frozen generator; ``.epsilon`` is its budget, and ``generator(images, targets)`` returns adversarial images.

    Raises:
        ModelError: there is no such generator.
        attacks.AttackError: the files cannot be used.
    """
    import attacks

    if isinstance(source, attacks.MultiTargetGenerator):
        return source
    text = str(source)
    if not text.startswith(_SAMPLE):
        return attacks.load_generator(Path(source), device)
    names = sample_generators()
    if (name := text.removeprefix(_SAMPLE)) not in names:
        listed = ", ".join(f"{_SAMPLE}{one}" for one in names)
        raise ModelError("There is no such sample generator", text, f"Choose one of: {listed}.")
    generator = attacks.load_generator(_folder() / name, device)
    generator.source = text
    return generator


def sample_generators() -> tuple[str, ...]:
    """Return the names of the sample generators, each called like the sample model that it attacks."""
    return tuple(sorted(path.stem for path in _folder().glob("*.json")))


def _folder() -> Path:
    return bundled("sample_models") / "generators"
