"""A test of attacks must itself be tested: good attacks pass it, broken attacks and masked networks fail it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from torch import nn

import attacks
from attacks._ball import distance
from attacks._provenance import content_ids
from attacks.binarisation import Binarisation, _Binarised, _largest_margin, _points, binarisation_test

EPSILON = {"linf": 0.1, "l2": 0.7}
QUICK = {"inner": 200, "n": 6}
BROKEN = {"steps": 1, "relative_step": 1e-3}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_good_attack_passes_and_a_broken_one_fails(digits, norm, fingerprint) -> None:
    before = fingerprint(digits.model)
    request = {"norm": norm, "epsilon": EPSILON[norm], **QUICK}
    good = binarisation_test(digits.model, digits.images, **request)
    broken = binarisation_test(digits.model, digits.images, options=BROKEN, **request)
    assert fingerprint(digits.model) == before
    assert good.passed and good.rate == 1 and good.random_rate == 0 and good.n == 6 and good.inseparable == 0
    assert not broken.passed and broken.rate == 0 and "too weak" in broken.detail
    assert good.ids == broken.ids


def test_the_full_number_of_points(digits) -> None:
    assert binarisation_test(digits.model, digits.images, epsilon=0.1, n=2).passed


def test_one_step_is_too_weak_where_the_network_bends(digits) -> None:
    """FGSM in l2 aims with the gradient at the image, which does not point to the far end of the ball."""
    found = binarisation_test(digits.model, digits.images, norm="l2", epsilon=0.7, attack="fgsm", inner=400, n=8)
    assert not found.passed and found.rate < 0.9


class Shattered(nn.Module):
    """Rounds its input, as some defences do: robust to gradient attacks, and to nothing else."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner((x * 30).round() / 30)


def test_robustness_by_masked_gradients_is_unmasked(digits) -> None:
    model = Shattered(digits.model)
    x, y = digits.images[:20], digits.labels[:20]
    assert attacks.attack(model, x, y, epsilon=0.1).success.float().mean() < 0.2, "looks robust"
    found = binarisation_test(model, digits.images, epsilon=0.1, **QUICK)
    assert not found.passed and "proves little" in found.detail


def test_points_lie_where_they_should() -> None:
    image = torch.rand(1, 3, 5, 4, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    keys = [str(k) for k in range(200)]
    for norm, radius in (("linf", 0.1), ("l2", 1.0), ("l1", 4.0)):
        inside, edge = (_points(image, radius, norm, 0, keys, on_edge) for on_edge in (False, True))
        assert distance(inside, image, norm).max() <= radius * (1 + 1e-6)
        torch.testing.assert_close(distance(edge, image, norm), torch.full((200,), radius), rtol=1e-5, atol=0)
        assert torch.cat([inside, edge]).min() >= 0 and torch.cat([inside, edge]).max() <= 1
        assert _points(image, radius, norm, 0, keys[7:9], True).equal(edge[7:9])
        # Far from the faces of the box, lengths relative to the radius are distributed as u^(1/D).
        length = distance(_points(0.5 + 0 * image, 0.1 * radius, norm, 0, keys, False), 0.5 + 0 * image, norm)
        share = (length / (0.1 * radius)) ** image.numel()
        assert 0.4 < share.mean() < 0.6 and share.min() < 0.1 and share.max() > 0.9


def test_the_head_has_the_largest_margin() -> None:
    """Against scikit-learn's support vector machine, on features in fewer dimensions than points."""
    rng = np.random.default_rng(0)
    inner, edge = rng.normal(size=(300, 40)), 3 * rng.normal(size=40)
    w = _largest_margin(inner - edge)
    machine = SVC(kernel="linear", C=1e9).fit(np.vstack([inner, edge]), [0] * 300 + [1])

    def margin(direction: np.ndarray) -> float:
        return float(((edge - inner) @ direction).min() / np.linalg.norm(direction))

    assert margin(w) >= 0.98 * margin(machine.coef_[0]) > 0
    assert margin(_largest_margin(inner - inner.mean(0))) <= 0, "a point among the others cannot be told from them"


def test_the_binarised_network_is_as_promised(digits) -> None:
    network = _Binarised(digits.model, digits.images[:1], None)
    assert network.tapped == "8"
    image = digits.images[3:4]
    inside = torch.cat([image, _points(image, 0.095, "linf", 0, [str(k) for k in range(99)], False)])
    edge = _points(image, 0.1, "linf", 0, ["edge"], True)
    torch.testing.assert_close(network.features(inside), digits.model[:7](inside))
    assert network.separate(network.features(inside), network.features(edge))
    assert (network(inside).argmax(1) == 0).all() and network(edge).argmax(1) == 1
    # The threshold is at 0.99 of the way.
    scores, top = network.scores(network.features(inside)), network.scores(network.features(edge))
    assert float(top / (top - scores.max())) == pytest.approx(0.01, rel=0.05)


def test_features_may_be_named(digits) -> None:
    found = binarisation_test(digits.model, digits.images, epsilon=0.1, features="2", **QUICK)
    assert found.passed and found.provenance["features"] == "2"


def test_too_few_dimensions_to_separate_are_reported() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 5))
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = binarisation_test(model, x, epsilon=0.1)
    assert (found.n, found.inseparable) == (1, 3) and "3 images could not be tested" in found.detail
    with pytest.raises(attacks.AttackError, match="No linear head"):
        binarisation_test(model, x[[row for row in range(4) if content_ids(x)[row] not in found.ids]], epsilon=0.1)


