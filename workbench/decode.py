"""One picture, a file or something in memory, becomes an array in grey or RGB.

Uploads are hostile until proven otherwise, and harmless files lie as well: a phone writes its photos sideways and says
so in a tag, Pillow's ``convert`` clips 16-bit pixels instead of scaling them and drops transparency together with
whatever colour was hidden under it. Each of these is handled here once, and what changed is said in a notice. Colour
profiles (ICC) are ignored, as torchvision ignores them. Sizes are checked before any pixel is decoded.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from .errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 50_000_000
MAX_BYTES = 400_000_000

_NAMED = "PNG, JPEG, WebP, BMP, TIFF or GIF"
_SAVE_AS = "A picture program may be able to save it as PNG or JPEG."
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"GIF8": "GIF",
}
_FOREIGN = {
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript file",
    b"PK\x03\x04": "a zip archive or a checkpoint",
    b"8BPS": "a Photoshop file",
    b"\0\0\1\0": "an icon file",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
    b"\xff\x0a": "a JPEG XL picture",
    b"\x1f\x8b": "a gzip archive",
    b"RIFF": "an audio or video file",
}
_ISO_MEDIA = {b"avif": "an AVIF picture", b"avis": "an AVIF picture"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "a HEIC photo"
)
_UPRIGHT = {  # EXIF orientation -> what makes the picture upright (EXIF 2.3, tag 0x0112)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 0x0112, 258, 262, 0


class Decoded(NamedTuple):
    """A picture as numbers.

    Attributes:
        pixels: ``(H, W, C)`` with C 1 or 3: uint8, or float32 in [0, 1] where the file holds more than 8 bits.
        notices: what was changed to get there, one phrase each.
    """

    pixels: np.ndarray
    notices: tuple[str, ...] = ()


def decode(data: bytes | Path | Image.Image | np.ndarray) -> Decoded:
    """Decode one picture.

    Args:
        data: the bytes of a file, its path, a PIL image, or an array of uint8: ``(H, W)``, or ``(H, W, C)`` with C 1,
            2 (grey and alpha), 3 or 4 (colour and alpha). Grey may also be uint16.

    Returns:
        The first frame, upright, without transparency, in grey or RGB.

    Raises:
        ImageError: the data is no picture, is incomplete, or is larger than ``MAX_PIXELS``.
    """
    if isinstance(data, Path):
        data = _read(data)
    if isinstance(data, np.ndarray):
        data = _from_array(data)
    notices: list[str] = []
    image = data if isinstance(data, Image.Image) else _open(bytes(data), notices)
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(f"{image.width} x {image.height} pixels")
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise a dozen kinds of exception on damaged data
        raise _broken(image.format, error) from None
    return Decoded(_pixels(_upright(image), image, notices), tuple(notices))


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe or a device would block for ever
            raise ImageError("no such file" if not path.exists() else "not a regular file", None, "Check the path.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _too_large(f"{size / 1e6:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise ImageError("the file cannot be opened", error.strerror, "Check its permissions.") from None


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    grey, colour = array.ndim == 2, array.ndim == 3 and array.shape[2] in (2, 3, 4)
    usable = grey or colour if array.dtype == np.uint8 else grey and array.dtype == np.uint16
    if array.size == 0 or not usable:
        raise ImageError(
            "this array is no picture",
            f"shape {tuple(array.shape)}, {array.dtype}",
            "Give uint8 in (height, width, channels) order. Float images in [0, 1] make an ImageSet with ImageSet.of.",
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _open(data: bytes, notices: list[str]) -> Image.Image:
    if not data:
        raise ImageError("the file is empty (0 bytes)", None, "Upload or copy it again.")
    if len(data) > MAX_BYTES:
        raise _too_large(f"{len(data) / 1e6:.0f} MB")
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        frames = getattr(image, "n_frames", 1)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large("the header announces far more pixels than a photo has") from None
    except Exception as error:  # as in decode()
        raise _unreadable(data, error) from None
    # Phones put a preview or a gain map behind the photo (Pillow calls that MPO): no animation, nothing to say.
    if frames > 1 and image.format in FORMATS:
        notices.append(f"first of {frames} frames")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # broken EXIF data is common and says nothing about the pixels
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _pixels(image: Image.Image, source: Image.Image, notices: list[str]) -> np.ndarray:
    """Turn any mode that the six formats can hold into grey or RGB. ``source`` carries the file's tags."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _deep_grey(image, source, notices)
    if mode == "F":
        return _float_grey(image, notices)
    if mode in ("I", "LAB"):
        kind = "32-bit integer pixels, which have no agreed white" if mode == "I" else "Lab colours"
        raise ImageError(f"the picture has {kind}", None, "Save it with 8 or 16 bits per channel, in grey or RGB.")
    grey = mode in ("1", "L", "LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            notices.append("transparency put on white")
            paper = Image.new("RGBA", rgba.size, "white")
            paper.alpha_composite(rgba)
            rgba = paper
        image = rgba
    elif mode == "CMYK":
        notices.append("print colours (CMYK) converted, approximately")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _deep_grey(image: Image.Image, source: Image.Image, notices: list[str]) -> np.ndarray:
    raw = np.asarray(image)
    bits, inverted = 16, False
    if isinstance(source, TiffImageFile):
        bits = source.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0]  # 12-bit cameras: Pillow keeps 0..4095
        inverted = source.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    pixels = (raw / float(2**bits - 1)).astype(np.float32).clip(0.0, 1.0)
    if inverted:
        pixels = 1.0 - pixels
    transparent = source.info.get("transparency")
    if isinstance(transparent, int) and (raw == transparent).any():
        notices.append("transparency put on white")
        pixels[raw == transparent] = 1.0
    return pixels[..., None]


