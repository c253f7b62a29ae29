"""A private view of somebody's model: same weights, own structure, frozen, in eval mode.

The user's model is never touched: no training flag, hook, ``requires_grad`` or ``.grad`` of it changes, so there is
nothing to restore after an exception, a kill, or in another thread that uses the model at the same time.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from .errors import AttackError


def frozen_view(model: nn.Module) -> nn.Module:
    """Copy the structure of ``model`` and share its parameters' storage.

    Parameters are shared; buffers and other tensors are copied, because some forwards write to them (observers of
    quantised nets, counters). ``torch.compile`` and data-parallel wrappers are taken off. If the weights are changed
    while an attack runs, the attack sees the change.

    Raises:
        AttackError: ``model`` is no ``nn.Module``, or holds something that cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise AttackError(
            "An attack needs a torch.nn.Module", type(model).__name__, "Wrap the function in a small Module."
        )
    with torch.inference_mode(False):  # what is copied under inference mode cannot take part in autograd
        return _copy(_unwrap(model)).eval()


def _copy(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _tensors(list(vars(module).values())):
            memo[id(tensor)] = tensor.detach().clone()
    for parameter in model.parameters():
        # An inference tensor cannot be saved for backward, so that one case pays for a copy.
        data = parameter.detach().clone() if parameter.is_inference() else parameter.detach()
        memo[id(parameter)] = nn.Parameter(data, requires_grad=False)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise AttackError(
            "The model's structure cannot be copied, which an attack needs to leave the original untouched",
            f"{type(model).__name__}: {error}",
            "Remove attributes that cannot be copied (locks, open files, loaders) from the model.",
        ) from error


def _unwrap(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _tensors(value: object) -> list[torch.Tensor]:
    """Tensors in plain attributes and buffers: deepcopy refuses those that carry a graph (old-style weight_norm)."""
    if isinstance(value, nn.Parameter):
        return []
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, list | tuple) else []
