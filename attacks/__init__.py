"""How easily is an image classifier fooled? Attacks as plain functions, and a runner that turns them into numbers.

>>> import attacks
>>> found = attacks.attack(model, images, labels, "pgd", norm="linf", epsilon=8 / 255)
>>> found.images, found.success, found.distance
>>> rob = attacks.evaluate(model, images, labels, epsilons=(1 / 255, 2 / 255, 4 / 255, 8 / 255))
>>> rob.curve, rob.samples, rob.checks, rob.trustworthy
>>> generator = attacks.train_generator(model, images, epsilon=8 / 255)
>>> generator(photos, targets)

``model`` is any ``nn.Module`` from images in [0, 1] ``(N, C, H, W)`` to logits ``(N, K)``. This folder stands alone: it
can be copied anywhere, and needs torch, and for the numbers pandas and SciPy. An attack is one file with one function;
``registry.py`` lists them and says how to add one.
"""

from .apgd import apgd, apgd_dlr, apgd_t
from .binarisation import Binarisation, binarisation_test
from .cw import cw
from .ddn import ddn
from .deepfool import deepfool
from .errors import AttackError
from .fab import fab, fab_t
from .fgsm import fgsm
from .fmn import fmn
from .foolbox_catalogue import listing
from .generator.evaluation import GeneratorEvaluation, evaluate_generator
from .generator.files import load_generator, save_generator
from .generator.network import MultiTargetGenerator
from .generator.training import train_generator
from .mifgsm import mifgsm
from .pgd import pgd
from .registry import ATTACKS, PRESETS, Attack, Stage
from .results import AttackResult, Evaluation
from .rfgsm import rfgsm
from .runner import attack, evaluate
from .square import square
from .superdeepfool import superdeepfool
from .transfer import TransferMatrix, transfer

__all__ = [
    "ATTACKS",
    "PRESETS",
    "Attack",
    "AttackError",
    "AttackResult",
    "Binarisation",
    "Evaluation",
    "GeneratorEvaluation",
    "MultiTargetGenerator",
    "Stage",
    "TransferMatrix",
    "apgd",
    "apgd_dlr",
    "apgd_t",
    "attack",
    "binarisation_test",
    "cw",
    "ddn",
    "deepfool",
    "evaluate",
    "evaluate_generator",
    "fab",
    "fab_t",
    "fgsm",
    "fmn",
    "listing",
    "load_generator",
    "mifgsm",
    "pgd",
    "rfgsm",
    "save_generator",
    "square",
    "superdeepfool",
    "train_generator",
    "transfer",
]
