"""A generator on the disk: the weights as safetensors in half precision, and beside them what it is, as JSON.

Neither file can run code. What they say is checked before any memory is set aside for it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from ..errors import AttackError
from .network import MultiTargetGenerator

_FORMAT = 1
_ANEW = "Save it again, or train it anew."


def save_generator(generator: MultiTargetGenerator, path: str | os.PathLike[str], **notes: Any) -> tuple[Path, Path]:
    """Write ``NAME.safetensors`` and ``NAME.json``.

    Args:
        generator: Any; its weights are stored in half precision.
        path: Where; the ending may be left out.
        **notes: What else the JSON is to say about it, such as ``model="sample:shapes-vgg"``.

    Returns:
        Both paths.

    Raises:
        AttackError: They cannot be written.
    """
    from safetensors.torch import save

    weights, about = _pair(path)
    state = {
        name: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in generator.state_dict().items()
    }
    said = {
        "format": _FORMAT, **notes, "network": generator.config, "targets": list(generator.targets),
        "provenance": generator.provenance, "history": generator.history,
    }  # fmt: skip
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(save(state))
        about.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise AttackError(
            "The generator cannot be written", f"{weights}: {error.strerror}", "Choose another place."
        ) from error
    return weights, about


def load_generator(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> MultiTargetGenerator:
    """Read what :func:`save_generator` wrote.

    Args:
        path: Either of the two files, or their common name without an ending.
        device: Where the generator goes.

    Returns:
        The generator, frozen and in eval mode, in single precision.

    Raises:
        AttackError: A file is missing, damaged, or does not fit the other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    weights, about = _pair(path)
    said = _read_json(about)
    try:
        state = load(weights.read_bytes())
    except OSError as error:
        raise AttackError("The generator's weights cannot be read", f"{weights}: {error.strerror}", _ANEW) from error
    except SafetensorError as error:
        raise AttackError("The generator's weights are damaged", str(weights), _ANEW) from error
    try:
        with torch.device("meta"):
            generator = MultiTargetGenerator(**said["network"])
    except (TypeError, KeyError) as error:
        raise AttackError("The file does not describe a generator", str(about), _ANEW) from error
    floats = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    wanted = {name: (value.shape, value.dtype) for name, value in generator.state_dict().items()}
    if {name: (value.shape, value.dtype) for name, value in floats.items()} != wanted:
        raise AttackError("The generator's two files do not belong together", str(weights), _ANEW)
    if not all(value.isfinite().all() for value in floats.values()):
        raise AttackError("The generator's weights contain NaN or infinity", str(weights), "Train it anew.")
    generator.load_state_dict(floats, assign=True)
    targets = said.get("targets")
    if isinstance(targets, list) and all(type(one) is int and 0 <= one < generator.num_classes for one in targets):
        generator.targets = tuple(targets)
    generator.history, generator.provenance = _records(said.get("history")), _dict(said.get("provenance"))
    generator.about = {name: value for name, value in said.items() if name not in _OWN}
    generator.source = os.fspath(path)
    return generator.requires_grad_(False).eval().to(memory_format=torch.channels_last).to(device)


_OWN = ("format", "network", "targets", "provenance", "history")


def _pair(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    base = Path(path)
    if base.suffix in (".safetensors", ".json"):
        base = base.with_suffix("")
    return base.with_name(f"{base.name}.safetensors"), base.with_name(f"{base.name}.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fix = "A generator is two files of one name, NAME.safetensors and NAME.json."
        raise AttackError("The generator's description cannot be read", f"{path}: {error.strerror}", fix) from error
    except (ValueError, RecursionError) as error:
        raise AttackError("The generator's description is damaged", str(path), _ANEW) from error
    if not isinstance(said, dict) or said.get("format") != _FORMAT or not isinstance(said.get("network"), dict):
        raise AttackError("The file does not describe a generator", str(path), _ANEW)
    return said


def _records(value: Any) -> list[dict[str, Any]]:
    """The history, as far as it is one: it is shown, and decides nothing."""
    records = value if isinstance(value, list) else []
    names = ("step", "loss", "success", "seconds")
    return [
        one for one in records if isinstance(one, dict) and all(type(one.get(name)) in (int, float) for name in names)
    ]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
