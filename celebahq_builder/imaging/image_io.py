"""Decoding and encoding of image files: bytes to uint8 RGB arrays and back."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import cv2
import deflate
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from celebahq_builder.outcome import Reason, Rejection

SIGNATURE = b"\x89PNG\r\n\x1a\n"

HEADER = struct.Struct(">I4sIIBBBBB")
"""Length and name of the first chunk, width, height, bits, type of colour, and three that are 0 in plain files."""

PLAIN = (13, b"IHDR", 8, 2, 0, 0, 0)
"""What the header says of 8-bit RGB in one pass, beside the size."""

DEFLATE_RATIO = 1032
"""How much smaller deflate can make anything at most."""

UP = 2
"""Number of the filter "up" (PNG specification, section 9.2): each byte is the difference from the one above."""


def read_rows(data: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels uint8 [H, W, 3], RGB, of a PNG; None if it is another kind of PNG, or none at all.

    The checksum of the pixels is verified, those of the chunks are not.
    """
    if len(data) < len(SIGNATURE) + HEADER.size or not data.startswith(SIGNATURE):
        return None
    size, name, width, height, *kind = HEADER.unpack_from(data, len(SIGNATURE))
    if (size, name, *kind) != PLAIN or not width or not height:
        return None
    row = 1 + 3 * width
    if height * row > DEFLATE_RATIO * len(data):  # damaged, and not worth the memory
        return None
    try:
        unpacked = deflate.zlib_decompress(_packed(data), height * row)
    except (deflate.DeflateError, struct.error):
        return None
    if len(unpacked) != height * row:
        return None
    rows = np.frombuffer(unpacked, np.uint8).reshape(height, row)
    if (rows[:, 0] != UP).any():
        return None
    pixels = np.empty((height, row - 1), np.uint8)
    pixels[0] = rows[0, 1:]
    for y in range(1, height):
        np.add(pixels[y - 1], rows[y, 1:], out=pixels[y])
    return pixels.reshape(height, width, 3)


def _packed(data: bytes) -> bytes:
    """Return what all chunks of pixels hold together."""
    parts, at, view = [], len(SIGNATURE), memoryview(data)
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            parts.append(view[at + 8 : at + 8 + size])
        at += 12 + size
    return b"".join(parts)


Pixels = NDArray[np.uint8]
"""uint8 [3, H, W], RGB."""

EXIF_ORIENTATION = 0x0112

DECODE_ERRORS = (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, RuntimeError, struct.error)
"""What Pillow's decoders raise for damaged files; each format has habits of its own."""


def decode_image(data: bytes, pixels_max: int) -> tuple[Pixels, tuple[str, ...]]:
    """Decode an image of any mode to RGB.

    Args:
        data: contents of the file.
        pixels_max: more pixels than this are not decoded.

    Returns:
        Pixels uint8 [3, H, W], and notes on what had to be converted: see `open_rgb`.

    Raises:
        Rejection: EMPTY_FILE, NOT_AN_IMAGE, TOO_LARGE or CORRUPT_IMAGE.
    """
    image, notes = open_rgb(data, pixels_max)
    return pil_to_array(image), notes


def open_rgb(data: bytes, pixels_max: int, limit: str = "region.pixels_max") -> tuple[Image.Image, tuple[str, ...]]:
    """Decode an image of any mode to a Pillow image in RGB, from which a part can be cut without copying it all.

    Args:
        data: contents of the file.
        pixels_max: more pixels than this are not decoded.
        limit: what the user knows that number as.

    Returns:
        The image, and notes on what had to be converted: any of ``grey``, ``palette``, ``cmyk``, ``alpha`` (laid
        over white), ``16-bit`` (scaled to 8), ``exif-orientation`` (present, not applied).

    Raises:
        Rejection: EMPTY_FILE, NOT_AN_IMAGE, TOO_LARGE or CORRUPT_IMAGE.
    """
    if not data:
        raise Rejection(Reason.EMPTY_FILE, "0 bytes")
    try:
        with warnings.catch_warnings(), _without_pillows_limit():
            warnings.simplefilter("ignore")  # of odd metadata: pixels that cannot be decoded raise
            return _to_rgb(Image.open(io.BytesIO(data)), pixels_max, limit)
    except Rejection:
        raise
    except UnidentifiedImageError:
        raise Rejection(Reason.NOT_AN_IMAGE, f"{len(data)} bytes that start with {data[:8].hex(' ')}") from None
    except DECODE_ERRORS as error:
        raise Rejection(Reason.CORRUPT_IMAGE, f"{len(data)} bytes: {error}") from None


