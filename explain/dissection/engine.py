"""``explain.dissect``: check what comes in, run both passes, and put the result together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from explain.digest import content_digest
from explain.dissection.field import Axis, Field
from explain.dissection.journal import Journal, key_of, package_digest, source_digest
from explain.dissection.options import Options, check_count, check_probe
from explain.dissection.probe import Probe
from explain.dissection.results import Dissection, LayerDissection
from explain.dissection.run import Run
from explain.dissection.tally import Tally, Vocabulary, iou
from explain.dissection.units import Units
from explain.fingerprint import fingerprint
from explain.view import View, private_view

Progress = Callable[[int, int, str], None]

MEMORY = 1 << 30  # bytes
_CHUNK = 1 << 24  # replicated counts at a time


def dissect(
    model: nn.Module,
    probe: Probe,
    layers: str | Sequence[str] | None = None,
    *,
    quantile: float = 0.005,
    iou_threshold: float = 0.04,
    basis: Mapping[str, Tensor] | None = None,
    permutations: int = 3,
    replicates: int = 1000,
    top: int = 9,
    seed: int = 0,
    batch_size: int = 32,
    memory: int = MEMORY,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Dissection:
    """Tell which concept each unit of some layers detects, how well, and how sure that is.

    After D. Bau, B. Zhou, A. Khosla, A. Oliva, A. Torralba, "Network Dissection", CVPR 2017: a unit's map is interpolated
    between receptive-field centres, cut at its top quantile, and compared with the concepts' pixels by intersection over
    union. Thresholds are exact; no activations are stored unless they fit into ``memory``.

    Args:
        model: maps images in [0, 1] to anything; convolutional or transformer. It is not changed.
        probe: images with annotated concepts; see ``workbench.probes``.
        layers: dotted names; ``None`` for the last layer with space. All of them are dissected in the same passes.
        quantile: share of all activations of a unit that may exceed its threshold.
        iou_threshold: a unit is a detector if its best IoU is greater.
        basis: layer → ``(V, U)``: look at V combinations of the layer's units instead (see ``explain.random_rotation``).
        permutations: how often annotations are dealt out to other images, for the level of chance.
        replicates: bootstrap samples of the images, for the intervals.
        top: how many of the most activating images are remembered per unit.
        seed: of the order of images, the permutations and the bootstrap.
        batch_size: images per forward pass; changes no result.
        memory: bytes that maps may take; beyond, the images go through the network twice. Changes no result.
        cache: a folder for finished results and for the states of long runs. The same call finds its result there, and an
            interrupted one goes on; the key holds everything that a result depends on, code included.
        progress: called as ``progress(done, total, what)`` after each batch; an exception from it cancels, and with a
            ``cache`` nothing done so far is lost.

    Raises:
        InputError: options make no sense, or no image can be dissected.
        ModelError: the network fails on the images, or gives NaN.
        LayerError: there is no such layer.
        NotApplicable: a layer has no units.
        ProbeError: nothing of the probe can be read, or a label has no name.
    """
    started = time.perf_counter()
    check_probe(probe)
    check_count("batch_size", batch_size, 1)
    check_count("memory", memory, 0)
    options = Options(quantile, iou_threshold, permutations, replicates, top, seed)
    view = private_view(model)
    units = Units(view, [layers] if isinstance(layers, str) else layers, basis)
    about = _about(view, probe, units, options)
    key, unknown = (None, ()) if cache is None else _key(view, probe, about)
    journal = None if cache is None or key is None else Journal(cache, key)
    found = None if journal is None else journal.result()
    reused = found is not None
    if found is None:
        # Networks that look at the whole batch have maps of their own only for a batch of one.
        run = Run(units, probe, options, 1 if view.notices else batch_size, memory, journal, progress)
        run.go()
        found = _record(run)
        if journal is not None:
            journal.finish(found)
    if unknown:
        held = ", ".join(unknown[:3])
        found["notes"] = [
            *found["notes"],
            f"not kept in the cache: what the network holds in {held} cannot be told apart",
        ]
    provenance = {
        **about,
        "model": getattr(model, "name", type(view.root).__name__),
        "key": key,
        "versions": {"torch": torch.__version__},
        "device": str(view.device),
        "reused": reused,
        "seconds": time.perf_counter() - started,
    }
    return _result(found, probe, options, provenance)


def _about(view: View, probe: Probe, units: Units, options: Options) -> dict[str, Any]:
    """Return what a result is made from, as far as people want to see it."""
    return {
        "model_digest": content_digest(view.forward),
        "probe_digest": probe.digest,
        "layers": units.layers,
        "options": asdict(options),
        "basis": {name: key_of({"rows": one.tolist()}) for name, one in units.given.items() if isinstance(one, Tensor)},
    }


def _key(view: View, probe: Probe, about: dict[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """Return the key of a result; or none, and what it hangs on that cannot be told apart."""
    code, unknown = fingerprint(view.forward)
    parts = {
        **about,
        "code": code,
        "probe_code": package_digest(type(probe)),
        "source": source_digest(),
        "torch": torch.__version__,
        "device": view.device.type,
    }
    return (None, unknown) if unknown else (key_of(parts), ())


def _record(run: Run) -> dict[str, Any]:
    """Return everything that was found, as tensors and plain values."""
    found: dict[str, Any] = {
        "skipped": [(run.probe.ids[index], reason) for index, reason in sorted(run.skipped.items())],
        "notes": _notes(run),
        "layers": list(run.layers),
        "fields": {},
    }
    size = run.probe.size(next(i for i in range(len(run.probe)) if i not in run.skipped))
    for name, layer in run.layers.items():
        field = run.fields(size)[name]
        found["fields"][name] = {**asdict(field), "size": run.sites(size)[name].size}
        tally, null = layer.tally, layer.null
        assert layer.thresholds is not None
        columns = {
            "thresholds": layer.thresholds, "floor": layer.floor, "top_values": layer.top_values,
            "top_images": layer.top_images, "both": tally.both.sum(0), "area": tally.area.sum(0).long(),
            "labels": tally.labels.sum(0), "annotated": tally.annotated.sum(0),
            "null": iou(null.both, null.area, null.labels, null.vocabulary.kind).amax(2),
            **_bootstrap(tally, run.options),
        }  # fmt: skip
        found |= {f"{name}/{part}": value.cpu() for part, value in columns.items()}
    return found


def _notes(run: Run) -> list[str]:
    notes = list(run.units.view.notices)
    if run.units.drew_random:
        notes.append("the network draws random numbers in evaluation mode: another run gives other activations")
    if run.skipped:
        notes.append(f"{len(run.skipped)} of {len(run.probe)} images could not be read and were left out")
    size = run.probe.size(next(i for i in range(len(run.probe)) if i not in run.skipped))
    sites, placed = run.sites(size), run.fields(size)
    regular = [
        n for n in run.layers if not placed[n].measured and sites[n].layout != "tokens" and sites[n].size != (1, 1)
    ]
    if regular:
        notes.append(f"no receptive field that ends was found for {', '.join(regular)}: positions are a regular grid")
    return notes


def _bootstrap(tally: Tally, options: Options) -> dict[str, Tensor]:
    """Resample groups of images with replacement; every unit keeps the concept that it has on all of them."""
    kind = tally.vocabulary.kind.to(tally.both.device)
    whole = iou(tally.both.sum(0), tally.area.sum(0), tally.labels.sum(0), kind)
    groups, units, kinds = tally.area.shape
    best, concepts = [], []
    for number in range(kinds):
        members = (kind == number).nonzero().flatten()
        value, place = whole[:, members].max(1)
        best.append(value)
        concepts.append(members[place])
    concept = torch.stack(concepts, 1)
    low, high = torch.full_like(tally.area[0], torch.nan), torch.full_like(tally.area[0], torch.nan)
    kept = torch.empty(options.replicates if groups > 1 else 0, units, device=low.device)
    if not len(kept):
        return {"low": low, "high": high, "replicates": kept}
    generator = torch.Generator().manual_seed(options.seed)
    drawn = torch.randint(groups, (options.replicates, groups), generator=generator)
    weights = torch.zeros(options.replicates, groups, dtype=torch.float64)
    weights = weights.scatter_add_(1, drawn, torch.ones_like(weights)).to(low)
    first = torch.stack(best, 1).argmax(1)
    step = max(1, _CHUNK // (options.replicates * kinds))
    for start in range(0, units, step):
        part = slice(start, start + step)
        chosen = concept[part]
        both = tally.both[:, part].gather(2, chosen.expand(groups, -1, -1)).to(weights)
        union = tally.area[:, part] + tally.labels[:, chosen].to(weights) - both
        both, union = (torch.einsum("bg,guk->buk", weights, one) for one in (both, union))
        values = both / union.clamp(min=1)
        low[part], high[part] = values.quantile(values.new_tensor([0.025, 0.975]), dim=0)
        kept[:, part] = values.gather(2, first[part, None].expand(len(values), -1, 1))[..., 0].float()
    return {"low": low, "high": high, "replicates": kept}


def _result(found: dict[str, Any], probe: Probe, options: Options, provenance: dict[str, Any]) -> Dissection:
    vocabulary = Vocabulary.of(probe.concepts, probe.categories)
    results = {}
    for name in found["layers"]:
        field = found["fields"][name]
        columns = {key.removeprefix(f"{name}/"): value for key, value in found.items() if key.startswith(f"{name}/")}
        height, width = field["size"]
        results[name] = LayerDissection(
            layer=name,
            size=(height, width),
            field=Field(Axis(**field["rows"]), Axis(**field["columns"]), field["measured"]),
            vocabulary=vocabulary,
            quantile=options.quantile,
            iou_threshold=options.iou_threshold,
            peak=columns["top_values"][:, 0],
            **columns,
        )
    skipped = tuple((image, reason) for image, reason in found["skipped"])
    return Dissection(results, tuple(probe.ids), skipped, tuple(found["notes"]), provenance)
