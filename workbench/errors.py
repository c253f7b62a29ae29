"""What a person reads when something cannot be done.

Every refusal says three things: *what* happened, the *value* that caused it, and how to *fix* it. Nobody is shown a
traceback, and nobody is told to switch a safety check off::

    WorkbenchError
    ├── ModelError          a checkpoint or model that cannot be used
    │   ├── RefusedFile     a file that is not read, for safety or because it is not a checkpoint
    │   └── UnknownArchitecture   tensors that fit no known network; lists the nearest
    ├── ImageError          a photo or folder that cannot be used
    └── OptionError         an option whose value makes no sense

The engines stand alone and cannot import this module; their errors (``explain.ExplainError``, ``attacks.AttackError``)
carry the same three attributes, and :func:`friendly` recognises them by those.
"""

from __future__ import annotations


class WorkbenchError(Exception):
    """Base of all errors meant for people.

    Args:
        what: One sentence that says what happened, without a full stop.
        value: The offending value; left out of the message when ``None``.
        fix: One or two sentences that say what to do.
    """

    def __init__(self, what: str, value: object = None, fix: str = "") -> None:
        super().__init__(what, value, fix)
        self.what = what
        self.value = value
        self.fix = fix

    def __str__(self) -> str:
        subject = self.what if self.value is None else f"{self.what}: {self.value}"
        return f"{subject}. {self.fix}".strip()


class ModelError(WorkbenchError):
    """A checkpoint or model cannot be used."""


class RefusedFile(ModelError):  # noqa: N818 - reads as what happened
    """A model file is not read: it could run code, or it is not a checkpoint."""


class UnknownArchitecture(ModelError):  # noqa: N818
    """The tensors of a checkpoint fit no network that the workbench can build; ``candidates`` are the nearest."""

    candidates: tuple[object, ...] = ()


class ImageError(WorkbenchError):
    """A photo or folder of photos cannot be used."""


class OptionError(WorkbenchError, ValueError):
    """An option has a value that makes no sense."""


def friendly(error: BaseException) -> str | None:
    """Return the paragraph to show for ``error``, or ``None`` when it is a defect of ours and deserves a traceback."""
    if isinstance(error, WorkbenchError) or all(hasattr(error, name) for name in ("what", "value", "fix")):
        return str(error)
    return None
