"""Decoding and encoding of image files: bytes to uint8 RGB arrays and back."""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import IO, Literal

import cv2
import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from celebahq_builder.image_set import Pixels
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Reason, Rejection

EXIF_ORIENTATION = 0x0112

FORMATS = frozenset(
    "AVIF BMP DDS DIB GIF HEIF ICO JPEG JPEG2000 MPO PCX PNG PPM PSD QOI SGI TGA TIFF WEBP".split()  # noqa: SIM905
)
"""Formats of Pillow that are decoded. EPS and WMF are not among them: for these, Pillow starts other programs."""

DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Exceptions that Pillow's decoders raise for corrupt files; each format has its own."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

PNG_LEVEL = 1
"""Level of zlib. On faces of 1024x1024, higher levels take twice the time and save a few per cent."""

PNG_FILTER = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []
"""Row filter "up", in versions of OpenCV that take it: half the time of OpenCV's own choice, and smaller on faces."""

# Pillow keeps pixels in blocks of 16 MB, which malloc may hold back for the thread that freed them. Blocks over 32 MB
# always return to the system, so large images that are decoded by several threads do not add up.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]


# Files of users: any format, by Pillow


def open_rgb(data: bytes, pixels_max: int, limit: str = "crop.pixels_max") -> tuple[Image.Image, tuple[str, ...]]:
    """Decode an image file of any format and mode to a Pillow image. Parts of it can be cut without a full copy.

    Threads that decode at the same time wait for each other, so that together they hold few large images.

    Args:
        data: contents of the file.
        pixels_max: largest number of pixels that is decoded.
        limit: name of that limit in the error message.

    Returns:
        The image in mode RGB, and the conversions that were needed: any of ``grey``, ``palette``, ``cmyk``, ``alpha``
        (composed over white), ``16-bit`` (scaled to 8 bits), ``exif-orientation`` (present, not applied).

    Raises:
        Rejection: with reason EMPTY_FILE, NOT_AN_IMAGE, TOO_LARGE or CORRUPT_IMAGE.

    Examples:
        >>> image, notes = open_rgb(encode_png(np.zeros((1, 20, 30), np.uint8)), pixels_max=10_000)
        >>> image.size, notes
        ((30, 20), ('grey',))
    """
    if not data:
        raise Rejection(Reason.EMPTY_FILE, "0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata; pixels that cannot be decoded raise
            image = open_image(io.BytesIO(data), pixels_max, limit)
            with reserve_pixels(image.width * image.height):
                check_png(data)
                return _to_rgb(image)
    except UnidentifiedImageError:
        raise Rejection(Reason.NOT_AN_IMAGE, f"{len(data)} bytes that start with {data[:8].hex(' ')}") from None
    except DECODE_ERRORS as error:
        raise Rejection(Reason.CORRUPT_IMAGE, f"{len(data)} bytes: {error}") from None


_limit_lock = threading.Lock()


@contextlib.contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's own limit on pixels, which is a global variable."""
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def open_image(file: IO[bytes], pixels_max: int, limit: str) -> ImageFile.ImageFile:
    """Open an image file and check the size in its header; nothing is decoded.

    Args:
        file: the image file.
        pixels_max: largest number of pixels that may be decoded.
        limit: name of that limit in the error message.

    Raises:
        Rejection: with reason TOO_LARGE.
        UnidentifiedImageError: the file is of none of the `FORMATS`.
        Exception: one of `DECODE_ERRORS`, for a corrupt header.
    """
    with _without_pillow_limit():
        image = Image.open(file)
    if image.format not in FORMATS:
        raise UnidentifiedImageError(f"{image.format} files are not read")
    if image.width * image.height > pixels_max:
        size = f"{image.width} x {image.height} px"
        raise Rejection(Reason.TOO_LARGE, f"{size}; {limit} allows {pixels_max} pixels")
    return image


def crop_image(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return a part of an image of any size, left, top, right and bottom in px; Pillow alone refuses a large part."""
    with _without_pillow_limit():
        return image.crop(box)


class MemoryBudget:
    """An amount of bytes or pixels that several threads hold together; one request may be larger than all of it."""

    def __init__(self, total: int) -> None:
        self.total = self.free = total
        self.changed = threading.Condition()

    def take(self, amount: int) -> None:
        """Wait until an amount is free, and hold it."""
        held = min(amount, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= held)
            self.free -= held

    def give_back(self, amount: int) -> None:
        """Release an amount that was taken."""
        with self.changed:
            self.free += min(amount, self.total)
            self.changed.notify_all()

    @contextlib.contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        """Hold an amount within a context."""
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)


reserve_pixels = MemoryBudget(MAX_IMAGE_PIXELS).reserve
"""Context manager that reserves pixels while an image is decoded; all threads of this process share a budget."""


def check_png(data: bytes) -> None:
    """Check the checksums of the chunks of a PNG that decide its pixels, which Pillow does not check.

    Args:
        data: an image file; other formats pass.

    Raises:
        ValueError: a checksum differs, or a chunk is truncated.
    """
    if not data.startswith(PNG_SIGNATURE):
        return
    view, start = memoryview(data), len(PNG_SIGNATURE)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if kind == b"IEND":
            return
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            if end + 4 > len(data):
                raise ValueError(f"the chunk {kind.decode()} is truncated")
            if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
                raise ValueError(f"the chunk {kind.decode()} is corrupt: its checksum differs")
        start = end + 4


def pil_to_array(image: Image.Image) -> Pixels:
    """Return the pixels uint8 [3, H, W] of a Pillow image in mode RGB."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _to_rgb(image: ImageFile.ImageFile) -> tuple[Image.Image, tuple[str, ...]]:
    # Pillow reduces 16-bit colour to 8 bits; only the tile's raw mode shows it, and only before loading.
    deep = any(";16" in str(part) for part in image.tile)
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
    grey = mode in ("1", "L", "LA") or pixels.mode == "L"
    if "A" in mode or "a" in mode or "transparency" in image.info:
        notes.append("alpha")
        pixels = _over_white(pixels)
    if grey:
        notes.append("grey")
    return pixels if pixels.mode == "RGB" else pixels.convert("RGB"), tuple(notes)


STRIP_PX = 256
"""Rows that are converted at a time, so that temporary copies stay small."""


def _over_white(image: Image.Image) -> Image.Image:
    """Compose an image with transparent pixels over white."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP_PX):
        strip = image.crop((0, top, image.width, min(top + STRIP_PX, image.height))).convert("RGBA")
        result.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
    return result


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale a single channel to 8 bits, from 16 bits or from the range that values of other types seem to have."""
    values = np.asarray(image)
    peak = 65535.0
    if not image.mode.startswith("I;16"):
        peaks = (1.0, 255.0) if image.mode == "F" else (255.0,)
        peak = next((p for p in peaks if values.max(initial=0) <= p), peak)
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), STRIP_PX):
        strip = values[top : top + STRIP_PX].astype(np.float64)
        grey[top : top + STRIP_PX] = np.clip(np.round(strip * (255.0 / peak)), 0, 255)
    return Image.fromarray(grey)


