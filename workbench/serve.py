"""Start the Streamlit app from anywhere, with the settings that travel with the package."""

from __future__ import annotations

import os
import socket
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .bundle import bundled

_ENTRY = Path(__file__).parent / "pages" / "entry" / "main.py"


def streamlit_flags() -> list[str]:
    """Return our ``.streamlit/config.toml`` as command line flags, since Streamlit looks for it in the current folder only."""
    settings = tomllib.loads((bundled(".streamlit") / "config.toml").read_text())
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in _flat(settings)]


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name every setting by its dotted path: sections nest (``[theme.dark]``)."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def free_port(wanted: int, address: str = "127.0.0.1") -> int:
    """Return ``wanted`` if nobody listens there, else a port that the system calls free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, wanted))
        except OSError:
            probe.bind((address, 0))
        return int(probe.getsockname()[1])


def serve(port: int = 8501) -> None:
    """Replace this process by the app's server on 127.0.0.1 and print its URL.

    Args:
        port: the port to listen on; another one is taken when it is busy.
    """
    port = free_port(port)
    print(f"The workbench is at http://127.0.0.1:{port} (Ctrl-C ends it).", flush=True)
    arguments = [
        sys.executable,
        "-m",
        "workbench.pages.server",
        "run",
        str(_ENTRY),
        f"--server.port={port}",
        *streamlit_flags(),
    ]
    os.execv(sys.executable, arguments)
