"""The labels of an HDF5 file: ``<stem>-labels.npy`` beside it, as the ProGAN authors' tools have it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.pictures import Labels
from celebahq_builder.workspace import write_atomic


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
