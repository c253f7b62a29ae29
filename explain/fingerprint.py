"""What a network computes, in one number, code included: results that hang on it are cached, and none may be stale.

Weights and settings are not all. A segmenter written in a notebook is changed by editing a helper function, a global, a
hook, or an attribute that is neither number nor text. So the code of a module's classes is followed through the functions
and values that it names. Installed packages are taken by name and version, and what cannot be told apart is named.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pickle
import sys
import sysconfig
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from torch import Tensor, nn

from explain.digest import content_digest, feed_tensor, own_values

_INTERNAL = frozenset(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}
_INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def fingerprint(value: nn.Module | type, salt: str = "") -> tuple[str, tuple[str, ...]]:
    """Return a sha256 over what a module or a class computes with, in hex, and the names of what could not be taken into it."""
    found = _Fingerprint(salt)
    found.add("module", value)
    return found.state.hexdigest(), tuple(found.unknown)


class _Fingerprint:
    def __init__(self, salt: str) -> None:
        self.state = hashlib.sha256(salt.encode())
        self.unknown: list[str] = []
        self._seen: dict[int, Any] = {}  # by identity; keeping the objects keeps their ids from being used again

    def add(self, name: str, value: Any) -> None:
        self.state.update(f"\n{name}:{type(value).__qualname__}:".encode())
        if isinstance(value, str | int | float | complex | bytes | None):
            self.state.update(repr(value).encode())
        elif id(value) not in self._seen:
            self._seen[id(value)] = value
            self._add_new(name, value)

    def _add_new(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            feed_tensor(self.state, value.float() if value.dtype.itemsize < 4 and value.is_floating_point() else value)
        elif isinstance(value, nn.Module):
            self._module(name, value)
        elif isinstance(value, CodeType):
            self._code(name, value)
        elif isinstance(value, tuple | list):
            for part in value:
                self.add(name, part)
        elif isinstance(value, dict):
            for key, part in value.items():
                self.add(f"{name}[{key!r}]", part)
        elif isinstance(value, set | frozenset):
            self.state.update(repr(sorted(map(repr, value))).encode())
        elif isinstance(value, MethodType):
            self.add(name, value.__func__)
            self.add(name, value.__self__)
        elif isinstance(value, functools.partial):
            self.add(name, (value.func, value.args, value.keywords))
        elif isinstance(value, staticmethod | classmethod):
            self.add(name, value.__func__)
        elif isinstance(value, property | functools.cached_property):
            self.add(name, value.fget if isinstance(value, property) else value.func)
        elif isinstance(value, FunctionType | type):
            self._definition(name, value)
        elif isinstance(value, ModuleType | BuiltinFunctionType):
            self.state.update(value.__name__.encode())
            home = value.__name__ if isinstance(value, ModuleType) else str(value.__module__)
            self.state.update(_version(home).encode())
        else:
            try:
                self.state.update(pickle.dumps(value))
            except Exception:  # objects refuse in whatever way they like
                self.unknown.append(name)

    def _module(self, name: str, module: nn.Module) -> None:
        self.state.update(content_digest(module).encode())
        for path, layer in module.named_modules():
            self._seen[id(layer)] = layer
            self.add(f"{name}.{path}", type(layer))
            for key, value in sorted(own_values(layer).items()):
                if key not in _INTERNAL:
                    self.add(f"{name}.{path}.{key}", list(value.values()) if key.startswith("_forward") else value)

    def _definition(self, name: str, value: FunctionType | type) -> None:
        """Follow people's own functions and classes; take those of packages by version."""
        self.state.update(f"{value.__module__}.{value.__qualname__}".encode())
        if _is_installed(value.__module__):
            self.state.update(_version(value.__module__).encode())
        elif isinstance(value, FunctionType):
            self.add(name, value.__code__)
            self.add(name, (value.__defaults__, value.__kwdefaults__))
            for cell in value.__closure__ or ():
                self.add(f"{name} (closure)", _content(cell))
            for used in sorted(_names(value.__code__) & set(value.__globals__)):
                self.add(used, value.__globals__[used])
        else:
            for base in value.__bases__:
                self.add(name, base)
            for key, member in sorted(vars(value).items()):
                slot = isinstance(member, MemberDescriptorType | GetSetDescriptorType) or key == "_abc_impl"
                if not slot and (not key.startswith("__") or callable(member)):
                    self.add(f"{name}.{key}", member)

    def _code(self, name: str, code: CodeType) -> None:
        """Take what code does, without where it is written."""
        self.state.update(code.co_code)
        self.state.update(f"{code.co_names}{code.co_varnames}{code.co_freevars}".encode())
        for constant in code.co_consts:
            self.add(name, constant)


def _names(code: CodeType) -> set[str]:
    """Return all global names that a function uses, also those of functions inside it."""
    return set(code.co_names).union(*(_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_installed(name: str) -> bool:
    top = name.split(".")[0]
    if top == "__main__":  # a notebook's own code, whatever file runs it
        return False
    if top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and any(file.startswith(str(folder)) for folder in _INSTALLED)


@functools.cache
def _version(name: str) -> str:
    top = name.split(".")[0]
    try:
        return f"{top} {importlib.metadata.version(top)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{top} {sys.version}"
