"""Networks that return images: their door, their promises, the sample, and how its small images are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import explain
import workbench as wb
from workbench.models.signatures import signatures
from workbench.models.small import IMAGE_SAMPLES, SAMPLES, ShapesEDSR

SOURCE = "sample:shapes-sr"


@pytest.fixture(scope="module")
def model() -> wb.ImageModel:
    return wb.load_image_model(SOURCE)


@pytest.fixture(scope="module")
def small() -> torch.Tensor:
    """Three images ``(3, 3, 32, 32)`` of the kind that the sample has learnt."""
    return wb.shrink(wb.sample_data("shapes", "test", 3).images)


@pytest.fixture
def edsr() -> ShapesEDSR:
    torch.manual_seed(0)
    return ShapesEDSR(width=8, blocks=2)


def test_the_sample_loads_with_its_own_normalisation(model: wb.ImageModel) -> None:
    assert model.name == SOURCE
    assert (model.input_size, model.output_size, model.scale) == ((3, 32, 32), (3, 64, 64), 2)
    assert model.preset.mean == IMAGE_SAMPLES["shapes-sr"].mean
    assert (model.notices, model.device.type) == ((), "cpu")
    assert f"{model!r}" == f"ImageModel({SOURCE}: 3×32×32 to 3×64×64, scale 2, {model.digest[:12]})"
    assert wb.load_image_model(model) is model


def test_other_heights_and_widths_are_doubled_and_a_batch_is_only_speed(model: wb.ImageModel) -> None:
    images = torch.rand(2, 3, 10, 23, generator=torch.Generator().manual_seed(0))
    answer = model(images)
    assert answer.shape == (2, 3, 20, 46)
    torch.testing.assert_close(torch.cat([model(image[None]) for image in images]), answer)


def test_the_sample_returns_what_was_there_before_it_was_averaged(model: wb.ImageModel, small: torch.Tensor) -> None:
    """Averaging its answer gives back the question, which no interpolation does."""
    answer = model(small)
    again = (wb.shrink(answer) - small).square().mean()
    interpolated = wb.shrink(F.interpolate(small, scale_factor=2, mode="bicubic"))
    assert again < 0.1 * (interpolated - small).square().mean()
    assert again < 1e-5  # a grey level is 4e-3


def test_photos_are_read_to_its_size(model: wb.ImageModel) -> None:
    photos = wb.read_images(wb.sample_photos()[:1], preset=model.preset)
    assert model(photos.images).shape == (1, 3, 64, 64)


def test_normalisation_lives_inside(edsr: ShapesEDSR) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    model = wb.load_image_model(edsr, mean=mean, std=std, name="mine")
    images = torch.rand(2, 3, 6, 9)
    shift, spread = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    torch.testing.assert_close(model(images), edsr((images - shift) / spread).detach())
    assert (model.name, model.input_size, model.output_size) == ("mine", (3, 64, 64), (3, 128, 128))
    assert (model.preset.source, model.notices) == ("chosen by the user", ())


def test_without_mean_and_std_a_module_sees_the_pixels_and_that_is_said(edsr: ShapesEDSR) -> None:
    model = wb.load_image_model(edsr)
    images = torch.rand(2, 3, 6, 9)
    torch.testing.assert_close(model(images), edsr(images).detach())
    assert model.name == "ShapesEDSR"
    assert "assumed" in model.preset.source
    (notice,) = model.notices
    assert "mean=" in notice


def test_half_of_the_normalisation_can_be_chosen() -> None:
    sample = IMAGE_SAMPLES["shapes-sr"]
    preset = wb.load_image_model(SOURCE, std=(1, 1, 1), input_size=(3, 8, 12)).preset
    assert (preset.mean, preset.std, preset.crop, preset.source) == (
        sample.mean,
        (1, 1, 1),
        (8, 12),
        "chosen by the user",
    )


@pytest.mark.parametrize(
    ("module", "size", "output", "scale"),
    [
        (nn.Conv2d(1, 3, 3, padding=1), None, (3, 64, 64), 1),
        (nn.AvgPool2d(2), (3, 8, 12), (3, 4, 6), 0.5),
        (nn.Conv2d(13, 13, 1), (13, 5, 7), (13, 5, 7), 1),
    ],
    ids=["grey to colour", "smaller", "thirteen bands"],
)
def test_any_module_from_images_to_images(
    module: nn.Module, size: tuple[int, int, int] | None, output: tuple[int, int, int], scale: float
) -> None:
    model = wb.load_image_model(module, input_size=size)
    assert (model.output_size, model.scale) == (output, scale)


def test_a_model_is_frozen_in_eval_mode_and_the_module_is_not_touched(edsr: ShapesEDSR) -> None:
    edsr.train()
    model = wb.load_image_model(edsr)
    model.train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert edsr.training
    assert all(parameter.requires_grad for parameter in edsr.parameters())
    with torch.no_grad():
        edsr.head.bias += 1
    assert not torch.equal(model.network.head.bias, edsr.head.bias)


def test_the_digest_is_of_content(edsr: ShapesEDSR) -> None:
    digest = wb.load_image_model(edsr).digest
    assert wb.load_image_model(edsr, name="other", input_size=(3, 8, 8)).digest == digest
    assert wb.load_image_model(edsr, mean=(0.5, 0.5, 0.5)).digest != digest
    with torch.no_grad():
        edsr.tail.bias[0] += 1e-3
    assert wb.load_image_model(edsr).digest != digest


def test_what_wraps_a_model_is_seen_through(model: wb.ImageModel) -> None:
    found = wb.load_image_model(nn.DataParallel(model))
    assert isinstance(found.network, ShapesEDSR)
    assert found.digest == model.digest
    assert wb.load_image_model(nn.DataParallel(ShapesEDSR(8, 1))).name == "ShapesEDSR"


@pytest.mark.parametrize("source", [f"sample:{name}" for name in SAMPLES])
def test_classifiers_are_sent_to_the_other_door(source: str) -> None:
    with pytest.raises(wb.ModelError, match=rf'classifier.*workbench\.load\("{source}"\)'):
        wb.load_image_model(source)


def test_classifiers_that_are_loaded_or_modules_are_refused_too() -> None:
    with pytest.raises(wb.ModelError, match="This is a classifier, which returns no images: sample:digits-mlp"):
        wb.load_image_model(wb.load("sample:digits-mlp"))
    with pytest.raises(wb.ModelError, match=r"Sequential returns \(1, 5\). A classifier is for workbench.load"):
        wb.load_image_model(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), input_size=(3, 2, 2))


def test_image_models_are_refused_by_load(model: wb.ImageModel, edsr: ShapesEDSR) -> None:
    with pytest.raises(
        wb.ModelError, match=r'returns images and is no classifier.*workbench\.load_image_model\("sample:shapes-sr"\)'
    ):
        wb.load(SOURCE)
    for module in (model, edsr):
        with pytest.raises(wb.ModelError, match=r"not a classifier.*workbench\.load_image_model"):
            wb.load(module, input_size=(3, 16, 16))


class _Says(nn.Module):
    """Returns whatever a function makes of the images."""

    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: torch.Tensor) -> Any:
        return self.answer(images)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("sample:nothing", "no such sample model: sample:nothing. Choose one of: sample:shapes-sr"),
        ("resnet50", "a sample or a module: resnet50. Choose one of: sample:shapes-sr"),
        (3, "a sample or a module: int"),
        (nn.Conv2d(3, 21, 1), "returns 21 maps per image"),
        (_Says(lambda x: {"out": x}), "_Says returns dict"),
        (_Says(lambda x: x[0]), r"_Says returns \(3, 64, 64\)"),
        (_Says(lambda x: x[:, :, :32]), "changes the proportions of an image: _Says: 3×64×64 to 3×32×64"),
        (_Says(lambda x: x / 0 * 0), "not finite"),
        (nn.Conv2d(3, 3, 65), "cannot process an image of this size: Conv2d: 3×64×64"),
        (nn.LazyConv2d(3, 1), "no weights yet"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_does_not_return_images_is_refused_by_name(source: Any, words: str) -> None:
    with pytest.raises(wb.ModelError, match=words) as caught:
        wb.load_image_model(source)
    assert caught.value.fix


@pytest.mark.parametrize(
    "options",
    [
        {"mean": (0.5,)},
        {"mean": (0.5,), "std": (1.0,)},
        {"std": (1.0, 0.0, 1.0)},
        {"input_size": 64},
        {"device": "nowhere"},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(wb.OptionError) as caught:
        wb.load_image_model(SOURCE, **options)
    assert caught.value.fix


def test_neither_the_command_line_nor_the_app_offers_it_as_a_classifier() -> None:
    from workbench.pages import sidebar

    assert SAMPLES.keys().isdisjoint(IMAGE_SAMPLES)
    assert sidebar.SAMPLES.keys() <= SAMPLES.keys()
    assert not {f"sample:{name}" for name in IMAGE_SAMPLES} & signatures().keys()


def test_explanations_see_through_it_and_methods_for_classes_are_refused(
    model: wb.ImageModel, small: torch.Tensor
) -> None:
    names = {layer.name for layer in explain.layers(model, small)}
    assert names == {name for name, _ in model.network.named_modules() if name}
    with pytest.raises(explain.ModelError, match="logits"):
        explain.explain(model, small, methods="saliency")


def test_the_linear_interpreter_opens_it(model: wb.ImageModel, small: torch.Tensor) -> None:
    """ReLUs alone: A is the Jacobian, so a row is a gradient, and a column meets the rows in one number."""
    lens = explain.linear_interpreter(model, small[:2])
    torch.testing.assert_close(lens.outputs, model(small[:2]))
    torch.testing.assert_close(lens.apply(small[:2]) + lens.bias, model(small[:2]), rtol=1e-4, atol=1e-5)
    place = (1, 33, 22)
    images = small[:2].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(images)[:, 1, 33, 22].sum(), images)
    torch.testing.assert_close(lens.row(place), gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(lens.column((2, 16, 11))[:, *place], gradient[:, 2, 16, 11], rtol=1e-4, atol=1e-6)
    assert {name for name in lens.bias_terms(place).names if name.endswith(".bias")} == {
        name for name, _ in model.network.named_parameters() if name.endswith(".bias")
    }


def test_an_edsr_can_be_set_by_hand_to_repeat_each_pixel(edsr: ShapesEDSR) -> None:
    """Head and tail copy, the residual path is silent: what is left is the skip and the order of the shuffle."""
    for parameter in edsr.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        for channel in range(3):
            edsr.head.weight[channel, channel, 1, 1] = 1
            edsr.tail.weight[4 * channel : 4 * channel + 4, channel, 1, 1] = 1
        edsr.tail.bias += 0.25
    images = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(edsr(images), F.interpolate(images, scale_factor=2) + 0.25)


def test_every_part_of_an_edsr_counts_once(edsr: ShapesEDSR) -> None:
    """Written out: head, blocks with their skips, the convolution after them, the long skip, tail, shuffle."""

    def convolve(x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
        return F.conv2d(x, layer.weight, layer.bias, padding=1)

    images = torch.rand(2, 3, 5, 7)
    start = x = convolve(images, edsr.head)
    *blocks, last = edsr.body
    for block in blocks:
        x = x + convolve(convolve(x, block.conv1).clamp(min=0), block.conv2)
    twelve = convolve(start + convolve(x, last), edsr.tail)
    expected = twelve.view(2, 3, 2, 2, 5, 7).permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 10, 14)
    torch.testing.assert_close(edsr(images), expected)


def test_the_sample_is_small_and_has_a_bias_everywhere_and_no_normalisation(model: wb.ImageModel) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000
    kinds = {type(layer) for layer in model.network.modules() if not list(layer.children())}
    assert kinds == {nn.Conv2d, nn.ReLU, nn.PixelShuffle}
    assert all(layer.bias is not None for layer in model.network.modules() if isinstance(layer, nn.Conv2d))


def test_shrinking_is_the_average_of_squares() -> None:
    images = torch.rand(2, 1, 6, 9, dtype=torch.float64)
    expected = images.reshape(2, 1, 2, 3, 3, 3).mean(dim=(3, 5))
    torch.testing.assert_close(wb.shrink(images, 3), expected)
    assert torch.equal(wb.shrink(images, 1), images)
    with pytest.raises(wb.ImageError, match="multiples of 2: 6 × 9"):
        wb.shrink(images)


@pytest.mark.parametrize("images", [torch.zeros(3, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [1.0]], ids=repr)
def test_shrinking_wants_images(images: Any) -> None:
    with pytest.raises(wb.ImageError, match="floating-point images"):
        wb.shrink(images)


@pytest.mark.parametrize("factor", [0, -2, 1.5])
def test_shrinking_wants_a_whole_number(factor: Any) -> None:
    with pytest.raises(wb.OptionError, match="positive whole number"):
        wb.shrink(torch.zeros(1, 3, 4, 4), factor)
