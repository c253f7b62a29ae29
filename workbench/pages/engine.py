"""Import torch and the engines in a thread, so that the first page paints before they are there.

torch and torchvision take seconds to import, a page's shell a tenth of one (``python -X importtime`` tells). One thread
imports everything that a result needs, in one order, so that no two threads wait for each other's half-imported modules.
"""

from __future__ import annotations

import importlib
import threading

_NEEDED = (
    "torch",
    "explain",
    "attacks",
    "workbench.models.loading",
    "workbench.samples",
    "workbench.report.figures",
    "workbench.report.clickable",
    "workbench.interpretation",
    "workbench.probes",
    "workbench.report.dissection",
)
_lock = threading.Lock()
_thread: threading.Thread | None = None
_failure: list[BaseException] = []


def start() -> None:
    """Begin to import, once per server."""
    global _thread
    with _lock:
        if _thread is None:
            _thread = threading.Thread(target=_import, name="engine-import", daemon=True)
            _thread.start()


def is_ready() -> bool:
    """Whether everything is imported."""
    return _thread is not None and not _thread.is_alive() and not _failure


def wait() -> None:
    """Return when everything is imported.

    Raises:
        BaseException: what the import raised.
    """
    start()
    assert _thread is not None
    _thread.join()
    if _failure:
        raise _failure[0]


def _import() -> None:
    try:
        for name in _NEEDED:
            importlib.import_module(name)
    except BaseException as error:
        _failure.append(error)
