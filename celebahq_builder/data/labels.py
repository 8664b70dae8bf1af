"""What is known of the pictures of a multi-resolution file, as labels to train with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.formats.pictures import Labels

Source = Literal["file", "attributes"]
"""``file``: `labels_path`; ``attributes``: the columns of the HDF5 file."""


def labels_path(path: Path) -> Path:
    """Return where the ProGAN authors' tool puts the labels of a file: ``<stem>-labels.npy`` beside it."""
    return path.with_name(f"{path.stem}-labels.npy")


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
    values, names = _of_file(where) if source == "file" else _of_attributes(path)
    if values.ndim != 2 or values.dtype.kind not in "biuf" or len(values) != count or not np.isfinite(values).all():
        raise FormatError(
            f"{where}: labels are {values.dtype} {list(values.shape)}, expected finite numbers [{count}, classes]"
        )
    return values.astype(np.float32), names


def _of_file(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist; expected labels there, or open the data set without") from None
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{path} is not a readable array of numpy's: {error}") from None
    return np.asarray(values), ()


def _of_attributes(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    with PyramidFile(path) as file:
        values, names = file.column("attributes"), file.column("attribute_names")
    if values is None or names is None:
        raise FormatError(f"{path} has no attributes; its source had no list_attr_celeba.txt")
    return np.asarray(values) > 0, tuple(map(str, names))
