"""Image files as parts of a data set: headers, sizes, and decoding."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.metadata import Metadata
from celebahq_builder.image_set import Labels, NamedImage, Pixels
from celebahq_builder.imaging.geometry import centred_square
from celebahq_builder.imaging.image_io import DECODE_ERRORS

SIDE_MAX_PX = 8192
"""Larger images are refused."""

THREADS = 4
"""Images that are decoded at the same time; Pillow's decoders release Python's lock."""

OPAQUE = "-background white -alpha remove -alpha off"
TO_RGB = f"mogrify -colorspace sRGB {OPAQUE} -type TrueColor -depth 8 -define png:color-type=2 -quality 100 FILE"
TO_GREY = (
    f"mogrify {OPAQUE} -type Grayscale -depth 8 -define png:color-type=0 -define png:bit-depth=8 -quality 100 FILE"
)
"""Commands of ImageMagick, of any version, that convert an image in place."""

ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
"""Modes of Pillow with an alpha channel."""

Encoded = tuple[str, bytes]
"""Location of an image file for error messages, and its contents."""


class SizeError(FormatError):
    """The size of an image does not fit the data set; importing it with another `resize` would help."""


# --- Image sets of encoded files


@dataclass(frozen=True)
class EncodedImages:
    """An `ImageSet` of encoded image files, which are decoded while they are read."""

    names: Sequence[str]
    """Name of each image, used if the metadata has no column ``file``."""
    read: Callable[[range], Iterator[Encoded]]
    """Yields image files by their numbers."""
    resolution: int
    channels: int
    resized: bool
    """Whether images are cropped and resized to the resolution."""
    metadata: Metadata = field(default_factory=Metadata)
    labels: Labels | None = None
    label_names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.names)

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on.

        Raises:
            FormatError: an image cannot be read or decoded, or was changed since the data set was opened.
        """
        names, numbers = self.metadata.columns.get("file", self.names), range(start, self.count)
        for number, pixels in zip(numbers, self._decode(self.read(numbers)), strict=True):
            yield NamedImage(pixels, str(names[number]))

    def _decode(self, files: Iterator[Encoded]) -> Iterator[Pixels]:
        one = functools.partial(decode, resolution=self.resolution, channels=self.channels, resized=self.resized)
        return parallel.run_threads(one, files, workers=THREADS)


@dataclass(frozen=True)
class RandomAccessImages(EncodedImages):
    """Encoded images that can be read in any order."""

    read: Callable[[Sequence[int]], Iterator[Encoded]]

    def pixels(self, numbers: Sequence[int]) -> Iterator[Pixels]:
        """Yield images uint8 [C, R, R] by their numbers, in the given order; errors are those of `images`."""
        yield from self._decode(self.read(numbers))


# --- Headers


@dataclass(frozen=True)
class Header:
    """Properties of an image file that are known before it is decoded."""

    where: str
    """File, or archive and entry, for error messages."""
    width: int
    height: int
    channels: int


def read_header(file: Path | IO[bytes], where: str, size_bytes: int = 0) -> Header:
    """Return the header of an image file.

    Args:
        file: the image file, of which only the beginning is read.
        where: its location for error messages.
        size_bytes: its size, if it is part of a file that may be compressed.

    Raises:
        FormatError: it is not an image, or neither 8-bit RGB nor 8-bit grey; its size is more than 16 bytes per pixel
            and 1 MiB.
    """
    with _damage_reported(where, "read"), warnings.catch_warnings(action="ignore"), Image.open(file) as image:
        header = _check_kind(image, where)
    if size_bytes > 2**20 + 16 * header.width * header.height:
        size = f"{size_bytes} bytes for {header.width} x {header.height} px"
        raise FormatError(f"{where} has {size}; it looks like a decompression bomb, delete it")
    return header


@contextlib.contextmanager
def _damage_reported(where: str, done: str) -> Iterator[None]:
    """Turn every error of Pillow into a FormatError."""
    try:
        yield
    except FormatError:
        raise
    except UnidentifiedImageError:
        raise FormatError(f"{where} is not an image that can be read; replace or remove it") from None
    except Image.DecompressionBombError as error:
        numbers = [f"{int(number):,}" for number in re.findall(r"\d+", str(error))]  # only its text has them
        found, allowed = numbers if len(numbers) == 2 else ("too many", "as many as Pillow allows")
        reason = f"{found} px, expected at most {allowed}"
        raise FormatError(f"{where} is too large to be read: {reason}; reduce or remove it") from None
    except DECODE_ERRORS as error:
        raise FormatError(f"{where} cannot be {done}: {error}; replace or remove it") from None


