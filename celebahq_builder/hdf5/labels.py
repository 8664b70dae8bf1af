"""Labels of an HDF5 file: the -labels.npy file beside it, and labels made of its attributes."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from tokenize import TokenError
from typing import Literal

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5 import PHOTOS
from celebahq_builder.hdf5.reader import PhotoColumns
from celebahq_builder.hdf5.untrusted import open_hdf5
from celebahq_builder.image_set import Labels, attribute_labels
from celebahq_builder.storage import write_atomic
from celebahq_builder.storage.bounded_read import irregular_kind

MAX_CLASSES = 65_536
"""Columns of labels; ImageNet-21k, the largest set of classes in common use, has 21,841."""

LabelSource = Literal["file", "attributes"]
"""``file``: ``<stem>-labels.npy`` beside the HDF5 file; ``attributes``: the attributes in its group ``photos``."""


def labels_path(path: Path) -> Path:
    """Return the path of the labels of the HDF5 file `path`.

    Example:
        >>> labels_path(Path("celebahq-64x64.h5")).name
        'celebahq-64x64-labels.npy'
    """
    return path.with_name(f"{path.stem}-labels.npy")


def encode_labels(labels: Labels) -> bytes:
    """Return the content of a file of labels, float32 [N, classes]."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(labels, np.float32), allow_pickle=False)
    return buffer.getvalue()


def write_labels(path: Path, labels: Labels) -> None:
    """Write the labels, float32 [N, classes], of the HDF5 file `path`, whole or not at all.

    Raises:
        DiskFull: no space left.
    """
    write_atomic(labels_path(path), encode_labels(labels))


def read_labels(path: Path, count: int) -> Labels | None:
    """Return the labels beside the HDF5 file `path`, float32 [N, classes], or None if there are none.

    Raises:
        FormatError: as `load_labels` does.
    """
    beside = labels_path(path)
    return load_labels(beside, count) if os.path.lexists(beside) else None


def load_labels(path: Path, count: int) -> Labels:
    """Return the labels of N images from a .npy file, float32 [N, classes].

    Raises:
        FormatError: as `labels_header` and `check_labels` do.
    """
    dtype, shape = labels_header(path)
    _check_header(dtype, shape, count, path)
    return check_labels(np.asarray(np.load(path, allow_pickle=False)), count, path)


def labels_header(path: Path) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """Return type and shape of the array in a .npy file, without reading the array.

    Raises:
        FormatError: the file is not one array of numpy's, or does not have the size that its header announces.
    """
    try:
        if kind := irregular_kind(path.stat()):
            raise OSError(f"{kind}, not a regular file")
        with path.open("rb") as file:
            read_header = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}[read_magic(file)]
            shape, _, dtype = read_header(file)
            size, expected = path.stat().st_size, file.tell() + math.prod(shape) * dtype.itemsize
        if size != expected and not dtype.hasobject:
            raise ValueError(f"it has {size} bytes, its header announces {expected}")
    except (OSError, ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        reason = printable(str(error)[:200])
        raise FormatError(f"{path} is not a readable array of numpy's: {reason}; replace or delete it") from None
    return dtype, shape


def _check_header(dtype: np.dtype[np.generic], shape: tuple[int, ...], count: int, where: Path) -> None:
    if len(shape) != 2 or dtype.kind not in "biuf" or shape[0] != count or shape[1] > MAX_CLASSES:
        raise FormatError(
            f"{where}: labels are {printable(str(dtype))} {list(shape)}, expected finite numbers [{count}, classes]; "
            "replace or delete them"
        )


def check_labels(values: NDArray[np.generic], count: int, where: Path) -> Labels:
    """Return values as the labels of N images, float32 [N, classes].

    Args:
        values: array of any type.
        count: N.
        where: file that an error names.

    Raises:
        FormatError: not one row of finite numbers per image.
    """
    _check_header(values.dtype, values.shape, count, where)
    if not np.isfinite(values).all():
        raise FormatError(f"{where}: some labels are not finite numbers; replace or delete them")
    return np.ascontiguousarray(values, dtype=np.float32)


def labels_for_training(path: Path, source: LabelSource, count: int) -> tuple[Labels, tuple[str, ...]]:
    """Return the labels of an HDF5 file's images, float32 [N, classes], and the names of their columns, if any.

    Args:
        source: where its labels are.
        count: N.

    Raises:
        FormatError: no labels there, or not one row of finite numbers per image.
    """
    with open_hdf5(path) as file:
        photos = PhotoColumns(file)
        names = photos.get("label_names" if source == "file" else "attribute_names")
        attributes = photos.get("attributes") if source == "attributes" else None
    named = () if names is None else tuple(map(str, names))
    if source == "file":
        found = read_labels(path, count)
        if found is None:
            raise FormatError(
                f"{labels_path(path)} does not exist; expected labels there, or open the data set without"
            )
        return found, named
    if attributes is None:
        raise FormatError(f"{path} has no {PHOTOS}/attributes; open it without labels, or with those beside it")
    return attribute_labels(check_labels(np.asarray(attributes), count, path)), named
