"""What breaks without units: a part of the page "Dissect".

It needs answers that count as right: the truth where the model's classes are those of the generated shapes, else its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from . import jobs, loading
from .pictures import chart
from .text import count, plain

if TYPE_CHECKING:
    from torch import Tensor

    from attacks import AttackResult
    from explain.dissection import Ablation, AblationCurve, MovedUnits

    from ..models import VisionModel
    from .dissected import Shown

IMAGES, IMAGES_LARGE = 300, 100
ATTACKED, ATTACKED_LARGE = 40, 16
_LARGE = 128 * 128


class Labelled(NamedTuple):
    """Generated pictures and the answers that count as right."""

    images: Tensor
    labels: Tensor


@dataclass(eq=False, repr=False)
class Removal:
    """What is known of the units of one layer.

    Attributes:
        ablation: what each unit matters.
        curves: of removing several, by class; ``None`` for all.
        attack, moved: an attack, and what it changed, once asked for.
    """

    ablation: Ablation
    curves: dict[int | None, AblationCurve] = field(default_factory=dict)
    attack: AttackResult | None = None
    moved: MovedUnits | None = None

    @property
    def classes(self) -> list[int]:
        """The classes that some pictures have and others have not: only those can be told from the rest."""
        found: list[int] = self.ablation.base.isfinite().nonzero().flatten().tolist()
        return found


def knows_shapes(model: VisionModel) -> bool:
    """Whether the model's classes are those of the generated shapes."""
    from ..samples import sample_data

    return tuple(model.classes or ()) == tuple(sample_data("shapes", n=1).classes)


def how_many(model: VisionModel) -> tuple[int, int]:
    """Return how many pictures units are removed on, and how many are attacked."""
    large = model.input_size[1] * model.input_size[2] > _LARGE
    return (IMAGES_LARGE, ATTACKED_LARGE) if large else (IMAGES, ATTACKED)


def labelled(model: VisionModel, split: str) -> Labelled:
    """Return generated pictures at the model's size, with the truth, or with what the model answers."""
    import torch

    from ..samples import sample_data

    images, _ = how_many(model)
    channels, height, width = model.input_size
    probe = loading.generated(images, split, (height, width), channels)
    pixels = torch.stack([probe.image(i) for i in range(len(probe))])
    truth = sample_data("shapes", split, images).labels if knows_shapes(model) else None
    if truth is None:
        with torch.no_grad():
            truth = torch.cat([model(part).argmax(1) for part in torch.split(pixels, 32)])
    return Labelled(pixels, truth)


# ---- removing


def section(shown: Shown, layer: str) -> None:
    """Draw the button that removes each unit in turn; once done, the units that a class needs and the curve."""
    images, _ = how_many(shown.model)
    st.markdown(
        "Does the network need its units? Each is set to zero in turn, and what its absence costs every class ranks them. "
        "On other pictures the most important ones are then removed together, beside as many at random and as many of the "
        f"least important.{_whose(shown.model)}"
    )
    removal = shown.removals.get(layer)
    if removal is None:
        units = len(shown.found[layer])
        jobs.offer(
            "Removing units",
            f"Remove each of {count(units, 'unit')} of {plain(layer)}: the layers after it, {units:,} times, for "
            f"{count(images, 'picture')}",
            lambda progress: remove(shown, layer, progress), lambda made: keep(shown, layer, made),
            icon=":material/content_cut:",
        )  # fmt: skip
        return
    if not removal.classes:
        st.info("The network answers the same to all of them, so there is nothing that could break.")
        return
    label = _choose_class(shown, layer, removal)
    with st.container(key="dissect-pair-removed"):
        left, right = st.columns(2, gap="medium")
    with left:
        _importance(shown, layer, removal, label)
    with right:
        _curve(shown, layer, removal, label)


def _whose(model: VisionModel) -> str:
    return "" if knows_shapes(model) else (
        " The classes of this model are not those of the generated shapes, so its own answers count as right."
    )  # fmt: skip


def remove(shown: Shown, layer: str, progress: jobs.Progress) -> Removal:
    import explain

    model = shown.model
    train = labelled(model, "train")
    ablation = explain.ablate(model, train.images, train.labels, layer, batch_size=batch_size(model), progress=progress)
    removal = Removal(ablation)
    if removal.classes:
        removal.curves[None] = _measured(shown, removal, None, progress)
    return removal


def _measured(shown: Shown, removal: Removal, label: int | None, progress: jobs.Progress) -> AblationCurve:
    import explain

    test = labelled(shown.model, "test")
    return explain.ablation_curve(
        shown.model, test.images, test.labels, removal.ablation, label=label, batch_size=batch_size(shown.model),
        progress=progress,
    )  # fmt: skip


def batch_size(model: VisionModel) -> int:
    return 64 if model.input_size[1] * model.input_size[2] <= _LARGE else 8


def keep(shown: Shown, layer: str, made: Removal) -> None:
    shown.removals[layer] = made


def _choose_class(shown: Shown, layer: str, removal: Removal) -> int | None:
    known = removal.classes
    labels = [None, *known]
    place = st.selectbox(
        "Class", range(len(labels)), key=f"dissect class {shown.key} {layer}", persist_state="session",
        format_func=lambda i: class_told(shown.model, labels[i]), width=320,
        help=None if len(known) == shown.model.num_classes else "Classes that no picture has are not listed.",
    )  # fmt: skip
    return labels[place or 0]


def class_told(model: VisionModel, label: int | None) -> str:
    if label is None:
        return "All classes on average"
    return f"{label}: {model.class_name(label)}" if model.classes else model.class_name(label)


def _importance(shown: Shown, layer: str, removal: Removal, label: int | None) -> None:
    from ..report import dissection

    one = shown.found[layer]
    names = [one.name(unit) if bool(one.detectors[unit]) else "" for unit in range(len(one))]
    told = class_told(shown.model, label)
    chart(
        dissection.importance_bars(removal.ablation, label, names, class_name=told), "dissect importance",
        f"The units of {layer} that matter most. {told}.",
    )  # fmt: skip
    st.caption(
        "Margin: by how much the logit of the right class is above all others. It falls long before accuracy does."
    )


def _curve(shown: Shown, layer: str, removal: Removal, label: int | None) -> None:
    from ..report import dissection

    told = class_told(shown.model, label)
    if (curve := removal.curves.get(label)) is None:
        images, _ = how_many(shown.model)
        st.markdown(f"How does {plain(told)} fare as units go, the most important for it first?")
        jobs.offer(
            "Removing several units", f"Remove 1, 2, 4, … units, beside controls, on {count(images, 'picture')}",
            lambda progress: _measured(shown, removal, label, progress),
            lambda made: removal.curves.__setitem__(label, made),
            icon=":material/content_cut:",
        )  # fmt: skip
        return
    chart(
        dissection.ablation_figure(curve, told), "dissect curve",
        f"Balanced accuracy as units are removed or kept; {curve.base:.0%} with all of them. {told}.",
    )  # fmt: skip
    st.caption(
        "Balanced accuracy: the mean of two shares, of the class that is found, and of the others that are not taken for it."
    )
