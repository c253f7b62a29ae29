"""Removing units, however it is done, is what a hook that zeroes them does: every kind of network against the plain loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import explain
from explain.dissection.tail import Tail
from explain.view import private_view

K, N = 3, 6
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])


class Net(nn.Module):
    """Parts by name, and a function of them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._run = forward

    def forward(self, *x: Any) -> Tensor:
        return self._run(self, *x)


def conv(inside: int, out: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, out, 3, padding=1, **options)


def pooled(m: Any, x: Tensor) -> Tensor:
    return m.fc(x.mean((2, 3)))


def residual(m: Any, x: Tensor) -> Tensor:
    """A block that uses one in-place ReLU twice, as ResNets do."""
    return m.relu(m.norm(m.b(m.relu(m.a(x)))) + x)


def writes(m: Any, x: Tensor) -> Tensor:
    return m.b(m.a(F.relu_(x)).sin_()).add_(x)


def block() -> Net:
    return Net(residual, a=conv(8, 8), b=conv(8, 8), norm=nn.BatchNorm2d(8), relu=nn.ReLU(inplace=True))


def u_shape(m: Any, x: Tensor) -> Tensor:
    y = F.interpolate(F.relu(m.down(F.max_pool2d(x, 2))), x.shape[2:])
    return pooled(m, F.relu(m.up(torch.cat([x, y], 1))))


def twice(m: Any, x: Tensor) -> Tensor:
    x = F.relu(m.stem(x))
    return pooled(m, F.relu(m.shared(F.relu(m.shared(x)))))


def squeeze(m: Any, x: Tensor) -> Tensor:
    x = F.relu(m.stem(x))
    return pooled(m, x * torch.sigmoid(m.gate(x.mean((2, 3), keepdim=True))))


def plain(*layers: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, K))


def resnet(kind: Any = torchvision.models.resnet.BasicBlock) -> nn.Module:
    return torchvision.models.ResNet(kind, [1, 1, 1, 1], num_classes=K)


def vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(16, 4, 2, 2, 12, 20, num_classes=K)
    nn.init.normal_(model.heads.head.weight)
    return model


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([2, 2], 8, [1, 2], [2, 2], [2, 2], num_classes=K)


def densenet() -> nn.Module:
    return torchvision.models.DenseNet(4, (2, 2), 8, num_classes=K)


def hidden() -> nn.Module:
    layers = (conv(3, 4, stride=4), nn.ReLU(True), nn.Flatten(), nn.Linear(64, 10), nn.ReLU(True), nn.Linear(10, K))
    return nn.Sequential(*layers)


def rest(**parts: nn.Module) -> dict[str, nn.Module]:
    return {"stem": conv(3, 8), "fc": nn.Linear(8, K), **parts}


ZOO: dict[str, tuple[Callable[[], nn.Module], str, str, str]] = {  # network, layer, way, entry
    "mean and linear": (lambda: plain(conv(3, 6), nn.ReLU(), width=6), "1", "linear", "1"),
    "before in-place ReLU": (lambda: plain(conv(3, 6), nn.ReLU(True), width=6), "0", "tail", "0"),
    "flatten and linear": (
        lambda: nn.Sequential(conv(3, 4, stride=4), nn.ReLU(True), nn.Flatten(), nn.Linear(64, K)), "1", "linear", "1",
    ),
    "deep": (lambda: plain(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(True), conv(6, 6), nn.Tanh(), width=6), "0", "tail", "0"),
    "hidden linear": (hidden, "3", "tail", "3"),
    "last hidden ReLU": (hidden, "4", "linear", "4"),
    "logits": (hidden, "5", "tail", "5"),
    "functional in-place ReLU": (
        lambda: Net(lambda m, x: pooled(m, torch.sin(m.b(F.relu(m.stem(x), inplace=True)))), **rest(b=conv(8, 8))),
        "stem", "tail", "stem",
    ),
    "ReLU used twice in a block": (
        lambda: Net(lambda m, x: pooled(m, m.two(m.one(F.relu(m.stem(x))))), **rest(one=block(), two=block())),
        "one.relu", "tail", "one.relu",
    ),
    "in a block in a block": (
        lambda: Net(lambda m, x: pooled(m, m.out(F.relu(m.stem(x)))),
                    **rest(out=Net(lambda m, x: torch.sin(m.inner(x) + x), inner=block()))),
        "out.inner.a", "tail", "out",
    ),
    "a block that writes into what it is given": (
        lambda: Net(lambda m, x: pooled(m, m.out(m.stem(x))), **rest(out=Net(writes, a=conv(8, 8), b=conv(8, 8)))),
        "out.a", "tail", "out",
    ),
    "shared layer": (lambda: Net(twice, **rest(shared=conv(8, 8))), "shared", "tail", "shared"),
    "U": (lambda: Net(u_shape, down=conv(3, 5), up=conv(8, 8), fc=nn.Linear(8, K)), "down", "full", "down"),
    "gate": (lambda: Net(squeeze, **rest(gate=nn.Conv2d(8, 8, 1))), "gate", "full", "gate"),
    "batch statistics": (
        lambda: plain(conv(3, 6), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU(), conv(6, 6), nn.ReLU(), width=6),
        "0", "full", "0",
    ),
    "float64": (lambda: plain(conv(3, 6), nn.ReLU(), conv(6, 6), nn.ReLU(), width=6).double(), "0", "tail", "0"),
    "ResNet, in a block": (resnet, "layer2.0.conv1", "tail", "layer2.0"),
    "ResNet, a block": (resnet, "layer1.0", "tail", "layer1.0"),
    "ResNet, last block": (resnet, "layer4.0.bn1", "tail", "layer4.0"),
    "DenseNet, in a block": (densenet, "features.denseblock1.denselayer1.conv2", "tail", "features.denseblock1"),
    "ViT, block": (vit, "encoder.layers.encoder_layer_0", "tail", "encoder.layers.encoder_layer_0"),
    "ViT, mlp": (vit, "encoder.layers.encoder_layer_1.mlp.0", "tail", "encoder.layers.encoder_layer_1"),
    "Swin, block": (swin, "features.1.0", "tail", "features.1.0"),
    "Swin, mlp": (swin, "features.3.0.mlp.0", "tail", "features.3.0"),
    "Swin, norm": (swin, "norm", "linear", "norm"),
}  # fmt: skip


