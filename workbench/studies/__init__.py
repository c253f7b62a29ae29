"""Published claims that the workbench can re-run: one file per claim, with its protocol and a verdict.

    from workbench.studies import STUDIES
    found = STUDIES["bias-share"].run(n=50)
    found.table, found.verdict, found.sentence

Importing this costs nothing; torch is loaded when a study runs.
"""

from __future__ import annotations

from . import bias_share, unit_concepts
from .study import Study, StudyResult

STUDIES: dict[str, Study] = {study.name: study for study in (bias_share.STUDY, unit_concepts.STUDY)}
"""Name → study."""

__all__ = ["STUDIES", "Study", "StudyResult"]
