"""From what training scripts save to one clean state dict: unwrap containers, fold pruning masks, keep the hints.

Nothing here builds a network or trusts a name over a shape. What was unwrapped, dropped or folded is said in ``notices``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import RefusedFile
from .convert import RawCheckpoint, read_checkpoint

# In order of preference: what a person who kept several most likely means. Averaged weights come last, and it is said.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "module", "weights", "student")
_AVERAGED = ("params_ema", "state_dict_ema", "model_ema", "ema", "ema_state_dict", "teacher")
# DP/DDP, torch.compile, Lightning and friends, DeepSpeed, Sequential(normalise, model).
_PREFIXES = (
    "module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.", "student.", "ema_model.",
    "_forward_module.", "0.", "1.",
)  # fmt: skip
_DROPPED = re.compile(r"(^|\.)(n_averaged|total_ops|total_params)$")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
_MAX_WRAPPERS = 8
_NORMALISE = {"mean": "std", "mu": "sigma", "new_mean": "new_std", "_mean": "_std"}
_CLASS_KEYS = ("class_names", "classes", "categories", "label_names", "labels", "class_to_idx", "idx_to_class")
_HINT_KEYS = ("arch", "architecture", "model_name", "model", "epoch", "best_acc", "best_acc1", "acc", "num_classes")


@dataclass(frozen=True)
class Checkpoint:
    """A clean state dict with what the file says about it.

    Attributes:
        tensors: parameters and buffers by dotted name.
        classes: class names, in order; empty when the file has none.
        mean, std: per-channel normalisation found inside the file, else ``None``.
        input_size: (C, H, W) when the file says so, else ``None``.
        hints: other things that the file says (``arch``, ``epoch``…): shown, never trusted over shapes.
        notices: what was done to get here, in sentences.
        digest: sha256 of the original file.
        name: the file's name.
    """

    tensors: Mapping[str, torch.Tensor]
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: tuple[int, int, int] | None = None
    hints: Mapping[str, Any] | None = None
    notices: tuple[str, ...] = ()
    digest: str = ""
    name: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor but batch norm's step counters, which not all files have."""
        return {
            key: tuple(tensor.shape) for key, tensor in self.tensors.items() if not key.endswith("num_batches_tracked")
        }

    def stripped(self) -> Iterator[Checkpoint]:
        """Yield this checkpoint and then versions with one more wrapper's prefix removed.

        A prefix is only *offered* for removal: a ViT keeps 97 % of its own tensors under ``encoder.``, so whoever matches
        architectures tries the longer names first.
        """
        current: Checkpoint | None = self
        for _ in range(_MAX_WRAPPERS):
            if current is None:
                return
            yield current
            current = _strip_once(current)


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file safely and unwrap it.

    Raises:
        RefusedFile: see :func:`workbench.models.convert.read_checkpoint`; or no state dict is inside.
    """
    raw = read_checkpoint(path)
    notices: list[str] = []
    state = _find_state_dict(raw.tree, notices)
    tensors = {key: raw.tensors[name] for key, name in state.items() if not _DROPPED.search(key)}
    if any(_OLD_DENSENET.search(key) for key in tensors):
        tensors = {_OLD_DENSENET.sub(r"\1\2.", key): tensor for key, tensor in tensors.items()}
        notices.append("Old DenseNet names (norm.1) were read as today's (norm1).")
    tensors = _fold_masks(tensors, notices)
    mean, std = _take_normalisation(tensors, notices)
    if not tensors:
        raise RefusedFile(
            "No state dict was found in this file", path.name, "Save one: torch.save(model.state_dict(), …)."
        )
    return Checkpoint(
        tensors=tensors,
        mean=mean or _numbers(_value(raw.tree, "mean")),
        std=std or _numbers(_value(raw.tree, "std")),
        input_size=_input_size(_value(raw.tree, "input_size")),
        classes=_class_names(raw),
        hints=_hints(raw.tree),
        notices=tuple(notices),
        digest=raw.digest,
        name=path.name,
    )


def _dict(node: Any) -> dict[str, Any]:
    return node["dict"] if isinstance(node, dict) and "dict" in node else {}


def _is_tensor(node: Any) -> bool:
    return isinstance(node, dict) and "tensor" in node


def _find_state_dict(node: Any, notices: list[str]) -> dict[str, str]:
    """Return ``{parameter name: tensor number}`` of the state dict inside ``node``; empty when there is none."""
    if isinstance(node, dict) and "list" in node:
        found = [state for item in node["list"] if (state := _find_state_dict(item, notices))]
        return found[0] if found else {}
    items = _dict(node)
    own = {key: item["tensor"] for key, item in items.items() if _is_tensor(item)}
    aside: list[str] = []  # notices of branches that may not be taken
    parts = {key: state for key, item in items.items() if (state := _find_state_dict(item, aside))}
    named = [key for key in (*_CONTAINERS, *_AVERAGED) if key in parts]
    if named and len(own) < 4:
        averaged = [key for key in named if key in _AVERAGED]
        if averaged and named[0] not in _AVERAGED:
            notices.append(f"The file also holds averaged weights (`{averaged[0]}`); `{named[0]}` was used.")
        elif averaged:
            notices.append(f"The file holds averaged weights only (`{averaged[0]}`); they were used.")
        notices.extend(aside)
        return parts[named[0]]
    if not own and len(parts) == 1:
        notices.extend(aside)
        return next(iter(parts.values()))
    for key, state in parts.items():  # a model saved in parts: {"backbone": …, "head": …}
        own |= {f"{key}.{name}": tensor for name, tensor in state.items()}
    return own


def _strip_once(checkpoint: Checkpoint) -> Checkpoint | None:
    keys = list(checkpoint.tensors)
    first = keys[0].partition(".")[0] + "."
    for prefix in (*_PREFIXES, first):
        inside = [key for key in keys if key.startswith(prefix)]
        if len(inside) >= 0.95 * len(keys) or (
            len(inside) >= len(keys) - 2 and len(inside) > 2 and prefix in _PREFIXES
        ):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in checkpoint.tensors.items()}
            if len(tensors) == len(keys) and all(tensors):
                notice = f"The prefix `{prefix}` was removed from {len(inside)} names."
                return replace(checkpoint, tensors=tensors, notices=(*checkpoint.notices, notice))
    return None


def _fold_masks(tensors: dict[str, torch.Tensor], notices: list[str]) -> dict[str, torch.Tensor]:
    """Multiply ``weight_orig`` by ``weight_mask`` as ``torch.nn.utils.prune.remove`` would."""
    pruned = {
        key.removesuffix("_mask")
        for key, mask in tensors.items()
        if key.endswith("_mask")
        and mask.shape == getattr(tensors.get(f"{key.removesuffix('_mask')}_orig"), "shape", None)
    }
    folded = {}
    for key, tensor in tensors.items():
        base = key.removesuffix("_orig").removesuffix("_mask")
        if base not in pruned:
            folded[key] = tensor
        elif key.endswith("_orig"):
            folded[base] = tensor * tensors[f"{base}_mask"].to(tensor.dtype)
    if pruned:
        total = max(sum(folded[key].numel() for key in pruned), 1)
        zeros = sum(int((folded[key] == 0).sum()) for key in pruned) / total
        notices.append(f"{len(pruned)} pruning masks were folded into the weights ({zeros:.0%} zeros).")
    return folded


def _take_normalisation(
    tensors: dict[str, torch.Tensor], notices: list[str]
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Take ``0.mean``/``0.std`` of a Normalize layer that was saved in front of the network out of ``tensors``."""
    for key in list(tensors):
        path, _, leaf = key.rpartition(".")
        partner = f"{path}.{_NORMALISE[leaf]}".lstrip(".") if leaf in _NORMALISE else None
        if partner in tensors and tensors[key].numel() == tensors[partner].numel() <= 4:
            mean, std = tensors.pop(key), tensors.pop(partner)
            notices.append(f"The file contains a Normalize layer (`{key}`, `{partner}`); its mean and std are used.")
            return tuple(mean.double().flatten().tolist()), tuple(std.double().flatten().tolist())
    return None, None


