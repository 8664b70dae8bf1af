"""TFRecord files of ProGAN and StyleGAN for TensorFlow."""

from __future__ import annotations

import functools
import os
import re
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats import REMEDY, Format
from celebahq_builder.formats.export_job import ExportJob
from celebahq_builder.formats.hdf5 import LevelImageSet
from celebahq_builder.hdf5.labels import encode_labels, load_labels
from celebahq_builder.image_set import DataSet, NamedImage, Pixels
from celebahq_builder.imaging.pyramid import is_power_of_two, levels
from celebahq_builder.limits import MAX_CHUNK_BYTES, MAX_ITEMS
from celebahq_builder.storage import Staging, write_atomic

# --- Records

HEADER_BYTES, FOOTER_BYTES = 12, 4


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C of some bytes as TFRecord stores it: rotated, and with a constant added."""
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """Return a record: length, CRC of the length, payload, CRC of the payload; numbers are little-endian."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, struct.pack("<I", masked_crc(length)), payload, struct.pack("<I", masked_crc(payload))))


EXAMPLE_PROTO = """
name: "example.proto" package: "example" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Feature" field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: "BytesList" }
                               field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: "Int64List" } }
message_type { name: "Entry" field { name: "key" number: 1 type: TYPE_BYTES }
                             field { name: "value" number: 2 type: TYPE_MESSAGE type_name: "Feature" } }
message_type { name: "Features" field { name: "entry" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
                                        type_name: "Entry" } }
message_type { name: "Example" field { name: "features" number: 1 type: TYPE_MESSAGE type_name: "Features" } }
"""
"""``tf.train.Example``, as far as images need it: Feature has a third kind of list, of floats.

The features are a list of entries in place of TensorFlow's map. Both have the same encoding, but a list has an order,
and so the bytes of a file are always the same.

Source: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto
"""

POOL = descriptor_pool.DescriptorPool()
POOL.Add(text_format.Parse(EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto()))
EXAMPLE = message_factory.GetMessageClass(POOL.FindMessageTypeByName("example.Example"))


def encode_example(pixels: Pixels) -> bytes:
    """Return the Example of an image uint8 [C, H, W]: ``shape``, int64 [3], and ``data``, the pixels.

    >>> decode_example(encode_example(np.zeros((3, 4, 4), np.uint8))).shape
    (3, 4, 4)
    """
    example = EXAMPLE()
    example.features.entry.add(key=b"shape").value.int64_list.value.extend(pixels.shape)
    example.features.entry.add(key=b"data").value.bytes_list.value.append(pixels.tobytes())
    return bytes(example.SerializeToString())


def decode_example(payload: bytes) -> Pixels:
    """Return the image uint8 [C, H, W] of an Example.

    Raises:
        ValueError: it is not an Example of an image, or the size of its data is not that of its shape.
    """
    try:
        features = {entry.key: entry.value for entry in EXAMPLE.FromString(payload).features.entry}
    except DecodeError:
        raise ValueError("it is not an Example") from None
    if not {b"shape", b"data"} <= features.keys():
        names = ", ".join(sorted(key.decode("utf-8", "backslashreplace") for key in features)) or "none"
        raise ValueError(f"it has the features {names}, expected shape and data")
    shape, data = list(features[b"shape"].int64_list.value), features[b"data"].bytes_list.value
    if len(shape) != 3 or min(shape) < 0 or len(data) != 1:
        raise ValueError(f"its shape is {shape} with {len(data)} values of data, expected C, H, W and one")
    if shape[0] * shape[1] * shape[2] != len(data[0]):
        raise ValueError(f"its shape is {shape}, but its data are {len(data[0])} bytes")
    return np.frombuffer(data[0], np.uint8).reshape(shape)


# --- Import

OTHER_KIND = (
    "its CRCs are right, so this is a TFRecord file of another kind than those of ProGAN and StyleGAN, which have the "
    "features shape (int64: C, H, W) and data (the pixels): unpack it to a folder of images, and import that"
)