def _float_grey(image: Image.Image, notices: list[str]) -> np.ndarray:
    pixels = np.asarray(image)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0.0 and high <= 1.0):  # also refuses NaN
        raise ImageError(
            "the picture has floating-point pixels outside 0 to 1",
            f"{low:g} to {high:g}",
            "Nobody can know which value is white: save it with 8 or 16 bits per channel.",
        )
    notices.append("floating-point pixels taken as 0 (black) to 1 (white)")
    return pixels.astype(np.float32)[..., None]


def _too_large(value: str) -> ImageError:
    fix = f"The limit is {MAX_PIXELS // 10**6} megapixels and {MAX_BYTES // 10**6} MB: make it smaller first."
    return ImageError("the picture is too large", value, fix)


def _broken(kind: str | None, error: Exception) -> ImageError:
    if "truncated" in str(error).lower():
        return ImageError("incomplete upload, the end of the file is missing", None, "Upload or copy it again.")
    return ImageError(f"a damaged or unusual {kind or 'picture'} file", None, f"Upload it again. {_SAVE_AS}")


def _unreadable(data: bytes, error: Exception) -> ImageError:
    """Say what the bytes look like, since Pillow only says that it cannot identify them."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kind = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        kind = "WEBP"
    if kind is not None:
        return _broken(kind, error)
    if head.startswith((b"<!doctype html", b"<html")) or b"<html" in head:
        what, fix = "a web page (HTML), not a picture", "The link probably led to a page: save the picture itself."
    elif b"<svg" in head:
        what, fix = "an SVG drawing, not a photo", _SAVE_AS
    elif head.startswith(b"version https://git-lfs"):
        what, fix = "a git-lfs pointer, not the picture itself", "Fetch the real file with: git lfs pull."
    elif data[4:8] == b"ftyp":
        what = _ISO_MEDIA.get(data[8:12], "a video")
        fix = "Give a picture taken from it." if what == "a video" else _SAVE_AS
    else:
        foreign = next((name for magic, name in _FOREIGN.items() if data.startswith(magic)), None)
        what = foreign or ("a text file, not a picture" if _is_text(data[:1024]) else "not a picture that can be read")
        fix = f"Give a {_NAMED} file."
    return ImageError(what, None, fix)


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", errors="ignore")  # a character may be cut at the end
    return len(text.encode()) >= len(head) - 3 and all(c.isprintable() or c in "\t\r\n\f" for c in text)
