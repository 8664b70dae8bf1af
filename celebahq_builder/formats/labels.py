"""Labels of pictures: ``<stem>-labels.npy`` beside the HDF5 file, and class numbers where they are one-hot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.pictures import Labels


def labels_path(path: Path) -> Path:
    """Return where the labels of an HDF5 file lie: ``celebahq-labels.npy`` beside ``celebahq.h5``."""
    return path.with_name(f"{path.stem}-labels.npy")


def read_labels(path: Path, count: int) -> Labels | None:
    """Return the labels beside the HDF5 file `path`, float32 [N, classes], or None where there are none.

    Raises:
        FormatError: the file is not such an array, or has not one row per picture.
    """
    beside = labels_path(path)
    if not beside.exists():
        return None
    try:
        labels = np.load(io.BytesIO(beside.read_bytes()), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FormatError(f"{beside} is not a readable .npy file: {error}; replace or delete it") from None
    if labels.ndim != 2 or len(labels) != count or labels.dtype.kind not in "fiub":
        raise FormatError(
            f"{beside} has the shape {labels.shape} and the type {labels.dtype}, expected {count} rows of numbers, one "
            f"per picture of {path.name}; replace or delete it"
        )
    return np.ascontiguousarray(labels, dtype=np.float32)


def encode_labels(labels: Labels) -> bytes:
    """Return a ``.npy`` file of labels, the same bytes for the same values."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(labels, dtype=np.float32), allow_pickle=False)
    return buffer.getvalue()


def class_numbers(labels: Labels) -> NDArray[np.int64] | None:
    """Return the class of each row, int64 [N], or None where numbers would not tell all that the labels do.

    They do where each row is one-hot and the last class occurs: `one_hot` then gives the same labels back.
    """
    if not labels.size or labels.shape[1] < 2:
        return None
    numbers = labels.argmax(axis=1)
    same = numbers.max() == labels.shape[1] - 1 and np.array_equal(one_hot(numbers), labels)
    return numbers.astype(np.int64) if same else None


def one_hot(numbers: NDArray[np.int64]) -> Labels:
    """Return float32 [N, classes] of class numbers int64 [N]; there are as many classes as the largest number says."""
    labels = np.zeros((len(numbers), int(numbers.max()) + 1), np.float32)
    labels[np.arange(len(numbers)), numbers] = 1
    return labels


def from_values(values: list[Any], where: Path) -> Labels:
    """Return the labels that JSON holds as one class number, or one list of numbers, per picture.

    Raises:
        FormatError: anything else, or lists of different lengths.
    """
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    if values and len(numbers) == len(values) and min(numbers) >= 0 and max(numbers) < max(65536, len(values)):
        return one_hot(np.array(numbers, np.int64))
    try:
        labels = np.array(values, np.float32)
    except (ValueError, TypeError, OverflowError):
        labels = np.zeros(0, np.float32)
    if labels.ndim != 2 or not labels.size or not np.isfinite(labels).all():
        raise FormatError(
            f"{where}: the labels are neither one class number (0, 1, ...) per picture nor one list of numbers of one "
            "length; mend or remove them"
        )
    return labels
