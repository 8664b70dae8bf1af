"""The multi-resolution HDF5 file: its layout; reader, writer, codecs and labels in modules of their own."""

from __future__ import annotations

import itertools
import re

import h5py

from celebahq_builder.errors import FormatError, printable

FORMAT_VERSION = 1

LEVEL_NAME = re.compile(r"data([1-9][0-9]{0,4})x\1")
"""Name of a level's dataset."""

PHOTOS = "photos"
"""Group of the columns: metadata with one row per image."""

NAME_COLUMNS = ("attribute_names", "label_names")
"""Columns with one row per attribute or label instead of one per image."""

CHUNK_BYTES = 16384
"""Small images share a chunk of up to this size; larger images have one each.

To read one image of a level, a reader decompresses the whole chunk: less than 60 us at any level with this size, while
reading a whole level takes hardly longer than with the largest chunks (docs/hdf5.md).
"""

CHUNK_IMAGES = 1024
"""At most so many images share a chunk."""

JOB_BYTES = 4 << 20
"""Images of up to this size in total are packed together; a larger image is packed alone."""

REMEDY = "the file is damaged, or its writer was killed: build it again, or get another copy"


def level_name(resolution: int) -> str:
    """Return the name of a level's dataset.

    Example:
        >>> level_name(1024)
        'data1024x1024'
    """
    return f"data{resolution}x{resolution}"


def images_per_chunk(resolution: int, channels: int = 3) -> int:
    """Return how many images of a level share a chunk: a power of two, at most `CHUNK_IMAGES`.

    Example:
        >>> [images_per_chunk(r) for r in (64, 32, 16, 1)]
        [1, 4, 16, 1024]
    """
    return _power_of_two(CHUNK_BYTES // (channels * resolution * resolution))


def images_per_job(resolution: int, channels: int = 3) -> int:
    """Return how many images a thread packs at once: a power of two, at most `CHUNK_IMAGES`."""
    return _power_of_two(JOB_BYTES // (channels * resolution * resolution))


def _power_of_two(at_most: int) -> int:
    return 1 << (min(max(at_most, 1), CHUNK_IMAGES).bit_length() - 1)


def find_levels(file: h5py.File) -> dict[int, str]:
    """Return the names of the levels of a file by their resolution, largest first.

    Raises:
        FormatError: there are none.
    """
    found = {int(match[1]): name for name in file if (match := LEVEL_NAME.fullmatch(name))}
    if not found:
        names = [printable(name) for name in itertools.islice(file, 6)]
        has = ", ".join(names[:5]) + (", ..." if names[5:] else "") or "nothing"
        raise FormatError(f"{file.filename} has no datasets data1024x1024, ...; it has {has}")
    return dict(sorted(found.items(), reverse=True))
