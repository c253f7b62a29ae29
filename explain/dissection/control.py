"""The untrained control: the same architecture with random weights, on the same probe."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from explain.errors import ModelError
from explain.operators import cards


def randomised(model: nn.Module, images: Tensor, seed: int = 0) -> nn.Module:
    """Return a copy of ``model`` with weights as drawn before training, and batch statistics of ``images``.

    Every module that can draw its own weights does (``reset_parameters``, torch's default for its kind). Without fitting
    statistics a batch normalisation would pass on whatever scale random weights happen to give, and nothing could be compared.

    Args:
        model: any module; not changed.
        images: ``(N, C, H, W)`` in [0, 1]: some dozens are enough.
        seed: of the weights.

    Raises:
        ModelError: no module can draw weights.
    """
    twin = copy.deepcopy(model)
    found = (getattr(module, "reset_parameters", None) for module in twin.modules())
    drawing: list[Callable[[], object]] = [draw for draw in found if callable(draw)]
    if not drawing:
        raise ModelError(
            "No module of the network can draw new weights", type(model).__name__, "Pass a network of layers."
        )
    norms = [module for module in twin.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with torch.random.fork_rng(devices=cards()), torch.no_grad():
        torch.manual_seed(seed)
        for draw in drawing:
            draw()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            nn.Module.train(norm, True)
            norm.momentum = None  # a plain average
        if norms:
            weight = next(twin.parameters())
            twin(images.to(weight.device, weight.dtype))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
    return twin.eval()
