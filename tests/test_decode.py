"""Every kind of picture file that people and phones produce, and the files that only pretend."""

from __future__ import annotations

import os
import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from workbench.decode import MAX_PIXELS, decode
from workbench.errors import ImageError

GRADIENT = np.linspace(0, 255, 24 * 32 * 3).round().astype(np.uint8).reshape(24, 32, 3)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    pixels, notices = decode(encoded(Image.fromarray(GRADIENT), kind, **options))
    loss = {"JPEG": 6, "GIF": 40}.get(kind, 0)  # chroma subsampling, 256 colours
    assert pixels.dtype == np.uint8
    assert pixels.shape == GRADIENT.shape
    assert np.abs(pixels.astype(int) - GRADIENT).max() <= loss
    assert notices == ()


def test_grey_stays_one_channel_and_memory_equals_file(tmp_path: Path) -> None:
    grey = GRADIENT[..., 0]
    (tmp_path / "grey.png").write_bytes(encoded(Image.fromarray(grey)))
    for data in (tmp_path / "grey.png", Image.fromarray(grey), grey, grey[..., None]):
        assert np.array_equal(decode(data).pixels, grey[..., None])


# What a viewer must do with stored pixels, by EXIF 2.3: "row 0 is the visual top" and so on, written as numpy moves.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    pixels, _ = decode(encoded(Image.fromarray(GRADIENT), kind, exif=exif, **options))
    expected = UPRIGHT[orientation](GRADIENT)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (4 if kind == "JPEG" else 0)


def test_orientation_of_a_pil_image_and_nonsense_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(Image.open(BytesIO(encoded(Image.fromarray(GRADIENT), exif=exif)))).pixels.shape == (32, 24, 3)
    exif[0x0112] = 77
    assert decode(encoded(Image.fromarray(GRADIENT), exif=exif)).pixels.shape == (24, 32, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_keep_their_levels(kind: str) -> None:
    ramp = np.linspace(0, 65535, 1024).round().astype(np.uint16).reshape(32, 32)
    pixels, _ = decode(encoded(Image.fromarray(ramp), kind))
    assert pixels.dtype == np.float32
    assert len(np.unique(pixels)) == 1024
    np.testing.assert_allclose(pixels[..., 0], ramp / 65535, atol=1e-7)


def tiff(values: bytes, width: int, bits: int, photometric: int = 1) -> bytes:
    """A one-row grey TIFF, since Pillow writes neither 12 bits nor white-is-zero."""
    tags = [(256, 4, width), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, 1), (279, 4, len(values))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(values)) + values + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_twelve_bit_and_inverted_tiff() -> None:
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x00])  # 0x000, 0x800, 0xFFF, 0x000
    np.testing.assert_allclose(decode(tiff(packed, 4, 12)).pixels.ravel(), [0, 0x800 / 4095, 1, 0], atol=1e-7)
    values = np.array([0, 1000, 65535, 65535], "<u2")
    expected = 1 - values / 65535
    np.testing.assert_allclose(decode(tiff(values.tobytes(), 4, 16, photometric=0)).pixels.ravel(), expected, atol=1e-6)


def test_float_tiff_is_read_in_zero_one_and_refused_elsewhere() -> None:
    half = np.full((4, 4), 0.5, np.float32)
    pixels, notices = decode(encoded(Image.fromarray(half), "TIFF"))
    assert np.array_equal(pixels[..., 0], half)
    assert "floating-point" in notices[0]
    for wrong in (half * 300, half - 1, half * np.nan):
        with pytest.raises(ImageError, match="floating-point pixels outside 0 to 1"):
            decode(encoded(Image.fromarray(wrong), "TIFF"))