def test_batches_order_and_company_change_nothing(digits) -> None:
    request = {"epsilon": 0.1, "inner": 100, "seed": 2}
    whole = binarisation_test(digits.model, digits.images[:6], **request).frame().set_index("id")
    order = [4, 1, 5]
    part = binarisation_test(digits.model, digits.images[order], batch_size=7, **request).frame().set_index("id")
    assert part.equals(whole.loc[part.index])
    chosen = binarisation_test(digits.model, digits.images[:6], n=2, **request)
    assert chosen.ids == binarisation_test(digits.model, digits.images[:6].flip(0), n=2, **request).ids


def test_result(digits) -> None:
    seen: list[tuple[int, int, str]] = []
    found = binarisation_test(
        digits.model, digits.images[:3], epsilon=0.1, inner=50, ids="abc", progress=lambda *report: seen.append(report)
    )
    assert "\n" not in repr(found) and len(repr(found)) < 200 and "passed" in repr(found)
    assert found.frame().columns.tolist() == ["id", "found", "guessed", "forwards", "attack", "norm", "epsilon"]
    assert sorted(found.frame().id) == ["a", "b", "c"] and found.interval[0] < 1 == found.interval[1]
    assert found.guesses == 21 and found.provenance["inner"] == 50 and found.provenance["options"]["steps"] == 20
    dones, totals, whats = zip(*seen, strict=True)
    assert list(dones) == sorted(dones) and dones[-1] == totals[-1] and "image 2 of 3: PGD at linf 0.1" in whats
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.norm = "l2"  # type: ignore[misc]
    easy = dataclasses.replace(found, guessed=(True, True, True))
    assert isinstance(easy, Binarisation) and not easy.passed and "too easy" in easy.detail


def test_refusals_say_what_to_do(digits, linear) -> None:
    model, x = digits.model, digits.images[:2]
    for request, message in (
        ({"features": "nine"}, "no module of this name"),
        ({"norm": "l7"}, "Unknown norm"),
        ({"epsilon": 0}, "positive"),
        ({"attack": "pdg"}, "pgd"),
        ({"options": {"step": 3}}, "steps"),
        ({"inner": 0}, "inner points"),
        ({"n": 0}, "number of images"),
        ({"batch_size": 0}, "batch size"),
    ):
        with pytest.raises(attacks.AttackError, match=message):
            binarisation_test(model, x, **request)
    case = linear(n=2)
    with pytest.raises(attacks.AttackError, match=r"calls no nn\.Linear"):
        binarisation_test(case.model, case.images)
    with pytest.raises(attacks.AttackError, match="fails on these images"):
        binarisation_test(model, torch.rand(1, 3, 8, 8))