def ready(name: str) -> tuple[nn.Module, Tensor]:
    """A network whose answers differ between images."""
    model = ZOO[name][0]().eval()
    images = torch.rand(N, 3, 16, 16).to(next(model.parameters()).dtype)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        logits = torch.cat([model(image[None]) for image in images])
        last.weight *= (2 / logits.std(0))[:, None]
        last.bias.copy_((last.bias - logits.mean(0)) * 2 / logits.std(0))
    return model, images


def brute(model: nn.Module, layer: str, images: Tensor, masks: Tensor, last: bool = False) -> Tensor:
    """Logits (J, N, K): image by image, with what the layer returns in its last run set to zero for some units.

    ``last``: the units are in the last dimension, as in transformers.
    """
    model = copy.deepcopy(model).eval()
    runs: list[int] = []
    counter = model.get_submodule(layer).register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        model(images[:1])
    counter.remove()
    every, found = len(runs), []
    for mask in masks:
        runs.clear()

        def hook(module: nn.Module, given: Any, output: Tensor, mask: Tensor = mask) -> Tensor:
            runs.append(1)
            if len(runs) % every:
                return output
            output = output.clone()
            for unit in mask.nonzero().flatten().tolist():
                if last:
                    output[..., unit] = 0
                else:
                    output[:, unit] = 0
            return output

        handle = model.get_submodule(layer).register_forward_hook(hook)
        with torch.no_grad():
            found.append(torch.cat([model(image[None]) for image in images]))
        handle.remove()
    return torch.stack(found)


def margins(logits: Tensor) -> Tensor:
    """The label's logit less the greatest of the others, (J, N), from (J, N, K)."""
    rows = [[row[y] - max(v for k, v in enumerate(row) if k != y) for row, y in zip(one, LABELS.tolist(), strict=True)]
            for one in logits.tolist()]  # fmt: skip
    return torch.tensor(rows, dtype=logits.dtype)


@pytest.mark.parametrize("name", ZOO)
def test_every_way_is_the_plain_loop(name: str) -> None:
    _, layer, way, entry = ZOO[name]
    model, images = ready(name)
    tail = Tail(private_view(model), layer, images, LABELS, batch_size=4)
    assert (tail.way, tail.entry) == (way, entry)
    units = tail.site.units
    some = torch.eye(units)[:40]
    masks = torch.cat([some, torch.zeros(1, units), torch.ones(1, units), torch.arange(units)[None] % 3 == 0]).bool()
    whole, without = tail.answers(masks)
    expected = brute(model, layer, images, masks, last=name.startswith(("ViT", "Swin")))
    size = float(margins(expected).abs().max())
    exact = size * (1e-12 if name == "float64" else 1e-5)
    torch.testing.assert_close(without.margins, margins(expected), rtol=0, atol=exact)
    # Where two logits are as good as equal (all units removed, say) rounding decides.
    best = expected.topk(2).values
    clear = best[..., 0] - best[..., 1] > exact
    assert torch.equal(without.classes[clear], expected.argmax(-1)[clear])
    none = len(some)
    torch.testing.assert_close(whole.margins, margins(expected)[none], rtol=0, atol=exact)
    assert torch.equal(whole.classes, expected[none].argmax(-1))
    assert (without.margins - whole.margins).abs().max() > 1e-3 * size
    assert (without.classes != whole.classes).any()


