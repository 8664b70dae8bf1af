"""TFRecord files of ProGAN and StyleGAN for TensorFlow as a set of pictures."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.labels import load_labels
from celebahq_builder.formats.pictures import Labels, Picture, Pixels
from celebahq_builder.formats.printable import printable
from celebahq_builder.formats.tfrecord import FOOTER_BYTES, HEADER_BYTES, decode_example, masked_crc

REMEDY = "get or make it again"

GZIP = b"\x1f\x8b"

KIND = (
    "its CRCs are right, so this is a TFRecord file of another kind than those of ProGAN and StyleGAN, which have the "
    "features shape (int64: C, H, W) and data (the pixels): unpack it to a folder of pictures, and import that"
)

RECORD_BYTES = 1 << 30
"""A longer record holds no picture."""


@dataclass(frozen=True)
class TFRecordFile:
    """Pictures of the largest level, a `PictureSet`."""

    path: Path
    offsets: NDArray[np.int64]
    """Where each record begins, and where the last one ends."""
    resolution: int
    channels: int
    labels: Labels | None
    label_names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return len(self.offsets) - 1

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the pictures, named by number.

        Raises:
            FormatError: a record's CRC is wrong, or it is no picture of the first one's size.
        """
        with self.path.open("rb") as file:
            for number in range(start, self.count):
                pixels = _picture(self.path, file, number, int(self.offsets[number]))
                if pixels.shape != (self.channels, self.resolution, self.resolution):
                    raise FormatError(
                        f"{self.path}: record {number} is a picture of {list(pixels.shape)}, the first of "
                        f"{[self.channels, self.resolution, self.resolution]}; {REMEDY}"
                    )
                yield Picture(pixels, f"{number:08d}")


def read(path: Path) -> TFRecordFile:
    """Read the largest level of a folder of TFRecord files, or a single one.

    All levels must be there down to 4x4, with as many records each; the pixels of the smaller ones are not looked at.

    Args:
        path: folder of ``<name>-r02.tfrecords`` (4x4) ..., with ``<name>-rxx.labels`` where there are any; or a file.

    Raises:
        FormatError: no such file; one that is cut short, or missing among the levels, or has another number of
            records; a first record that is no square picture of a power of two; labels for another number.
    """
    largest, smaller = _levels(path) if path.is_dir() else (path, [])
    offsets = _scan(largest)
    count = len(offsets) - 1
    if not count:
        raise FormatError(f"{largest} holds no records; {REMEDY}")
    with largest.open("rb") as file:
        shape = _picture(largest, file, 0, 0).shape
    side = shape[2]
    if shape[0] not in (1, 3) or shape[1] != side or side & (side - 1) or not side:
        raise FormatError(
            f"{largest}: its pictures are {list(shape)}, expected [3 or 1, r, r], r a power of two: export them as "
            "images, and import these with --resize"
        )
    if path.is_dir() and _level(largest) != side.bit_length() - 1:
        raise FormatError(f"{largest} holds pictures of {side}x{side}, its name says otherwise; {REMEDY}")
    for one in smaller:
        if (other := len(_scan(one)) - 1) != count:
            raise FormatError(f"{one} holds {other} records, {largest.name} {count}; {REMEDY}")
    return TFRecordFile(largest, offsets, side, shape[0], _labels(largest, count))


def _levels(folder: Path) -> tuple[Path, list[Path]]:
    """Return the file of the largest level and those of the others."""
    found = {_level(path): path for path in folder.glob("*-r*.tfrecords") if _level(path)}
    if not found:
        raise FormatError(f"{folder} holds no files named NAME-r02.tfrecords and so on; give their folder, or one file")
    stems = sorted({path.name.rsplit("-r", 1)[0] for path in folder.glob("*-r*.tfrecords") if _level(path)})
    if len(stems) > 1:
        raise FormatError(
            f"{folder} holds several sets ({', '.join(stems)}); give a single file, or a folder of one set"
        )
    top = max(found)
    missing = [level for level in range(2, top) if level not in found]
    if missing:
        raise FormatError(
            f"{folder} lacks {found[top].name.rsplit('-r', 1)[0]}-r{missing[0]:02d}.tfrecords, the level of "
            f"{1 << missing[0]}x{1 << missing[0]}; {REMEDY}, or give the file {found[top].name} alone"
        )
    return found[top], [found[level] for level in range(2, top)]


def _level(path: Path) -> int:
    match = re.search(r"-r(\d\d)\.tfrecords$", path.name)
    return int(match[1]) if match else 0


def _scan(path: Path) -> NDArray[np.int64]:
    """Return where the records begin and the last one ends, from their lengths alone."""
    try:
        size = path.stat().st_size
        offsets = [0]
        with path.open("rb") as file:
            while offsets[-1] < size:
                file.seek(offsets[-1])
                length = _length(path, file, len(offsets) - 1)
                offsets.append(offsets[-1] + HEADER_BYTES + length + FOOTER_BYTES)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None
    if offsets[-1] > size:
        raise FormatError(f"{path} is cut short: record {len(offsets) - 2} ends after the file; {REMEDY}")
    return np.array(offsets, np.int64)


def _length(path: Path, file: BinaryIO, number: int) -> int:
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        raise FormatError(f"{path} is cut short: record {number} has no length; {REMEDY}")
    length, crc = struct.unpack("<QI", header)
    if crc != masked_crc(header[:8]):
        if number == 0 and header.startswith(GZIP):
            raise FormatError(f"{path} is compressed by gzip; unpack it first: gzip -dc {path.name} > NEW.tfrecords")
        what = "" if number else ", or is no TFRecord file"
        raise FormatError(
            f"{path}: the CRC of the length of record {number} is wrong; the file is damaged{what}, {REMEDY}"
        )
    if length > RECORD_BYTES:
        raise FormatError(f"{path}: record {number} is {length} bytes long, expected a picture; {REMEDY}")
    return int(length)


def _picture(path: Path, file: BinaryIO, number: int, offset: int) -> Pixels:
    file.seek(offset)
    payload = file.read(_length(path, file, number))
    if file.read(FOOTER_BYTES) != struct.pack("<I", masked_crc(payload)):
        raise FormatError(f"{path}: the CRC of record {number} is wrong; the file is damaged, {REMEDY}")
    try:
        return decode_example(payload)
    except ValueError as error:
        raise FormatError(f"{path}: record {number} is no picture: {printable(str(error))[:300]}; {KIND}") from None


def _labels(largest: Path, count: int) -> Labels | None:
    path = largest.with_name(re.sub(r"-r\d\d\.tfrecords$", "", largest.name) + "-rxx.labels")
    return load_labels(path, count) if path.exists() else None
