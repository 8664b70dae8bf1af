"""Image files on their way into a data set: what their headers say, and their pixels."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import centred_square
from celebahq_builder.imaging.image_io import DECODE_ERRORS

SIDE_MAX = 8192
"""A header that promises more is taken for a decompression bomb."""

THREADS = 4
"""Images that are decoded at once; Pillow's decoders run beside each other."""

COLOUR = (
    "mogrify -colorspace sRGB -background white -alpha remove -alpha off -type TrueColor -depth 8 "
    "-define png:color-type=2 -quality 100 FILE"
)
GREY = (
    "mogrify -background white -alpha remove -alpha off -type Grayscale -depth 8 -define png:color-type=0 "
    "-define png:bit-depth=8 -quality 100 FILE"
)
"""Commands of ImageMagick, of any version, that make an image of another kind one of RGB or of grey, in its place."""

ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
"""Pillow's modes that have it."""

Coded = TypeVar("Coded")


@dataclass(frozen=True)
class Header:
    """What is known of an image file before it is decoded."""

    where: str
    """File, or archive and entry, as an error names it."""
    width: int
    height: int
    channels: int


def read_header(file: Path | BinaryIO, where: str) -> Header:
    """Return the header of an image file.

    Raises:
        FormatError: it is not an image, or neither 8-bit RGB nor 8-bit grey.
    """
    try:
        with _quiet(), Image.open(file) as image:
            return _header(image, where)
    except FormatError:
        raise
    except UnidentifiedImageError:
        raise FormatError(f"{where} is not an image that can be read; replace or remove it") from None
    except Image.DecompressionBombError as error:
        raise _too_large(where, error) from None
    except DECODE_ERRORS as error:
        raise FormatError(f"{where} cannot be read: {error}; replace or remove it") from None


def check_bytes(header: Header, size: int, has: str = "has") -> None:
    """Raise for a file that is much larger than its image can be.

    Args:
        size: bytes of the file.
        has: how an error puts it.

    Raises:
        FormatError: it is.
    """
    if size > 2**20 + 16 * header.width * header.height:
        raise FormatError(
            f"{header.where} {has} {size} bytes for {header.width} x {header.height} px; that is no honest image, "
            "remove it"
        )


def _quiet() -> warnings.catch_warnings:
    return warnings.catch_warnings(action="ignore")  # of odd metadata: pixels that cannot be decoded raise


def _too_large(where: str, error: Image.DecompressionBombError) -> FormatError:
    """Return what is wrong with an image that Pillow refuses to open; only its error's text has the numbers."""
    numbers = [f"{int(number):,}" for number in re.findall(r"\d+", str(error))]
    found, allowed = numbers if len(numbers) == 2 else ("too many", "as many as Pillow allows")
    return FormatError(f"{where} is too large to be read: {found} px, expected at most {allowed}; reduce or remove it")


def _header(image: Image.Image, where: str) -> Header:
    kind = "" if image.mode in ("RGB", "L") else image.mode
    if image.mode in ALPHA or "transparency" in image.info:
        kind = f"{image.mode} with an alpha channel"
    elif image.mode.startswith("I") or any(";16" in str(part) for part in getattr(image, "tile", ())):
        kind = f"{image.mode} of 16 bits"  # Pillow reads 16-bit colour as 8 bits, and says so nowhere else
    if kind:
        remedy = GREY if image.mode.startswith(("1", "L", "I", "F")) and image.mode != "LAB" else COLOUR
        raise FormatError(f"{where} is {kind}; expected RGB or grey of 8 bits: convert it, for instance with: {remedy}")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise FormatError(f"{where} is an animation; expected a single image: keep one of it")
    return Header(where, image.width, image.height, 3 if image.mode == "RGB" else 1)


