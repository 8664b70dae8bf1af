"""What every reader of our HDF5 file begins with: opening it, and a column of what it knows of its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.hdf5_layout import PHOTOS

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