def test_32_bit_integers_are_refused() -> None:
    with pytest.raises(ImageError, match="no agreed white"):
        decode(encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"))


def half_transparent() -> Image.Image:
    """Left half opaque blue; right half fully transparent with secret red under it."""
    pixels = np.zeros((4, 8, 4), np.uint8)
    pixels[:, :4] = (0, 0, 200, 255)
    pixels[:, 4:] = (255, 0, 0, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_transparency_is_put_on_white(kind: str) -> None:
    pixels, notices = decode(encoded(half_transparent(), kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert np.array_equal(pixels[0, 0], (0, 0, 200))
    assert np.array_equal(pixels[0, -1], (255, 255, 255))
    assert notices == ("transparency put on white",)


def test_half_transparency_blends_and_opaque_alpha_is_not_worth_a_word() -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert np.array_equal(decode(encoded(image)).pixels[0, 0], (127, 127, 127))
    assert decode(encoded(Image.fromarray(GRADIENT).convert("RGBA"))).notices == ()


def test_grey_with_alpha_stays_grey() -> None:
    pixels, notices = decode(encoded(Image.new("LA", (3, 2), (10, 0))))
    assert pixels.shape == (2, 3, 1)
    assert (pixels == 255).all()
    assert notices


def test_transparent_colours_without_an_alpha_channel() -> None:
    grey16 = np.array([[0, 500, 65535]], np.uint16)
    cases = {
        "palette": encoded(half_transparent().convert("P"), transparency=0),
        "one colour": encoded(Image.new("RGB", (3, 2), (1, 2, 3)), transparency=(1, 2, 3)),
        "one grey": encoded(Image.new("L", (3, 2), 7), transparency=7),
        "bilevel": encoded(Image.new("1", (3, 2), 0), transparency=0),
        "deep grey": encoded(Image.fromarray(grey16), transparency=500),
    }
    for name, data in cases.items():
        assert decode(data).notices == ("transparency put on white",), name
    assert (decode(cases["one colour"]).pixels == 255).all()
    np.testing.assert_array_equal(decode(cases["deep grey"]).pixels.ravel(), [0, 1, 1])


def test_palette_one_bit_and_print_colours() -> None:
    three = np.repeat(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8), 2, axis=0)
    palette = Image.fromarray(three).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(decode(encoded(palette)).pixels, three)
    bits = np.array([[True, False, True]])
    assert np.array_equal(decode(encoded(Image.fromarray(bits))).pixels[..., 0], bits * 255)
    pixels, notices = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert pixels[4, 4, 0] > 200
    assert pixels[4, 4, 1] < 60
    assert notices == ("print colours (CMYK) converted, approximately",)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_several_with_their_count(kind: str) -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    pixels, notices = decode(data)
    assert np.array_equal(pixels[2, 2], (255, 0, 0))
    assert notices == ("first of 3 frames",)


def test_a_phone_photo_with_a_preview_behind_it_is_no_animation() -> None:
    photo = Image.fromarray(GRADIENT)
    data = encoded(photo, "MPO", save_all=True, append_images=[photo.resize((8, 6))])
    assert Image.open(BytesIO(data)).n_frames == 2
    assert decode(data).notices == ()


def test_colour_profiles_are_ignored() -> None:
    image = Image.fromarray(GRADIENT)
    assert np.array_equal(decode(encoded(image, icc_profile=b"not a profile" * 20)).pixels, GRADIENT)


@pytest.mark.parametrize("side", [8_000, 12_000, 14_000])
@pytest.mark.parametrize("warn", ["error", "ignore"])
def test_bombs_are_refused_from_the_header(side: int, warn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("1", (side, side)))
    assert len(data) < 60_000 < MAX_PIXELS < side * side

    def never(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    with warnings.catch_warnings():
        warnings.simplefilter(warn)
        with pytest.raises(ImageError, match=r"too large.*50 megapixels"):
            decode(data)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_incomplete_files_say_so(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ImageError, match=r"incomplete upload|damaged or unusual") as caught:
        decode(data[: max(9, int(len(data) * share))])
    assert kind in str(caught.value) or "incomplete" in str(caught.value)


def test_a_truncated_jpeg_is_an_incomplete_upload() -> None:
    data = encoded(Image.fromarray(GRADIENT), "JPEG")
    with pytest.raises(ImageError, match="incomplete upload"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"", "empty \\(0 bytes\\)"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"<?xml version='1.0'?><html>", "web page"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b'{"label": 3}', "text file"),
        ("Gr\u00fc\u00dfe aus K\u00f6ln, ".encode() * 100, "text file"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        (b"PK\x03\x04\x14\0\0\0", "zip archive or a checkpoint"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"8BPS\0\1", "Photoshop"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio or video"),
        (bytes(range(200, 256)) * 9, "not a picture that can be read"),
    ],
)
def test_files_that_are_no_pictures_are_named(data: bytes, looks_like: str) -> None:
    with pytest.raises(ImageError, match=looks_like) as caught:
        decode(data)
    assert caught.value.fix


def test_formats_outside_the_six_are_not_even_tried() -> None:
    for kind in ("PPM", "ICO", "TGA", "SGI", "PCX", "EPS"):
        with pytest.raises(ImageError):
            decode(encoded(Image.fromarray(GRADIENT), kind))


def test_random_damage_is_always_an_image_error_or_a_picture() -> None:
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about the tags that the damage hits
        for kind in FORMATS:
            whole = np.frombuffer(encoded(Image.fromarray(GRADIENT), kind), np.uint8)
            for _ in range(60):
                data = whole.copy()
                data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
                try:
                    pixels, _ = decode(data.tobytes())
                except ImageError:
                    continue
                assert pixels.ndim == 3
                assert pixels.shape[2] in (1, 3)


def test_arrays_of_other_kinds_are_refused_with_a_hint() -> None:
    for array in (np.zeros((4, 4, 3), np.float32), np.zeros((3, 8, 8), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ImageError, match=r"no picture.*ImageSet"):
            decode(array)
    assert decode(np.full((2, 2), 65535, np.uint16)).pixels.max() == 1.0


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        decode(tmp_path / "pipe.png")
    with (tmp_path / "huge.bmp").open("wb") as file:
        file.truncate(500_000_000)
    with pytest.raises(ImageError, match="too large: 500 MB"):
        decode(tmp_path / "huge.bmp")
