"""A private view of the user's network: the same weights, its own Python structure, evaluation mode, nothing trainable.

Hooks and flags go on the view and only there, so nothing has to be restored on the user's model: not after an
exception, not after a kill, and four threads may explain one model at once. Hooks that the user has set are part of the
network: they run with the view.

Tensors are shared, not copied. Three kinds are not: half-precision ones (computed in float32), tensors made under
``inference_mode`` (autograd refuses them), and buffers of classes other than torch's own (their ``forward`` may write
to them even in evaluation mode, as a counter does).
"""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from explain.errors import ExplainError, ModelError

_INTERNAL = frozenset(vars(nn.Module()))
_HALF = (torch.float16, torch.bfloat16)
_DICTS = (dict, OrderedDict)
_ATOMS = frozenset((
    type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size,
    types.FunctionType, types.BuiltinFunctionType, types.ModuleType,
))  # fmt: skip


@dataclass(frozen=True)
class View:
    """A network ready to be explained.

    Attributes:
        forward: the module to call on images in [0, 1].
        root: the innermost network; layer names are relative to it. Often ``forward`` itself.
        device: where the weights are.
        dtype: in what the network computes (float32, or float64 for a float64 network).
        notices: what a person should know before trusting any map of this network.
    """

    forward: nn.Module
    root: nn.Module
    device: torch.device
    dtype: torch.dtype
    notices: tuple[str, ...]

    def load(self, images: Tensor) -> Tensor:
        """Return a copy of ``images`` that the network can compute with (and write to, as some do)."""
        return images.detach().to(self.device, self.dtype, copy=True)

    def __call__(self, images: Tensor) -> Any:
        """Run the network.

        Raises:
            ModelError: the network fails; the message says on what and how.
        """
        try:
            return self.forward(images)
        except ExplainError:
            raise
        except Exception as error:
            raise ModelError(
                f"The network fails on images of shape {tuple(images.shape)}",
                f"{type(error).__name__}: {error}",
                _advice(error, self.root, images.shape[1]),
            ) from error


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Gradients on, inference mode and autocast off, whatever the caller is in."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        yield


def _advice(error: Exception, root: nn.Module, channels: int) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "Lower batch_size."
    first = next(((n, m) for n, m in root.named_modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first[1].in_channels != channels:
        return f"Its first convolution, {first[0]}, takes {first[1].in_channels} channels; the images have {channels}."
    return "Check that their size and number of channels are what the network expects."


def private_view(model: nn.Module) -> View:
    """Copy the structure of ``model`` around its own weights.

    ``torch.compile``, ``DataParallel`` and wrappers that keep the classifier in ``.network`` are seen through.

    Raises:
        ModelError: ``model`` is not a module, cannot be copied, or holds no data (meta device).
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            "The model is not a torch.nn.Module", type(model).__name__, "Put the function into the forward of a module."
        )
    memo: dict[int, Any] = {}
    try:
        # Outside inference mode, whatever the caller is in: autograd refuses to save tensors that are made inside.
        with torch.inference_mode(False), torch.no_grad():
            forward = _unwrap(_clone(_unwrap(model), memo)).eval()
    except Exception as error:
        raise ModelError(
            "The network's structure cannot be copied",
            f"{type(error).__name__}: {error}",
            "Remove the attributes and hooks that hold locks, files or generators, or give the module a __deepcopy__.",
        ) from error
    root = forward
    while _is_wrapper(root):
        root.network = _unwrap(root.network)
        root = root.network
    first = next(chain(forward.parameters(), forward.buffers()), None)
    device = torch.device("cpu") if first is None else first.device
    if device.type == "meta":
        raise ModelError("The network has no weights (meta device)", type(root).__name__, "Load weights first.")
    weights = chain(forward.parameters(), forward.buffers())
    dtype = next((tensor.dtype for tensor in weights if tensor.is_floating_point()), torch.float32)
    return View(forward, root, device, dtype, _notices(root))


def _unwrap(module: Any) -> Any:
    """Return what ``torch.compile`` and data parallelism wrap."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(module, nn.Module) and "_orig_mod" in module._modules:
            module = module._modules["_orig_mod"]
        else:
            return module


def _is_wrapper(module: nn.Module) -> bool:
    """Tell whether all that ``module`` learnt is in ``.network``; a head beside it means that it is no mere wrapper."""
    inner = dict(module.named_children()).get("network")
    if inner is None or module._parameters:
        return False
    learnt_elsewhere = any(child is not inner and any(True for _ in child.parameters()) for child in module.children())
    return not learnt_elsewhere


def _notices(root: nn.Module) -> tuple[str, ...]:
    for name, module in root.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            return (f"{name} normalises by the batch it sees: each map depends on the other images of its batch",)
    return ()


def _clone(value: Any, memo: dict[int, Any]) -> Any:
    """Copy like ``copy.deepcopy``, several times faster and with the tensors shared."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, Tensor):
        return memo.setdefault(id(value), _share(value))
    if isinstance(value, nn.Module) and not hasattr(kind, "__deepcopy__"):
        return _clone_module(value, memo)
    if kind in _DICTS:
        twin = memo[id(value)] = kind()
        twin.update((key, _clone(item, memo)) for key, item in value.items())
        return twin
    if kind in (list, tuple, set):
        return memo.setdefault(id(value), kind([_clone(item, memo) for item in value]))
    if isinstance(value, nn.Module):
        for tensor in (*value.parameters(), *value.buffers()):
            _clone(tensor, memo)
    return copy.deepcopy(value, memo)


def _clone_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    twin = memo[id(module)] = type(module).__new__(type(module))
    if not type(module).__module__.startswith("torch.nn."):
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in memo:
                memo[id(buffer)] = _share(buffer).clone()
    attributes = twin.__dict__
    for key, item in module.__dict__.items():
        kind = type(item)
        if kind in _ATOMS:
            attributes[key] = item
        elif key in _INTERNAL and kind in _DICTS and not item:  # most of a module: its ten kinds of hooks
            attributes[key] = kind()
        else:
            attributes[key] = _clone(item, memo)
    return twin


def _share(tensor: Tensor) -> Tensor:
    """Return a frozen tensor over the same memory, in a dtype and state that autograd can work with."""
    plain = tensor.detach()
    if tensor.dtype in _HALF:
        plain = plain.float()
    elif tensor.is_inference():
        plain = plain.clone()
    return nn.Parameter(plain, requires_grad=False) if isinstance(tensor, nn.Parameter) else plain
