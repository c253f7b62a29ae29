"""The folder stands alone: what importing it pulls in, what it shows, and how its errors read."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import explain

FOLDER = Path(explain.__file__).parent


def test_import_pulls_in_no_upper_floor() -> None:
    code = "import sys, explain; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "explain" in loaded and "torch" in loaded
    assert not {"workbench", "attacks", "streamlit", "plotly", "pandas", "ray", "captum", "scipy", "torchvision"} & set(
        loaded
    )


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.name)
def test_no_file_imports_an_upper_floor(path: Path) -> None:
    allowed = {"torch", "numpy", "scipy", "pandas", "explain", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert {name.partition(".")[0] for name in names} <= allowed


def test_public_names() -> None:
    assert explain.__all__ == sorted(
        explain.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    for name in explain.__all__:
        assert getattr(explain, name).__doc__
    assert callable(explain.explain)


def test_errors_say_what_value_and_fix() -> None:
    error = explain.InputError("It broke", 7, "Mend it.")
    assert (error.what, error.value, error.fix) == ("It broke", 7, "Mend it.")
    assert str(error) == "It broke: 7. Mend it."
    assert str(explain.ModelError("It broke")) == "It broke."
    for kind in (explain.InputError, explain.ModelError, explain.LayerError, explain.NotApplicable):
        assert issubclass(kind, explain.ExplainError)


def test_a_method_is_one_small_file_and_one_entry() -> None:
    catalogue = ast.parse((FOLDER / "methods" / "__init__.py").read_text())
    imported = next(n for n in catalogue.body if isinstance(n, ast.ImportFrom) and n.module == "explain.methods")
    files = {path.stem: path for path in (FOLDER / "methods").glob("*.py") if path.stem != "__init__"}
    assert {alias.name for alias in imported.names} == set(files)
    assert len(explain.METHODS) == len(files)
    assert all(len(path.read_text().splitlines()) <= 60 for path in files.values())
