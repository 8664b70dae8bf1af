"""Multi-resolution HDF5 files, of this package or of the ProGAN authors' tool: a level as an image set, for exports."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import Format
from celebahq_builder.hdf5 import NAME_COLUMNS, REMEDY
from celebahq_builder.hdf5.labels import check_labels, read_labels
from celebahq_builder.hdf5.reader import PyramidFile, open_pyramid
from celebahq_builder.image_set import (
    Column,
    DataSet,
    ImagePyramid,
    Labels,
    Metadata,
    NamedImage,
    Pixels,
    attribute_labels,
)
from celebahq_builder.storage import sha256

BLOCK_BYTES = 16 * 2**20
"""Consecutive images are read together up to this size."""


class LevelImageSet:
    """The images of one resolution, as an `ImageSet`; a context manager. Pickled, it opens the file again.

    Args:
        source: HDF5 file, or images that are open.
        resolution: r of the level; None for the largest.

    Raises:
        FormatError: as `PyramidFile` does; or no images, or no such level.
    """

    def __init__(self, source: Path | ImagePyramid, resolution: int | None = None) -> None:
        self.pyramid: ImagePyramid = open_pyramid(source) if isinstance(source, Path) else source
        self.path = self.pyramid.path
        self.resolution = self.pyramid.resolution if resolution is None else resolution
        try:
            self.pyramid.check_resolution(self.resolution)
        except FormatError:
            self.pyramid.close()
            raise
        self.count = self.pyramid.count
        self.channels = self.pyramid.channels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pyramid.close()

    def __reduce__(self) -> tuple[type[Self], tuple[Path | ImagePyramid, int]]:
        return type(self), (self.path if self._is_file else self.pyramid, self.resolution)

    @property
    def _is_file(self) -> bool:
        return isinstance(self.pyramid, PyramidFile)

    @functools.cached_property
    def metadata(self) -> Metadata:
        """Metadata of all images; without hashes unless it is the largest level, whose hashes are recorded."""
        return self.metadata_of(slice(None))

    def metadata_of(self, rows: slice) -> Metadata:
        """Return `metadata` of some images.

        Raises:
            FormatError: a column does not have one row per image.
        """
        columns: dict[str, Column] = {}
        for name in self.pyramid.photos:
            column = None if name in NAME_COLUMNS else self.pyramid.column(name, rows)
            if column is not None and (name != "sha256" or self.resolution == self.pyramid.resolution):
                columns[name] = column
        stored = self.pyramid.photos.get("attribute_names") if "attributes" in columns else None
        names = () if stored is None else tuple(map(str, stored))
        if names and np.shape(columns["attributes"])[1:] != (len(names),):
            raise FormatError(f"{self.path}: {len(names)} attribute_names for {np.shape(columns['attributes'])} values")
        return Metadata(columns, names)

    @functools.cached_property
    def labels(self) -> Labels | None:
        """Labels float32 [N, classes]: those beside the file, or else its attributes as 1 and 0; None without both."""
        labels = read_labels(self.path, self.count) if self._is_file else None
        attributes = self.metadata.columns.get("attributes")
        if labels is not None or attributes is None:
            return labels
        return attribute_labels(check_labels(np.asarray(attributes), self.count, self.path))

    @property
    def label_names(self) -> tuple[str, ...]:
        """One name for each column of the labels, or empty where the file has none."""
        stored = self.pyramid.photos.get("label_names")
        names = self.metadata.attribute_names if stored is None else tuple(map(str, stored))
        return names if self.labels is not None and len(names) == self.labels.shape[1] else ()

    def images(self) -> Iterator[NamedImage]:
        """Yield the images in order; see `pixels` for errors."""
        files = self.metadata.columns.get("file")
        for index, pixels in enumerate(self.pixels(range(self.count))):
            yield NamedImage(pixels, str(files[index]) if files is not None else f"{index:08d}")

    def pixels(self, numbers: Sequence[int], resolution: int | None = None) -> Iterator[Pixels]:
        """Yield images uint8 [C, r, r] by their indices; those of the largest level are checked by their hashes.

        Args:
            numbers: indices; a range is read in blocks.
            resolution: r; None for the level's own.

        Raises:
            FormatError: an image that cannot be read, or whose hash is not the one recorded.
        """
        r = self.resolution if resolution is None else resolution
        level = self.pyramid.images(r)
        has_hashes = r == self.pyramid.resolution and self.pyramid.column("sha256", slice(0)) is not None
        block = max(1, BLOCK_BYTES // (self.channels * r * r)) if isinstance(numbers, range) else 1
        for k in range(0, len(numbers), block):
            some = numbers[k : k + block]
            recorded = self.pyramid.column("sha256", slice(some[0], some[-1] + 1)) if has_hashes else None
            for i, pixels in enumerate(level.read(some, parallel=False)):  # exports read in several processes at once
                if recorded is not None and sha256(pixels.tobytes()) != recorded[i]:
                    raise FormatError(
                        f"{self.path}: image {some[i]} is not the one that was written (other SHA-256); {REMEDY}"
                    )
                yield pixels


def _is_hdf5(path: Path) -> bool:
    return path.is_file() and (path.suffix in (".h5", ".hdf5") or bool(h5py.is_hdf5(path)))


def read(path: Path) -> DataSet:
    """Open the largest level of a file, with the file's attributes.

    Raises:
        FormatError: as `LevelImageSet` does; or metadata or labels that cannot be read.
    """
    pyramid = open_pyramid(path)
    level = LevelImageSet(pyramid)
    return DataSet(
        level.count,
        level.resolution,
        level.channels,
        level.images,
        level.labels,
        level.label_names,
        level.metadata,
        attributes=dict(pyramid.file.attrs),
    )


FORMAT = Format("hdf5", read, recognize=_is_hdf5)
