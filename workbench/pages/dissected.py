"""The result of a dissection: how many units of which layer detect what, how sure that is, and how well anything could."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import streamlit as st

from . import moved, recipe, removed, units
from .pictures import chart
from .text import count, plain

if TYPE_CHECKING:
    import pandas as pd

    from explain import Dissection, LayerDissection

    from ..models import VisionModel
    from ..probes import TensorProbe
    from .dissect import Request
    from .loading import Loaded, Options, Photos
    from .removed import Removal
    from .sidebar import ModelChoice

_WHATS = {"detectors": "Detectors", "unique": "Different concepts", "mean_iou": "Mean best IoU"}
_NAMED = 3  # concepts in the headline

# On a narrow window a pair stands one below the other before its charts get too small to read.
_STYLE = """<style>
@media (max-width: 960px) {
  .st-key-dissect-form [data-testid="stColumn"] { flex: 1 1 calc(50% - 1.5rem) !important; }
  [class*="st-key-dissect-pair"] [data-testid="stColumn"] { min-width: calc(100% - 1.5rem); }
}
.stMainBlockContainer h3 { font-size: 1.05rem; padding: .3rem 0 .4rem; }
[class*="st-key-dissect-facts"] [data-testid="stMetricValue"] { font-size: 1.2rem; }
.st-key-dissect-summary table, .st-key-dissect-rivals table { font-size: .9rem; }
</style>"""

_WORDS = {
    "Unit": "One channel of a layer. It gives a number for every place of the picture: how much of something it sees there.",
    "IoU": "How well the places where a unit is most active match a concept: pixels shared, divided by pixels that either "
    "covers. 1 is a perfect match.",
    "Detector": "A unit whose best IoU is above the threshold; it is named after that concept.",
    "Ceiling": "The best IoU that any unit could have: one that is active on 1 % of the pixels cannot match a concept that "
    "fills 10 %.",
    "Chance": "What 95 % of the units stay below when labels are dealt out to other pictures.",
}


@dataclass(eq=False, repr=False)
class Shown:
    """A result and what belongs to it.

    Attributes:
        key: a digest of what it was computed from, for the names of its widgets.
        model: what was dissected.
        source: the choice and the overrides that give this model, for the script.
        request: what was asked for.
        probe: the generated pictures.
        dissections: of the network, "trained", and of what it is compared with.
        removals: what breaks without units, by layer, once asked for.
        pictures: PNG files made so far, by what they show.
    """

    key: str
    model: VisionModel
    source: tuple[ModelChoice, Options]
    request: Request
    probe: TensorProbe
    dissections: dict[str, Dissection]
    removals: dict[str, Removal] = field(default_factory=dict)
    pictures: dict[Any, Any] = field(default_factory=dict)

    @property
    def found(self) -> Dissection:
        """The dissection of the network itself."""
        return self.dissections["trained"]

    @property
    def images_told(self) -> str:
        """The images in words."""
        return count(len(self.probe), "generated picture")


def draw(shown: Shown, loaded: Loaded, photos: Photos) -> None:
    """Draw the whole, then one layer with its units, then what can be done with them."""
    st.html(_STYLE)
    for note in shown.found.notes:
        st.caption(f":material/info: {plain(note)}")
    st.markdown(_headline(shown))
    _words()
    _summary(shown)
    _overview(shown)
    st.header("One layer", anchor=False)
    layer = shown.found[_choose_layer(shown)]
    units.section(shown, layer.layer)
    _concepts(layer)
    st.header("Your pictures", anchor=False)
    same = (loaded.model.digest, loaded.model.preset) == (shown.model.digest, shown.model.preset)
    if same:
        units.fired_section(shown, layer.layer, photos)
    else:
        st.caption(":material/info: The model in the sidebar is another one now. Run to look at its pictures.")
    st.header("Remove units", anchor=False)
    removed.section(shown, layer.layer)
    st.header("What an attack moves", anchor=False)
    moved.section(shown, layer.layer)
    st.header("Take it home", anchor=False)
    _home(shown, photos if same else None)


def _headline(shown: Shown) -> str:
    """Return the result in one or two sentences."""
    found = shown.found
    total, detectors = sum(map(len, found.values())), sum(int(one.detectors.sum()) for one in found.values())
    where = "" if len(found) == 1 else f" in {len(found)} layers"
    text = (
        f"**{detectors:,} of {count(total, 'unit')}{where} {'is a detector' if detectors == 1 else 'are detectors'}**"
    )
    best = max(found.values(), key=lambda one: (one.unique_best, int(one.detectors.sum())))
    if best.unique_best:
        common = Counter(best.concept[best.detectors].tolist()).most_common(_NAMED)
        names = ", ".join(plain(best.vocabulary.concepts[number]) for number, _ in common)
        what = f"{count(best.unique_best, 'different concept')}, {'most often' if best.unique_best > 1 else 'namely'} {names}"
        text += f"; those of {plain(best.layer)} detect {what}."
    else:
        text += ": no unit matches a concept better than the threshold."
    for name, other in shown.dissections.items():
        if name != "trained":
            number = sum(int(one.detectors.sum()) for one in other.values())
            who = "The same network untrained has" if name == "untrained" else "In a rotated basis there are"
            text += f" {who} {number:,}."
    return text


def _words() -> None:
    """Explain the words that the rest is told in."""
    items = "".join(
        f'<div style="flex:1 1 9.5rem"><b>{name}</b><br><span style="opacity:.75">{meaning}</span></div>'
        for name, meaning in _WORDS.items()
    )
    st.html(
        f'<div style="display:flex;flex-wrap:wrap;gap:.5rem 1.25rem;font-size:.8rem;line-height:1.35">{items}</div>'
    )


def _summary(shown: Shown) -> None:
    """Draw one row per layer."""
    with st.container(key="dissect-summary"):
        st.table(
            _rows(shown), border="horizontal", hide_index=True, alt="Per layer: units, detectors, concepts, chance."
        )
    st.caption(
        "In brackets the 95 % interval if other pictures of the kind had been drawn; it lies higher than the number where "
        "many units are just below the threshold."
    )


def _rows(shown: Shown) -> pd.DataFrame:
    import pandas as pd

    summaries = {
        name: {row.layer: row for row in found.summary().itertuples()} for name, found in shown.dissections.items()
    }
    rows = []
    for layer in shown.found:
        for name, summary in summaries.items():
            row: Any = summary[layer]
            rows.append(
                {
                    "Layer": plain(layer),
                    **({"Network": name} if len(summaries) > 1 else {}),
                    "Units": f"{row.units:,}",
                    "Detectors": f"**{row.detectors:,}** \\[{row.detectors_low:.0f}–{row.detectors_high:.0f}\\]",
                    "Different concepts": f"{row.unique_best}",
                    "Mean best IoU": f"{row.mean_iou:.3f} \\[{row.mean_iou_low:.3f}–{row.mean_iou_high:.3f}\\]",
                    "Chance": f"{row.chance:.3f}",
                    "Above chance": f"{row.above_chance:,}",
                    "Never active": f"{row.dead:,}",
                }
            )
    return pd.DataFrame(rows)


def _overview(shown: Shown) -> None:
    """Draw detectors by category on the left; on the right the layers one after the other, beside the comparisons."""
    from ..report import dissection

    found = shown.found
    with st.container(key="dissect-pair-overview"):
        left, right = st.columns(2, gap="medium", vertical_alignment="bottom")
    with left:
        told = ", ".join(f"{one.layer} {int(one.detectors.sum())} of {len(one)}" for one in found.values())
        chart(dissection.category_bars(found), "dissect categories", f"Detectors per layer, by category: {told}.")
    with right:
        what = st.segmented_control(
            "Per layer", list(_WHATS), format_func=_WHATS.__getitem__, default="unique", required=True,
            key="dissect compared", label_visibility="collapsed", persist_state="session",
        ) or "unique"  # fmt: skip
        chart(
            dissection.layers_figure(shown.dissections, what), "dissect comparison",
            f"{_WHATS[what]} per layer: {', '.join(shown.dissections)}.",
        )  # fmt: skip


def _choose_layer(shown: Shown) -> str:
    names = list(shown.found)
    if len(names) == 1:
        return names[0]
    chosen = st.segmented_control(
        "Layer", names, default=names[-1], required=True, key=f"dissect layer {shown.key}", format_func=plain,
        label_visibility="collapsed", persist_state="session",
    )  # fmt: skip
    return chosen or names[-1]


def _concepts(layer: LayerDissection) -> None:
    from ..report import dissection

    with st.container(key="dissect-pair-concepts"):
        left, right = st.columns(2, gap="medium")
    with left:
        chart(
            dissection.concept_bars(layer), "dissect concepts",
            f"How many units of {layer.layer} detect each concept; {layer.unique_best} concepts.",
        )  # fmt: skip
    with right:
        chart(
            dissection.ceiling_bars(layer), "dissect ceilings",
            f"The best IoU of any unit of {layer.layer} with each concept, beside the ceiling.",
        )  # fmt: skip


def _home(shown: Shown, photos: Photos | None) -> None:
    """Draw the script and the tables."""
    with st.expander("Copy as Python", icon=":material/code:"):
        st.code(recipe.dissection(shown, photos), language="python")
    tables = {"units": shown.found.frame, "layers": lambda: layers(shown), "concepts": shown.found.concepts}
    with st.container(horizontal=True):
        for name, table in tables.items():
            st.download_button(
                f"Download {name} (CSV)", _csv(table), f"{name}.csv", "text/csv",
                on_click="ignore", icon=":material/download:", key=f"dissect csv {name}",
            )  # fmt: skip


def layers(shown: Shown) -> pd.DataFrame:
    """Return the summary of the network, or of all that are compared."""
    import explain

    several = len(shown.dissections) > 1
    return explain.compare(shown.dissections).summary() if several else shown.found.summary()


def _csv(table: Callable[[], pd.DataFrame]) -> Callable[[], bytes]:
    """Return what makes the file once somebody asks for it."""
    return lambda: table().to_csv(index=False).encode()