def read(path: Path) -> DataSet:
    """Open the largest level of a folder of TFRecord files, or a single file; images are named by their numbers.

    Args:
        path: folder of ``<name>-r02.tfrecords`` (4x4) ..., perhaps with ``<name>-rxx.labels``; or a file. All levels
            must have the same number of records; the pixels of the smaller ones are not read.

    Raises:
        FormatError: a level is missing, or cut short; the first record is not a square image with a side that is a
            power of two; the numbers of records and labels differ. While reading: the CRC of a record is wrong, or it
            is not an image of the size of the first.
    """
    files = _level_files(path)
    largest = files[-1]
    offsets = _record_offsets(largest)
    count = len(offsets) - 1
    if not count:
        raise FormatError(f"{largest} holds no records; {REMEDY}")
    with largest.open("rb") as file:
        shape = _read_image(largest, file, 0, 0).shape
    side, prefix = shape[2], re.sub(r"-r\d\d\.tfrecords$", "", largest.name)
    if shape[0] not in (1, 3) or shape[1] != side or not is_power_of_two(side):
        expected = "[3 or 1, r, r], r a power of two: export them as images, and import these with `resize`"
        raise FormatError(f"{largest}: its images are {list(shape)}, expected {expected}")
    top = side.bit_length() - 1
    if path.is_dir() and [one.name for one in files] != [f"{prefix}-r{k:02d}.tfrecords" for k in range(2, top + 1)]:
        found = f"{files[0].name} to {largest.name}, whose images are {side}x{side}"
        expected = f"-r02.tfrecords to -r{top:02d}.tfrecords"
        raise FormatError(f"{path} holds {found}; expected {expected}: {REMEDY}, or give {largest.name} alone")
    for one in files[:-1]:
        if (other := len(_record_offsets(one)) - 1) != count:
            raise FormatError(f"{one} holds {other} records, {largest.name} {count}; {REMEDY}")
    labels = largest.with_name(f"{prefix}-rxx.labels")

    def images() -> Iterator[NamedImage]:
        with largest.open("rb") as file:
            for number, offset in enumerate(offsets[:-1]):
                pixels = _read_image(largest, file, number, int(offset))
                if pixels.shape != shape:
                    sizes = f"an image of {list(pixels.shape)}, the first of {list(shape)}"
                    raise FormatError(f"{largest}: record {number} is {sizes}; {REMEDY}")
                yield NamedImage(pixels, f"{number:08d}")

    return DataSet(count, side, shape[0], images, load_labels(labels, count) if os.path.lexists(labels) else None)


def _level_files(path: Path) -> list[Path]:
    """Return the files of all levels, smallest first, or the single file."""
    if path.is_dir():
        files = sorted(one for one in path.glob("*.tfrecords") if not one.name.startswith("."))
        if not files:
            raise FormatError(f"{path} holds no files ending in .tfrecords; give their folder, or one of them")
        levels_found = [re.fullmatch(r"(.*)-r(\d\d)\.tfrecords", one.name) for one in files]
        known = [match for match in levels_found if match]
        prefix = known[0][1] if known else files[0].name
        other = next((one for one in files if known and not one.name.startswith(f"{prefix}-r")), None)
        if other is not None:
            like = f"{other.name}, which is not of the set of {files[0].name}"
            raise FormatError(f"{path} holds {like}; give a folder of one set")
        present = {int(match[2]) for match in known}
        missing = next((r for r in range(min(present, default=0), max(present, default=0)) if r not in present), None)
        if missing is not None:
            raise FormatError(f"{path} lacks {prefix}-r{missing:02d}.tfrecords; {REMEDY}")
    else:
        files = [path]
    special = next((one for one in files if not one.is_file()), None)
    if special is not None:
        raise FormatError(f"{special} is not a regular file" if special.exists() else f"{special} does not exist")
    return files


def _record_offsets(path: Path) -> NDArray[np.int64]:
    """Return the start of each record and the end of the last one, from the lengths alone."""
    try:
        size = path.stat().st_size
        offsets = array("q", [0])
        with path.open("rb") as file:
            while offsets[-1] < size:
                if len(offsets) > MAX_ITEMS:
                    raise FormatError(f"{path} holds more than {MAX_ITEMS} records; {REMEDY}")
                file.seek(offsets[-1])
                length = _read_length(path, file, len(offsets) - 1)
                offsets.append(offsets[-1] + HEADER_BYTES + length + FOOTER_BYTES)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None
    if offsets[-1] > size:
        raise FormatError(f"{path} is cut short: record {len(offsets) - 2} ends after the file; {REMEDY}")
    return np.frombuffer(offsets, np.int64)


def _read_length(path: Path, file: BinaryIO, number: int) -> int:
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        raise FormatError(f"{path} is cut short: record {number} has no length; {REMEDY}")
    length, crc = struct.unpack("<QI", header)
    if crc != masked_crc(header[:8]):
        if number == 0 and header.startswith(b"\x1f\x8b"):
            raise FormatError(f"{path} is compressed by gzip; unpack it first: gzip -dc {path.name} > NEW.tfrecords")
        fault = f"the CRC of the length of record {number} is wrong; the file is damaged"
        raise FormatError(f"{path}: {fault}{'' if number else ', or is not a TFRecord file'}, {REMEDY}")
    if length > MAX_CHUNK_BYTES:
        raise FormatError(f"{path}: record {number} is {length} bytes long, expected an image; {REMEDY}")
    return int(length)


