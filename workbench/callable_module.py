"""A package that can be called, so that ``wb.report(...)`` and ``wb.report.figures`` are both true.

The public calls (``wb.report``, later ``wb.sweep`` and ``wb.check``) carry the names of the rooms that hold them. Python
binds a package's name to the module on import, which would hide a function of that name; so the module itself answers
the call.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(module_name: str, function: Callable[..., Any]) -> None:
    """Make calling the module ``module_name`` call ``function``; ``help`` and ``inspect.signature`` show the function's."""
    module = sys.modules[module_name]

    class CallableModule(ModuleType):
        __call__ = staticmethod(function)
        __signature__ = inspect.signature(function)

    module.__class__ = CallableModule
