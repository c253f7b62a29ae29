"""The untrained control: the same architecture with random weights, on the same probe."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from explain.errors import ModelError
from explain.operators import cards
from explain.view import undisturbed

_SPREAD = 0.02  # of tokens, position embeddings and the like, as transformers draw them (Dosovitskiy et al. 2021)


def randomised(model: nn.Module, images: Tensor, seed: int = 0) -> nn.Module:
    """Return a copy of ``model`` with weights as drawn before training, and batch statistics of ``images``.

    Every module that can draw its own weights does (``reset_parameters``, torch's default for its kind); parameters that belong
    to no such module (tokens, position embeddings, layer scales, what pruned or parametrised weights are computed from) are
    drawn from N(0, 0.02²). Without fitting statistics a batch normalisation would pass on whatever scale random weights happen
    to give, and nothing could be compared.

    Args:
        model: any module; not changed.
        images: ``(N, C, H, W)`` in [0, 1]: some dozens are enough.
        seed: of the weights.

    Raises:
        ModelError: there are no weights to draw, the network cannot be copied, or fails on the images.
    """
    twin = _copied(model)
    if not any(True for _ in twin.parameters()):
        raise ModelError("The network has no weights to draw anew", type(model).__name__, "Pass a network of layers.")
    norms = [module for module in twin.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    weight = next(twin.parameters())
    with torch.random.fork_rng(devices=cards()), undisturbed(weight.device), torch.no_grad():
        torch.manual_seed(seed)
        for module in twin.modules():
            _draw(module)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            nn.Module.train(norm, True)
            norm.momentum = None  # a plain average
        try:
            if norms:
                twin(images.to(weight.device, weight.dtype))
        except Exception as error:
            raise ModelError(
                f"Batch statistics cannot be taken from images of shape {tuple(images.shape)}",
                f"{type(error).__name__}: {error}",
                "Pass several images of the size that the network takes.",
            ) from error
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
    return twin


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode."""
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:  # a freshly pruned module holds a tensor that deepcopy refuses
        raise ModelError(
            "The network cannot be copied",
            f"{type(error).__name__}: {error}",
            "Make pruning permanent (torch.nn.utils.prune.remove), and take off hooks that hold locks or files.",
        ) from error


def _draw(module: nn.Module) -> None:
    """Draw the weights that a module itself holds."""
    own = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    before = [(one, one.clone()) for one in module.parameters(recurse=False)]
    if callable(own):
        draw: Callable[[], object] = own
        draw()
    for one, old in before:
        # Ones and zeros are what many start with; anything else that stays was trained.
        if torch.equal(one, old) and bool(((one != 0) & (one != 1)).any()):
            one.normal_(0, _SPREAD)
