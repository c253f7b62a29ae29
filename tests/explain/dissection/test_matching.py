"""Concepts from scores of images: soft-WPMI once more in plain loops, and units whose concept is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import explain

Floats = NDArray[np.float64]


class Scored:
    """Images and scores."""

    def __init__(self, images: Sequence[Tensor], scores: Any, concepts: Sequence[str] | None = None) -> None:
        self.images, self.scores = list(images), scores
        self.concepts = tuple(f"concept {i}" for i in range(scores.shape[1])) if concepts is None else tuple(concepts)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Tensor:
        return self.images[index]


class Channels(nn.Module):
    """Unit u is channel u."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = nn.Conv2d(units, units, 1, bias=False)
        with torch.no_grad():
            self.units.weight.copy_(torch.eye(units)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.units(x).mean((2, 3))


def soft_wpmi(activations: Floats, scores: Floats, temperature: float, lam: float) -> Floats:
    """As in CLIP-Dissect: activations (U, N), scores (N, C) to (U, C)."""
    (units, count), concepts = activations.shape, scores.shape[1]
    top = min(100, count)
    given = np.zeros((units, concepts))
    for u in range(units):
        images = sorted(range(count), key=lambda n: -activations[u, n])[:top]
        for c in range(concepts):
            for rank, n in enumerate(images):
                powers = [math.exp(temperature * (s - scores[n].max())) for s in scores[n]]
                weight = 0.998 + (0.97 - 0.998) * (rank / (top - 1) if top > 1 else 0)
                given[u, c] += math.log(1 - weight + weight * powers[c] / sum(powers))
    found = np.zeros_like(given)
    for c in range(concepts):
        largest = given[:, c].max()
        common = largest + math.log(np.exp(given[:, c] - largest).mean())
        found[:, c] = given[:, c] - lam * common
    return found


@pytest.mark.parametrize(
    ("count", "temperature", "lam"), [(1, 10, 1), (7, 10, 1), (7, 2, 0.5), (7, 10, 0), (130, 10, 1)]
)
def test_soft_wpmi_in_plain_loops(count: int, temperature: float, lam: float, module_net: Any) -> None:
    model = module_net().eval()
    images, scores = torch.rand(count, 3, 6, 8), torch.randn(count, 5) * 0.3
    options = {"temperature": temperature, "lam": lam}
    found = explain.match_concepts(model, Scored(images, scores), ("conv", "last"), batch_size=count, **options)
    assert list(found) == ["conv", "last"]
    with torch.no_grad():
        x = model.pool(model.stem(images))
        conv = model.conv(x)
        maps = {"conv": conv, "last": model.last((model.norm(conv) + x).relu())}
    for name, one in found.items():
        expected = soft_wpmi(maps[name].double().mean((2, 3)).T.numpy(), scores.double().numpy(), **options)
        torch.testing.assert_close(one.scores, torch.from_numpy(expected), rtol=0, atol=1e-6)
        assert (one.layer, one.concepts) == (name, tuple(f"concept {i}" for i in range(5)))


def test_planted_pairs_are_recovered() -> None:
    """Unit u is as bright as concept match[u] is present."""
    match = [2, 0, 3, 1]
    present = torch.rand(160, 4) ** 4
    images = (present[:, match, None, None] * torch.rand(160, 4, 5, 6)).contiguous()
    found = explain.match_concepts(Channels(4), Scored(images, present, ("a", "b", "c", "d")), "units")["units"]
    frame = found.frame()
    assert frame["concept"].tolist() == ["c", "a", "d", "b"]
    assert (frame["lead"] > 1).all()
    best = found.scores.sort(descending=True)
    torch.testing.assert_close(torch.tensor(frame["lead"]), best.values[:, 0] - best.values[:, 1])
    assert frame["second"].tolist() == ["abcd"[n] for n in best.indices[:, 1]]
    assert torch.tensor(frame["score"]).tolist() == found.scores.max(1).values.tolist()
    assert repr(found) == "ConceptMatch('units': 4 units × 4 concepts)"


def test_what_scores_and_activations_are_invariant_to() -> None:
    images, scores = torch.rand(30, 4, 5, 6), torch.rand(30, 6)

    def match(images: Tensor, scores: Tensor, **options: Any) -> Tensor:
        return explain.match_concepts(Channels(4), Scored(images, scores), "units", **options)["units"].scores

    expected = match(images, scores)
    # the softmax over concepts does not see what is added to all of an image's scores
    torch.testing.assert_close(match(images, scores.double() + 5 * torch.randn(30, 1).double()), expected)
    # a unit's images are ranked: contrast and brightness do not count
    torch.testing.assert_close(match(0.5 * images + 0.25, scores), expected)
    torch.testing.assert_close(match(images, scores / 2, temperature=20), expected)
    order = torch.randperm(30)
    torch.testing.assert_close(match(images[order], scores[order]), expected)
    torch.testing.assert_close(match(images, scores[:, [5, 0, 2, 1, 4, 3]]), expected[:, [5, 0, 2, 1, 4, 3]])
    for size in (1, 7, 100):
        torch.testing.assert_close(match(images, scores, batch_size=size), expected)
    assert not torch.allclose(match(images, scores, lam=0.0), expected)


def test_lists_arrays_and_progress() -> None:
    images, scores = torch.rand(5, 4, 5, 6), torch.rand(5, 3)
    seen: list[tuple[int, int, str]] = []
    run = lambda scores: explain.match_concepts(  # noqa: E731
        Channels(4), Scored(images, scores), batch_size=2, progress=lambda *told: seen.append(told)
    )
    assert list(run(scores)) == ["units"]  # the last layer with space
    assert seen == [(2, 5, "activations"), (4, 5, "activations"), (5, 5, "activations")]
    assert torch.equal(run(scores.double().numpy())["units"].scores, run(scores.double())["units"].scores)


def test_a_single_concept() -> None:
    found = explain.match_concepts(Channels(2), Scored(torch.rand(3, 2, 4, 4), torch.rand(3, 1)), "units")["units"]
    assert (found.scores == 0).all()
    assert found.frame()["lead"].isna().all() and found.frame()["second"].isna().all()


NAN = torch.rand(3, 4)
NAN[1, 2] = math.nan


@pytest.mark.parametrize(
    ("scores", "concepts"),
    [(torch.rand(2, 4), 4), (torch.rand(4, 4), 4), (torch.rand(3, 4), 3), (torch.rand(3, 4, 1), 4), (NAN, 4),
     (torch.rand(3, 4) * math.inf, 4)],
)  # fmt: skip
def test_scores_that_do_not_belong_to_the_images(scores: Tensor, concepts: int) -> None:
    probe = Scored(torch.rand(3, 2, 4, 4), scores, "abcdef"[:concepts])
    with pytest.raises(explain.InputError, match="scores"):
        explain.match_concepts(Channels(2), probe, "units")


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(training: bool, module_net: Any, look: Any) -> None:
    model, probe = module_net().train(training), Scored(torch.rand(4, 3, 6, 8), torch.rand(4, 3))

    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    before = look(model)
    explain.match_concepts(model, probe, "conv")
    with pytest.raises(KeyboardInterrupt):
        explain.match_concepts(model, probe, "conv", progress=stop)
    with pytest.raises(explain.LayerError):
        explain.match_concepts(model, probe, "nowhere")
    assert look(model) == before


def test_images_of_two_sizes() -> None:
    images = [torch.rand(2, 4, 4), torch.rand(2, 4, 6)]
    explain.match_concepts(Channels(2), Scored(images, torch.rand(2, 3)), "units")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_no_images_and_no_concepts(shape: tuple[int, int]) -> None:
    with pytest.raises(explain.InputError):
        explain.match_concepts(Channels(2), Scored(torch.rand(shape[0], 2, 4, 4), torch.rand(shape)), "units")
