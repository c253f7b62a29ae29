"""How easily is an image classifier fooled? Attacks as plain functions, and a runner that turns them into numbers.

>>> import attacks
>>> found = attacks.attack(model, images, labels, "pgd", norm="linf", epsilon=8 / 255)
>>> found.images, found.success, found.distance
>>> rob = attacks.evaluate(model, images, labels, epsilons=(1 / 255, 2 / 255, 4 / 255, 8 / 255))
>>> rob.curve, rob.samples, rob.checks, rob.trustworthy

``model`` is any ``nn.Module`` from images in [0, 1] ``(N, C, H, W)`` to logits ``(N, K)``. This folder stands alone: it
can be copied anywhere, and needs torch, and for the numbers pandas and SciPy. An attack is one file with one function;
``registry.py`` lists them and says how to add one.
"""

from .errors import AttackError
from .fgsm import fgsm
from .pgd import pgd
from .registry import ATTACKS, PRESETS, Attack
from .results import AttackResult, Evaluation
from .runner import attack, evaluate

__all__ = [
    "ATTACKS",
    "PRESETS",
    "Attack",
    "AttackError",
    "AttackResult",
    "Evaluation",
    "attack",
    "evaluate",
    "fgsm",
    "pgd",
]
