"""One pixel of a network from images to images: its filters and impulse responses against kernels that are known."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import workbench as wb
from tests import commandline
from workbench.errors import OptionError
from workbench.images import ImageSet
from workbench.interpret_command import read
from workbench.interpretation.look import Look, look_at
from workbench.report.pixel_page import pixel_page


class Enlarge(nn.Module):
    """Pixels repeated twice, then one known kernel over each channel, then a constant: linear, with bias 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.arange(9.0).view(1, 1, 3, 3) / 36)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = F.interpolate(x, scale_factor=2, mode="nearest")
        return F.conv2d(wide, self.kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1]) + 0.1


@pytest.fixture
def images() -> ImageSet:
    return ImageSet.of(torch.rand(2, 3, 6, 10, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def found(images: ImageSet) -> Look:
    return look_at(Enlarge(), images, (5, 8))


def test_filters_are_the_kernel_folded_onto_the_input(found: Look) -> None:
    """Row 5 looks at rows 4, 5, 6 of the repeated pixels: input rows 2, 2, 3; column 8 at input columns 3, 4, 4."""
    k = (torch.arange(9.0).view(3, 3) / 36).tolist()
    for channel in range(3):
        expected = torch.zeros(3, 6, 10)
        expected[channel, 2, 3] = k[0][0] + k[1][0]
        expected[channel, 2, 4] = k[0][1] + k[0][2] + k[1][1] + k[1][2]
        expected[channel, 3, 3] = k[2][0]
        expected[channel, 3, 4] = k[2][1] + k[2][2]
        torch.testing.assert_close(found.filters[0, channel], expected)
        torch.testing.assert_close(found.filters[1, channel], expected)


def test_impulses_are_what_one_more_changes(found: Look, images: ImageSet) -> None:
    assert found.pixel == (5, 8)
    assert found.beneath == (2, 4)
    model = Enlarge()
    for channel in range(3):
        more = images.images.clone()
        more[:, channel, 2, 4] += 1
        torch.testing.assert_close(found.impulses[:, channel], model(more) - model(images.images), atol=1e-5, rtol=1e-5)


def test_value_is_pixels_plus_bias(found: Look, images: ImageSet) -> None:
    torch.testing.assert_close(found.value, Enlarge()(images.images)[:, :, 5, 8])
    torch.testing.assert_close(found.pixels + found.bias, found.value)
    torch.testing.assert_close(found.bias, torch.full((2, 3), 0.1))
    frame = found.frame()
    assert len(frame) == 6
    assert (frame["row"] == 5).all()
    np.testing.assert_allclose(frame["pixels"] + frame["bias"], frame["value"], rtol=1e-5)


def test_patterns_are_singular(found: Look) -> None:
    assert found.spectrum.values.shape == (2, 4)
    for n in range(4):
        torch.testing.assert_close(
            found.lens.apply(found.spectrum.right[:, n]),
            found.spectrum.values[:, n, None, None, None] * found.spectrum.left[:, n],
            atol=1e-4,
            rtol=1e-3,
        )


def test_the_middle_is_the_default_and_wrong_pixels_are_refused(images: ImageSet) -> None:
    assert look_at(Enlarge(), images, patterns=1).pixel == (6, 10)
    for pixel in ((12, 0), (0, 20), (-1, 0)):
        with pytest.raises(OptionError, match="no such pixel"):
            look_at(Enlarge(), images, pixel)
    with pytest.raises(OptionError, match="returns no image"):
        look_at(wb.load("sample:digits-mlp"), wb.sample_data("digits", n=1))


def test_samples_are_averaged_down_to_what_the_network_enlarges() -> None:
    network = wb.load_image_model("sample:shapes-sr")
    small = read("sample:shapes", network, 2)
    whole = wb.sample_data("shapes", n=2)
    torch.testing.assert_close(small.images, F.avg_pool2d(whole.images, 2))
    assert small.ids == whole.ids
    assert "averaged" in small.notices[0]


def test_page_adds_up_and_needs_no_script(found: Look, images: ImageSet) -> None:
    html = pixel_page(found, ImageSet.of(images.images, ids=("<script>run()", "b")), Enlarge()).html
    assert "<script" not in html
    sums = re.findall(r"<b>([\d.]+)</b>(red|green|blue).*?<b>([\d.]+)</b>weighted.*?<b>([\d.]+)</b>bias", html, re.S)
    assert [colour for _, colour, *_ in sums] == ["red", "green", "blue"] * 2
    for value, _, pixels, bias in sums:
        assert round(float(pixels) + float(bias) - float(value), 6) == 0
    assert html.count("<img") == 2 * (2 + 3 + 3 + 2 * 4)
    assert "raw pixels in [0, 1]" in html


@pytest.mark.parametrize("channels", [2, 4])
def test_what_cannot_be_seen_is_refused(channels: int) -> None:
    images = ImageSet.of(torch.rand(1, channels, 4, 4))
    with pytest.raises(OptionError, match="cannot be shown"):
        pixel_page(look_at(Enlarge(), images, patterns=1), images, Enlarge())


def command(*arguments: object) -> tuple[int, str, str]:
    done = commandline.command("interpret", *arguments)
    return done.returncode, done.stdout, done.stderr


def test_the_command_writes_filters_and_impulses(tmp_path: Path) -> None:
    code, out, err = command("sample:shapes-sr", "sample:shapes", "--pixel", "20,30", "--limit", 1, "-o", tmp_path)
    assert code == 0, err
    assert "Pixel 20,30 of the answer; x is raw pixels" in out
    pictures = sorted(path.name.split(".", 1)[1] for path in tmp_path.glob("*.png"))
    assert pictures == sorted(f"{kind}.{c}.png" for kind in ("filter", "impulse") for c in ("red", "green", "blue"))
    with Image.open(next(tmp_path.glob("*.filter.red.png"))) as picture:
        assert picture.size[0] >= 256
    numbers = np.load(tmp_path / "pixel.npz")
    assert numbers["pixel"].tolist() == [20, 30]
    assert numbers["beneath"].tolist() == [10, 15]
    network = wb.load_image_model("sample:shapes-sr")
    answer = network(read("sample:shapes", network, 1).images)[0, :, 20, 30]
    with (tmp_path / "pixel.csv").open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["value"]) for row in rows], answer.numpy(), rtol=1e-4, atol=1e-5)
    for row in rows:
        assert float(row["pixels"]) + float(row["bias"]) == pytest.approx(float(row["value"]), abs=1e-4)
    assert "--pixel 20,30" in (tmp_path / "index.html").read_text()


def test_json_names_the_pixels(tmp_path: Path) -> None:
    code, out, err = command("sample:shapes-sr", "sample:shapes", "--limit", 1, "-o", tmp_path, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [(row["row"], row["column"], row["channel"]) for row in found["pixels"]] == [(32, 32, c) for c in range(3)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sample:shapes-vgg", "sample:shapes", "--pixel", "1,2"), "Leave --pixel out"),
        (("sample:shapes-sr", "sample:shapes", "--pixel", "1"), "20,30"),
        (("sample:shapes-sr", "sample:shapes", "--pixel", "-1,3"), "20,30"),
        (("sample:shapes-sr", "sample:shapes", "--limit", "1", "--pixel", "64,3"), "0 to 63"),
        (("sample:shapes-sr", "sample:shapes", "--target", "1"), "no use for this option: --target"),
        (("sample:shapes-sr", "sample:shapes", "--no-attack"), "no use for this option: --no-attack"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_paragraph_and_status_2(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    code, _, err = command(*arguments, "-o", tmp_path / "out")
    assert code == 2
    assert said in err
    assert "Traceback" not in err
