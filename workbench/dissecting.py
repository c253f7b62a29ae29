"""A dissection with its controls: the same network untrained or rotated, other networks, what breaks without units, and what
an attack moves. ``explain`` computes each alone; here they are computed about the same layers and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import OptionError
from .unit_layers import first_look, layers_with_units

if TYPE_CHECKING:
    import os

    from torch import Tensor

    import attacks
    import explain
    from explain.dissection import Ablation, AblationCurve, Comparison, Dissection, MovedUnits, Probe

    from .models import VisionModel

    Progress = Callable[[int, int, str], None]

CONTROLS = ("random", "rotated")
EPSILON = 8 / 255
_FITTED = 64  # images that the statistics of the untrained network are fitted to
_REMOVED = 400  # images on which units are removed: half of them rank the units, the other half tells what they matter
_ATTACKED = 64
_LARGE = 128 * 128  # pixels, from which on a quarter of them is attacked
_STEPS = 1000  # of progress


@dataclass(frozen=True, repr=False, eq=False)
class Findings:
    """What was found about some layers of one network.

    Attributes:
        model: the network.
        probe: the images and their concepts.
        dissection: of the network.
        others: name → dissection of what it is compared with.
        ablation: importance of the last layer's units; ``None``: not asked for, or no labels.
        curves: removing units, for all classes on average and for ``label``.
        moved: what PGD did to the last layer's units; ``None``: not asked for.
        attack: that attack.
        label: the class that is looked at closely.
        notes: why something that was asked for is missing.
        seed: of everything random.
    """

    model: VisionModel
    probe: Probe
    dissection: Dissection
    others: dict[str, Dissection]
    ablation: Ablation | None
    curves: tuple[AblationCurve, ...]
    moved: MovedUnits | None
    attack: attacks.AttackResult | None
    label: int | None
    notes: tuple[str, ...]
    seed: int

    def __repr__(self) -> str:
        return f"Findings({self.dissection!r}{''.join(f'; {name}' for name in self.others)})"

    @property
    def last(self) -> explain.LayerDissection:
        """The last of the layers: the one that units are removed from."""
        return self.dissection[next(reversed(self.dissection.results))]

    @property
    def comparison(self) -> Comparison | None:
        """The network and the others side by side; ``None`` without others."""
        import explain

        return explain.compare({self.model.name: self.dissection, **self.others}) if self.others else None


def default_layers(model: VisionModel) -> tuple[str, ...]:
    """Return a few layers from front to back.

    Raises:
        OptionError: no layer has units.
    """
    layers = layers_with_units(model)
    if not layers:
        raise OptionError("No layer of this network has units to look at", model.name, "Name one with --layers.")
    return first_look(layers)


def investigate(
    model: VisionModel,
    probe: Probe,
    layers: Sequence[str] | None = None,
    *,
    against: Mapping[str, VisionModel | None] | None = None,
    labels: Tensor | None = None,
    ablate: bool = False,
    attack: bool = False,
    quantile: float = 0.005,
    iou_threshold: float = 0.04,
    permutations: int = 3,
    seed: int = 0,
    memory: int = 1 << 30,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Dissect a network and what it is compared with, and measure what its units matter.

    Args:
        model: the network.
        probe: images of one size, annotated.
        layers: dotted names; :func:`default_layers` by default.
        against: name → another network; "random" and "rotated" need none: the network untrained, its basis turned.
        labels: the images' classes, for ``ablate``.
        ablate: remove units of the last layer.
        attack: attack images with PGD at l∞ 8/255 and see which units it moves.
        quantile, iou_threshold, permutations, seed, memory, cache: of ``explain.dissect``.
        progress: called as ``progress(done, total, what)``; an exception from it cancels.

    Raises:
        OptionError, explain.ExplainError: what was asked for makes no sense.
    """
    import explain

    chosen = tuple(layers or default_layers(model))
    others = dict(against or {})
    ablated = ablate and labels is not None
    steps = _Steps(progress, 1 + len(others) + 3 * ablated + 2 * attack)
    options: dict[str, Any] = {
        "quantile": quantile, "iou_threshold": iou_threshold, "permutations": permutations, "seed": seed,
        "memory": memory, "cache": cache,
    }  # fmt: skip
    found = explain.dissect(model, probe, chosen, **options, progress=steps.next(model.name))
    compared: dict[str, Dissection] = {}
    for name, other in others.items():
        tick = steps.next(name)
        if other is not None:
            compared[name] = explain.dissect(other, probe, _of_other(other, model, chosen), **options, progress=tick)
        elif name == "random":
            twin = explain.randomised(model, _stacked(probe, _FITTED, found), seed)
            compared[name] = explain.dissect(twin, probe, chosen, **options, progress=tick)
        else:
            basis = {layer: explain.random_rotation(len(one), seed=seed) for layer, one in found.items()}
            compared[name] = explain.dissect(model, probe, chosen, basis=basis, **options, progress=tick)
    notes: list[str] = []
    last = next(reversed(found.results))
    result, moved = _attacked(model, probe, found, last, labels, seed, steps) if attack else (None, None)
    label = None if moved is None else _most_fooled(moved)
    ablation: Ablation | None = None
    curves: tuple[AblationCurve, ...] = ()
    if ablate and labels is None:
        notes.append("Units were not removed: what they matter is measured on images of known classes.")
    elif ablate and labels is not None:
        ablation, curves, label = _removed(model, probe, found, last, labels, label, seed, steps)
    return Findings(model, probe, found, compared, ablation, curves, moved, result, label, tuple(notes), seed)


