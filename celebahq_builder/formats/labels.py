"""The labels of an HDF5 file: ``<stem>-labels.npy`` beside it, as the ProGAN authors' tools have it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.files import write_atomic
from celebahq_builder.formats.pictures import Labels


def labels_path(path: Path) -> Path:
    """Return where the labels of the HDF5 file `path` lie."""
    return path.with_name(f"{path.stem}-labels.npy")


def labels_file(labels: Labels) -> bytes:
    """Return the contents of a file of labels, float32 [N, classes]."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(labels, np.float32), allow_pickle=False)
    return buffer.getvalue()


def write_labels(path: Path, labels: Labels) -> None:
    """Write the labels of the HDF5 file `path`, whole or not at all.

    Raises:
        DiskFull: no space left.
    """
    write_atomic(labels_path(path), labels_file(labels))


def read_labels(path: Path, count: int) -> Labels | None:
    """Return the labels beside the HDF5 file `path`, float32 [N, classes], or None where there are none.

    Raises:
        FormatError: as `load_labels` does.
    """
    beside = labels_path(path)
    return load_labels(beside, count) if beside.exists() else None


def load_labels(path: Path, count: int) -> Labels:
    """Return the labels of N pictures in a file of numpy's, float32 [N, classes].

    Raises:
        FormatError: the file is not such an array, or as `check_labels` does.
    """
    try:
        values = np.asarray(np.load(io.BytesIO(path.read_bytes()), allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{path} is not a readable array of numpy's: {error}; replace or delete it") from None
    return check_labels(values, count, path)


def check_labels(values: NDArray[Any], count: int, where: Path) -> Labels:
    """Return values as the labels of N pictures, float32 [N, classes].

    Args:
        where: file that an error names.

    Raises:
        FormatError: not one row of finite numbers per picture.
    """
    if values.ndim != 2 or values.dtype.kind not in "biuf" or len(values) != count or not np.isfinite(values).all():
        raise FormatError(
            f"{where}: labels are {values.dtype} {list(values.shape)}, expected finite numbers [{count}, classes]; "
            "replace or delete them"
        )
    return np.ascontiguousarray(values, dtype=np.float32)


def of_attributes(attributes: ArrayLike) -> Labels:
    """Return attributes [N, attributes] as labels: 1 where a picture has one, 0 for CelebA's -1 and unknown ones."""
    return np.asarray(np.asarray(attributes) > 0, np.float32)
