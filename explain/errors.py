"""What a person reads when a network cannot be explained.

Every refusal says *what* happened, the *value* that caused it, and how to *fix* it::

    ExplainError
    ├── InputError      images, target, ids, method names or other arguments that make no sense
    ├── ModelError      a network that cannot be copied, fails on the images, or does not return logits
    ├── LayerError      a layer name that the network does not have
    ├── ProbeError      an image of a probe, or its annotation, that cannot be read
    └── NotApplicable   a method that has no meaning on this network, with the reason
"""

from __future__ import annotations


class ExplainError(Exception):
    """Base of all errors of the explanation engine.

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


class InputError(ExplainError, ValueError):
    """An argument has a value that makes no sense."""


class ModelError(ExplainError):
    """The network cannot be copied, fails on the images, or does not return logits."""


class LayerError(ExplainError, LookupError):
    """The network has no layer of that name."""


class ProbeError(ExplainError):
    """An image of a probe, or its annotation, cannot be read."""


class NotApplicable(ExplainError):  # noqa: N818 - reads as what happened
    """A method has no meaning on this network; ``what`` says why."""

    def about(self, title: str) -> NotApplicable:
        """Return the same refusal with the name of the method in front."""
        return NotApplicable(f"{title} does not apply: {self.what}", self.value, self.fix)
