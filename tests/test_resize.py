"""The same pixels as torchvision's transforms on PIL images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize, v2

from workbench.errors import OptionError
from workbench.resize import fit, with_channels

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize("hw", [(97, 61), (61, 97), (33, 33), (200, 300), (7, 5)])
@pytest.mark.parametrize(("resize", "crop"), [(40, (32, 32)), (40, (24, 36)), (32, (48, 20)), (64, (64, 64))])
@pytest.mark.parametrize("api", ["v1", "v2"])
def test_equals_torchvision_to_the_pixel(api: str, interpolation: str, hw: tuple, resize: int, crop: tuple) -> None:
    pixels = noise(*hw, 3)
    mode = InterpolationMode(interpolation)
    if api == "v1":
        expected = CenterCrop(crop)(Resize(resize, mode)(Image.fromarray(pixels)))
    else:
        expected = v2.CenterCrop(crop)(v2.Resize(resize, mode)(Image.fromarray(pixels)))
    assert np.array_equal(fit(pixels, crop, resize=resize, interpolation=interpolation).pixels, np.asarray(expected))


def test_no_resize_scales_straight_to_the_crop_and_says_when_that_squeezes() -> None:
    pixels = noise(60, 90, 1)
    expected = Resize((20, 20))(Image.fromarray(pixels[..., 0]))
    got = fit(pixels, (20, 20), resize=None)
    assert np.array_equal(got.pixels[..., 0], np.asarray(expected))
    assert got.notices == ("proportions changed, as the preset scales straight to its size",)
    assert fit(noise(50, 52, 3), (20, 20), resize=None).notices == ()


@pytest.mark.parametrize("hw", [(30, 90), (90, 30), (64, 48), (5, 5), (48, 64)])
def test_cover_fills_the_crop_and_keeps_proportions(hw: tuple) -> None:
    white = np.full((*hw, 3), 255, np.uint8)
    got = fit(white, (48, 64), resize="cover").pixels
    assert got.shape == (48, 64, 3)
    assert (got == 255).all()
    exact = noise(48, 64, 3)
    assert np.array_equal(fit(exact, (48, 64), resize="cover").pixels, exact)


def test_deep_grey_keeps_its_levels_and_its_range() -> None:
    ramp = np.linspace(0, 1, 4096, dtype=np.float32).reshape(1, 4096, 1).repeat(64, 0)
    got = fit(ramp, (64, 1024), resize="cover", interpolation="bicubic").pixels
    assert got.dtype == np.float32
    assert len(np.unique(got)) > 1000
    edge = np.zeros((32, 32, 1), np.float32)
    edge[:, 16:] = 1.0
    sharpened = fit(edge, (50, 50), resize=50, interpolation="lanczos").pixels
    assert 0.0 == sharpened.min() < sharpened.max() == 1.0


@pytest.mark.parametrize("hw", [(1, 5000), (5000, 1)])
def test_a_thread_of_pixels_does_not_explode(hw: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    areas = []
    resize = Image.Image.resize

    def counted(self: Image.Image, size: tuple[int, int], *args: object, **options: object) -> Image.Image:
        areas.append(size[0] * size[1])
        return resize(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", counted)
    pixels, notices = fit(noise(*hw, 3), (224, 224), resize=256)
    assert pixels.shape == (224, 224, 3)
    assert areas == [224 * 224]
    assert "leaves out more than three quarters" in notices[0]


def test_cropping_before_resizing_gives_the_same_pixels() -> None:
    strip = noise(3, 3000, 3)  # 256 x 256 000 is over the limit, but torchvision can still be asked
    expected = np.asarray(CenterCrop(224)(Resize(256)(Image.fromarray(strip))))
    got = fit(strip, (224, 224), resize=256).pixels
    assert np.abs(got.astype(int) - expected).max() <= 1  # Pillow keeps box corners in 32-bit floats


def test_a_crop_larger_than_the_picture_gets_torchvisions_black_border() -> None:
    pixels, notices = fit(np.full((20, 20, 3), 255, np.uint8), (20, 31), resize=20)
    assert (pixels[:, :5] == 0).all()
    assert (pixels[:, 25:] == 0).all()
    assert (pixels[:, 5:25] == 255).all()
    assert notices == ("smaller than the crop, black border added",)


def test_channels() -> None:
    colour = noise(5, 6, 3)
    grey = with_channels(colour, 1)
    assert np.array_equal(grey[..., 0], np.asarray(Image.fromarray(colour).convert("L")))
    assert np.array_equal(with_channels(grey, 3), np.concatenate([grey] * 3, axis=2))
    assert with_channels(colour, 3) is colour


def test_unknown_interpolation() -> None:
    with pytest.raises(OptionError, match=r"trilinear.*bilinear"):
        fit(noise(4, 4, 3), (2, 2), resize=2, interpolation="trilinear")
