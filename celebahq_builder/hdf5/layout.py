"""The layout of the multi-resolution HDF5 file, and opening of such files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError

FORMAT_VERSION = 1

PHOTOS = "photos"
"""Group of what is known of each image."""

CHUNK_BYTES = 16384
"""Small images share a chunk of up to this size, larger ones have one each.

One image of a level costs a reader the whole chunk: at this size less than 60 us at any level, while a whole level
takes hardly longer than with the largest chunks (docs/hdf5.md).
"""

CHUNK_IMAGES = 1024
"""At most so many images share a chunk."""

JOB_BYTES = 4 << 20
"""Images of up to this size are packed together; a larger one is a job of its own."""


def level_name(resolution: int) -> str:
    """Return the name of a level's dataset."""
    return f"data{resolution}x{resolution}"


def images_per_chunk(resolution: int, channels: int = 3) -> int:
    """Return how many images of a level share a chunk: a power of two, at most `CHUNK_IMAGES`."""
    return _power_of_two(CHUNK_BYTES // (channels * resolution * resolution))


def images_per_job(resolution: int, channels: int = 3) -> int:
    """Return how many images a worker packs at once: a power of two, at most `CHUNK_IMAGES`."""
    return _power_of_two(JOB_BYTES // (channels * resolution * resolution))


def _power_of_two(at_most: int) -> int:
    return 1 << (min(max(at_most, 1), CHUNK_IMAGES).bit_length() - 1)


REMEDY = "the file is damaged, or its writer was killed: build it again, or get another copy"

Column = NDArray[Any] | list[str]


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        FormatError: no such file, not HDF5, or cut short.
    """
    if not path.is_file():
        what = "is a folder; expected an HDF5 file" if path.is_dir() else "does not exist"
        raise FormatError(f"{path} {what}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FormatError(
            f"{path} is not a readable HDF5 file (a writer that was killed leaves such): {error}; write it again"
        ) from None


def read_column(file: h5py.File, name: str, rows: slice = slice(None)) -> Column | None:
    """Return some rows of a column of what is known of the photos, or None if the file lacks it.

    Raises:
        FormatError: it cannot be read.
    """
    group = file.get(PHOTOS)
    dataset = group.get(name) if isinstance(group, h5py.Group) else None
    if not isinstance(dataset, h5py.Dataset):
        return None
    try:
        if h5py.check_string_dtype(dataset.dtype):
            return [str(value) for value in dataset.asstr()[rows]]
        return np.asarray(dataset[rows])
    except (OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{file.filename}: {PHOTOS}/{name} cannot be read: {reason}; {REMEDY}") from None
