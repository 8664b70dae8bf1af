"""Checks of an HDF5 file: hashes, levels, columns, labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5 import NAME_COLUMNS, PHOTOS
from celebahq_builder.hdf5.labels import labels_path, read_labels
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.image_set import attribute_labels


@dataclass
class Checked:
    """Counts of what `pipeline.verify.find_problems` has checked."""

    source: str = ""
    """Numbers of photos and faces of a run, in words."""
    manifests: int = 0
    files: int = 0
    """Image files whose SHA-256 was computed."""
    images: int = 0
    """Images of an HDF5 file of which all levels were read."""
    levels: int = 0
    """Levels of the HDF5 file."""
    hashes: int = 0
    """Images of the HDF5 file whose SHA-256 was computed."""

    def __str__(self) -> str:
        parts = [self.source] if self.source else []
        if self.manifests:
            parts.append(f"{self.files} image files and their SHA-256, named in {self.manifests} manifests")
        if self.levels:
            parts.append(f"{self.images} images in {self.levels} levels of the HDF5 file, {self.hashes} SHA-256")
        return "; ".join(parts) or "no images"


def hdf5_file_problems(path: Path, checked: Checked) -> Iterator[str]:
    """Yield the problems of an HDF5 file.

    Raises:
        FormatError: the file is not such a file, or its levels do not belong together.
    """
    with PyramidFile(path) as pyramid:
        yield from pyramid_problems(pyramid, checked, of_build=False)


def pyramid_problems(pyramid: PyramidFile, checked: Checked, *, of_build: bool, labels: bool = True) -> Iterator[str]:
    """Yield the problems of the images of an HDF5 file (hashes, means), and of its labels.

    Args:
        pyramid: the open file.
        checked: counts what is checked.
        of_build: the file is the result of a build, so its labels are known.
        labels: check the labels.
    """
    name = pyramid.path.name
    if not pyramid.count:
        yield f"{name}: it has no images; its writer was killed"
    for column, dataset in pyramid.file.get(PHOTOS, {}).items():
        if not isinstance(dataset, h5py.Dataset):
            yield f"{name}: {PHOTOS}/{column} is not a dataset"
        elif column not in NAME_COLUMNS and dataset.shape[:1] != (pyramid.count,):
            yield f"{name}: {PHOTOS}/{column} has {len(dataset)} rows, expected {pyramid.count}"
    yield from (f"{name}: {problem}" for problem in pyramid.problems())
    checked.images, checked.levels = pyramid.count, len(pyramid.resolutions)
    checked.hashes = pyramid.count if "sha256" in pyramid.photos else 0
    if labels:
        yield from _label_problems(pyramid, of_build)


def _label_problems(pyramid: PyramidFile, of_build: bool) -> Iterator[str]:
    """Yield the problems of the labels of an HDF5 file.

    Labels of a build are the attributes of its photos. Labels of other files may be missing, or of another kind.
    """
    attributes, path = pyramid.photos.get("attributes"), labels_path(pyramid.path)
    own = attribute_labels(attributes) if attributes is not None else None
    try:
        labels = read_labels(pyramid.path, pyramid.count)
    except FormatError as error:
        yield str(error)
        return
    if labels is None:
        if of_build:
            yield f"{path.name} is missing"
        return
    comparable = own is not None and labels.shape == own.shape
    if (comparable or of_build) and (own is None or not np.array_equal(labels, own)):
        yield f"{path.name} differs from photos/attributes of {pyramid.path.name}"
