"""What strangers wrote, made harmless, and errors as one paragraph.

File names, class names and layer names come out of uploads. Streamlit renders most texts as Markdown with extensions
(HTML, links, images, ``:red[...]``, ``$math$``), so such a name could draw a link or fetch a picture from elsewhere.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from ..errors import friendly

_LOG = logging.getLogger("workbench.pages")
_CODE = re.compile(r"(`[^`\n]+`)")
_SPECIAL = re.compile(r"([!-/:-@\[-`{-~])")  # all punctuation of ASCII, which CommonMark lets a backslash escape
_JOINER = "\N{WORD JOINER}"  # breaks what Markdown would turn into a link of its own accord, and is not seen


def plain(text: object) -> str:
    """Return Markdown that shows ``text`` as it is; only `code` between single backticks keeps its meaning.

    Inside a code span nothing is interpreted, and everything outside is escaped, so that no name can leave one or start
    anything else.
    """
    parts = _CODE.split(str(text).strip())
    return "".join(part if index % 2 else _escaped(part) for index, part in enumerate(parts))


def _escaped(text: str) -> str:
    linkless = re.sub(r"(?i)(://|@|\bwww(?=\.))", rf"\1{_JOINER}", text)
    lines = (line.strip() if number else line for number, line in enumerate(linkless.split("\n")))
    return "  \n".join(_SPECIAL.sub(r"\\\1", line) for line in lines)


def count(n: int, noun: str) -> str:
    """Return "1 image" or "3 images"."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def show_error(error: Exception) -> None:
    """Show ``error`` as one paragraph; a defect of ours goes to the log with its traceback, and to nobody's screen."""
    paragraph = friendly(error)
    if paragraph is None:
        _LOG.error("a page failed", exc_info=error)
        st.error(
            "Something went wrong on our side. It was written to the server's log; your choices are kept, so you can "
            "change one and try again.",
            icon=":material/build:",
        )
    else:
        st.error(plain(paragraph), icon=":material/block:")


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show what is raised inside the block. Streamlit's own stops and reruns are no ``Exception`` and pass through."""
    try:
        yield
    except Exception as error:
        show_error(error)
