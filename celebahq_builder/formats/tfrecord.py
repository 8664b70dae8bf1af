"""TFRecord files of ProGAN and StyleGAN for TensorFlow."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats.export import ExportJob
from celebahq_builder.hdf5.labels import encode_labels, load_labels
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.image_set import Labels, NamedImage, Pixels
from celebahq_builder.imaging.pyramid import levels
from celebahq_builder.storage import Staging, write_atomic

HEADER_BYTES = 12
FOOTER_BYTES = 4


def masked_crc(data: bytes | memoryview) -> int:
    """Return the CRC-32C of some bytes, rotated and added to as TFRecord stores it."""
    crc = int(google_crc32c.value(bytes(data)))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """Return a record: length, its CRC, the payload, its CRC; all little-endian."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, struct.pack("<I", masked_crc(length)), payload, struct.pack("<I", masked_crc(payload))))


def encode_example(pixels: Pixels) -> bytes:
    """Return the Example of an image: ``shape``, int64 [3] of C, H, W, and ``data``, the bytes in that order."""
    shape = b"".join(_varint(side) for side in pixels.shape)
    int64_list = _field(3, _field(1, shape))
    bytes_list = _field(1, _field(1, np.ascontiguousarray(pixels).tobytes()))
    keyed = ((b"shape", int64_list), (b"data", bytes_list))
    return _field(1, b"".join(_field(1, _field(1, key) + _field(2, value)) for key, value in keyed))


def decode_example(payload: bytes) -> Pixels:
    """Return the image uint8 [C, H, W] of an Example, in whatever order and packing its fields are.

    Raises:
        ValueError: it is no such Example, or its data are not as many bytes as its shape says.
    """
    found: dict[bytes, memoryview] = {}
    for features in _values(memoryview(payload), 1):
        for entry in _values(features, 1):
            key = b"".join(bytes(part) for part in _values(entry, 1))
            for feature in _values(entry, 2):
                found[key] = feature
    if not {b"shape", b"data"} <= found.keys():
        names = ", ".join(sorted(key.decode("utf-8", "backslashreplace") for key in found))
        raise ValueError(f"it has {f'the features {names}' if names else 'no features'}, expected shape and data")
    shape: list[int] = []
    for numbers in _values(found[b"shape"], 3):
        for wire, value in _fields(numbers, 1):
            shape += _varints(value) if wire == 2 else [value]
    data = [value for strings in _values(found[b"data"], 1) for value in _values(strings, 1)]
    if len(shape) != 3 or len(data) != 1:
        raise ValueError(f"its shape is {shape} with {len(data)} values of data, expected C, H, W and one")
    if shape[0] * shape[1] * shape[2] != len(data[0]):
        raise ValueError(f"its shape is {shape}, but its data are {len(data[0])} bytes")
    return np.frombuffer(data[0], np.uint8).reshape(shape)


def _varint(number: int) -> bytes:
    coded = bytearray()
    while number > 127:
        coded.append(number & 127 | 128)
        number >>= 7
    coded.append(number)
    return bytes(coded)


def _field(number: int, value: bytes) -> bytes:
    """Return a field of wire type 2: bytes, text, a message, or packed numbers."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _values(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for wire, value in _fields(message, wanted):
        if wire != 2:
            raise ValueError(f"field {wanted} is no message")
        yield value


def _fields(message: memoryview, wanted: int) -> Iterator[tuple[int, Any]]:
    """Yield wire type and value of all fields of one number; others are passed over, as protocol buffers ask."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value, at = _read_varint(message, at)
        elif wire in (1, 2, 5):
            length, at = _read_varint(message, at) if wire == 2 else (8 if wire == 1 else 4, at)
            value, at = message[at : at + length], at + length
            if at > len(message):
                raise ValueError("a field goes on after the end")
        else:
            raise ValueError(f"wire type {wire}")
        if number == wanted:
            yield wire, value


