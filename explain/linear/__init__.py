"""The linear interpreter: freeze every decision of a network at one image, and what remains is one exact linear system.

    lens = explain.linear_interpreter(model, images)
    lens.apply(images) + lens.bias            # == model(images)
    lens.votes(k).sum() + lens.bias[:, k]     # == its logits of class k

Start reading at ``engine`` and ``interpreter``; how a pass is recorded and replayed is in ``tape``, which operator is
frozen how in ``book`` and ``rules``, where x comes in and y goes out in ``circuit``.
"""

from __future__ import annotations

from explain.linear.book import RULES, register
from explain.linear.call import Call
from explain.linear.constants import BiasTerms
from explain.linear.engine import linear_interpreter
from explain.linear.interpreter import LinearInterpreter
from explain.linear.measures import Change, GateAgreement, JacobianGap, Shares
from explain.linear.rule import Rule
from explain.linear.spectrum import Spectrum

__all__ = [
    "RULES",
    "BiasTerms",
    "Call",
    "Change",
    "GateAgreement",
    "JacobianGap",
    "LinearInterpreter",
    "Rule",
    "Shares",
    "Spectrum",
    "linear_interpreter",
    "register",
]
