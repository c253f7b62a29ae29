"""Several dissections side by side: another model, checkpoints of a training, before and after pruning or hardening."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explain.dissection.results import Dissection
from explain.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """Dissections by name, in the order given; all with the same probe.

    Attributes:
        dissections: name → dissection.
    """

    dissections: dict[str, Dissection]

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.dissections)})"

    def summary(self) -> pd.DataFrame:
        """Return the summaries below each other, with ``model`` in front."""
        return self._stacked("summary")

    def categories(self) -> pd.DataFrame:
        """Return detectors by category below each other, with ``model`` in front."""
        return self._stacked("categories")

    def frame(self) -> pd.DataFrame:
        """Return one row per layer, unit and model but the first: ``layer, unit, model, concept_before, concept, iou_before,
        iou, change``.

        ``change`` is "kept" (a detector of the same concept before and after), "moved" (of another concept), "lost",
        "gained", or "none" (no detector before or after). Units are compared by number: that means something for two states
        of one network, and nothing for two networks trained from different starts. Layers that not all have are left out.
        """
        import pandas as pd

        (_, first), *others = self.dissections.items()
        before, shared = first.frame(), set(first).intersection(*(set(one) for _, one in others))
        columns = ["layer", "unit", "category", "concept", "iou", "detector"]
        tables = []
        for name, one in others:
            pair = before[columns].merge(one.frame()[columns], on=["layer", "unit"], suffixes=("_before", ""))
            pair = pair[pair["layer"].isin(shared)].reset_index(drop=True)
            pair.insert(2, "model", name)
            same = (pair["concept_before"] == pair["concept"]) & (pair["category_before"] == pair["category"])
            pair["change"] = [
                ("kept" if equal else "moved") if was and is_ else "lost" if was else "gained" if is_ else "none"
                for was, is_, equal in zip(pair["detector_before"], pair["detector"], same, strict=True)
            ]
            tables.append(pair)
        return pd.concat(tables, ignore_index=True)[
            ["layer", "unit", "model", "concept_before", "concept", "iou_before", "iou", "change"]
        ]

    def _stacked(self, table: str) -> pd.DataFrame:
        import pandas as pd

        parts = []
        for name, one in self.dissections.items():
            part: pd.DataFrame = getattr(one, table)()
            part.insert(0, "model", name)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)


def compare(dissections: Mapping[str, Dissection]) -> Comparison:
    """Put dissections side by side.

    Args:
        dissections: name → dissection; the first one is what the others are compared with.

    Raises:
        InputError: fewer than two, or made with different probes.
    """
    if len(dissections) < 2:
        raise InputError(
            "A comparison needs at least two dissections", len(dissections), "Pass {'before': a, 'after': b}."
        )
    probes = {one.provenance.get("probe_digest") for one in dissections.values()}
    if len(probes) > 1:
        raise InputError("These dissections were made with different probes", None, "Use one probe for all of them.")
    return Comparison(dict(dissections))
