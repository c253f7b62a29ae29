"""What ``workbench dissect`` leaves in a folder beside its page: one CSV file per table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from ..dissecting import Findings


def tables(found: Findings) -> dict[str, pd.DataFrame]:
    """Return the tables by file name.

    ``comparison.csv`` has a row per model and layer, ``changes.csv`` one per unit and other network (not for the controls,
    whose units have nothing in common with the network's), ``curve.csv`` all curves, where ``label`` is a class or "all".
    """
    import pandas as pd

    import explain

    from ..dissecting import CONTROLS

    made = {
        "units.csv": found.dissection.frame(),
        "layers.csv": found.dissection.summary(),
        "categories.csv": found.dissection.categories(),
        "concepts.csv": found.dissection.concepts(),
    }
    if found.comparison is not None:
        made["comparison.csv"] = found.comparison.summary()
    networks = {name: one for name, one in found.others.items() if name not in CONTROLS}
    if networks:
        made["changes.csv"] = explain.compare({found.model.name: found.dissection, **networks}).frame()
    if found.ablation is not None:
        names = found.model.classes
        made["ablation.csv"] = found.ablation.frame()
        if names:
            made["ablation.csv"].insert(3, "class", [names[label] for label in made["ablation.csv"]["label"]])
        parts = []
        for curve in found.curves:
            part = curve.frame()
            part.insert(0, "label", "all" if curve.label is None else str(curve.label))
            parts.append(part)
        made["curve.csv"] = pd.concat(parts, ignore_index=True)
    if found.moved is not None:
        layer = found.dissection[found.moved.layer]
        made["moved.csv"] = found.moved.frame()
        made["moved.csv"].insert(2, "concept", [layer.name(unit) for unit in made["moved.csv"]["unit"]])
        if found.ablation is not None and len(layer) > 1:
            made["relation.csv"] = found.moved.relation(found.ablation, min(8, len(layer) - 1))
    return made


def write_tables(folder: Path, made: dict[str, pd.DataFrame]) -> None:
    """Write :func:`tables` into a folder that exists; characters that no file can hold become question marks."""
    for name, frame in made.items():
        frame.to_csv(folder / name, index=False, errors="replace")
