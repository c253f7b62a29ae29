"""Importance and curves: against scikit-learn and the plain loop, on networks whose answer is known, and what is left behind."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn

import explain
from explain.dissection import balanced_accuracy


class Colours(nn.Module):
    """Unit u sees one colour; class c adds up the units of its colour; a last class is the answer to nothing at all."""

    def __init__(self, colour_of: list[int], classes: int = 3) -> None:
        super().__init__()
        self.units = nn.Conv2d(classes, len(colour_of), 1, bias=False)
        self.head = nn.Linear(len(colour_of), classes + 1)
        with torch.no_grad():
            seen = F.one_hot(torch.tensor(colour_of), classes).float()
            self.units.weight.copy_(seen[:, :, None, None])
            self.head.weight.copy_(torch.cat([seen.T, torch.zeros(1, len(colour_of))]))
            self.head.bias.copy_(torch.tensor([0.0] * classes + [0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.units(x).mean((2, 3)))


def coloured(labels: Tensor) -> Tensor:
    """Images of one colour each."""
    return F.one_hot(labels, 3).float()[:, :, None, None].expand(-1, -1, 2, 3).clone()


def one_against_rest(predictions: Tensor, labels: Tensor, classes: int) -> list[float]:
    return [balanced_accuracy_score(labels == c, predictions == c) for c in range(classes)]


def answers(model: nn.Module, layer: str, images: Tensor, removed: list[int]) -> Tensor:
    """Logits with some units of a layer set to zero by a hook."""
    model = copy.deepcopy(model).eval()

    def hook(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        output = output.clone()
        for unit in removed:
            output[:, unit] = 0
        return output

    model.get_submodule(layer).register_forward_hook(hook)
    with torch.no_grad():
        return model(images)


@pytest.fixture
def varied(small_net: Any) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with eight units that answers differently, images, and labels that it often gets right."""
    model = small_net(units=8).eval()
    images = torch.rand(30, 3, 12, 16) * torch.rand(30, 3, 1, 1)
    with torch.no_grad():
        logits = model(images)
        model.head.weight *= (1 / logits.std(0))[:, None]
        model.head.bias.copy_((model.head.bias - logits.mean(0)) / logits.std(0))
        labels = model(images).argmax(1)
    labels[::4] = (labels[::4] + 1) % 3
    return model, images, labels


def test_balanced_accuracy_is_scikit_learns() -> None:
    labels = torch.randint(4, (40,))
    predictions = torch.randint(4, (5, 40))
    expected = [one_against_rest(row, labels, 4) for row in predictions]
    torch.testing.assert_close(balanced_accuracy(predictions, labels, 4), torch.tensor(expected, dtype=torch.float64))
    some = balanced_accuracy(predictions, labels.clamp(max=2), 5)
    assert some.isnan().tolist() == [[False, False, False, True, True]] * 5
    assert balanced_accuracy(predictions, torch.ones_like(labels), 4).isnan().all()


@pytest.mark.parametrize("layer", ["first", "last", "norm"])
def test_importance_and_margin_are_those_of_the_definition(layer: str, varied: Any) -> None:
    model, images, labels = varied
    found = explain.ablate(model, images, labels, layer)
    base = answers(model, layer, images, [])
    torch.testing.assert_close(found.base.tolist(), one_against_rest(base.argmax(1), labels, 3))
    for unit in range(len(found.importance)):
        without = answers(model, layer, images, [unit])
        lost = found.base - torch.tensor(one_against_rest(without.argmax(1), labels, 3), dtype=torch.float64)
        torch.testing.assert_close(found.importance[unit], lost)
        for k in range(3):
            others = [c for c in range(3) if c != k]
            fall = [(one[labels == k, k] - one[labels == k][:, others].amax(1)).mean() for one in (base, without)]
            torch.testing.assert_close(found.margin[unit, k].float(), fall[0] - fall[1], rtol=0, atol=1e-5)
    assert (found.importance != 0).any()


