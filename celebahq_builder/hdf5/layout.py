"""Layout of the multi-resolution HDF5 file, and opening of such files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from celebahq_builder.errors import FormatError

FORMAT_VERSION = 1

PHOTOS = "photos"
"""Group of the columns: metadata with one row per image."""

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


def open_hdf5(path: Path, **options: Any) -> h5py.File:
    """Open an HDF5 file for reading; `options` are those of `h5py.File`.

    Raises:
        FormatError: no such file, not HDF5, or truncated.
    """
    if not path.is_file():
        what = "is a folder; expected an HDF5 file" if path.is_dir() else "does not exist"
        raise FormatError(f"{path} {what}")
    try:
        return h5py.File(path, "r", **options)
    except OSError as error:
        raise FormatError(f"{path} is not a readable HDF5 file ({error}); {REMEDY}") from None