def _read_image(path: Path, file: BinaryIO, number: int, offset: int) -> Pixels:
    file.seek(offset)
    payload = file.read(_read_length(path, file, number))
    if file.read(FOOTER_BYTES) != struct.pack("<I", masked_crc(payload)):
        raise FormatError(f"{path}: the CRC of record {number} is wrong; the file is damaged, {REMEDY}")
    try:
        return decode_example(payload)
    except ValueError as error:
        reason = printable(str(error))[:300]
        raise FormatError(f"{path}: record {number} is not an image: {reason}; {OTHER_KIND}") from None


# --- Export

SMALLEST_PX = 4
"""The programs that read these files want all levels down to 4x4, and none below."""

ORDER_SEED = 123
"""Seed of the shuffled order, the one of the ProGAN authors' tool."""


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write ``<name>-r02.tfrecords`` (4x4) to ``<name>-r10.tfrecords`` (1024x1024), and ``<name>-rxx.labels``.

    All records of a level have the same length, so that each worker knows where to write its own. An interrupted
    export is resumed by parts of 32 images: the file ``done`` has a line for each part that is on the disk.

    Source: the data set tools of tkarras/progressive_growing_of_gans and NVlabs/stylegan.

    Raises:
        FormatError: the level is smaller than 4x4.
    """
    level, count = export.level, export.level.count
    if level.resolution < SMALLEST_PX:
        side = level.resolution
        raise FormatError(f"`resolution` {side} is too small: TFRecord files have levels from 4x4 on; give 4 or more")
    prefix = stage.data / export.name
    order: range | list[int] = range(count)
    if export.shuffle:
        order = np.random.RandomState(ORDER_SEED).permutation(count).tolist()
    done = _finished_parts(level, prefix, stage)
    parts = export.parts()
    yield sum(len(part) for part in parts if part.start in done)
    jobs = ((part.start, order[part.start : part.stop]) for part in parts if part.start not in done)
    write_records = functools.partial(_write_records, level, prefix)
    with (stage.root / "done").open("a", encoding="ascii") as notes:
        for start, written in parallel.run(write_records, jobs, workers=export.workers):
            notes.write(f"{start}\n")
            notes.flush()
            os.fsync(notes.fileno())
            yield written
    if level.labels is not None:
        data = encode_labels(level.labels[np.array(order)])
        write_atomic(prefix.with_name(f"{export.name}-rxx.labels"), data, parents=False)
    stage.check(path_of(prefix, r) for r in _sides(level.resolution))


def path_of(prefix: Path, resolution: int) -> Path:
    """Return the file of a level.

    >>> path_of(Path("faces"), 1024).name
    'faces-r10.tfrecords'
    """
    return prefix.with_name(f"{prefix.name}-r{resolution.bit_length() - 1:02d}.tfrecords")


def _sides(resolution: int) -> list[int]:
    return [r for r in levels(resolution) if r >= SMALLEST_PX]


def _finished_parts(level: LevelImageSet, prefix: Path, stage: Staging) -> set[int]:
    """Create the files with their final sizes, and return the first records of the parts that are written already."""
    notes = stage.root / "done"
    if notes.exists():
        return {int(line) for line in notes.read_text(encoding="ascii").split("\n")[:-1] if line.isdigit()}
    stage.data.mkdir(exist_ok=True)
    for r in _sides(level.resolution):
        size = level.count * len(frame(encode_example(np.zeros((level.channels, r, r), np.uint8))))
        with path_of(prefix, r).open("ab") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is noticed before the work, not after it
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    return set()


def _write_records(level: LevelImageSet, prefix: Path, job: tuple[int, Sequence[int]]) -> tuple[int, int]:
    """Write images as the records from number `start` on; return `start` and the number of images."""
    start, images = job
    for r in _sides(level.resolution):
        with path_of(prefix, r).open("rb+") as file:
            for number, pixels in enumerate(level.pixels(images, r), start):
                record = frame(encode_example(pixels))
                file.seek(number * len(record))
                file.write(record)
            file.flush()
            os.fsync(file.fileno())
    return start, len(images)


FORMAT = Format("tfrecord", read, write, names=("*.tfrecords",), options=("shuffle",))
