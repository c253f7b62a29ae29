"""The front door, and the promises of a VisionModel."""

from __future__ import annotations

import hashlib
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import ResNet

import workbench as wb
from workbench.models.presets import recognise, weights_enum
from workbench.models.small import SAMPLES

Save = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("reader_in_process")


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_load_with_classes_and_their_own_normalisation(name: str) -> None:
    model = wb.load(f"sample:{name}")
    assert model.architecture == f"sample:{name}"
    assert model.input_size == SAMPLES[name].input_size
    assert len(model.classes) == model.num_classes == 10
    assert model.preset.mean == SAMPLES[name].mean
    assert model.notices == ()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_samples_bare_weights_are_identified_from_a_file(name: str, save: Save) -> None:
    sample = wb.load(f"sample:{name}")
    found = wb.load(save(sample.network.state_dict()), preset=sample.preset)
    images = torch.rand(2, *sample.input_size)
    torch.testing.assert_close(found(images), sample(images))


def test_a_sample_file_of_ours_says_everything_itself() -> None:
    from workbench.bundle import bundled

    model = wb.load(bundled("sample_models") / "shapes-resnet.safetensors")
    assert model.architecture == "resnet (basic, 1-1-1-1)"
    assert model.input_size == (3, 64, 64)
    assert model.preset.source == "found in the file"
    assert model.classes == wb.load("sample:shapes-resnet").classes


def test_normalisation_lives_inside(small_resnet: ResNet) -> None:
    preset = wb.Preset(None, (32, 32), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    model = wb.load(small_resnet, preset=preset, input_size=(3, 32, 32))
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor(preset.mean).view(1, 3, 1, 1), torch.tensor(preset.std).view(1, 3, 1, 1)
    torch.testing.assert_close(model(images), small_resnet((images - mean) / std))


def test_a_model_is_frozen_in_eval_mode_and_stays_so(small_resnet: ResNet) -> None:
    small_resnet.train()
    model = wb.load(small_resnet)
    model.train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_module_passed_in_is_not_touched(small_resnet: ResNet) -> None:
    small_resnet.train()
    wb.load(small_resnet)
    assert small_resnet.training
    assert all(parameter.requires_grad for parameter in small_resnet.parameters())


def test_the_digest_is_of_content_not_of_packaging(small_resnet: ResNet, save: Save) -> None:
    plain = wb.load(save(small_resnet.state_dict(), "a.pth"))
    wrapped = wb.load(save({"state_dict": {f"module.{k}": t for k, t in small_resnet.state_dict().items()}}, "b.pth"))
    assert plain.digest == wrapped.digest
    other = wb.load(save(small_resnet.state_dict(), "a.pth"), preset={"mean": (0.5, 0.5, 0.5)})
    assert other.digest != plain.digest
    with torch.no_grad():
        small_resnet.fc.bias[0] += 1e-3
    assert wb.load(save(small_resnet.state_dict(), "c.pth")).digest != plain.digest


def test_layers_come_in_order_with_shapes_and_parameters() -> None:
    model = wb.load("sample:shapes-vgg")
    layers = {layer.name: layer for layer in model.layers()}
    assert next(iter(layers)) == "conv1"
    assert layers["conv1"].shape == (16, 64, 64)
    assert layers["conv1"].parameters == sum(p.numel() for p in model.network.get_submodule("conv1").parameters())
    assert model.default_layer in layers
    assert wb.load("sample:digits-mlp").default_layer is None


def test_preprocessing_can_be_overridden_and_assumptions_are_said(small_resnet: ResNet, save: Save) -> None:
    path = save(small_resnet.state_dict())
    assumed = wb.load(path)
    assert any("assumed" in notice for notice in assumed.notices)
    chosen = wb.load(path, preset={"resize": 232, "interpolation": "bicubic"})
    assert (chosen.preset.resize, chosen.preset.interpolation, chosen.preset.crop) == (232, "bicubic", (224, 224))
    assert chosen.preset.source == "chosen by the user"
    assert not any("Preprocessing" in notice for notice in chosen.notices)
    with pytest.raises(wb.OptionError, match="no such field"):
        wb.load(path, preset={"scale": 3})


def test_class_names_that_do_not_fit_are_left_out_and_said(small_resnet: ResNet, save: Save) -> None:
    model = wb.load(save({"state_dict": small_resnet.state_dict(), "classes": ["a", "b"]}))
    assert model.classes == ()
    assert model.class_name(3) == "class 3"
    assert any("2 classes but has 7 logits" in notice for notice in model.notices)


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 1)), (3, 2, 2)),
        (nn.Conv2d(3, 4, 1), (3, 2, 2)),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 5, 5)),
    ],
    ids=["single logit", "not a classifier", "wrong size"],
)
def test_modules_that_are_no_classifiers_are_refused_by_name(module: nn.Module, size: tuple[int, int, int]) -> None:
    with pytest.raises(wb.ModelError) as caught:
        wb.load(module, input_size=size)
    assert caught.value.fix


