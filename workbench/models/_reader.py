"""The isolated child: reads one untrusted pickle checkpoint and writes its tensors as safetensors.

Run as a script (``python -I _reader.py IN OUT``), never imported by the process that serves people. It limits itself
before it reads anything, unpickles with torch's restricted unpickler only, and answers with one JSON line on standard
output: ``{"tree": …}`` or ``{"refused": code, …}``. This is a hard process boundary, not a virtual machine.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

# Optimiser state is as large as the model and never needed.
DROPPED = ("optim", "lr_sched", "scheduler", "scaler", "amp", "rng", "loops", "callbacks", "grad_scaler")
MAX_DEPTH, MAX_NODES, MAX_TEXT, MAX_LIST = 12, 300_000, 500, 25_000


class Refused(Exception):  # noqa: N818
    """Carries the code that the parent turns into a sentence."""

    def __init__(self, code: str, **detail: Any) -> None:
        super().__init__(code)
        self.answer = {"refused": code, **detail}


def limit_resources(file_size: int) -> None:
    """Bound memory, time, files and network of this process; measured on torch 2.15, which needs 0.74 GB of data."""
    import ctypes
    import resource

    for name, value in (
        ("RLIMIT_DATA", 2**30 + 3 * file_size),
        ("RLIMIT_CPU", 60 + file_size // 2**24),
        ("RLIMIT_FSIZE", 2 * file_size + 2**20),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a tighter hard limit is already in force
            resource.setrlimit(getattr(resource, name), (value, value))
    with contextlib.suppress(OSError, AttributeError):  # a network namespace of its own, where the system allows it
        ctypes.CDLL(None).unshare(0x40000000)


class Walker:
    """Turns the loaded object into JSON with numbered tensors, checking every tensor on the way."""

    def __init__(self, torch: Any, budget: int) -> None:
        self.torch = torch
        self.budget = budget  # bytes of distinct tensors that the file can honestly hold
        self.tensors: dict[str, Any] = {}
        self.seen: dict[tuple[Any, ...], str] = {}
        self.nodes = 0

    def walk(self, value: Any, path: str = "", depth: int = 0) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise Refused("deep")
        if isinstance(value, self.torch.Tensor):
            return {"tensor": self.add(value, path)}
        if isinstance(value, bool | int | float) or value is None:
            return value if not isinstance(value, int) or abs(value) < 2**63 else str(value)[:MAX_TEXT]
        if isinstance(value, str):
            return value[:MAX_TEXT]
        if isinstance(value, dict):
            return {"dict": self.items(value, path, depth)}
        if type(value).__name__ == "Namespace":
            return {"dict": self.items(vars(value), path, depth)}
        if isinstance(value, list | tuple | set) and len(value) <= MAX_LIST:
            return {"list": [self.walk(item, f"{path}.{i}", depth + 1) for i, item in enumerate(value)]}
        if hasattr(value, "tolist") and getattr(value, "size", MAX_LIST + 1) <= MAX_LIST:  # NumPy scalars and arrays
            return self.walk(value.tolist(), path, depth + 1)
        return {"object": type(value).__name__}

    def items(self, value: dict[Any, Any], path: str, depth: int) -> dict[str, Any]:
        return {
            str(key)[:MAX_TEXT]: self.walk(item, f"{path}.{key}", depth + 1)
            for key, item in value.items()
            if not (isinstance(item, dict | list) and str(key).lower().startswith(DROPPED))
        }

    def add(self, tensor: Any, path: str) -> str:
        tensor = tensor.detach()
        name = path.strip(".")[:200]
        if tensor.layout is not self.torch.strided or tensor.is_quantized:
            raise Refused("tensor", name=name, kind="sparse" if not tensor.is_quantized else "quantised")
        if tensor.device.type != "cpu":
            raise Refused("tensor", name=name, kind=f"{tensor.device.type}-device")
        if tensor.is_complex():
            raise Refused("tensor", name=name, kind="complex")
        storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
        if size > storage.nbytes():
            raise Refused("tensor", name=name, kind="expanded")
        identity = (storage.data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if identity not in self.seen or size == 0:
            self.budget -= size
            if self.budget < 0:
                raise Refused("tensor", name=name, kind="overlapping")
            self.seen[identity] = f"t{len(self.tensors)}"
            self.tensors[self.seen[identity]] = tensor.clone(memory_format=self.torch.contiguous_format)
        return self.seen[identity]


def read(path: str) -> Any:
    """Unpickle ``path`` with the restricted unpickler and the few harmless classes that training scripts store."""
    import argparse

    import numpy
    import torch

    allowed = [
        argparse.Namespace,
        type(Path(path)),
        numpy.dtype,
        numpy.ndarray,
        numpy._core.multiarray.scalar,  # type: ignore[attr-defined]
        numpy._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        *(getattr(numpy.dtypes, f"{kind}DType") for kind in ("Float64", "Float32", "Int64", "Int32", "Bool", "Str")),
    ]
    with Path(path).open("rb") as file:
        is_zip = file.read(2) == b"PK"
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:
        unsafe: list[str] = []
        with contextlib.suppress(Exception):  # names the classes without running them; legacy files cannot be listed
            known = {f"{item.__module__}.{item.__qualname__}" for item in allowed}
            unsafe = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - known)
        if not unsafe and (named := re.search(r"GLOBAL (\S+)", str(error))):
            unsafe = [named[1]]
        if any(name.startswith(("torch.nn.modules.", "torchvision.models.", "torch.fx.")) for name in unsafe):
            raise Refused("module", names=unsafe) from None
        raise Refused("objects" if unsafe else "damaged", names=unsafe, error=type(error).__name__) from None


def main(source: str, target: str) -> dict[str, Any]:
    """Convert ``source`` into the safetensors file ``target`` and return the answer for the parent."""
    size = Path(source).stat().st_size
    limit_resources(size)
    import torch
    from safetensors.torch import save_file

    try:
        loaded = read(source)
        walker = Walker(torch, size)
        tree = walker.walk(loaded)
        if not walker.tensors:
            raise Refused("no-tensors")
        try:
            save_file(walker.tensors, target, metadata={"tree": json.dumps(tree)})
        except Exception:  # safetensors reports a full disk with a class of its own
            raise Refused("disk") from None
    except Refused as refusal:
        return refusal.answer
    except MemoryError:
        return {"refused": "memory"}
    return {"written": len(walker.tensors)}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main(sys.argv[1], sys.argv[2])) + "\n")
