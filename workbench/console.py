"""What the command line and the demo share: one paragraph per error, a progress bar, a table, JSON for machines."""

from __future__ import annotations

import io
import json
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from .errors import friendly

if TYPE_CHECKING:
    from .images import ImageSet
    from .models import ImageModel, VisionModel


def run(command: Callable[[], object]) -> None:
    """Run ``command``; people see one paragraph per error, machines (``--json``) an object, nobody a traceback of ours.

    Exit status 2 stands for an error that the paragraph explains, 130 for a cancelled run.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a class name must not end the work on an ASCII terminal
    try:
        command()
    except KeyboardInterrupt:
        typer.echo("Cancelled.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has left; nothing is wrong
    except OSError as error:
        typer.secho(f"{error.strerror}: {printable(str(error.filename))}.", fg=typer.colors.RED, err=True)
        sys.exit(2)
    except Exception as error:
        text = friendly(error)
        if text is None:
            raise
        if "--json" in sys.argv:
            print_json({"error": {name: str(getattr(error, name)) for name in ("what", "value", "fix")}})
        typer.secho(printable(text), fg=typer.colors.RED, err=True)
        sys.exit(2)


def printable(text: str) -> str:
    """Replace what could steer a terminal: names in files are written by strangers."""
    return "".join(char if char.isprintable() or char == "\n" else "�" for char in text)


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int, str], None] | None]:
    """Show a bar on the error stream and give the callback that moves it; nothing when ``quiet``, for machines."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what or title)


@contextmanager
def gently(progress: Callable[[int, int, str], None] | None) -> Iterator[Callable[[int, int, str], None]]:
    """Let Ctrl-C end the batch before it ends the run, so that the state which is saved is a whole one; a second one ends it
    at once."""
    stop = threading.Event()

    def asked(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    def tick(done: int, total: int, what: str) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        if progress is not None:
            progress(done, total, what)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, asked) if main else None
    try:
        yield tick
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def print_notices(model: VisionModel | ImageModel, images: ImageSet) -> None:
    """Say on the error stream what was inferred, assumed or left out."""
    for notice in (*model.notices, *images.notices):
        typer.secho(printable(f"Note: {notice}"), err=True, fg=typer.colors.YELLOW)
    for name, reason in images.skipped:
        typer.secho(printable(f"Skipped {name}: {reason}"), err=True, fg=typer.colors.YELLOW)


def print_table(columns: list[str], rows: list[list[str]], whole: bool = False) -> None:
    """Print aligned columns; cells are shown literally, whatever a file or class is called.

    Args:
        columns: headings.
        rows: cells.
        whole: shorten nothing, even where lines get longer than the terminal is wide.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(printable(str(cell))) for cell in row))
    console = Console()
    if whole:
        console.width = max(console.width, table.__rich_measure__(console, console.options.update(width=999)).maximum)
    console.print(table)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object; numbers that JSON does not have (infinity) become null."""
    typer.echo(json.dumps(_finite(value), default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
