"""The two passes of a dissection: thresholds from all activations, then the tally of what lies above them.

No activation is stored unless all maps fit into the memory that may be used; then the second pass needs no forward pass.
Images are taken in a random order that the seed decides, so that neighbours in a data set do not end up in one group, and the
annotation of an image some places back is a random other one: the permutation baseline costs no reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from explain.dissection.field import Field, fields
from explain.dissection.gathered import Gathered, group_count
from explain.dissection.grid import Grid
from explain.dissection.journal import Journal
from explain.dissection.options import Options, check_image, nothing_read
from explain.dissection.probe import Annotation, Probe
from explain.dissection.quantile import TopValues, rank_from_top
from explain.dissection.tally import Tally, Vocabulary, read_labels
from explain.dissection.units import Site, Units
from explain.errors import ProbeError

Progress = Callable[[int, int, str], None]

_NO_LABELS = torch.zeros(0, 1, 1, dtype=torch.int64)


class Run:
    """One dissection under way.

    Args:
        units: the units to look at.
        probe: what to look at them with.
        options: what decides the result.
        batch_size: images per forward pass.
        memory: bytes that maps may take, and a quarter of it the greatest activations of a layer.
        journal: where states are saved, if anywhere.
        progress: called as ``progress(done, total, what)`` after each batch.

    Attributes:
        skipped: what could not be read, by the image's index.
        layers: what each layer has gathered.
        in_memory: whether all maps fit, so that a second forward pass is not needed.
        maps_bytes: what they take.
        positions: positions of all maps together, by layer.
    """

    def __init__(
        self,
        units: Units,
        probe: Probe,
        options: Options,
        batch_size: int,
        memory: int,
        journal: Journal | None,
        progress: Progress | None,
    ) -> None:
        self.units, self.probe, self.options, self.memory = units, probe, options, memory
        self.device = units.view.device
        self.folder = None if journal is None else journal.folder
        self.vocabulary = Vocabulary.of(probe.concepts, probe.categories)
        self.permutations = min(options.permutations, len(probe) - 1)
        self.skipped: dict[int, str] = {}
        self._journal, self._progress = journal, progress or (lambda done, total, what: None)
        self._grids: dict[tuple[str, tuple[int, int], tuple[int, int]], Grid] = {}
        self._fields: dict[tuple[int, int], dict[str, Field]] = {}
        self._kept: dict[int, tuple[list[int], dict[str, Tensor]]] = {}

        generator = torch.Generator().manual_seed(options.seed)
        shuffled = torch.randperm(len(probe), generator=generator).tolist()
        self._order = sorted(shuffled, key=probe.size)  # images of one size share batches
        self._state = None if journal is None else journal.state()
        self._cut = 0 if self._state is None else int(self._state["place"])
        self._batches = self._split(batch_size, self._cut)
        self._channels = self._readable_channels()
        self.positions: dict[str, int] = {}
        bytes_ = 0
        for _, places in self._batches:
            for name, site in self.sites(probe.size(self._order[places[0]])).items():
                count = len(places) * site.size[0] * site.size[1]
                self.positions[name] = self.positions.get(name, 0) + count
                bytes_ += 4 * count * self._width(name, site)
        self.maps_bytes = bytes_
        self.in_memory = bytes_ <= memory
        first = self.sites(probe.size(self._order[0]))
        self.layers = {name: self._gathered(name, self._width(name, site)) for name, site in first.items()}

    def sites(self, size: tuple[int, int]) -> dict[str, Site]:
        """Return where units are read on images of a size."""
        return self.units.sites(torch.full((self._channels, *size), 0.5))

    def fields(self, size: tuple[int, int]) -> dict[str, Field]:
        """Return where maps lie on images of a size."""
        if size not in self._fields:
            self._fields[size] = fields(self.units.view, self.sites(size), torch.full((self._channels, *size), 0.5))
        return self._fields[size]

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def batch_length(self, number: int) -> int:
        """Return how many images a batch has."""
        return len(self._batches[number][1])

    def go(self) -> None:
        """Do what is left to do, saving states on the way."""
        first, second = self._restore()
        self.first_pass(range(first, len(self._batches)))
        self.threshold()
        self.second_pass(range(second, len(self._batches)))

    def first_pass(self, numbers: Iterable[int]) -> None:
        """Gather the greatest activations of some batches."""
        for number in numbers:
            indices, maps = self._maps(number)
            if indices:
                for name, layer in self.layers.items():
                    layer.see(maps[name], torch.tensor(indices))
                if self.in_memory:
                    self._kept[number] = (indices, maps)
            self._after(number, 0, "activations")

    def threshold(self) -> None:
        """Fix the thresholds, unless a saved state already had them.

        Raises:
            ProbeError: no image could be read.
        """
        self._check_read()
        for layer in self.layers.values():
            layer.fix(self.options.quantile)

    def second_pass(self, numbers: Iterable[int]) -> None:
        """Tally some batches."""
        pool: dict[int, Annotation | None] = {}
        for number in numbers:
            size, places = self._batches[number]
            indices, maps = self._kept.pop(number) if number in self._kept else self._maps(number)
            place_of = {self._order[place]: place for place in places}
            for place in range(places[0] - self.permutations, places[-1] + 1):
                if place not in pool:
                    pool[place] = self._annotation(self._order[place % len(self._order)])
            read = [i for i, index in enumerate(indices) if pool[place_of[index]] is not None]
            at = [place_of[indices[i]] for i in read]
            for label_size in dict.fromkeys(_size_of(pool[place]) for place in at):
                chosen = [(i, place) for i, place in zip(read, at, strict=True) if _size_of(pool[place]) == label_size]
                self._tally(size, label_size, maps, [i for i, _ in chosen], [place for _, place in chosen], pool)
            pool = {place: pool[place] for place in list(pool)[-self.permutations :]} if self.permutations else {}
            self._after(number, len(self.probe), "concepts")
        self._check_read()

    def _tally(
        self,
        size: tuple[int, int],
        label_size: tuple[int, int],
        maps: dict[str, Tensor],
        rows: list[int],
        places: list[int],
        pool: dict[int, Annotation | None],
    ) -> None:
        """Count images whose label maps have one size."""
        start = places[0] - self.permutations
        window = [pool[place] or Annotation(_NO_LABELS) for place in range(start, places[-1] + 1)]
        labels = read_labels(window, label_size, len(self.vocabulary.concepts), self.device)
        at = torch.tensor(places, device=self.device) - start
        own = labels.take(at)
        dealt = [labels.take(at - 1 - shift) for shift in range(self.permutations)]
        everything = rows == list(range(next(iter(maps.values())).shape[1]))
        for name, layer in self.layers.items():
            assert layer.thresholds is not None
            found = maps[name] if everything else maps[name][:, rows]
            active = self._grid(name, size, label_size).active(found, layer.thresholds)
            groups = len(layer.tally.both)
            layer.tally.add(active, own, torch.tensor(places, device=self.device) % groups)
            for shift, other in enumerate(dealt):
                layer.null.add(active, other, torch.full((len(places),), shift, device=self.device))

    def _grid(self, name: str, size: tuple[int, int], labels: tuple[int, int]) -> Grid:
        key = (name, size, labels)
        if key not in self._grids:
            self._grids[key] = Grid(self.fields(size)[name], self.sites(size)[name].size, size, labels, self.device)
        return self._grids[key]

    def _maps(self, number: int) -> tuple[list[int], dict[str, Tensor]]:
        """Read the images of a batch and run the network on those that can be read."""
        indices, images = [], []
        for place in self._batches[number][1]:
            index = self._order[place]
            if index not in self.skipped:
                try:
                    images.append(check_image(self.probe.image(index), self.probe.ids[index]))
                    indices.append(index)
                except ProbeError as error:
                    self.skipped[index] = str(error)
        return indices, self.units.maps(torch.stack(images)) if images else {}

    def _annotation(self, index: int) -> Annotation | None:
        if index in self.skipped:
            return None
        try:
            return self.probe.annotation(index)
        except ProbeError as error:
            self.skipped[index] = str(error)
            return None

    def _gathered(self, name: str, units: int) -> Gathered:
        keep = rank_from_top(self.options.quantile, self.positions[name]) + 1
        groups = group_count(len(self.probe), units, len(self.vocabulary.concepts))
        return Gathered(
            TopValues(units, keep, self.device, self.memory // 4, self.folder),
            Tally(groups, units, self.vocabulary, self.device),
            Tally(self.permutations, units, self.vocabulary, self.device),
            self.options.top,
        )

    def _width(self, name: str, site: Site) -> int:
        return len(self.units.basis[name]) if name in self.units.basis else site.units

    def _split(self, batch_size: int, cut: int) -> list[tuple[tuple[int, int], list[int]]]:
        """Cut the order into batches of images of one size, also at ``cut``: (size, places in the order)."""
        batches: list[tuple[tuple[int, int], list[int]]] = []
        for place, index in enumerate(self._order):
            size = self.probe.size(index)
            if not batches or place == cut or batches[-1][0] != size or len(batches[-1][1]) == batch_size:
                batches.append((size, []))
            batches[-1][1].append(place)
        return batches

    def _readable_channels(self) -> int:
        for index in self._order:
            try:
                return check_image(self.probe.image(index), self.probe.ids[index]).shape[0]
            except ProbeError as error:
                self.skipped[index] = str(error)
        raise nothing_read(next(iter(self.skipped.values())))

    def _check_read(self) -> None:
        if len(self.skipped) == len(self.probe):
            raise nothing_read(next(iter(self.skipped.values())))

    def _after(self, number: int, before: int, what: str) -> None:
        """Save a state if it is time to, and tell how far the run is; what that raises ends it."""
        journal = self._journal
        place = self._batches[number][1][-1] + 1
        try:
            self._progress(before + place, 2 * len(self.probe), what)
        except BaseException:
            if journal is not None:
                journal.save(self._snapshot(place, what))
            raise
        if journal is not None and journal.due():
            journal.save(self._snapshot(place, what))

    def _snapshot(self, place: int, what: str) -> dict[str, Any]:
        # A place in the order, not a batch: the next call may cut other batches.
        state: dict[str, Any] = {"place": place, "what": what, "skipped": list(self.skipped.items())}
        for name, layer in self.layers.items():
            state |= {f"{name}/{part}": value for part, value in layer.state().items()}
        return state

    def _restore(self) -> tuple[int, int]:
        """Return the batches with which the two passes go on."""
        state, self._state = self._state, None
        if state is None:
            return 0, 0
        self.skipped |= {int(index): reason for index, reason in state["skipped"]}
        for name, layer in self.layers.items():
            start = f"{name}/"
            layer.restore({key.removeprefix(start): value for key, value in state.items() if key.startswith(start)})
        following = sum(places[0] < self._cut for _, places in self._batches)
        return (following, 0) if state["what"] == "activations" else (len(self._batches), following)


def _size_of(annotation: Annotation | None) -> tuple[int, int]:
    assert annotation is not None
    height, width = annotation.maps.shape[1:]
    return height, width
