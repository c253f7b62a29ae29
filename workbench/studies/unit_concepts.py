"""Do single units of trained networks stand for concepts? The claims of network dissection, put to the test on the samples.

Bau et al. compared networks of ImageNet and Places with untrained ones and with rotations of their own basis, on Broden. Here
the networks are small and the concepts are those of the generated shapes, annotated to the pixel. Which claims carry over is
decided by criteria that were written down before; intervals come from resampling the images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .study import Progress, Study, StudyResult

if TYPE_CHECKING:
    import pandas as pd

    from explain import Dissection, LayerDissection

    from ..models import VisionModel
    from ..probes import TensorProbe

LAYERS = {
    "shapes-vgg": ("relu1", "relu3", "relu5", "relu6"),
    "shapes-resnet": ("layer1", "layer2", "layer3", "layer4"),
    "shapes-mobilenet": ("features.0", "features.3", "features.8", "features.12"),
}
SEEDS = (0, 1, 2)  # of untrained weights, and of rotations
LATE = 2  # layers, from the end
TIMES = 10
REMOVED = 8  # one unit in so many
_DRAWS = 10
_TITLES = (
    "Detectors, unique concepts, mean IoU in %: trained with 95 % intervals; untrained and rotated with the range of three draws",
    "What units detect: share of all units, %",
    "Attainable IoU: what a perfect unit could reach at this quantile, and the best one that there is, %",
    "Claims",
)


@dataclass(frozen=True)
class Finding:
    """One claim on one network: ``holds`` is ``None`` where the intervals do not decide it."""

    model: str
    claim: str
    measured: str
    holds: bool | None


def run(
    n: int = 300, seed: int = 0, *, models: Sequence[str] = tuple(LAYERS), progress: Progress | None = None
) -> StudyResult:
    """Dissect the trained networks, untrained ones, and rotated bases; remove the units that matter.

    Args:
        n: images of the probe.
        seed: of the images and of the resampling.
        models: sample networks, without ``sample:``.
        progress: called as ``progress(done, total, what)``; an exception from it cancels.

    Raises:
        OptionError: ``n`` is less than 10, or a network is not part of the study.
    """
    import pandas as pd
    import torch

    from .. import __version__, load
    from ..probes import shapes_probe

    started = time.perf_counter()
    for name in models:
        if name not in LAYERS:
            raise OptionError("The study has no such network", name, f"There are: {', '.join(LAYERS)}.")
    if n < 10:
        raise OptionError("The study needs at least 10 images, one per class", n, "Pass 300, say.")
    probe = shapes_probe(n, seed=seed)
    rows: list[dict[str, Any]] = []
    findings: list[Finding] = []
    digests = {"probe": probe.digest}
    ceilings = None
    parts = 2 + 2 * len(SEEDS)
    for index, name in enumerate(models):
        model = load(f"sample:{name}")
        digests[name] = model.digest
        tick = _Ticks(progress, index * parts, len(models) * parts, name)
        found = _dissections(model, name, probe, seed, tick)
        rows += [_row(name, basis, number, one) for basis, every in found.items() for number, each in enumerate(every)
                 for one in each.values()]  # fmt: skip
        findings += judge(name, found)
        findings.append(_removal(model, name, n, seed))
        tick("units removed")
        trained = found["trained"][0].concepts().assign(model=name)
        ceilings = trained if ceilings is None else pd.concat([ceilings, trained])
    table = pd.DataFrame(rows)
    verdict, sentence = conclude(findings)
    provenance = {
        "options": {"n": n, "seed": seed, "models": list(models), "seeds": list(SEEDS), "quantile": 0.005},
        "digests": digests,
        "versions": {"workbench": __version__, "torch": torch.__version__},
        "seconds": time.perf_counter() - started,
    }
    assert ceilings is not None
    return StudyResult(STUDY, table, summarise(table, ceilings, findings), verdict, sentence, provenance)


def judge(name: str, found: dict[str, list[Dissection]]) -> list[Finding]:
    """Hold the dissections of one network against the criteria.

    Args:
        name: of the network.
        found: "trained" (one), "random" and "rotated" (one per seed) → dissections of the same layers.
    """
    (trained,) = found["trained"]
    layers = list(trained)
    late = layers[-LATE:]

    def detectors(one: Dissection) -> int:
        return sum(int(one[layer].detectors.sum()) for layer in late)

    random = sum(map(detectors, found["random"])) / len(found["random"])
    first, last = (_share(trained[layer], ("part", "object")) for layer in (layers[0], layers[-1]))
    unique, rotated = (
        sum(one[layer].unique_best for one in every for layer in late) / len(every)
        for every in (found["trained"], found["rotated"])
    )
    low = sum(trained[layer].unique().low for layer in late)
    strength = sum(trained[layer].mean_iou().value for layer in late) / LATE
    strength_low = sum(trained[layer].mean_iou().low for layer in late) / LATE
    weaker = sum(one[layer].mean_iou().value for one in found["rotated"] for layer in late) / LATE / len(SEEDS)
    count = detectors(trained)
    return [
        Finding(name, CLAIMS[0], f"{count} against {random:.1f}", count >= TIMES * max(random, 1 / TIMES)),
        Finding(
            name, CLAIMS[1], f"{first[0]:.0%} of {layers[0]}, {last[0]:.0%} of {layers[-1]}",
            _decided(last[1] > first[2], last[0] <= first[0]),
        ),
        Finding(name, CLAIMS[2], f"{unique:.0f} against {rotated:.1f}", _decided(low > rotated, rotated >= unique)),
        Finding(
            name, CLAIMS[3], f"{strength:.1%} against {weaker:.1%}", _decided(strength_low > weaker, weaker >= strength)
        ),
    ]  # fmt: skip


def conclude(findings: Sequence[Finding]) -> tuple[str, str]:
    """Return the verdict and its sentence."""
    held = sum(one.holds is True for one in findings)
    open_ = sum(one.holds is None for one in findings)
    verdict = "confirmed" if held == len(findings) else "refuted" if held == 0 and not open_ else "mixed"
    parts = []
    for claim in dict.fromkeys(one.claim for one in findings):
        about = [one for one in findings if one.claim == claim]
        parts.append(f"{claim}: {sum(one.holds is True for one in about)} of {len(about)}")
    return verdict, f"{verdict}. Networks on which the claims hold. {'; '.join(parts)}."


def summarise(table: pd.DataFrame, ceilings: pd.DataFrame, findings: Sequence[Finding]) -> dict[str, pd.DataFrame]:
    """Return the tables for reading."""
    import pandas as pd

    counts, kinds = [], []
    for (name, layer, basis), some in table.groupby(["model", "layer", "basis"], sort=False):
        one = some.iloc[0]
        row = {"network": name, "layer": layer, "basis": basis, "units": int(one["units"])}
        for what, title, scale in (("detectors", "detectors", 1), ("unique", "unique", 1), ("iou", "mean IoU", 100)):
            low, high = (
                (some[what].min(), some[what].max()) if len(some) > 1 else (one[f"{what}_low"], one[f"{what}_high"])
            )
            row[title] = f"{scale * some[what].mean():.3g} ({scale * low:.3g}–{scale * high:.3g})"
        counts.append({**row, "chance": f"{100 * some['chance'].mean():.2g}"})
        if basis == "trained":
            shares = {kind: f"{one[f'share {kind}']:.0%}" for kind in _kinds(table)}
            kinds.append({"network": name, "layer": layer, **shares})
    attainable = []
    for category, group in ceilings.groupby("category", sort=False):
        low, high = group["ceiling"].min(), group["ceiling"].max()
        best = group.sort_values("best_iou").iloc[-1]
        where = f"{best['model']} {best['best_layer']} unit {best['best_unit']}"
        row = {"category": category, "concepts": int(group["concept"].nunique())}
        row |= {"share of pixels": f"{group['share'].mean():.1%}", "attainable IoU": f"{low:.0%} to {high:.0%}"}
        row |= {"best IoU": f"{best['best_iou']:.0%}"}
        attainable.append({**row, "reached by": f"{where}: {best['concept']} (attainable {best['ceiling']:.0%})"})
    words = {True: "holds", False: "does not hold", None: "not decided"}
    judged = [
        {"network": one.model, "claim": one.claim, "measured": one.measured, "": words[one.holds]} for one in findings
    ]
    frames = (pd.DataFrame(counts), pd.DataFrame(kinds), pd.DataFrame(attainable), pd.DataFrame(judged))
    return dict(zip(_TITLES, frames, strict=True))


def _dissections(
    model: VisionModel, name: str, probe: TensorProbe, seed: int, tick: _Ticks
) -> dict[str, list[Dissection]]:
    """Dissect the trained network, untrained ones, and rotated bases of the trained one."""
    import torch

    import explain

    layers = LAYERS[name]
    found: dict[str, list[Dissection]] = {"trained": [explain.dissect(model, probe, layers, seed=seed)]}
    tick("trained")
    images = torch.stack([probe.image(i) for i in range(min(len(probe), 64))])
    widths = {layer: len(one) for layer, one in found["trained"][0].items()}
    for number in SEEDS:
        twin = explain.randomised(model, images, number)
        found.setdefault("random", []).append(explain.dissect(twin, probe, layers, seed=seed))
        tick("untrained")
        basis = {layer: explain.random_rotation(width, seed=number).float() for layer, width in widths.items()}
        found.setdefault("rotated", []).append(explain.dissect(model, probe, layers, basis=basis, seed=seed))
        tick("rotated")
    return found


def _removal(model: VisionModel, name: str, n: int, seed: int) -> Finding:
    """Rank the units of the last layer for each class on training images, and remove the first eighth on test images."""
    import torch

    import explain

    from ..samples import sample_data

    ranked, held_out = sample_data("shapes", "train", n, seed), sample_data("shapes", "test", n, seed)
    assert ranked.labels is not None and held_out.labels is not None
    ablation = explain.ablate(model, ranked.images, ranked.labels, LAYERS[name][-1])
    count = max(1, len(ablation.importance) // REMOVED)
    worse, falls = 0, torch.zeros(model.num_classes, 2)
    for label in range(model.num_classes):
        curve = explain.ablation_curve(
            model,
            held_out.images,
            held_out.labels,
            ablation,
            label=label,
            counts=[count],
            draws=_DRAWS,
            keep=False,
            seed=seed,
        )
        means = {kind: mean for _, kind, mean, _, _ in curve.rows}
        lowest = {kind: low for _, kind, _, low, _ in curve.rows}
        worse += means["remove most"] < lowest["remove random"]
        falls[label] = torch.tensor([means["remove most"], means["remove random"]])
    most, random = falls.mean(0).tolist()
    measured = f"{most:.1%} against {random:.1%} without {count} units, worse for {worse} of {len(falls)} classes"
    return Finding(name, CLAIMS[4], measured, _decided(worse >= 0.9 * len(falls), worse < 0.5 * len(falls)))


def _row(name: str, basis: str, number: int, one: LayerDissection) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": name, "layer": one.layer, "basis": basis, "draw": number, "units": len(one), "chance": one.chance,
        "above_chance": int((one.best > one.chance).sum()), "unique_by_category": one.unique_by_category,
        "dead": int(one.dead.sum()),
    }  # fmt: skip
    for what, interval in (("detectors", one.count()), ("unique", one.unique()), ("iou", one.mean_iou())):
        row |= {what: interval.value, f"{what}_low": interval.low, f"{what}_high": interval.high}
    for kind in one.vocabulary.kinds:
        row[f"share {kind}"], row[f"share {kind} low"], row[f"share {kind} high"] = _share(one, (kind,))
    return row


def _share(one: LayerDissection, kinds: tuple[str, ...]) -> tuple[float, float, float]:
    """Return the share of units that detect a concept of these categories, with its interval."""
    import torch

    chosen = torch.tensor([kind in kinds for kind in one.vocabulary.kinds])[one.vocabulary.kind[one.concept]]
    replicates = (one.replicates[:, chosen] > one.iou_threshold).sum(1).double() / len(one)
    low, high = (float(replicates.quantile(q)) for q in (0.025, 0.975)) if len(replicates) else (float("nan"),) * 2
    return float((one.detectors & chosen).sum()) / len(one), low, high


def _decided(yes: bool, no: bool) -> bool | None:
    return True if yes else False if no else None


def _kinds(table: pd.DataFrame) -> list[str]:
    return [
        name.removeprefix("share ") for name in table.columns
        if name.startswith("share ") and not name.endswith((" low", " high"))
    ]  # fmt: skip


class _Ticks:
    """One progress over all networks."""

    def __init__(self, progress: Progress | None, done: int, total: int, name: str) -> None:
        self._progress, self._done, self._total, self._name = progress, done, total, name

    def __call__(self, what: str) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total, f"{self._name}, {what}")


CLAIMS = (
    f"trained networks have at least {TIMES} times as many detectors as untrained ones, in the last {LATE} layers",
    "the deeper the layer, the more parts and objects are detected",
    "rotating the basis lowers the number of unique detectors",
    "rotating the basis lowers the mean IoU",
    "removing a class's most important units costs its balanced accuracy more than removing random ones",
)

STUDY = Study(
    name="unit-concepts",
    claim=(
        "Units of trained networks detect concepts: far more than in untrained networks, more parts and objects with depth, and "
        "more than in a rotated basis; without the units that matter for a class, the network loses that class."
    ),
    source=(
        "D. Bau, B. Zhou, A. Khosla, A. Oliva, A. Torralba, Network Dissection, CVPR 2017; D. Bau et al., Understanding the role "
        "of individual units in a deep neural network, PNAS 2020"
    ),
    protocol=(
        "Three trained sample networks, four layers each, 300 test images of the generated shapes (seed 0), quantile 0.005, IoU "
        "threshold 0.04. Beside each: three untrained copies (batch statistics fitted) and three random rotations of every "
        "layer's basis. Intervals: 95 %, from 1000 resamplings of 64 groups of images, every unit's concept held fixed. Criteria "
        f"per network: (1) in the last {LATE} layers together, at least {TIMES} times the untrained copies' mean number of "
        "detectors; (2) the share of units that detect parts or objects is greater in the last layer than in the first, the "
        "intervals apart; (3, 4) unique detectors, and mean best IoU, of the last two layers: the rotations' mean lies below the "
        "trained network's interval; it does not hold if the mean is no smaller than the trained figure, and is not decided in "
        f"between; (5) units ranked on training images, one in {REMOVED} removed on test images: at least nine classes in ten "
        f"fall below all of {_DRAWS} random draws; it does not hold if fewer than half do. (4) is not the paper's claim, but "
        "what a preliminary study saw instead of (3). Confirmed if everything holds everywhere, refuted if nothing does, mixed "
        "otherwise."
    ),
    run=run,
)
