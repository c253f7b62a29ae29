"""Which layer a CAM looks at: chosen automatically, by name, or refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import explain
from explain.operators import Operators

CAMS = tuple(name for name, method in explain.METHODS.items() if "layer" in method.needs)


def chosen(model: nn.Module, size: int = 64) -> tuple[str, tuple[int, ...]]:
    found = explain.explain(model, torch.rand(1, 3, size, size + 32), methods="gradcam")["gradcam"]
    return found.layer, tuple(found.cam.shape[1:])


@pytest.mark.parametrize(
    "name, size, layer, space",
    [
        ("resnet18", 64, "layer4", (2, 3)),
        ("resnet50", 32, "layer4", (1, 2)),
        ("mobilenet_v2", 64, "features", (2, 3)),
        ("mobilenet_v3_small", 64, "features", (2, 3)),
        ("squeezenet1_1", 64, "classifier.2", (3, 5)),
        ("densenet121", 64, "features", (2, 3)),
        ("shufflenet_v2_x0_5", 64, "conv5", (2, 3)),
        ("regnet_y_400mf", 64, "trunk_output", (2, 3)),
        ("convnext_tiny", 64, "features", (2, 3)),
        ("swin_t", 64, "permute", (2, 3)),
    ],
)
def test_torchvision_families(name: str, size: int, layer: str, space: tuple[int, int]) -> None:
    assert chosen(getattr(torchvision.models, name)(num_classes=3), size) == (layer, space)


def test_what_shrinks_to_one_position_is_left_with_its_parts() -> None:
    """At 32×32 the last stage of a ResNet-50 is 1×1, though its first block still computes at 2×2 inside."""
    found = explain.explain(torchvision.models.resnet50(num_classes=3), torch.rand(1, 3, 32, 32), methods="gradcam")
    assert found["gradcam"].layer == "layer3"


def test_pooled_maps_are_passed_over_for_what_was_pooled() -> None:
    features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout())
    model = nn.Sequential(features, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 2))
    assert chosen(model, 8) == ("0.1", (8, 40))


class Chain(nn.Module):
    """A block that is no ``nn.Sequential``."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


@pytest.mark.parametrize(
    "trunk, layer",
    [
        (
            Chain(nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1)),
            "1.parts.0",
        ),  # ends in global pooling: not shrunk by itself
        (
            nn.Sequential(nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, (6, 38))),
            "1.0",
        ),  # a whole trunk, of which any layer will do
        (Chain(nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, (6, 38))), "0"),  # a block that ends at 1×1: its inside is a part
    ],
)
def test_blocks_that_end_at_one_position(trunk: nn.Module, layer: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), trunk, nn.Flatten())
    assert chosen(model, 8)[0] == layer


@pytest.mark.parametrize(
    "operator, layout",
    [
        (nn.Linear(7, 5), "NHWC"),
        (nn.LayerNorm(7), "NHWC"),
        (nn.LayerNorm((5, 6, 7)), "NCHW"),
        (nn.Conv2d(5, 5, 1), "NCHW"),
        (nn.GroupNorm(1, 5), "NCHW"),
        (nn.ReLU(), "NCHW"),
    ],
)
def test_layout_is_told_by_the_last_operator_that_made_the_shape(operator: nn.Module, layout: str) -> None:
    with Operators() as operators:
        nn.BatchNorm2d(5)(torch.rand(2, 5, 6, 7))
        shape = operator(torch.rand(2, 5, 6, 7)).shape
    assert operators.layout(shape) == layout
    assert operators.layout((2, 3, 4)) == "tokens" and operators.layout((2, 3)) is None


def test_only_pooled_maps() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.pool, self.fc = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.MaxPool2d(2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.pool(F.conv2d(x, self.weight)).mean((2, 3)))

    assert chosen(Net(), 10) == ("pool", (4, 20))


