"""Where the files lie that are not Python modules: the sample models, the Streamlit settings.

In a wheel they travel inside the package (``workbench/_bundle``, see ``pyproject.toml``); in a checkout they are the
repository's own, so that what a developer edits is what runs.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def bundled(name: str) -> Path:
    """Return the path of a bundled file or folder, such as ``"sample_models"``."""
    installed = _PACKAGE / "_bundle" / name
    return installed if installed.exists() else _PACKAGE.parent / name