def test_a_unit_that_alone_decides_a_class() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    found = explain.ablate(Colours([0, 1, 2]), coloured(labels), labels, "units")
    assert found.importance[:, :3].tolist() == (0.5 * torch.eye(3)).tolist()
    assert found.base[:3].tolist() == [1, 1, 1]
    # no image has the last class; without its unit, an image's label loses 1 - 0.1 to nothing, and then 0.1 more
    assert found.base[3:].isnan().all() and found.importance[:, 3].isnan().all() and found.margin[:, 3].isnan().all()
    torch.testing.assert_close(found.margin[:, :3], torch.eye(3).double(), rtol=0, atol=1e-6)
    assert (found.way, found.images, len(found.frame())) == ("linear", 7, 12)
    assert found.frame().query("unit == 1 and label == 1")[["importance", "base"]].to_numpy().tolist() == [[0.5, 1.0]]


def test_units_in_order_of_importance() -> None:
    nan = float("nan")
    importance = torch.tensor([[0.1, 0.0, nan], [0.5, 0.0, nan], [0.1, 0.0, nan], [0.1, 0.9, nan]]).double()
    margin = torch.tensor([[1.0, 0.0, nan], [0.0, 0.0, nan], [3.0, -1.0, nan], [2.0, 0.0, nan]]).double()
    found = explain.Ablation("x", importance, margin, torch.tensor([0.9, 0.9, nan]).double(), "full", 9, {})
    assert found.order(0).tolist() == [1, 2, 3, 0]
    assert found.order(1).tolist() == [3, 0, 1, 2]
    assert found.order().tolist() == [3, 1, 2, 0]
    for label in (2, 3, -1):
        with pytest.raises(explain.InputError, match="class"):
            found.order(label)


PLANTED = [1, 2, 0, 1, 2, 1, 2, 0, 1, 2, 1, 2]  # units 2 and 7 see the first colour


def test_curves_tell_planted_units_from_others() -> None:
    model, labels = Colours(PLANTED), torch.arange(12) % 3
    images = coloured(labels)
    ablation = explain.ablate(model, images, labels, "units")
    assert set(ablation.order(0)[:2].tolist()) == {2, 7}  # neither is needed while the other is there: the margin tells
    assert (ablation.importance[:, :3] == 0).all()
    curve = explain.ablation_curve(model, images, labels, ablation, label=0, counts=[1, 2, 10, 12], draws=20)
    value = curve.frame().set_index(["n", "kind"])["balanced_accuracy"]
    assert curve.base == 1
    assert [value[n, "remove most"] for n in (1, 2, 10, 12)] == [1, 0.5, 0.5, 0.5]
    assert [value[n, "remove least"] for n in (1, 2, 10, 12)] == [1, 1, 1, 0.5]
    assert [value[n, "keep most"] for n in (1, 2, 10, 12)] == [1, 1, 1, 1]
    assert [value[n, "keep least"] for n in (1, 2, 10, 12)] == [0.5, 0.5, 0.5, 1]
    assert value[2, "remove random"] > 0.9 and 0.5 < value[2, "keep random"] < 0.8
    random = curve.frame().query("kind == 'remove random' and n == 10")
    assert random[["low", "high"]].to_numpy().tolist() == [[0.5, 1.0]]


@pytest.mark.parametrize("label", [None, 1])
def test_curves_are_what_a_hook_gives(label: int | None, varied: Any) -> None:
    model, images, labels = varied
    ablation = explain.ablate(model, images[:15], labels[:15], "last")

    def run(**options: Any) -> explain.dissection.AblationCurve:
        options |= {"label": label, "counts": [1, 3, 8], "draws": 4}
        return explain.ablation_curve(model, images[15:], labels[15:], ablation, **options)

    curve, order = run(seed=5), ablation.order(label).tolist()

    def expected(removed: list[int]) -> float:
        found = one_against_rest(answers(model, "last", images[15:], removed).argmax(1), labels[15:], 3)
        return found[label] if label is not None else sum(found) / 3

    table = curve.frame().set_index(["n", "kind"])
    assert curve.base == pytest.approx(expected([]))
    for n in (1, 3, 8):
        sets = {"remove most": order[:n], "keep most": order[n:]}
        sets |= {"remove least": order[8 - n :], "keep least": order[: 8 - n]}
        for kind, removed in sets.items():
            assert table.loc[(n, kind)].tolist() == pytest.approx([expected(removed)] * 3)
        singles = sorted(expected([unit]) for unit in range(8))
        assert n > 1 or singles[0] <= table.loc[(1, "remove random"), "low"] <= table.loc[(1, "remove random"), "high"]
        for kind in ("remove random", "keep random"):
            mean, low, high = table.loc[(n, kind)].tolist()
            assert low <= mean + 1e-12 and mean <= high + 1e-12
    assert table.loc[(8, "keep random")].tolist() == pytest.approx([curve.base] * 3)
    assert run(seed=5).rows == curve.rows == run(seed=5, batch_size=2).rows
    assert run(seed=6).rows != curve.rows
    assert len(curve.frame()) == 3 * 6


