"""The law of dependencies, the laziness of the front doors, and the public names."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import workbench as wb

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "pandas", "plotly", "streamlit", "sklearn", "scipy", "foolbox", "captum", "PIL")


def imported_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after ``statement``."""
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import workbench",
        "import workbench.cli",
        "import workbench.report",
        "import workbench.models.sniff",
        "from workbench.models.signatures import signatures; signatures()",
        "from workbench.errors import friendly",
    ],
)
def test_front_doors_import_nothing_heavy(statement: str) -> None:
    assert imported_by(statement).isdisjoint(HEAVY)


def test_the_page_shell_imports_streamlit_but_no_torch() -> None:
    assert imported_by("import workbench.pages").isdisjoint({"torch", "torchvision", "sklearn", "foolbox"})


@pytest.mark.parametrize("engine", ["explain", "attacks"])
def test_engines_stand_alone(engine: str) -> None:
    other = {"explain": "attacks", "attacks": "explain"}[engine]
    loaded = imported_by(f"import {engine}")
    assert loaded.isdisjoint({"workbench", other, "streamlit", "plotly", "pandas", "ray", "torchvision"})


def test_no_import_statement_points_upwards() -> None:
    """Also inside functions, where a subprocess would not see it."""
    for engine, other in (("explain", "attacks"), ("attacks", "explain")):
        for path in (ROOT / engine).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                tops = {name.split(".")[0] for name in names}
                assert tops.isdisjoint({"workbench", other, "streamlit", "plotly", "ray"}), path


def test_public_names_are_sorted_present_and_complete() -> None:
    assert wb.__all__ == sorted(wb.__all__)
    for name in wb.__all__:
        assert getattr(wb, name) is not None
    assert set(wb.__all__) <= set(dir(wb))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = wb.nothing


def test_public_functions_survive_the_import_of_their_rooms() -> None:
    """A package attribute must not shadow the function of the same name, in whichever order things are imported."""
    import workbench.models.identification
    import workbench.models.loading
    import workbench.report

    assert callable(wb.report)
    assert callable(wb.load)
    assert callable(wb.identify)
    assert callable(workbench.models.load)


def test_every_error_for_people_says_what_to_do() -> None:
    from workbench.errors import WorkbenchError, friendly

    classes = [WorkbenchError]
    for one in classes:
        classes.extend(one.__subclasses__())
    for one in classes:
        error = one("Something happened", 3, "Do this.")
        assert str(error) == "Something happened: 3. Do this."
        assert friendly(error) == str(error)
    assert friendly(ValueError("x")) is None


def test_errors_of_the_engines_are_friendly_too() -> None:
    import attacks
    import explain
    from workbench.errors import friendly

    for error in (attacks.AttackError("A", 1, "B."), explain.ExplainError("A", 1, "B.")):
        assert friendly(error) == "A: 1. B."