def _check_kind(image: Image.Image, where: str) -> Header:
    kind = "" if image.mode in ("RGB", "L") else image.mode
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        kind = f"{image.mode} with an alpha channel"
    elif image.mode.startswith("I") or any(";16" in str(part) for part in getattr(image, "tile", ())):
        kind = f"{image.mode} of 16 bits"  # Pillow reduces 16-bit RGB to 8 bits and shows it only in the tile
    if kind:
        command = TO_GREY if image.mode.startswith(("1", "L", "I", "F")) and image.mode != "LAB" else TO_RGB
        raise FormatError(
            f"{where} is {kind}; expected RGB or grey of 8 bits: convert it, for instance with: {command}"
        )
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise FormatError(f"{where} is an animation; expected a single image: keep one of its images")
    return Header(where, image.width, image.height, 3 if image.mode == "RGB" else 1)


# --- Sizes


def check_resize(resize: int | None) -> None:
    """Raise if images cannot be resized to this side length.

    Raises:
        FormatError: it is not a power of two up to 8192.
    """
    if resize is not None and (resize < 1 or resize > SIDE_MAX_PX or resize & (resize - 1)):
        raise FormatError(f"`resize` {resize} is not a power of two up to {SIDE_MAX_PX}; give 256 or 1024, for example")


def common_size(headers: Iterable[Header], resize: int | None) -> tuple[int, int]:
    """Return resolution and channels of a set of images; 1 channel only if all are grey.

    Args:
        headers: of all images.
        resize: side length in px to which all images will be resized; None requires that they have one size.

    Raises:
        SizeError: `resize` is None, and an image is not square, has a side that is not a power of two, more than 8192
            px, or not that of the other images.
    """
    first: Header | None = None
    channels = 1
    sides: Counter[int] = Counter()
    remaining = iter(headers)
    for header in remaining:
        first = first or header
        channels = max(channels, header.channels)
        if resize is not None:
            continue
        sides[_largest_side(header)] += 1
        size = f"{header.where} is {header.width} x {header.height} px"
        if header.width != header.height or header.width & (header.width - 1):
            fault = f"{size}; expected a square whose side is a power of two"
        elif header.width != first.width:
            fault = f"{size}, {first.where} {first.width} x {first.height}; expected one size"
        elif header.width > SIDE_MAX_PX:
            raise SizeError(f"{size}; expected at most {SIDE_MAX_PX} px: add `resize`=1024, for example, or remove it")
        else:
            continue
        raise SizeError(f"{fault}: add `resize`={_best_side(sides, remaining)}, for example")
    if first is None:
        raise ValueError("no images")
    return (first.width if resize is None else resize), channels


def _largest_side(header: Header) -> int:
    """Return the largest power of two whose square fits into an image."""
    return min(SIDE_MAX_PX, 1 << (min(header.width, header.height).bit_length() - 1))


def _best_side(sides: Counter[int], remaining: Iterator[Header]) -> int:
    """Return the side length that fits most images of a set, the smallest one if there are several."""
    with contextlib.suppress(FormatError):  # the first fault is the one to report
        for header in remaining:
            sides[_largest_side(header)] += 1
    return min(sides, key=lambda side: (-sides[side], side))


# --- Pixels


def decode(file: Encoded, resolution: int, channels: int, resized: bool) -> Pixels:
    """Return an image as stored, uint8 [C, R, R]; the EXIF orientation is not applied.

    Args:
        file: the image file.
        resolution: R.
        channels: C; a grey image is repeated if C is 3.
        resized: crop the largest square in the middle, and resize it to R with Pillow's Lanczos filter, as StyleGAN's
            data set tool does.

    Raises:
        FormatError: the file cannot be decoded, or no longer has the size and channels of its header.
    """
    where, data = file
    with _damage_reported(where, "decoded"), Image.open(io.BytesIO(data)) as image:
        header = _check_kind(image, where)
        original = image.convert("RGB" if channels == 3 else "L")
    if resized:
        original = middle_square(original, resolution)
    if original.size != (resolution, resolution) or header.channels > channels:
        raise FormatError(f"{where} was changed while it was read; run the same command again")
    pixels = np.asarray(original)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def middle_square(image: Image.Image, side: int) -> Image.Image:
    """Return the largest square in the middle of an image, resized with the Lanczos filter to `side` px."""
    left, top, short = centred_square(image.width, image.height)
    square = image.crop((left, top, left + short, top + short))  # before resizing: no pixel beside it has an influence
    return square.resize((side, side), Image.Resampling.LANCZOS) if side != short else square