@pytest.mark.parametrize("name", ["mean and linear", "deep", "ResNet, in a block", "U", "batch statistics", "ViT, mlp"])
def test_batches_and_company_do_not_matter(name: str) -> None:
    layer = ZOO[name][1]
    model, images = ready(name)
    results = [explain.ablate(model, images, LABELS, layer, batch_size=size) for size in (1, 4, 100)]
    for one in results[1:]:
        assert one.way == results[0].way
        assert torch.equal(one.importance, results[0].importance)
        torch.testing.assert_close(one.margin, results[0].margin, rtol=0, atol=1e-4)
    flipped = explain.ablate(model, images.flip(0), LABELS.flip(0), layer)
    torch.testing.assert_close(flipped.margin, results[0].margin, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("limit", "value"), [("_ROWS", 7), ("_BYTES", 1)])
def test_many_rows_go_through_the_tail_in_parts(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = ready("in a block in a block")
    expected = explain.ablate(model, images, LABELS, "out.inner.a").margin
    monkeypatch.setattr(f"explain.dissection.tail.{limit}", value)
    found = explain.ablate(model, images, LABELS, "out.inner.a").margin
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_silent_units_change_nothing() -> None:
    model, images = ready("deep")
    with torch.no_grad():
        model[1].bias[[1, 4]] = -100.0
    found = explain.ablate(model, images, LABELS, "2")
    assert ((found.margin == 0).all(1)).tolist() == [False, True, False, False, True, False]


def test_one_image_one_channel_two_classes_and_oblong_images() -> None:
    model = nn.Sequential(conv(1, 4), nn.ReLU(), conv(4, 4), nn.Flatten(), nn.Linear(4 * 9 * 14, 2))
    image = torch.rand(1, 1, 9, 14)
    found = explain.ablate(model, image, 1, "0")
    expected = brute(model, "0", image, torch.eye(4, dtype=torch.bool))[:, 0].diff(dim=1)
    whole = model.eval()(image)[0].diff()
    torch.testing.assert_close(found.margin[:, 1].float(), (whole - expected)[:, 0].detach())
    assert found.way == "tail" and found.margin[:, 0].isnan().all()


def wrong_by(model: nn.Module, images: Tensor, layer: str, units: int) -> float:
    """How far ``ablate`` is from the plain loop, relative to what the loop finds for the same unit; the worst unit counts."""
    logits = brute(model, layer, images, torch.eye(units + 1, units).bool())
    lost = (margins(logits)[-1] - margins(logits)[:-1]).double()
    expected = torch.stack([lost[:, k == LABELS].mean(1) for k in range(K)], 1)
    error = (explain.ablate(model, images, LABELS, layer).margin - expected).abs().amax(1)
    return float((error / expected.abs().amax(1)).max())


@pytest.mark.parametrize("black", [False, True])
def test_a_black_first_image_hides_no_relu(black: bool) -> None:
    model = plain(conv(3, 6, bias=False), nn.ReLU(), width=6)
    images = torch.cat([torch.rand(1, 3, 16, 16) * (not black), torch.rand(N - 1, 3, 16, 16)])
    assert wrong_by(model, images, "0", 6) < 1e-4


@pytest.mark.parametrize("black", [False, True])
def test_a_second_argument_of_a_block_is_not_lost(black: bool) -> None:
    inner = Net(lambda m, x, skip=None: m.a(x) + x + (0 if skip is None else skip), a=conv(8, 8))
    parts = rest(stem=conv(3, 8, bias=False), inner=inner)
    model = Net(lambda m, x: pooled(m, F.relu(m.inner(m.stem(x) + 0.5, F.relu(m.stem(x))))), **parts)
    images = torch.cat([torch.rand(1, 3, 16, 16) * (not black), torch.rand(N - 1, 3, 16, 16)])
    assert wrong_by(model, images, "inner.a", 8) < 1e-4


@pytest.mark.parametrize("loudness", [1, 3e4])
def test_a_loud_unit_hides_no_relu_of_the_others(loudness: float) -> None:
    model = plain(conv(3, 6), nn.ReLU(), width=6).double()
    with torch.no_grad():
        model[0].weight[0] = loudness * model[0].weight[0].abs()
    assert wrong_by(model, torch.rand(N, 3, 16, 16).double(), "0", 6) < 1e-6


def test_a_relu_that_runs_on_different_widths() -> None:
    model = resnet(torchvision.models.resnet.Bottleneck)
    assert explain.ablate(model, torch.rand(N, 3, 32, 32), LABELS, "layer4.0.relu").importance.shape == (2048, K)