@pytest.mark.parametrize(
    "relu", [F.relu, torch.relu_, lambda x: F.relu(x, inplace=True), lambda x: x.relu()], ids=range(4)
)
def test_a_relu_right_after_the_chosen_layer_is_included(relu) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.max_pool2d(relu(self.conv(x)), 2).mean((2, 3)))

    model, images = Net(), torch.rand(2, 3, 8, 10)
    activation = model.conv(images).relu().detach().requires_grad_()
    gradient = torch.autograd.grad(model.fc(F.max_pool2d(activation, 2).mean((2, 3)))[:, 1].sum(), activation)[0]
    cam = (gradient.mean((2, 3), keepdim=True) * activation).sum(1).relu().detach()
    for others in ((), ("saliency",), ("saliency", "deconvnet")):
        found = explain.explain(model, images, 1, methods=(*CAMS, *others))
        torch.testing.assert_close(found["gradcam"].cam, cam, rtol=1e-5, atol=1e-8)
        assert found["gradcam++"].notes == (
            "the layer's output is taken after the ReLU that the network applies to it",
        )
    asked_for = explain.explain(model, images, 1, methods="gradcam++", layer="conv")["gradcam++"]
    assert "negative activations" in asked_for.notes[0]  # a layer asked for by name is taken as it is


def test_an_inplace_relu_after_a_layer_asked_for_does_not_change_its_map() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    images = torch.rand(1, 3, 8, 8)
    found = [
        explain.explain(nn.Sequential(convolution, nn.ReLU(inplace=inplace), *tail), images, 1, methods=CAMS, layer="0")
        for inplace in (True, False)
    ]
    for cam in CAMS:
        assert torch.equal(found[0][cam].cam, found[1][cam].cam)


def test_any_layer_by_name_agrees_with_a_hook(module_net) -> None:
    model, images = module_net().eval(), torch.rand(2, 3, 12, 20)
    for name in ("stem.0", "stem.1", "pool", "conv", "norm", "last"):
        kept: list[Tensor] = []
        handle = model.get_submodule(name).register_forward_hook(
            lambda _, __, out, kept=kept: kept.append(out) or out.clone()
        )
        score = model(images)[:, 2].sum()
        handle.remove()
        gradient = torch.autograd.grad(score, kept[0])[0]
        cam = (gradient.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1).relu()
        found = explain.explain(model, images, 2, methods="gradcam", layer=name)["gradcam"]
        torch.testing.assert_close(found.cam, cam, rtol=1e-4, atol=1e-8)
        assert found.layer == name and found.maps.shape == (2, 12, 20)


def test_a_layer_that_runs_twice_is_said_so(module_net) -> None:
    found = explain.explain(module_net(), torch.rand(1, 3, 12, 20), methods="gradcam")["gradcam"]
    assert found.layer == "relu"
    assert found.notes == ("the layer runs 2 times; the last run is explained",)


def test_channels_last_layers_are_recognised() -> None:
    """Swin's blocks give (N, H, W, C): the map must have the layer's H×W, and match one made by hand."""
    model, images = torchvision.models.swin_t(num_classes=3).eval(), torch.rand(1, 3, 64, 96)
    kept: list[Tensor] = []
    handle = model.features[5].register_forward_hook(lambda _, __, out: kept.append(out))
    gradient = torch.autograd.grad(model(images)[:, 2].sum(), kept[0])[0]
    handle.remove()
    cam = (gradient.mean((1, 2), keepdim=True) * kept[0]).sum(3).relu().detach()
    found = explain.explain(model, images, 2, methods="gradcam", layer="features.5")["gradcam"]
    assert found.cam.shape == (1, 4, 6)
    torch.testing.assert_close(found.cam, cam, rtol=1e-4, atol=1e-8)


def test_unknown_layer_names_the_closest() -> None:
    model = torchvision.models.resnet18(num_classes=3)
    with pytest.raises(explain.LayerError, match=r"'layer4\.1\.conv9'.*layer4\.1\.conv2"):
        explain.explain(model, torch.rand(1, 3, 32, 32), layer="layer4.1.conv9")
    with pytest.raises(explain.LayerError, match=r"'zzz'.*conv1, bn1"):
        explain.explain(model, torch.rand(1, 3, 32, 32), layer="zzz", methods="saliency")


