"""What is known of the pictures of a multi-resolution file, as labels to train with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import labels
from celebahq_builder.formats.hdf5_file import open_hdf5, read_column
from celebahq_builder.formats.hdf5_layout import PHOTOS
from celebahq_builder.formats.pictures import Labels

Source = Literal["file", "attributes"]
"""``file``: ``<stem>-labels.npy`` beside the HDF5 file; ``attributes``: those of its group ``photos``."""


def labels_for_training(path: Path, source: Source, count: int) -> tuple[Labels, tuple[str, ...]]:
    """Return the labels of a file's pictures, float32 [N, classes], and the names of their columns, if any.

    Attributes are 1 where a picture has them, else 0: CelebA's -1 becomes 0.

    Args:
        path: of the HDF5 file.
        source: where its labels are.
        count: N.

    Raises:
        FormatError: there are none, or not one row of finite numbers for each picture.
    """
    with open_hdf5(path) as file:
        names = read_column(file, "label_names" if source == "file" else "attribute_names")
        attributes = read_column(file, "attributes") if source == "attributes" else None
    named = () if names is None else tuple(map(str, names))
    if source == "file":
        found = labels.read_labels(path, count)
        if found is None:
            raise FormatError(
                f"{labels.labels_path(path)} does not exist; expected labels there, or open the data set without"
            )
        return found, named
    if attributes is None:
        raise FormatError(f"{path} has no {PHOTOS}/attributes: what it was made from had none, or was other software")
    return labels.of_attributes(labels.check_labels(np.asarray(attributes), count, path)), named