def test_names_that_do_not_exist_come_with_the_nearest() -> None:
    with pytest.raises(wb.ModelError, match="resnet50"):
        wb.load("resnet51")
    with pytest.raises(wb.ModelError, match="sample:shapes-vgg"):
        wb.load("sample:nothing")
    with pytest.raises(wb.ModelError, match="There is no such file"):
        wb.load("nothing.pth")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache of weights, empty."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_torchvision_weights_come_from_its_cache(hub: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    torch.save(network.state_dict(), hub / "resnet18-f37072fd.pth")
    model = wb.load("resnet18", weights="IMAGENET1K_V1")
    images = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(model(images), network((images - model.mean) / model.std))
    assert model.classes[281] == "tabby"
    assert "IMAGENET1K_V1" in model.preset.source
    assert any("not the published one" in notice for notice in model.notices)


def test_a_cached_file_of_another_network_is_refused(hub: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), hub / "resnet18-f37072fd.pth")
    with pytest.raises(wb.ModelError, match="holds another network"):
        wb.load("resnet18")


def test_offline_the_error_says_how_to_pass_a_file(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("offline")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(wb.ModelError) as caught:
        wb.load("resnet18")
    for text in ("could not be downloaded", "resnet18-f37072fd.pth", "wb.load('resnet18-f37072fd.pth')"):
        assert text in str(caught.value)


def test_unknown_weights_are_answered_with_those_that_exist() -> None:
    with pytest.raises(wb.OptionError, match="IMAGENET1K_V2"):
        wb.load("resnet50", weights="IMAGENET22K")


def test_random_weights_are_said_to_be_random() -> None:
    assert any("random" in notice for notice in wb.load("resnet18", weights=None).notices)


def test_torchvisions_own_files_are_recognised_by_content() -> None:
    published = "f37072fd" + "0" * 56
    assert recognise(published, "resnet18") is weights_enum("resnet18", "IMAGENET1K_V1")
    assert recognise(published, "resnet50") is None  # eight digits can be forged; the shapes cannot
    assert recognise(hashlib.sha256(b"").hexdigest(), "resnet18") is None


def test_timm_is_asked_for_by_name_only_when_installed() -> None:
    pytest.importorskip("timm", reason="timm is optional")
    assert wb.load("timm:resnet10t", weights=None).architecture == "timm:resnet10t"


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(wb.ModelError, match=r"classifier-workbench\[timm\]"):
        wb.load("timm:resnet18")


def test_the_digest_tells_apart_what_weights_alone_do_not(save: Save) -> None:
    network = torchvision.models.resnet18(num_classes=5)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    path = save(network.state_dict())
    assert wb.load(path, stem="cifar").digest != wb.load(path, stem="imagenet", input_size=(3, 32, 32)).digest
    layers = [nn.Sequential(nn.Flatten(), nn.Linear(3, 2), act) for act in (nn.ReLU(), nn.GELU())]
    layers[1].load_state_dict(layers[0].state_dict())
    one, other = (wb.load(layer, input_size=(3, 1, 1)).digest for layer in layers)
    assert one != other


def test_saving_a_safetensors_file_anew_does_not_disturb_a_loaded_model(small_resnet: ResNet, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "m.safetensors"
    save_file(small_resnet.state_dict(), path)
    model = wb.load(path)
    images = torch.rand(1, *model.input_size)
    before = model(images)
    path.write_bytes(b"")
    torch.testing.assert_close(model(images), before)


def test_weights_that_are_not_finite_are_refused(small_resnet: ResNet, save: Save) -> None:
    with torch.no_grad():
        small_resnet.fc.weight[0, 0] = float("nan")
    with pytest.raises(wb.ModelError, match="not finite"):
        wb.load(save(small_resnet.state_dict()))


@pytest.mark.parametrize("std", [[0.0, 1.0, 1.0], [float("nan"), 1.0, 1.0], [1.0, 1.0]])
def test_normalisation_that_makes_no_sense_is_not_believed(small_resnet: ResNet, save: Save, std: list[float]) -> None:
    model = wb.load(save({"state_dict": small_resnet.state_dict(), "mean": [0.5, 0.5, 0.5], "std": std}))
    assert "assumed" in model.preset.source


def test_normalisation_for_8_bit_pixels_is_converted_and_said(small_resnet: ResNet, save: Save) -> None:
    saved = {"state_dict": small_resnet.state_dict(), "mean": [127.5] * 3, "std": [51.0] * 3}
    model = wb.load(save(saved))
    assert model.preset.mean == (0.5, 0.5, 0.5)
    assert model.preset.std == (0.2, 0.2, 0.2)
    assert any("divided by 255" in notice for notice in model.notices)


@pytest.mark.parametrize(
    "options",
    [{"stem": "bogus"}, {"head_activation": "ReLU"}, {"input_size": 64}, {"device": "nowhere"}, {"classes": ["one"]}],
    ids=str,
)
def test_options_that_make_no_sense_are_named(options: dict, small_resnet: ResNet) -> None:
    with pytest.raises(wb.OptionError):
        wb.load(small_resnet, **options)


def test_a_module_without_weights_is_refused() -> None:
    with pytest.raises(wb.ModelError, match="no weights yet"):
        wb.load(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
    with torch.device("meta"):
        empty = torchvision.models.resnet18()
    with pytest.raises(wb.ModelError, match="no weights yet"):
        wb.load(empty)


def test_a_backbone_and_a_linear_layer_in_a_sequential(save: Save) -> None:
    backbone = torchvision.models.resnet18()
    backbone.fc = nn.Identity()
    network = nn.Sequential(backbone, nn.Linear(512, 5)).eval()
    model = wb.load(save(network.state_dict()), preset={"mean": (0, 0, 0), "std": (1, 1, 1)})
    images = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(model(images), network(images))