@contextlib.contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Suspend Pillow's own limit on pixels: ours is an argument, checked before anything is decoded."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def pil_to_array(image: Image.Image) -> Pixels:
    """Return the pixels uint8 [3, H, W] of a Pillow image in RGB."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _to_rgb(image: ImageFile.ImageFile, pixels_max: int, limit: str) -> tuple[Image.Image, tuple[str, ...]]:
    if image.width * image.height > pixels_max:
        size = f"{image.width} x {image.height} px"
        raise Rejection(Reason.TOO_LARGE, f"{size}; {limit} allows {pixels_max}")
    deep = any(";16" in str(part) for part in image.tile)  # Pillow reads 16-bit colour as 8 bits, and says so nowhere
    image.load()
    notes = []
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        notes.append("exif-orientation")
    mode = image.mode
    pixels: Image.Image = image
    if mode.startswith("I") or mode == "F":
        notes.append("16-bit")
        pixels = _to_8_bit(image)
    elif deep:
        notes.append("16-bit")
    if mode == "CMYK":
        notes.append("cmyk")
    elif mode.startswith("P"):
        notes.append("palette")
    if "A" in mode or "a" in mode or "transparency" in image.info:
        notes.append("alpha")
        rgba = pixels.convert("RGBA")
        pixels = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if mode in ("1", "L", "LA") or pixels.mode == "L":
        notes.append("grey")
    return pixels if pixels.mode == "RGB" else pixels.convert("RGB"), tuple(notes)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale a single channel to 8 bits: from 16 bits, or from what range the values of other types seem to have."""
    values = np.asarray(image, dtype=np.float64)
    peak = 65535.0
    if not image.mode.startswith("I;16"):
        peaks = (1.0, 255.0) if image.mode == "F" else (255.0,)
        peak = next((p for p in peaks if values.max(initial=0) <= p), peak)
    return Image.fromarray(np.clip(np.round(values * (255.0 / peak)), 0, 255).astype(np.uint8))


RGB, BGR = [0, 0, 1, 1, 2, 2], [0, 2, 1, 1, 2, 0]
"""Which channel of an image becomes which plane, as OpenCV wants to be told."""

PNG_LEVEL = 1
"""Of zlib. On faces of 1024x1024, higher ones take twice as long and save a few per cent."""

PNG_FILTER = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []
"""Row filter "up", where OpenCV is new enough to be told: half the time of its own choice, and smaller on faces."""


def encode_png(pixels: Pixels, level: int = PNG_LEVEL) -> bytes:
    """Return a PNG file, the same bytes for the same pixels.

    Args:
        pixels: uint8 [C, H, W], 3 channels RGB or 1 of grey.
        level: zlib's, 0 (none) to 9 (small).
    """
    image = np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0))  # OpenCV wants BGR
    done, coded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, level, *PNG_FILTER])
    if not done:
        raise ValueError(f"cannot encode pixels of shape {pixels.shape} and type {pixels.dtype} as PNG")
    return coded.tobytes()


def decode_png(data: bytes) -> Pixels:
    """Return the pixels uint8 [3, H, W] of a PNG that `encode_png` wrote.

    Raises:
        ValueError: not such a PNG.
    """
    image: NDArray[Any] | None = read_rows(data)
    order = RGB
    if image is None and data:
        image, order = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), BGR
    if image is None:
        raise ValueError(f"{len(data)} bytes are not a PNG")
    pixels = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.mixChannels([image], list(pixels), order)
    return pixels


def encode_jpeg(pixels: Pixels, quality: int = 85) -> bytes:
    """Return a JPEG file (4:4:4) of uint8 [3, H, W] RGB pixels, for pages and previews."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
