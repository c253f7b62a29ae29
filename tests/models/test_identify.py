"""Architecture from names and shapes: all 80 torchvision classifiers, families without a name, and honest misses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import list_models
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import Bottleneck, ResNet

import workbench as wb
from workbench import UnknownArchitecture
from workbench.models.checkpoint import Checkpoint
from workbench.models.families import build_vgg
from workbench.models.identification import identify_checkpoint
from workbench.models.meta import build_torchvision
from workbench.models.signatures import generate, shapes_of, signatures

Save = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("reader_in_process")
ALL = list_models(module=torchvision.models)


def checkpoint_of(network: nn.Module, prefix: str = "") -> Checkpoint:
    return Checkpoint({prefix + key: tensor for key, tensor in network.state_dict().items()}, name="test")


@pytest.mark.slow
def test_the_table_describes_the_installed_torchvision() -> None:
    """Fails when a new torchvision changes a network: generate the table anew (see workbench.models.signatures)."""
    stored = {
        name: {"head": s.head, "stem": s.stem, "tensors": {k: list(v) for k, v in s.tensors.items()}}
        for name, s in signatures().items()
    }
    assert json.loads(json.dumps(generate())) == stored
    assert len(ALL) == 80


def test_bodies_without_heads_are_all_different() -> None:
    bodies = {frozenset(signature.body.items()) for signature in signatures().values()}
    assert len(bodies) == len(signatures())


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [1000, 7])
def test_all_80_classifiers_are_identified(num_classes: int) -> None:
    assert_identified(ALL, num_classes)


def test_every_eighth_of_them_is() -> None:
    assert_identified(ALL[::8], 7)


def assert_identified(names: list[str], num_classes: int) -> None:
    for name, prefix in itertools.product(names, ["", "module.", "model.module.", "_orig_mod."]):
        if not prefix:
            network = build_torchvision(name, num_classes=num_classes)
        found = identify_checkpoint(checkpoint_of(network, prefix))
        assert (found.architecture, found.num_classes, found.in_channels, found.head.replaced) == (
            name,
            num_classes,
            3,
            False,
        )
        assert found.family is None


def test_missing_step_counters_do_not_matter() -> None:
    network = build_torchvision("resnet18")
    state = {key: tensor for key, tensor in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert identify_checkpoint(Checkpoint(state)).architecture == "resnet18"


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_noticed_and_optional(name: str) -> None:
    with_aux = identify_checkpoint(checkpoint_of(build_torchvision(name, aux_logits=True)))
    without = identify_checkpoint(checkpoint_of(build_torchvision(name, aux_logits=False)))
    assert with_aux.architecture == without.architecture == name
    assert any("auxiliary" in notice for notice in with_aux.notices)
    assert not any("auxiliary" in notice for notice in without.notices)


@pytest.mark.parametrize("size", [64, 384])
def test_a_vit_of_another_image_size(size: int) -> None:
    found = identify_checkpoint(checkpoint_of(build_torchvision("vit_b_16", image_size=size)))
    assert found.architecture == "vit_b_16"
    assert found.options == {"image_size": size}


def test_one_input_channel_is_found_and_said() -> None:
    network = build_torchvision("resnet18")
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    found = identify_checkpoint(checkpoint_of(network))
    assert (found.architecture, found.in_channels) == ("resnet18", 1)
    assert any("1 input channel " in notice for notice in found.notices)


def resnet(**changes: int) -> ResNet:
    return ResNet(Bottleneck, [1, 2, 1, 1], num_classes=4, **changes)


FAMILY_MEMBERS = {
    "resnet depths": (lambda: resnet(), "resnet (bottleneck, 1-2-1-1)"),
    "resnext": (lambda: resnet(groups=4, width_per_group=8), "resnet (bottleneck, 1-2-1-1)"),
    "wide resnet": (lambda: resnet(width_per_group=96), "resnet (bottleneck, 1-2-1-1)"),
    "vgg with batch norm": (
        lambda: build_vgg(4, plan=(8, "M", 16, 16, "M", 8, "M"), batch_norm=True, in_channels=3, side=2, hidden=(9, 7)),
        "vgg (8-M-16-16-M-8-M, batch norm)",
    ),
    "vgg without": (
        lambda: build_vgg(4, plan=(8, 8, "M"), batch_norm=False, in_channels=1, side=1, hidden=()),
        "vgg (8-8-M)",
    ),
    "densenet": (lambda: DenseNet(12, (2, 3, 2), 16, num_classes=4), "densenet (2-3-2, growth 12)"),
}


@pytest.mark.parametrize(("make", "architecture"), FAMILY_MEMBERS.values(), ids=FAMILY_MEMBERS)
def test_family_members_without_a_name_give_the_same_logits(
    save: Save, make: Callable[[], nn.Module], architecture: str
) -> None:
    torch.manual_seed(0)
    network = make().eval()
    path = save(network.state_dict())
    found = wb.identify(path)
    assert found.architecture == architecture
    assert found.num_classes == 4
    model = wb.load(
        path,
        input_size=(found.in_channels, 64, 64),
        preset={"mean": (0.0,) * found.in_channels, "std": (1.0,) * found.in_channels},
    )
    images = torch.rand(2, found.in_channels, 64, 64)
    torch.testing.assert_close(model(images), network(images))


def test_a_cifar_stem_needs_a_word_from_the_person(save: Save) -> None:
    network = torchvision.models.resnet18(num_classes=5)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    path = save(network.eval().state_dict())
    with pytest.raises(UnknownArchitecture, match='stem="cifar"'):
        wb.load(path)
    model = wb.load(path, stem="cifar", preset={"mean": (0, 0, 0), "std": (1, 1, 1)})
    assert model.input_size == (3, 32, 32)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(images), network(images))


HEADS: dict[str, tuple[Callable[[], nn.Module], str | None]] = {}


def head(activation: str | None = None) -> Callable[[Callable[[], nn.Module]], None]:
    def register(make: Callable[[], nn.Module]) -> None:
        HEADS[make.__name__] = (make, activation)

    return register


@head()
def dropout_and_linear() -> nn.Module:
    network = torchvision.models.resnet18()
    network.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 6))
    return network


@head("relu")
def two_linear_layers() -> nn.Module:
    network = torchvision.models.resnet18()
    network.fc = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 6))
    return network


@head()
def whole_block_replaced() -> nn.Module:
    network = torchvision.models.mobilenet_v3_small()
    network.classifier = nn.Linear(576, 6)
    return network


@head()
def renamed_by_a_wrapper() -> nn.Module:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = torchvision.models.resnet18()
            self.backbone.fc = nn.Identity()
            self.head = nn.Linear(512, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.backbone(x))

    return Wrapper()


@head()
def vgg_with_smaller_hidden_layers() -> nn.Module:
    network = torchvision.models.vgg11(init_weights=False)
    network.classifier = nn.Sequential(
        nn.Linear(25088, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 6)
    )
    return network


@pytest.mark.parametrize(("make", "activation"), HEADS.values(), ids=HEADS)
def test_replaced_heads_give_the_same_logits(save: Save, make: Callable[[], nn.Module], activation: str | None) -> None:
    torch.manual_seed(0)
    network = make().eval()
    path = save(network.state_dict())
    if activation is not None:
        with pytest.raises(wb.ModelError, match="head_activation"):
            wb.load(path)
    model = wb.load(path, head_activation=activation, preset={"mean": (0, 0, 0), "std": (1, 1, 1)})
    images = torch.rand(2, *model.input_size)
    assert model.num_classes == 6
    assert any("head is not" in notice for notice in model.notices)
    torch.testing.assert_close(model(images), network(images))


def test_the_nearest_architectures_and_what_differs_are_named() -> None:
    state = dict(build_torchvision("resnet50").state_dict())
    state["layer1.0.attention.weight"] = torch.empty(3, device="meta")
    del state["layer2.0.conv1.weight"]
    with pytest.raises(UnknownArchitecture) as caught:
        identify_checkpoint(Checkpoint(state, name="odd.pth"))
    assert caught.value.candidates[0].architecture == "resnet50"  # type: ignore[attr-defined]
    for text in (
        "resnet50 (matches 266 of 267",
        "`layer1.0.attention.weight` unknown",
        "`layer2.0.conv1.weight` missing",
        "odd.pth",
    ):
        assert text in str(caught.value)


def test_a_feature_extractor_without_head_is_told_so() -> None:
    state = {key: t for key, t in build_torchvision("resnet50").state_dict().items() if not key.startswith("fc.")}
    with pytest.raises(UnknownArchitecture, match=r"`fc.bias`, `fc.weight` missing"):
        identify_checkpoint(Checkpoint(state))


def test_something_else_resembles_nothing() -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(10, 3)).state_dict()
    with pytest.raises(UnknownArchitecture, match="resembles none"):
        identify_checkpoint(Checkpoint(state))


def test_timms_transformers_are_recognised_by_their_names() -> None:
    state = {f"blocks.{i}.attn.qkv.weight": torch.zeros(6, 2) for i in range(12)}
    with pytest.raises(UnknownArchitecture, match=r"timm\.create_model"):
        identify_checkpoint(Checkpoint(state))


@pytest.mark.parametrize("key", ["layer1.999999999.conv1.weight", "features.999999999.weight", "fc.999999999.weight"])
def test_absurd_numbering_does_not_exhaust_memory(key: str) -> None:
    state = {**build_torchvision("resnet18").state_dict(), key: torch.zeros(64, 64, 3, 3)}
    with pytest.raises(UnknownArchitecture):
        identify_checkpoint(Checkpoint(state))


def test_every_tensor_counts() -> None:
    """Changing any one shape of a network must not still identify it: sampled over one architecture's tensors."""
    original = checkpoint_of(build_torchvision("mobilenet_v3_small"))
    for key, shape in list(shapes_of(build_torchvision("mobilenet_v3_small")).items())[::7]:
        if not key.startswith("classifier.") and key != "features.0.0.weight":
            bent = {**original.tensors, key: torch.empty((shape[0] + 1, *shape[1:]), device="meta")}
            with pytest.raises(UnknownArchitecture):
                identify_checkpoint(replace(original, tensors=bent))


GIANTS = {"regnet_y_128gf", "vit_h_14"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in GIANTS])
def test_every_classifier_survives_a_round_trip_through_a_file(
    save: Save, random_network: Callable[..., nn.Module], name: str
) -> None:
    """Random half-precision weights with a DataParallel prefix come back as the same function."""
    network = random_network(name, num_classes=7)
    state = {f"module.{k}": t.half() if t.is_floating_point() else t for k, t in network.state_dict().items()}
    path = save({"state_dict": state, "epoch": 3})
    rounded = network.state_dict()
    rounded.update({k.removeprefix("module."): t.float() if t.is_floating_point() else t for k, t in state.items()})
    network.load_state_dict(rounded)
    model = wb.load(path)
    assert (model.architecture, model.num_classes) == (name, 7)
    with torch.no_grad():
        images = torch.rand(1, *model.input_size)
        expected = network((images - model.mean) / model.std)
        torch.testing.assert_close(model(images), expected)
        assert expected.isfinite().all()
    for stored in (wb.models.convert.cache_folder()).glob("*.safetensors"):  # 5 GB otherwise
        stored.unlink()