# Our own files: PNG by OpenCV, which is faster than Pillow


def encode_png(pixels: Pixels, level: int = PNG_LEVEL) -> bytes:
    """Encode an image as a PNG file; equal pixels give equal bytes.

    Args:
        pixels: uint8 [C, H, W]; C is 3 for RGB or 1 for grey.
        level: of zlib, from 0 (none) to 9 (smallest).

    Raises:
        ValueError: OpenCV refuses the pixels.

    Examples:
        >>> image = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
        >>> bool((decode_png(encode_png(image)) == image).all())
        True
    """
    image = np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0))  # OpenCV takes BGR
    done, coded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, level, *PNG_FILTER])
    if not done:
        raise ValueError(f"cannot encode pixels of shape {pixels.shape} and type {pixels.dtype} as PNG")
    return coded.tobytes()


def decode_png(data: bytes) -> Pixels:
    """Decode a PNG file, such as one of `encode_png`, to pixels uint8 [3, H, W]; grey becomes RGB.

    Raises:
        ValueError: the data are no PNG, have more than `MAX_IMAGE_PIXELS`, or are corrupt: truncated, or with a
            checksum of the pixels that differs.
    """
    width, height = struct.unpack_from(">II", data, 16) if len(data) >= 24 else (0, 0)
    image = None
    if data.startswith(PNG_SIGNATURE) and width * height <= MAX_IMAGE_PIXELS:
        with contextlib.suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{len(data)} bytes are not a PNG")
    pixels = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.mixChannels([image], list(pixels), [0, 2, 1, 1, 2, 0])  # planes from BGR, faster than a transposed copy
    return pixels


ImageFormat = Literal["png", "jpg", "webp"]

QUALITY = 95
"""Default quality of exported JPEG and WebP files."""


def encode_image(pixels: Pixels, format: ImageFormat, *, png_level: int = PNG_LEVEL, quality: int = QUALITY) -> bytes:
    """Encode an image as a PNG file, or lossily as a JPEG (4:4:4) or WebP file.

    Args:
        pixels: uint8 [C, H, W]; C is 3 for RGB or 1 for grey.
        png_level: see `encode_png`.
        quality: of JPEG and WebP, 1 to 100.
    """
    if format == "png":
        return encode_png(pixels, png_level)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    if format == "jpg":
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def encode_jpeg(pixels: Pixels, quality: int = 85) -> bytes:
    """Encode pixels uint8 [3, H, W] as a JPEG file without chroma subsampling (4:4:4), for pages and previews."""
    return encode_image(pixels, "jpg", quality=quality)
