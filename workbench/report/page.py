"""The page: a template filled in, plotly.js packed once, and the :class:`Report` that holds the text.

Names of files and classes come from strangers, so the template escapes everything; JSON in script blocks escapes ``<``,
and the content security policy forbids everything but what is in the file. Plotly.js travels as gzip in base64, which the
browser inflates: 2.0 MB instead of 4.8.
"""

from __future__ import annotations

import base64
import functools
import gzip
import html
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..errors import OptionError
from .words import percent

_TEMPLATES = Path(__file__).parent / "templates"
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:; "
    "connect-src data: blob:"
)
_LITE_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, repr=False)
class Report:
    """A finished report.

    Attributes:
        html: the page.
        path: where it was written, or ``None``.
        draw_lite: makes the page without JavaScript, for notebooks; ``None`` where ``html`` is that already.
    """

    html: str
    path: Path | None = None
    draw_lite: Callable[[], str] | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.html.encode())

    def save(self, path: str | os.PathLike[str]) -> Report:
        """Write the page to ``path``, whole or not at all, and return the report with that path.

        Raises:
            OptionError: it cannot be written there.
        """
        target = writable(path)
        try:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(self.html.encode())
                Path(name).chmod(0o644)
                Path(name).replace(target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _unwritable(target, error) from error
        return replace(self, path=target)

    def __repr__(self) -> str:
        where = f", {str(self.path)!r}" if self.path else ""
        return f"Report({self.size / 1e6:.2f} MB{where})"

    def _repr_html_(self) -> str:
        """Show the page without JavaScript in a notebook, in a frame that its styles cannot leave."""
        page = self.html if self.draw_lite is None else self.draw_lite()
        style = "width: 100%; height: 40rem; border: 1px solid #8884; border-radius: 6px"
        return f'<iframe sandbox title="Report" style="{style}" srcdoc="{html.escape(page)}"></iframe>'


def writable(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` with its folder made, so that a long run does not end in an error of the file system.

    Raises:
        OptionError: it is a folder, or its folder cannot be made.
    """
    target = Path(path).expanduser()
    if target.is_dir():
        raise OptionError("the report needs a file name, and this is a folder", target, "Add a name: report.html.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(target, error) from error
    return target


def _unwritable(target: Path, error: OSError) -> OptionError:
    return OptionError("the report cannot be written", f"{target} ({error.strerror})", "Choose another place.")


def render(content: Any, lite: bool) -> str:
    """Return the page that shows ``content`` (a :class:`~workbench.report.content.Content`)."""
    page = _environment().get_template("report.html.j2")
    text = page.render(
        c=content,
        lite=lite,
        policy=_LITE_POLICY if lite else _POLICY,
        style=_own("style.css"),
        script="" if lite else _own("common.js") + _own("page.js"),
        plotly="" if lite else _plotly(),
        figure="" if lite else Markup(content.figure.replace("<", "\\u003c")),
    )
    # Names may hold lone surrogates (file systems) that no encoding has: they become question marks.
    return text.encode("utf-8", "replace").decode()


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "breakable": _breakable}
    return environment


def _breakable(path: str) -> Markup:
    """Let a long path break after its separators rather than in the middle of a word."""
    return Markup("<wbr>").join(re.findall(r"[^/_]*[/_]|[^/_]+", path))


@functools.cache
def _own(name: str) -> Markup:
    """Return a file of ours that needs no escaping."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
