"""How foolbox's code meets our rules: see ``foolbox_catalogue.py``, which says what they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ._ball import Ball, distance
from ._losses import is_broken
from .errors import AttackError

if TYPE_CHECKING:
    from ._victim import Victim


def ask(attack: Any, bridge: Bridge, generator: torch.Generator) -> None:
    """Let foolbox attack the image of ``bridge``, which keeps what was found."""
    foolbox = the_foolbox()
    name, x, device = type(attack).__name__, bridge.x, bridge.x.device
    criterion = foolbox.criteria.TargetedMisclassification if bridge.targeted else foolbox.criteria.Misclassification
    asked = {} if bridge.minimal else {"epsilon": bridge.budget}
    numpy = _numpy_lent(generator) if name in _DRAW_FROM_NUMPY else nullcontext()
    try:
        with _Draws(generator), numpy:
            model = foolbox.PyTorchModel(bridge.eval(), bounds=(0, 1), device=device)
            last = attack.run(model, x.clone(), criterion(bridge.label), **asked)
            if name not in _BLACK:
                bridge.look(last)
    except _NearEnoughError:
        pass
    except Exception as error:
        if error is bridge.error:
            raise
        if not _gave_up(error):
            fix = "Compare its options with the defaults in .options."
            raise AttackError(f"foolbox's {name} fails", f"{type(error).__name__}: {error}", fix) from error


def _gave_up(error: Exception) -> bool:
    """Whether foolbox says that this image defeats it: a lost boundary, L0FMN at its limit, no start, a flat model."""
    messages = ("init_attack failed", "Gradient vanished")
    warned = isinstance(error, UserWarning)  # of too little noise to start from, where warnings are errors
    return warned or isinstance(error, AssertionError | IndexError) or str(error).startswith(messages)


class _NearEnoughError(Exception):
    """Ends a search by way of the model's forward."""


class Bridge(nn.Module):
    """What foolbox takes for the model, and the witness of what it finds.

    Attributes:
        found: the broken image that counts, the last attempt of an attack with a budget, or the image itself.
        error: what the victim raised, to tell it from what foolbox raises.
        forwards, backwards: passes.
    """

    def __init__(
        self,
        victim: Victim,
        x: torch.Tensor,
        label: torch.Tensor,
        norm: str,
        targeted: bool,
        budget: float | None,
        minimal: bool,
    ) -> None:
        super().__init__()
        self.x, self.label, self.targeted, self.budget, self.minimal = x, label, targeted, budget, minimal
        self.found = x
        self.error: BaseException | None = None
        self.forwards = self.backwards = 0
        self._victim, self._norm = victim, norm
        self._nearest = torch.inf
        self._broken = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(1, K)`` with their graph, in the precision of the images."""
        inside = x + (x.clamp(0, 1) - x).detach()
        if inside.requires_grad:
            inside.register_hook(self._backward)  # type: ignore[no-untyped-call]
        self.forwards += self._victim.eot
        try:
            logits = self._victim.differentiable(inside)
        except BaseException as error:
            self.error = error
            raise
        self._witness(inside.detach().clamp(0, 1), logits.detach())
        if inside.requires_grad and not logits.requires_grad:
            logits = logits + 0 * inside.flatten(1).sum(1, keepdim=True)
        return logits.to(x.dtype)

    def look(self, image: torch.Tensor) -> None:
        """See whether foolbox's last word is broken; with a budget, brought into the budget first."""
        if not image.isfinite().all():
            return
        if self.budget is not None and not self.minimal:
            image = Ball.around(self.x, self.budget, self._norm).project(image)
        with torch.no_grad():
            self(image)
        if not self.minimal and not self._broken:
            self.found = image

    def _backward(self, gradient: torch.Tensor) -> torch.Tensor:
        self.backwards += self._victim.eot
        return gradient.nan_to_num(0, 0, 0)

    def _witness(self, image: torch.Tensor, logits: torch.Tensor) -> None:
        if not is_broken(logits, self.label, self.targeted):
            return
        length = float(distance(image, self.x, self._norm))
        within = self.budget is not None and length <= self.budget + 1e-6 * max(self.budget, 1)
        if within or (self.minimal and length < self._nearest):
            self.found, self._nearest, self._broken = image, length, True
        if within and self.minimal:
            raise _NearEnoughError


class _Draws(TorchFunctionMode):
    """Gives ``torch.rand`` and ``torch.randn`` a generator, in this thread; drawn on the CPU, so alike on any device."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.rand, torch.randn) and kwargs.get("generator") is None:
            on_cpu = {**kwargs, "device": "cpu", "generator": self._generator}
            return func(*args, **on_cpu).to(kwargs.get("device") or "cpu")
        if func is torch.functional.meshgrid:  # foolbox does not say which, and torch warns
            kwargs = {**kwargs, "indexing": "ij"}
        return func(*args, **kwargs)


# Return a black image where they found nothing, and otherwise one that was looked at.
_BLACK = {"EADAttack", "L2CarliniWagnerAttack"}

_DRAW_FROM_NUMPY = {"GenAttack", "PointwiseAttack", "SpatialAttack"}
_NUMPY = threading.RLock()


@contextmanager
def _numpy_lent(generator: torch.Generator) -> Iterator[None]:
    import numpy as np

    with _NUMPY:
        state = np.random.get_state()
        np.random.seed(int(torch.randint(2**31, (), generator=generator)))
        try:
            yield
        finally:
            np.random.set_state(state)


def the_foolbox() -> Any:
    try:
        import foolbox
    except ImportError as error:
        fix = 'Install it with: pip install "foolbox>=3.3.4,<4"'
        raise AttackError("Attacks called foolbox:... need foolbox, which is not installed", None, fix) from error
    return foolbox
