"""The command line in this process, for the tests of all commands: starting another takes longer than the work."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from workbench.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """What was printed, without the layout."""
        return " ".join(self.stdout.split())


def command(*arguments: object) -> Done:
    """Run a command as ``python -m workbench`` does. An exception that nobody explains fails the test."""
    out, err, code, before = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = ["workbench", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


def answer(*arguments: object) -> dict[str, Any]:
    """What a command that succeeds tells a machine."""
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