def _varints(packed: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(packed):
        number, at = _read_varint(packed, at)
        numbers.append(number)
    return numbers


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a number goes on after the end")


REMEDY = "get or make it again"

GZIP = b"\x1f\x8b"

KIND = (
    "its CRCs are right, so this is a TFRecord file of another kind than those of ProGAN and StyleGAN, which have the "
    "features shape (int64: C, H, W) and data (the pixels): unpack it to a folder of images, and import that"
)

RECORD_BYTES = 1 << 30
"""A longer record holds no image."""


@dataclass(frozen=True)
class TFRecordFile:
    """Images of the largest level, a `ImageSet`."""

    path: Path
    offsets: NDArray[np.int64]
    """Where each record begins, and where the last one ends."""
    resolution: int
    channels: int
    labels: Labels | None
    label_names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.offsets) - 1

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images, named by number.

        Raises:
            FormatError: a record's CRC is wrong, or it is no image of the first one's size.
        """
        with self.path.open("rb") as file:
            for number in range(start, self.count):
                pixels = _image(self.path, file, number, int(self.offsets[number]))
                if pixels.shape != (self.channels, self.resolution, self.resolution):
                    raise FormatError(
                        f"{self.path}: record {number} is an image of {list(pixels.shape)}, the first of "
                        f"{[self.channels, self.resolution, self.resolution]}; {REMEDY}"
                    )
                yield NamedImage(pixels, f"{number:08d}")


def read(path: Path) -> TFRecordFile:
    """Read the largest level of a folder of TFRecord files, or a single one.

    All levels must be there down to 4x4, with as many records each; the pixels of the smaller ones are not looked at.

    Args:
        path: folder of ``<name>-r02.tfrecords`` (4x4) ..., with ``<name>-rxx.labels`` where there are any; or a file.

    Raises:
        FormatError: no such file; one that is cut short, or missing among the levels, or has another number of
            records; a first record that is no square image of a power of two; labels for another number.
    """
    largest, smaller = _levels(path) if path.is_dir() else (path, [])
    offsets = _scan(largest)
    count = len(offsets) - 1
    if not count:
        raise FormatError(f"{largest} holds no records; {REMEDY}")
    with largest.open("rb") as file:
        shape = _image(largest, file, 0, 0).shape
    side = shape[2]
    if shape[0] not in (1, 3) or shape[1] != side or side & (side - 1) or not side:
        raise FormatError(
            f"{largest}: its images are {list(shape)}, expected [3 or 1, r, r], r a power of two: export them as "
            "images, and import these with --resize"
        )
    if path.is_dir() and _level(largest) != side.bit_length() - 1:
        raise FormatError(f"{largest} holds images of {side}x{side}, its name says otherwise; {REMEDY}")
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
        raise FormatError(f"{path}: record {number} is {length} bytes long, expected an image; {REMEDY}")
    return int(length)


def _image(path: Path, file: BinaryIO, number: int, offset: int) -> Pixels:
    file.seek(offset)
    payload = file.read(_length(path, file, number))
    if file.read(FOOTER_BYTES) != struct.pack("<I", masked_crc(payload)):
        raise FormatError(f"{path}: the CRC of record {number} is wrong; the file is damaged, {REMEDY}")
    try:
        return decode_example(payload)
    except ValueError as error:
        raise FormatError(f"{path}: record {number} is no image: {printable(str(error))[:300]}; {KIND}") from None


def _labels(largest: Path, count: int) -> Labels | None:
    path = largest.with_name(re.sub(r"-r\d\d\.tfrecords$", "", largest.name) + "-rxx.labels")
    return load_labels(path, count) if path.exists() else None


SMALLEST = 4
"""Those readers want levels down to 4x4, and none below."""

ORDER_SEED = 123


@dataclass(frozen=True)
class _Job:
    source: Path
    resolution: int
    prefix: Path
    """Folder and beginning of the files' names."""
    start: int
    """Number of the first record."""
    numbers: range | list[int]
    """Images of the records, in their order."""


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write ``<name>-r02.tfrecords`` (4x4) to ``<name>-r10.tfrecords`` (1024x1024), and ``<name>-rxx.labels``.

    All records of a level are equally long, so that workers write theirs where they belong. A killed export goes on
    by parts of 32 images: ``done`` has a line for each that is on the disk. The images are in the file's order,
    so that numbers stay what they are; shuffled, they are in the order of the ProGAN authors' tool.

    Source: the data set tools of tkarras/progressive_growing_of_gans and NVlabs/stylegan.

    Raises:
        FormatError: the level is smaller than 4x4.
    """
    level, count = export.level, export.level.count
    if level.resolution < SMALLEST:
        raise FormatError(f"TFRecord files begin at 4x4, the level asked for is {level.resolution}x{level.resolution}")
    prefix = stage.data / export.name
    order: range | list[int] = range(count)
    if export.settings.shuffle:
        shuffled = np.arange(count)
        np.random.RandomState(ORDER_SEED).shuffle(shuffled)
        order = shuffled.tolist()
    done = _begun(level, prefix, stage)
    parts = export.parts()
    yield sum(len(part) for part in parts if part.start in done)
    jobs = (
        _Job(export.source, level.resolution, prefix, part.start, order[part.start : part.stop])
        for part in parts
        if part.start not in done
    )
    with (stage.root / "done").open("a", encoding="ascii") as notes:
        for start, written in parallel.run(_write_records, jobs, workers=export.workers):
            notes.write(f"{start}\n")
            notes.flush()
            yield written
    if level.labels is not None:
        data = encode_labels(level.labels[np.array(order)])
        write_atomic(prefix.with_name(f"{export.name}-rxx.labels"), data, parents=False)
    stage.check(path_of(prefix, r) for r in _sides(level.resolution))


def path_of(prefix: Path, resolution: int) -> Path:
    """Return the file of a level: ``<name>-r10.tfrecords`` is 1024x1024."""
    return prefix.with_name(f"{prefix.name}-r{resolution.bit_length() - 1:02d}.tfrecords")


def _sides(resolution: int) -> list[int]:
    return [r for r in levels(resolution) if r >= SMALLEST]


def _begun(level: LevelImageSet, prefix: Path, stage: Staging) -> set[int]:
    """Make the files as long as they will be; return the first records of the parts that they hold already."""
    notes = stage.root / "done"
    if not notes.exists():
        stage.data.mkdir(exist_ok=True)
        for r in _sides(level.resolution):
            size = level.count * len(frame(encode_example(np.zeros((level.channels, r, r), np.uint8))))
            with path_of(prefix, r).open("ab") as file:
                _reserve(file.fileno(), size)
    lines = notes.read_text(encoding="ascii").split("\n")[:-1] if notes.exists() else []
    return {int(line) for line in lines if line.isdigit()}


def _reserve(file: int, size: int) -> None:
    """Take the space now, where the system can: a full disk shows before an hour's work, not after."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def _write_records(job: _Job) -> tuple[int, int]:
    with LevelImageSet(job.source, job.resolution) as level:
        for r in _sides(job.resolution):
            with path_of(job.prefix, r).open("rb+") as file:
                for number, pixels in enumerate(level.pixels(job.numbers, r), job.start):
                    record = frame(encode_example(pixels))
                    file.seek(number * len(record))
                    file.write(record)
                file.flush()
                os.fsync(file.fileno())
    return job.start, len(job.numbers)
