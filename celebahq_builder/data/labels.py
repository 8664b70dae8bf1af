"""What is known of the pictures of a multi-resolution file, as labels to train with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.hdf5_layout import PHOTOS
from celebahq_builder.formats.labels import labels_path
from celebahq_builder.formats.pictures import Labels

Source = Literal["file", "attributes"]
"""``file``: ``<stem>-labels.npy`` beside the HDF5 file; ``attributes``: those of its group ``photos``."""


def read_labels(path: Path, source: Source, count: int) -> tuple[Labels, tuple[str, ...]]:
    """Return the labels of a file's pictures, float32 [N, classes], and the names of their columns, if any.

    Attributes are 1 where a picture has them, else 0: CelebA's -1 becomes 0.

    Args:
        path: of the HDF5 file.
        source: where its labels are.
        count: N.

    Raises:
        FormatError: there are none, or not one row of finite numbers for each picture.
    """
    where = labels_path(path) if source == "file" else path
    values, names = _of_file(path) if source == "file" else _of_attributes(path)
    if values.ndim != 2 or values.dtype.kind not in "biuf" or len(values) != count or not np.isfinite(values).all():
        raise FormatError(
            f"{where}: labels are {values.dtype} {list(values.shape)}, expected finite numbers [{count}, classes]"
        )
    return values.astype(np.float32), names


def _of_file(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    beside = labels_path(path)
    try:
        values = np.asarray(np.load(beside, allow_pickle=False))
    except FileNotFoundError:
        raise FormatError(f"{beside} does not exist; expected labels there, or open the data set without") from None
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{beside} is not a readable array of numpy's: {error}") from None
    return values, _names(path, "label_names")


def _of_attributes(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    with h5py.File(path, "r") as file:
        values = file[f"{PHOTOS}/attributes"][:] if f"{PHOTOS}/attributes" in file else None
    if values is None:
        raise FormatError(f"{path} has no {PHOTOS}/attributes: what it was made from had none, or was other software")
    return values > 0, _names(path, "attribute_names")


def _names(path: Path, column: str) -> tuple[str, ...]:
    with h5py.File(path, "r") as file:
        return tuple(file[f"{PHOTOS}/{column}"].asstr()[:]) if f"{PHOTOS}/{column}" in file else ()
