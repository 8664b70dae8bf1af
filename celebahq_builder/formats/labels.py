"""The labels of an HDF5 file: ``<stem>-labels.npy`` beside it, as the ProGAN authors' tools have it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

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