def _value(tree: Any, key: str) -> Any:
    """Look ``key`` up in the top level of the file, then in the usual places for settings."""
    for place in (
        _dict(tree),
        *(_dict(_dict(tree).get(name)) for name in ("meta", "args", "hyper_parameters", "config")),
    ):
        if key in place:
            return place[key]
    return None


def _numbers(node: Any) -> tuple[float, ...] | None:
    items = node.get("list") if isinstance(node, dict) else None
    if not items or not all(isinstance(item, int | float) for item in items):
        return None
    return tuple(float(item) for item in items)


def _input_size(node: Any) -> tuple[int, int, int] | None:
    numbers = _numbers(node)
    if numbers is None or len(numbers) != 3 or not all(0 < n <= 4096 and n == int(n) for n in numbers):
        return None
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


def _class_names(raw: RawCheckpoint) -> tuple[str, ...]:
    for key in _CLASS_KEYS:
        node = _value(raw.tree, key)
        if isinstance(node, dict) and "list" in node and all(isinstance(item, str) for item in node["list"]):
            return tuple(node["list"])
        table = _dict(node)
        if table and all(isinstance(item, int) for item in table.values()):
            table = {str(index): name for name, index in table.items()}
        if (
            table
            and set(table) == {str(i) for i in range(len(table))}
            and all(isinstance(v, str) for v in table.values())
        ):
            return tuple(table[str(i)] for i in range(len(table)))
    return ()


def _hints(tree: Any) -> dict[str, Any]:
    found = {key: _value(tree, key) for key in _HINT_KEYS}
    return {key: value for key, value in found.items() if isinstance(value, str | int | float)}
