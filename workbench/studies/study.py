"""What a study is: a published claim, how it is put to the test, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Study:
    """A published claim that can be re-run here.

    Attributes:
        name: what the command line calls it.
        claim: what was claimed, in one sentence.
        source: the paper.
        protocol: what is measured, and the criterion by which the verdict follows from the table. Written before the
            table is looked at.
        run: ``run(n, seed=0, progress=None)`` measures on at most ``n`` images per data set and returns a
            :class:`StudyResult`; without arguments it does what the protocol says.
    """

    name: str
    claim: str
    source: str
    protocol: str
    run: Callable[..., StudyResult] = field(repr=False, compare=False)


@dataclass(frozen=True, repr=False, eq=False)
class StudyResult:
    """What a study found.

    Attributes:
        study: what was put to the test.
        table: every figure, one row per case.
        summary: the same rounded for reading: title → a frame of text.
        verdict: ``"confirmed"``, ``"refuted"`` or ``"mixed"``, by the protocol's criterion.
        sentence: the verdict with its reason, for people.
        provenance: digests of models and images, options, seed, versions, seconds.
    """

    study: Study
    table: pd.DataFrame
    summary: Mapping[str, pd.DataFrame]
    verdict: str
    sentence: str
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        return f"StudyResult({self.study.name}: {self.verdict}, {len(self.table)} rows)"

    def frame(self) -> pd.DataFrame:
        """Return the table, one row per case."""
        return self.table.copy()

    def record(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        about = {name: getattr(self.study, name) for name in ("name", "claim", "source", "protocol")}
        rows = self.table.to_dict("records")
        return {
            **about,
            "table": rows,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "provenance": self.provenance,
        }
