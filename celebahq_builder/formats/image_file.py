"""Image files as parts of a data set: headers, sizes, and decoding."""

from __future__ import annotations

import contextlib
import functools
import io
import posixpath
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats import SIDE_MAX_PX
from celebahq_builder.image_set import DataSet, Described, NamedImage, Pixels
from celebahq_builder.imaging.geometry import centred_square
from celebahq_builder.imaging.image_io import DECODE_ERRORS, MemoryBudget, check_png, open_image, reserve_pixels
from celebahq_builder.imaging.pyramid import is_power_of_two
from celebahq_builder.limits import MAX_IMAGE_FILE_BYTES, MAX_IMAGE_PIXELS
from celebahq_builder.outcome import Rejection
from celebahq_builder.storage import open_file

THREADS = 4
"""Images that are decoded at the same time; Pillow's decoders release the GIL."""

LARGE_PX = 4096
"""From this resolution on, images are decoded one by one, because several decoded ones would take much memory."""

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


@dataclass(frozen=True)
class FixedCrop:
    """A square that is cut out of images of one size."""

    images: str
    """Images that have this size."""
    width: int
    height: int
    left: int
    top: int
    side: int


CROPS = {"celeba": FixedCrop("CelebA's aligned images", width=178, height=218, left=89 - 64, top=121 - 64, side=128)}
"""Crops by name. ``celeba``: rows 57 to 184 and columns 25 to 152, around (89, 121), as in the ProGAN paper.

Source: create_celeba of dataset_tool.py, https://github.com/tkarras/progressive_growing_of_gans
"""


class SizeError(FormatError):
    """The size of an image does not fit the data set; importing it with another `resize` would help."""


# --- Image sets of encoded files


def encoded_images(
    described: Described,
    size: tuple[int, int],
    read: Callable[[Sequence[int]], Iterator[Encoded]],
    resize: int | None,
    *,
    crop: FixedCrop | None = None,
    random_access: bool = False,
) -> DataSet:
    """Return the image set of encoded image files, which are decoded while they are read.

    Args:
        described: names, metadata and labels. A column ``file`` of the metadata replaces the names.
        size: resolution and channels, as `common_size` returns them.
        read: yields image files by their numbers.
        resize: side length in px to which images are cropped and resized; see `decode`.
        crop: what is cut out of each image before it is resized.
        random_access: whether `read` takes numbers in any order, not only those of all images.

    Raises:
        FormatError: while reading: an image cannot be read or decoded, or was changed since the data set was opened.
    """
    resolution, channels = size
    decode_one = functools.partial(
        decode, resolution=resolution, channels=channels, resized=resize is not None, crop=crop
    )
    names = described.metadata.columns.get("file", described.names)

    def pixels(numbers: Sequence[int]) -> Iterator[Pixels]:
        files = read(numbers)
        return map(decode_one, files) if resolution >= LARGE_PX else _decode_in_threads(decode_one, files)

    def images() -> Iterator[NamedImage]:
        for name, image in zip(names, pixels(range(len(names))), strict=True):
            yield NamedImage(image, str(name))

    return DataSet(
        len(names),
        resolution,
        channels,
        images,
        described.labels,
        described.label_names,
        described.metadata,
        pixels if random_access else None,
    )


