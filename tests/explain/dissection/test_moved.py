"""Changes of units between images and their twins: closed forms on linear layers, tables by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

import explain
from explain.dissection import MovedUnits


class Linear(nn.Module):
    """A 1 × 1 convolution, whose mean over positions is the answer."""

    def __init__(self, units: int = 5) -> None:
        super().__init__()
        self.units = nn.Conv2d(3, units, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.units(x).mean((2, 3))


def test_a_linear_layer_in_closed_form() -> None:
    model, clean, other = Linear(), torch.rand(7, 3, 4, 6), torch.rand(7, 3, 4, 6)
    found = explain.moved_units(model, clean, other, "units")
    weight = model.units.weight[:, :, 0, 0].detach()
    change = weight @ (other - clean).mean((2, 3)).T
    size = torch.einsum("uc,nchw->unhw", weight, other - clean).abs().mean((2, 3))
    level = weight @ clean.mean((2, 3)).T
    torch.testing.assert_close(found.change, change, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.size, size, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.scale, level.std(1, correction=0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.moved, size.mean(1).double(), rtol=0, atol=1e-6)
    assert found.labels.tolist() == model(clean).argmax(1).tolist()
    assert found.fooled_as.tolist() == model(other).argmax(1).tolist()
    assert (found.layer, repr(found)) == ("units", "MovedUnits('units': 5 units on 7 images)")
    frame = found.frame()
    assert frame["unit"].tolist() == size.mean(1).argsort(descending=True).tolist()
    assert frame["moved"].tolist() == sorted(frame["moved"], reverse=True)
    at = frame["unit"].tolist()
    torch.testing.assert_close(torch.tensor(frame["change"]), change.mean(1).double()[at], rtol=0, atol=1e-6)
    expected = change.mean(1) / level.std(1, correction=0)
    torch.testing.assert_close(torch.tensor(frame["relative"]), expected.double()[at], rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_batches_do_not_matter(size: int, module_net: Any) -> None:
    model, clean, other = module_net(), torch.rand(7, 3, 12, 16), torch.rand(7, 3, 12, 16)
    found, expected = (explain.moved_units(model, clean, other, "conv", batch_size=n) for n in (size, 2))
    for name in ("change", "size", "scale"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-6)
    assert torch.equal(found.labels, expected.labels) and torch.equal(found.fooled_as, expected.fooled_as)


def test_nothing_moved() -> None:
    model, images = Linear(), torch.rand(3, 3, 4, 4)
    found = explain.moved_units(model, images, images.clone(), "units")
    assert (found.change == 0).all() and (found.size == 0).all() and (found.frame()["relative"] == 0).all()
    ablation = explain.ablate(model, images, [0, 1, 2], "units")
    assert len(found.relation(ablation, top=2)) == 0


def ablation_of(margin: Tensor, base: Tensor | None = None, layer: str = "x") -> explain.Ablation:
    base = torch.full((margin.shape[1],), 0.9).double() if base is None else base
    return explain.Ablation(layer, torch.zeros_like(margin), margin, base, "full", 9, {})


MARGIN = torch.tensor([[4.0, 0.0, 1.0], [3.0, 1.0, 1.0], [2.0, 2.0, 1.0], [1.0, 5.0, 1.0]]).double()


def moved(change: Tensor, labels: list[int], fooled_as: list[int]) -> MovedUnits:
    return MovedUnits("x", change, change.abs(), torch.ones(len(change)), torch.tensor(labels), torch.tensor(fooled_as))


def test_relation_to_importance_by_hand() -> None:
    change = torch.tensor([[-4.0, 1.0, 0.0], [-3.0, 1.0, 0.0], [-2.0, 1.0, 0.0], [6.0, 1.0, 0.0]])
    found = moved(change, [0, 1, 0], [1, 1, 1]).relation(ablation_of(MARGIN), top=2)
    assert found["image"].tolist() == [0, 2]  # the second was not fooled
    row = found.iloc[0]
    assert row[["from", "to"]].tolist() == [0, 1]
    assert row[["source_top", "source_rest"]].tolist() == [3.5, 4.0]  # units 0 and 1; 2 and 3
    assert row[["target_top", "target_rest"]].tolist() == [4.0, 3.5]  # units 3 and 2; 1 and 0
    assert row["source_rank"] == pytest.approx(spearmanr([4, 3, 2, 1], [-4, -3, -2, 6]).statistic) == -1
    assert row["target_rank"] == pytest.approx(1)
    still = found.iloc[1]  # fooled without any change of this layer
    assert still[["source_top", "source_rest", "target_top", "target_rest"]].tolist() == [0, 0, 0, 0]
    assert math.isnan(still["source_rank"]) and math.isnan(still["target_rank"])
    assert list(found) == [
        "image", "from", "to", "source_top", "source_rest", "source_rank", "target_top", "target_rest", "target_rank",
    ]  # fmt: skip


def test_classes_that_say_nothing() -> None:
    """All units as important for class 2: no rank. No image of class 1 was ablated: neither."""
    change = torch.tensor([[-4.0], [-3.0], [-2.0], [6.0]])
    assert math.isnan(moved(change, [2], [0]).relation(ablation_of(MARGIN), top=1)["source_rank"][0])
    base = torch.tensor([0.9, math.nan, 0.9]).double()
    row = moved(change, [0], [1]).relation(ablation_of(MARGIN, base), top=1).iloc[0]
    assert row[["target_top", "target_rest", "target_rank"]].isna().all()
    assert row["source_top"] == 4.0


@pytest.mark.parametrize("top", [0, -1, 4, 99])
def test_how_many_units_are_important(top: int) -> None:
    with pytest.raises(explain.InputError):
        moved(torch.zeros(4, 1), [0], [1]).relation(ablation_of(MARGIN), top=top)


def test_an_ablation_of_another_layer() -> None:
    one = moved(torch.zeros(4, 1), [0], [1])
    for other in (ablation_of(MARGIN, layer="y"), ablation_of(MARGIN[:3])):
        with pytest.raises(explain.InputError, match="another layer"):
            one.relation(other, top=1)


@pytest.mark.parametrize(
    "other",
    [torch.rand(2, 3, 4, 4), torch.rand(3, 3, 4, 5), 2 + torch.rand(3, 3, 4, 4), torch.full((3, 3, 4, 4), math.nan)],
)
def test_images_that_do_not_belong_together(other: Tensor) -> None:
    images = torch.rand(3, 3, 4, 4)
    for pair in ((images, other), (other, images)):
        with pytest.raises(explain.InputError):
            explain.moved_units(Linear(), *pair, "units")


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(training: bool, module_net: Any, look: Any) -> None:
    model, clean, other = module_net().train(training), torch.rand(3, 3, 12, 16), torch.rand(3, 3, 12, 16)
    before, expected = look(model), explain.moved_units(model, clean, other, "norm").change
    assert look(model) == before
    with torch.inference_mode():
        assert torch.equal(explain.moved_units(model, clean, other, "norm").change, expected)
    with pytest.raises(explain.LayerError):
        explain.moved_units(model, clean, other, "nowhere")
    assert look(model) == before


class Draws(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), training=True)


def test_a_network_that_draws_random_numbers(look: Any) -> None:
    model, images = Draws(), torch.rand(3, 3, 4, 4)
    before = look(model)
    explain.moved_units(model, images, images.flip(0), "units")
    assert look(model) == before


def test_autocast_of_the_caller_does_not_matter() -> None:
    seen: list[torch.dtype] = []

    class Noted(Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    with torch.autocast("cpu", torch.bfloat16):
        explain.moved_units(Noted(), torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), "units")
    assert set(seen) == {torch.float32}


def test_a_single_image_has_no_deviation() -> None:
    found = explain.moved_units(Linear(), torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4), "units").frame()
    assert not (found["relative"].abs() > 1e6).any()


def test_a_network_without_logits() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(explain.ModelError):
        explain.moved_units(model, torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), "0")
