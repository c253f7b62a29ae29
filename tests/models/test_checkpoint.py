"""Unwrapping: containers, prefixes, masks, normalisation and class names as training scripts really save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import prune
from torchvision.models.resnet import ResNet

from workbench import RefusedFile
from workbench.models.checkpoint import open_checkpoint

Save = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("reader_in_process")
STATE = {
    "fc.weight": torch.arange(6.0).view(2, 3),
    "fc.bias": torch.ones(2),
    "c.weight": torch.ones(1),
    "d.x": torch.ones(1),
}
OTHER = {key: tensor + 1 for key, tensor in STATE.items()}

CONTAINERS: dict[str, Any] = {
    "bare": STATE,
    "state_dict": {"state_dict": STATE, "epoch": 1},
    "model": {"model": STATE, "optimizer": {"state": {}}},
    "nested": {"checkpoint": {"model_state_dict": STATE}},
    "tuple": (STATE, 3),
    "prefers the weights in training": {"model": STATE, "model_ema": OTHER},
    "takes averaged weights if there are no others": {"state_dict_ema": STATE},
    "prefers the student": {"teacher": OTHER, "student": STATE},
    "drops counters": {**STATE, "n_averaged": torch.tensor(3), "fc.total_ops": torch.zeros(1)},
}


@pytest.mark.parametrize("saved", CONTAINERS.values(), ids=CONTAINERS)
def test_containers_are_unwrapped(save: Save, saved: Any) -> None:
    checkpoint = open_checkpoint(save(saved))
    assert checkpoint.tensors.keys() == STATE.keys()
    assert all(torch.equal(checkpoint.tensors[key], STATE[key]) for key in STATE)


def test_choosing_between_averaged_and_other_weights_is_said(save: Save) -> None:
    both = open_checkpoint(save({"model": STATE, "model_ema": OTHER}))
    assert any("averaged" in notice and "`model` was used" in notice for notice in both.notices)
    only = open_checkpoint(save({"ema": STATE}))
    assert any("averaged weights only" in notice for notice in only.notices)


def test_a_model_saved_in_parts_is_joined(save: Save) -> None:
    parts = {"backbone": {"conv.weight": torch.ones(1)}, "head": {"weight": torch.ones(2, 2)}}
    assert open_checkpoint(save(parts)).tensors.keys() == {"backbone.conv.weight", "head.weight"}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "my_own_net."])
def test_prefixes_are_offered_for_removal_one_by_one(save: Save, prefix: str) -> None:
    checkpoint = open_checkpoint(save({prefix + key: tensor for key, tensor in STATE.items()}))
    variants = list(checkpoint.stripped())
    assert variants[0].tensors.keys() == {prefix + key for key in STATE}
    assert any(variant.tensors.keys() == STATE.keys() for variant in variants)
    assert any("was removed" in notice for notice in variants[1].notices)


def test_pruning_masks_are_folded_as_prune_remove_would(save: Save, small_resnet: ResNet) -> None:
    prune.random_unstructured(small_resnet.conv1, "weight", 0.5)
    path = save(small_resnet.state_dict())
    prune.remove(small_resnet.conv1, "weight")
    checkpoint = open_checkpoint(path)
    assert torch.equal(checkpoint.tensors["conv1.weight"], small_resnet.conv1.weight)
    assert not any(key.endswith(("_orig", "_mask")) for key in checkpoint.tensors)
    assert "1 pruning masks were folded into the weights (50% zeros)." in checkpoint.notices


def test_a_normalise_layer_in_front_is_taken_out_and_kept(save: Save) -> None:
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.5]).view(1, 3, 1, 1)
    saved = {"0.mean": mean, "0.std": std, **{f"1.{key}": tensor for key, tensor in STATE.items()}}
    checkpoint = open_checkpoint(save(saved))
    assert checkpoint.mean == pytest.approx((0.5, 0.4, 0.3))
    assert checkpoint.std == pytest.approx((0.2, 0.25, 0.5))
    assert any(variant.tensors.keys() == STATE.keys() for variant in checkpoint.stripped())


def test_batch_norm_statistics_are_no_normalise_layer(save: Save, small_resnet: ResNet) -> None:
    checkpoint = open_checkpoint(save(small_resnet.state_dict()))
    assert checkpoint.mean is None
    assert checkpoint.tensors.keys() == small_resnet.state_dict().keys()


def test_old_densenet_names_become_todays(save: Save) -> None:
    old = {
        "features.denseblock1.denselayer1.norm.1.weight": torch.ones(1),
        "features.denseblock1.denselayer1.conv.2.weight": torch.ones(1),
    }
    new = {"features.denseblock1.denselayer1.norm1.weight", "features.denseblock1.denselayer1.conv2.weight"}
    assert open_checkpoint(save(old)).tensors.keys() == new


CLASSES: dict[str, Any] = {
    "list": {"classes": ["cat", "dog"]},
    "class_to_idx": {"class_to_idx": {"dog": 1, "cat": 0}},
    "idx_to_class": {"idx_to_class": {0: "cat", 1: "dog"}},
    "in meta": {"meta": {"class_names": ("cat", "dog")}},
}


@pytest.mark.parametrize("extra", CLASSES.values(), ids=CLASSES)
def test_class_names_are_found(save: Save, extra: dict[str, Any]) -> None:
    assert open_checkpoint(save({"state_dict": STATE, **extra})).classes == ("cat", "dog")


def test_class_tables_with_gaps_are_left_alone(save: Save) -> None:
    assert open_checkpoint(save({"state_dict": STATE, "class_to_idx": {"cat": 0, "dog": 5}})).classes == ()


def test_hints_are_kept_as_plain_values(save: Save) -> None:
    hints = open_checkpoint(save({"state_dict": STATE, "arch": "resnet18", "epoch": 7})).hints
    assert hints == {"arch": "resnet18", "epoch": 7}


def test_a_file_without_a_state_dict_says_so(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(RefusedFile, match="No state dict"):
        open_checkpoint(tmp_path / "empty.safetensors")


@pytest.mark.parametrize("saved", [{"n_averaged": torch.ones(1)}, {"mean": torch.ones(3), "std": torch.ones(3)}])
def test_a_file_with_nothing_but_accessories_has_no_state_dict(save: Save, saved: dict[str, torch.Tensor]) -> None:
    with pytest.raises(RefusedFile, match="No state dict"):
        open_checkpoint(save(saved))


def test_a_mask_of_another_shape_is_no_pruning_mask(save: Save) -> None:
    saved = {"w_orig": torch.ones(3), "w_mask": torch.ones(2)}
    assert open_checkpoint(save(saved)).tensors.keys() == saved.keys()
