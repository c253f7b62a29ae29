"""The one error of this folder: what happened, the value that caused it, what to do."""

from __future__ import annotations


class AttackError(ValueError):
    """An attack or evaluation cannot be run as asked.

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