def _of_other(other: VisionModel, model: VisionModel, layers: tuple[str, ...]) -> tuple[str, ...]:
    if other.input_size != model.input_size:
        raise OptionError(
            "The networks take images of different sizes",
            f"{other.name}: {other.input_size}",
            "Compare networks alike.",
        )
    known = {layer.name for layer in other.layers()}
    return layers if known.issuperset(layers) else default_layers(other)


def _attacked(
    model: VisionModel, probe: Probe, found: Dissection, layer: str, labels: Tensor | None, seed: int, steps: _Steps
) -> tuple[attacks.AttackResult, MovedUnits]:
    import torch

    import attacks
    import explain

    height, width = probe.size(0)
    most = _ATTACKED // 4 if height * width >= _LARGE else _ATTACKED
    rows = _readable(probe, most, found)
    images = torch.stack([probe.image(row) for row in rows])
    with torch.no_grad():
        predicted = torch.cat([model(part.to(model.device)).argmax(1).cpu() for part in torch.split(images, 32)])
    # A unit moves away from what the network answered: on an image that it gets wrong there is nothing to attack.
    truth = predicted if labels is None else labels[rows]
    result = attacks.attack(
        model, images, truth, "pgd", epsilon=EPSILON, seed=seed, ids=[probe.ids[row] for row in rows],
        progress=steps.next("attack"),
    )  # fmt: skip
    steps.next("moved units")(0, 1, "activations")
    return result, explain.moved_units(model, images, result.images.cpu(), layer)


def _removed(
    model: VisionModel,
    probe: Probe,
    found: Dissection,
    layer: str,
    labels: Tensor,
    label: int | None,
    seed: int,
    steps: _Steps,
) -> tuple[Ablation, tuple[AblationCurve, ...], int]:
    import torch

    import explain

    rows = _readable(probe, _REMOVED, found)
    half = max(len(rows) // 2, 1)
    images, truth = torch.stack([probe.image(row) for row in rows]), labels[rows]
    ablation = explain.ablate(model, images[:half], truth[:half], layer, progress=steps.next("importance"))
    rest = (images[half:], truth[half:]) if len(rows) > 1 else (images, truth)
    known = ablation.base.isfinite()
    shown = known & torch.tensor([bool((rest[1] == one).any() and (rest[1] != one).any()) for one in range(len(known))])
    if label is None or not bool(shown[label]):
        candidates = shown if bool(shown.any()) else known
        label = int(ablation.margin.amax(0).where(candidates, -torch.inf).argmax())
    curves = []
    for one in (None, label):
        tick = steps.next("removing units")
        if one is None or bool(shown[one]):
            curves.append(explain.ablation_curve(model, *rest, ablation, label=one, seed=seed, progress=tick))
    return ablation, tuple(curves), label


def _most_fooled(moved: MovedUnits) -> int | None:
    left = moved.labels[moved.labels != moved.fooled_as]
    return int(left.mode().values) if len(left) else None


def _readable(probe: Probe, most: int, found: Dissection) -> list[int]:
    gone = {name for name, _ in found.skipped}
    return [row for row in range(len(probe)) if probe.ids[row] not in gone][:most]


def _stacked(probe: Probe, most: int, found: Dissection) -> Tensor:
    import torch

    return torch.stack([probe.image(row) for row in _readable(probe, most, found)])


class _Steps:
    """One bar for several runs, each with the same share of it."""

    def __init__(self, progress: Progress | None, count: int) -> None:
        self._progress, self._count, self._now = progress, count, -1

    def next(self, name: str) -> Progress:
        """Return the callback of the next run."""
        self._now += 1
        before = self._now

        def tick(done: int, total: int, what: str) -> None:
            if self._progress is not None:
                share = min(done / max(total, 1), 1.0)
                at = round(_STEPS * (before + share) / self._count)
                self._progress(at, _STEPS, f"{name}: {what}" if what and what != name else name)

        return tick