def test_curves_refuse_what_makes_no_sense(varied: Any) -> None:
    model, images, labels = varied
    ablation = explain.ablate(model, images, labels, "last")
    for options in ({"counts": [0]}, {"counts": [9]}, {"draws": 0}, {"label": 3}, {"label": -1}):
        with pytest.raises(explain.InputError):
            explain.ablation_curve(model, images, labels, ablation, **options)
    other = explain.Ablation("first", ablation.importance, ablation.margin, ablation.base, "full", 1, {})
    with pytest.raises(explain.InputError, match="another layer"):
        explain.ablation_curve(model, images, labels, other)


def test_default_counts(varied: Any) -> None:
    model, images, labels = varied
    ablation = explain.ablate(model, images, labels, "last")
    assert set(explain.ablation_curve(model, images, labels, ablation).frame()["n"]) == {1, 2, 4, 7}


def test_a_layer_of_one_unit() -> None:
    labels = torch.tensor([0, 1, 2])
    ablation = explain.ablate(Colours([0]), coloured(labels), labels, "units")
    explain.ablation_curve(Colours([0]), coloured(labels), labels, ablation)


def test_a_curve_of_a_class_that_no_image_has(varied: Any) -> None:
    model, images, labels = varied
    ablation = explain.ablate(model, images, labels, "last")
    with pytest.raises(explain.InputError):
        explain.ablation_curve(model, images[labels != 1], labels[labels != 1], ablation, label=1)


@pytest.mark.parametrize("labels", [None, 3, -1, [0] * 29, [0.0] * 30, [[0]] * 30, [0] * 29 + [7]])
def test_labels_that_make_no_sense(labels: Any, varied: Any) -> None:
    model, images, _ = varied
    with pytest.raises(explain.InputError):
        explain.ablate(model, images, labels, "last")


class Stop(Exception):  # noqa: N818 - a person presses a button
    """Comes out of progress."""


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", ["first", "relu", "last"])
def test_nothing_is_left_behind(layer: str, training: bool, varied: Any, look: Callable[..., Any]) -> None:
    model, images, labels = varied
    expected = explain.ablate(model, images, labels, "last")
    model.train(training)
    model.first.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.drop.register_forward_hook(lambda module, given, output: None)
    pixels, truth, before = images.clone(), labels.clone(), look(model)
    seen: list[tuple[int, int]] = []
    explain.ablate(
        model, images, labels, layer, batch_size=7, progress=lambda done, total, _: seen.append((done, total))
    )
    assert seen == sorted(seen) and seen[-1] == (3000, 3000)
    explain.ablation_curve(model, images, labels, expected, batch_size=7)
    for after in (0, 1, 3):

        def stop(done: int, total: int, what: str, calls: list[int] = [after]) -> None:  # noqa: B006
            calls[0] -= 1
            if calls[0] < 0:
                raise Stop(what)

        with pytest.raises(Stop):
            explain.ablate(model, images, labels, layer, batch_size=7, progress=stop)
        assert look(model) == before
    assert look(model) == before
    assert torch.equal(images, pixels) and torch.equal(labels, truth)


def test_a_network_that_draws_random_numbers(varied: Any, look: Callable[..., Any]) -> None:
    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, training=True)

    model, images, labels = varied
    model.drop = Always()
    before = look(model)
    assert explain.ablate(model, images, labels, "first").way == "full"
    assert look(model) == before


def test_the_state_of_the_caller_and_threads_do_not_matter(varied: Any) -> None:
    model, images, labels = varied
    expected = explain.ablate(model, images, labels, "first").margin
    for context in (torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            assert torch.equal(explain.ablate(model, images, labels, "first").margin, expected)
    found: list[Tensor] = []
    work = lambda: found.append(explain.ablate(model, images, labels, "first").margin)  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all(torch.equal(one, expected) for one in found)