def test_names_with_the_prefix_of_a_wrapper(module_net) -> None:
    model = nn.DataParallel(module_net())
    found = explain.explain(model, torch.rand(1, 3, 12, 20), methods="gradcam", layer="module.conv")["gradcam"]
    assert found.layer == "conv"


@pytest.mark.parametrize(
    "layer, reason",
    [
        ("head", r"outputs of shape \(N, 5\)"),
        ("idle", "does not run"),
        ("gap", r"\(N, 12, 1, 1\)"),
        ("pair", "no single tensor"),
    ],
)
def test_layers_without_space_do_not_apply(layer: str, reason: str) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head, self.idle = nn.Conv2d(3, 12, 3), nn.Linear(12, 5), nn.Conv2d(3, 3, 1)
            self.gap, self.pair = nn.AdaptiveAvgPool2d(1), Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gap(self.pair(self.conv(x))[0]).flatten(1))

    with pytest.raises(explain.NotApplicable, match=f"Grad-CAM does not apply: .*{reason}"):
        explain.explain(Net(), torch.rand(1, 3, 8, 8), methods=("saliency", "gradcam"), layer=layer)
    found = explain.explain(
        Net(), torch.rand(1, 3, 8, 8), methods=("saliency", *CAMS), layer=layer, skip_inapplicable=True
    )
    assert list(found) == ["saliency"] and tuple(found.skipped) == CAMS


@pytest.mark.parametrize("methods", [CAMS, ("saliency", *CAMS)])
def test_a_layer_that_the_score_does_not_depend_on(methods: tuple[str, ...]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.side, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 2, 1), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            self.side(x)
            return self.head(x.mean((2, 3)))

    found = explain.explain(Net(), torch.rand(1, 3, 8, 8), methods=methods, layer="side", skip_inapplicable=True)
    assert tuple(found.skipped) == CAMS
    assert "does not depend on the layer" in found.skipped["gradcam"]


def test_a_network_without_space() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(
        explain.NotApplicable, match="Grad-CAM\\+\\+ does not apply: no layer of the network has a spatial"
    ):
        explain.explain(model, torch.rand(1, 3, 8, 8))
    found = explain.explain(model, torch.rand(1, 3, 8, 8), methods=tuple(explain.METHODS), skip_inapplicable=True)
    assert tuple(found.skipped) == CAMS
    found = explain.explain(model, torch.rand(2, 3, 8, 8), methods=CAMS, skip_inapplicable=True)
    assert not found and found.logits.shape == (2, 3) and found.frame().empty


def test_a_network_of_tokens() -> None:
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3
    )
    with pytest.raises(explain.NotApplicable, match=r"reasons in tokens.*'conv_proj'"):
        explain.explain(model, torch.rand(1, 3, 32, 32), methods="gradcam")
    assert explain.explain(model, torch.rand(1, 3, 32, 32), methods="gradcam", layer="conv_proj")["gradcam"].cam.shape[
        1:
    ] == (4, 4)


def test_default_layer_is_the_one_that_is_taken(module_net, look) -> None:
    model, images = module_net(), torch.rand(2, 3, 12, 20)
    before = look(model)
    assert explain.default_layer(model, images) == explain.explain(model, images)["gradcam++"].layer == "relu"
    assert look(model) == before


def test_layers_lists_what_ran_in_order(module_net, look) -> None:
    model, images = module_net(), torch.rand(2, 3, 12, 20)
    before = look(model)
    listed = {layer.name: layer for layer in explain.layers(model, images)}
    assert look(model) == before
    assert list(listed) == [
        "stem.0",
        "stem.1",
        "stem.2",
        "stem",
        "pool",
        "conv",
        "norm",
        "relu",
        "last",
        "drop",
        "head",
    ]
    assert listed["last"] == explain.Layer("last", "Conv2d", (12, 6, 10), 8 * 12 * 9 + 12, "NCHW")
    assert listed["stem"].parameters == 3 * 8 * 9 + 8 + 16
    assert listed["last"].spatial and not listed["head"].spatial
    assert listed["head"].shape == (5,) and listed["head"].layout is None