def common_size(headers: Iterable[Header], resize: int | None) -> tuple[int, int]:
    """Return resolution and channels of the set that some images make: 1 channel only if all are grey.

    Raises:
        FormatError: an image is not square, its side no power of two or not that of the others, and `resize` was
            not given; or it has more than 8192 px a side.
    """
    first: Header | None = None
    channels = 1
    fits: Counter[int] = Counter()
    rest = iter(headers)
    for header in rest:
        first = first or header
        channels = max(channels, header.channels)
        if resize is not None:
            continue
        fits[_fit(header)] += 1
        fault = _fault_of_size(header, first)
        if fault:
            raise FormatError(f"{fault}: add --resize {_common_fit(fits, rest)}, say")
        if header.width > SIDE_MAX:
            raise FormatError(
                f"{header.where} is {header.width} x {header.height} px; expected at most {SIDE_MAX} px: add --resize "
                "1024, say, or remove it"
            )
    if first is None:
        raise ValueError("no images")
    return (first.width if resize is None else resize), channels


def _fault_of_size(header: Header, first: Header) -> str:
    """Return what is wrong with an image's size, where a set's first one is of another or of the same; or nothing."""
    side, size = header.width, f"{header.where} is {header.width} x {header.height} px"
    if side != header.height or side & (side - 1):
        return f"{size}; expected a square whose side is a power of two"
    if side != first.width:
        return f"{size}, {first.where} {first.width} x {first.height}; expected one size"
    return ""


def _fit(header: Header) -> int:
    """Return the largest power of two whose square lies within an image."""
    return min(SIDE_MAX, 1 << (min(header.width, header.height).bit_length() - 1))


def _common_fit(fits: Counter[int], rest: Iterator[Header]) -> int:
    """Return the power of two that fits most images of a set, of several the smallest; asks those not yet counted."""
    with contextlib.suppress(FormatError):  # the first fault is the one to tell
        for header in rest:
            fits[_fit(header)] += 1
    return min(fits, key=lambda side: (-fits[side], side))


def check_resize(resize: int | None) -> None:
    """Raise if images cannot be resized so.

    Raises:
        FormatError: not a power of two up to 8192.
    """
    if resize is not None and (resize < 1 or resize > SIDE_MAX or resize & (resize - 1)):
        raise FormatError(f"--resize {resize} is not a power of two up to {SIDE_MAX}; give 256 or 1024, say")


def decode(data: bytes, where: str, resolution: int, channels: int, resized: bool) -> Pixels:
    """Return a original uint8 [C, R, R]: as it is stored, EXIF orientation not applied.

    Args:
        data: of an image file.
        where: what an error names.
        resolution: R.
        channels: C; grey is repeated where it is 3.
        resized: the largest square in the middle is resampled by Pillow's Lanczos filter, as StyleGAN's tool does.

    Raises:
        FormatError: it cannot be decoded, or is no longer what its header said.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            header = _header(image, where)
            original = image.convert("RGB" if channels == 3 else "L")
    except FormatError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(where, error) from None
    except DECODE_ERRORS as error:
        raise FormatError(f"{where} cannot be decoded: {error}; replace or remove it") from None
    if resized:
        original = middle_square(original, resolution)
    if original.size != (resolution, resolution) or header.channels > channels:
        raise FormatError(f"{where} was changed while it was read; run it again")
    pixels = np.asarray(original)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def middle_square(image: Image.Image, side: int) -> Image.Image:
    """Return the largest square in the middle of an image at a size, by Lanczos' filter if it has another."""
    left, top, short = centred_square(image.width, image.height)
    square = image.crop((left, top, left + short, top + short))  # first, so that nothing beside it is mixed in
    return square.resize((side, side), Image.Resampling.LANCZOS) if side != short else square


def decoded(coded: Iterable[Coded], decode_one: Callable[[Coded], Pixels]) -> Iterator[Pixels]:
    """Yield what a function makes of each item, in order; a few are at work at once, and few are held."""
    yield from parallel.run_threads(decode_one, coded, workers=THREADS)