def _decode_in_threads(decode_one: Callable[[Encoded], Pixels], files: Iterator[Encoded]) -> Iterator[Pixels]:
    """Yield the pixels of files; those that wait for a thread have at most `MAX_IMAGE_FILE_BYTES` together."""
    waiting = MemoryBudget(MAX_IMAGE_FILE_BYTES)

    def as_space_allows() -> Iterator[Encoded]:
        for file in files:
            waiting.take(len(file[1]))
            yield file

    def decode_and_release(file: Encoded) -> Pixels:
        try:
            return decode_one(file)
        finally:
            waiting.give_back(len(file[1]))

    return parallel.run_threads(decode_and_release, as_space_allows(), workers=THREADS)


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
        FormatError: it is not a regular file, not an image, or neither 8-bit RGB nor 8-bit grey; it has more than
            `MAX_IMAGE_PIXELS` or `MAX_IMAGE_FILE_BYTES`, or more than 16 bytes per pixel and 1 MiB.
    """
    if isinstance(file, Path):
        with _damage_reported(where, "read"), open_file(file, MAX_IMAGE_FILE_BYTES) as stream:
            return read_header(stream, where)
    if size_bytes > MAX_IMAGE_FILE_BYTES:
        raise FormatError(f"{printable(where)} has {size_bytes} bytes, expected at most {MAX_IMAGE_FILE_BYTES}")
    with _damage_reported(where, "read"), warnings.catch_warnings(action="ignore"):
        image = open_image(file, MAX_IMAGE_PIXELS, "this reader")
        header = _check_kind(image, where)
    if size_bytes > 2**20 + 16 * header.width * header.height:
        size = f"{size_bytes} bytes for {header.width} x {header.height} px"
        raise FormatError(f"{header.where} has {size}; it looks like a decompression bomb, delete it")
    return header


@contextlib.contextmanager
def _damage_reported(where: str, done: str) -> Iterator[None]:
    """Turn every error of Pillow into a FormatError."""
    where = printable(where)
    try:
        yield
    except FormatError:
        raise
    except UnidentifiedImageError:
        raise FormatError(f"{where} is not an image that can be read; replace or remove it") from None
    except Rejection as rejection:
        raise FormatError(f"{where} is too large to be read: {rejection.detail}; reduce or remove it") from None
    except MemoryError:
        raise FormatError(f"{where} cannot be {done}: it needs more memory than is free; remove it") from None
    except DECODE_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(str(error))
        raise FormatError(f"{where} cannot be {done}: {reason}; replace or remove it") from None


def _check_kind(image: Image.Image, where: str) -> Header:
    where = printable(where)
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
    if min(image.size) < 1:
        raise FormatError(f"{where} has no pixels: {image.width} x {image.height}; remove it")
    return Header(where, image.width, image.height, 3 if image.mode == "RGB" else 1)


# --- Sizes


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
    kinds: Counter[_Kind] = Counter()
    remaining = iter(headers)
    for header in remaining:
        first = first or header
        channels = max(channels, header.channels)
        if resize is not None:
            continue
        kinds[_kind(header)] += 1
        size = f"{header.where} is {header.width} x {header.height} px"
        if header.width != header.height or not is_power_of_two(header.width):
            fault = f"{size}; expected a square whose side is a power of two"
        elif header.width != first.width:
            fault = f"{size}, {first.where} {first.width} x {first.height}; expected one size"
        elif header.width > SIDE_MAX_PX:
            raise SizeError(f"{size}; expected at most {SIDE_MAX_PX} px: add `resize`=1024, for example, or remove it")
        else:
            continue
        with contextlib.suppress(FormatError):  # the first fault is the one to report
            kinds.update(map(_kind, remaining))
        mixture = _mixture(kinds)
        if mixture:
            raise FormatError(f"{fault}. {mixture}")
        raise SizeError(f"{fault}: add `resize`={_best_side(kinds)}, for example")
    if first is None:
        raise ValueError("no images")
    return (first.width if resize is None else resize), channels


def check_crop(headers: Iterable[Header], crop: FixedCrop) -> None:
    """Check that a crop can be cut out of each image.

    Raises:
        FormatError: an image has another size.
    """
    expected = f"{crop.width} x {crop.height} px for `crop`, the size of {crop.images}"
    for header in headers:
        if (header.width, header.height) != (crop.width, crop.height):
            size = f"{header.where} is {header.width} x {header.height} px"
            raise FormatError(f"{size}; expected {expected}; give a folder that holds only these")


class _Kind(NamedTuple):
    """Properties of an image that may tell photos from masks."""

    folder: str
    ending: str
    colours: str
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def _kind(header: Header) -> _Kind:
    folder, name = posixpath.split(header.where)
    colours = "RGB" if header.channels == 3 else "grey"
    return _Kind(folder, posixpath.splitext(name)[1], colours, header.width, header.height)


KINDS_SHOWN = 4
"""Kinds of images that a message describes; with more sizes than this, a set is not one that mixes a few kinds."""


def _mixture(kinds: Counter[_Kind]) -> str:
    """Describe a set that mixes kinds of images, such as photos and masks; empty for one kind in several sizes."""
    few_sizes = len({kind.size for kind in kinds}) <= KINDS_SHOWN
    if _decides(kinds, "folder", "colours") or (few_sizes and _decides(kinds, "folder", "size")):
        key, remedy = "folder", "give one of these folders (unpack an archive first)"
    elif _decides(kinds, "ending", "colours") or _decides(kinds, "colours", "size"):
        key, remedy = "ending", "move one kind into a folder of its own, and give that"
    else:
        return ""
    places: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for kind, count in kinds.items():
        place = kind.folder if key == "folder" else f"files with the ending {kind.ending}"
        places[f"{kind.colours} images of {kind.width} x {kind.height} px"][place] += count
    parts = []
    for what, counts in list(places.items())[:KINDS_SHOWN]:
        more = f" and {len(counts) - 1} more" if len(counts) > 1 else ""
        parts.append(f"{counts.total()} {what} in {next(iter(counts))}{more}")
    others = f", and {len(places) - KINDS_SHOWN} other sizes" if len(places) > KINDS_SHOWN else ""
    return f"The set has {', '.join(parts)}{others}: {remedy}"


def _decides(kinds: Iterable[_Kind], key: str, value: str) -> bool:
    """Return whether one property of an image decides another one, which has several values."""
    values: defaultdict[object, set[object]] = defaultdict(set)
    for kind in kinds:
        values[getattr(kind, key)].add(getattr(kind, value))
    return all(len(found) == 1 for found in values.values()) and len(set.union(*values.values())) > 1


def _best_side(kinds: Counter[_Kind]) -> int:
    """Return the side length that fits most images of a set, the smallest one if there are several."""
    sides: Counter[int] = Counter()
    for kind, count in kinds.items():
        sides[min(SIDE_MAX_PX, 1 << (min(kind.size).bit_length() - 1))] += count
    return min(sides, key=lambda side: (-sides[side], side))


# --- Pixels


def decode(file: Encoded, resolution: int, channels: int, resized: bool, crop: FixedCrop | None = None) -> Pixels:
    """Return an image as stored, uint8 [C, R, R]; the EXIF orientation is not applied.

    Args:
        resolution: R.
        channels: C; a grey image is repeated if C is 3.
        resized: crop the largest square in the middle, and resize it to R with Pillow's Lanczos filter, as StyleGAN's
            data set tool does.
        crop: what to cut out of the image before that.

    Raises:
        FormatError: the file cannot be decoded, or no longer has the size and channels of its header.
    """
    where, data = file
    with _damage_reported(where, "decoded"), warnings.catch_warnings(action="ignore"):
        image = open_image(io.BytesIO(data), MAX_IMAGE_PIXELS, "this reader")
        header = _check_kind(image, where)
        with reserve_pixels(header.width * header.height):
            check_png(data)
            image.load()
            mode = "RGB" if channels == 3 else "L"
            original: Image.Image = image if image.mode == mode else image.convert(mode)
            del image
            fits = crop is None or original.size == (crop.width, crop.height)
            if crop is not None:
                original = original.crop((crop.left, crop.top, crop.left + crop.side, crop.top + crop.side))
            if resized:
                original = middle_square(original, resolution)
            if not fits or original.size != (resolution, resolution) or header.channels > channels:
                raise FormatError(f"{header.where} was changed while it was read; run the same command again")
            pixels = np.asarray(original)
            return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def middle_square(image: Image.Image, side: int) -> Image.Image:
    """Return the largest square in the middle of an image, resized with the Lanczos filter to `side` px."""
    left, top, short = centred_square(image.width, image.height)
    if image.width != image.height:  # before resizing: no pixel beside the square has an influence
        image = image.crop((left, top, left + short, top + short))
    return image.resize((side, side), Image.Resampling.LANCZOS) if side != short else image
