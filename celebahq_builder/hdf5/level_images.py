"""A level of an HDF5 file as an image set."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.labels import attribute_labels, check_labels, read_labels
from celebahq_builder.hdf5.layout import PHOTOS, REMEDY
from celebahq_builder.hdf5.metadata import Metadata, read_metadata
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.image_set import Labels, NamedImage, Pixels
from celebahq_builder.storage import sha256

BLOCK_BYTES = 16 * 2**20
"""Consecutive images are read together up to this size."""


class LevelImageSet:
    """The images of one resolution, as an `ImageSet`; a context manager.

    Args:
        path: HDF5 file.
        resolution: r of the level; None for the largest.

    Raises:
        FormatError: as `PyramidFile` does; or no images, or no such level.
    """

    def __init__(self, path: Path, resolution: int | None = None) -> None:
        self.path = path
        self.pyramid = PyramidFile.with_images(path)
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

    @property
    def is_top(self) -> bool:
        """True for the largest level, whose images have recorded hashes."""
        return self.resolution == self.pyramid.resolution

    @functools.cached_property
    def metadata(self) -> Metadata:
        """Metadata of all images; without hashes unless it is the largest level."""
        return self.metadata_of(slice(None))

    def metadata_of(self, rows: slice) -> Metadata:
        """Return `metadata` of some images."""
        metadata = read_metadata(self.pyramid, rows)
        if not self.is_top:
            metadata.columns.pop("sha256", None)
        return metadata

    @functools.cached_property
    def labels(self) -> Labels | None:
        """Labels float32 [N, classes]: those beside the file, or else its attributes as 1 and 0; None without both."""
        labels, attributes = read_labels(self.path, self.count), self.metadata.columns.get("attributes")
        if labels is not None or attributes is None:
            return labels
        return attribute_labels(check_labels(np.asarray(attributes), self.count, self.path))

    @property
    def label_names(self) -> tuple[str, ...]:
        """One name for each column of the labels, or empty where the file has none."""
        stored = self.pyramid.column("label_names")
        names = self.metadata.attribute_names if stored is None else tuple(map(str, stored))
        return names if self.labels is not None and len(names) == self.labels.shape[1] else ()

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from index `start` on; see `pixels` for errors."""
        files = self.metadata.columns.get("file")
        for index, pixels in enumerate(self.pixels(range(start, self.count)), start):
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
        level, hashes = self.pyramid.images(r), self._has_hashes(r)
        block = max(1, BLOCK_BYTES // (self.channels * r * r)) if isinstance(numbers, range) else 1
        for k in range(0, len(numbers), block):
            some = numbers[k : k + block]
            recorded = self.pyramid.column("sha256", slice(some[0], some[-1] + 1)) if hashes else None
            # Without threads: exports read in several processes at once.
            for i, pixels in enumerate(level.read(some, parallel=False)):
                if recorded is not None and sha256(pixels.tobytes()) != recorded[i]:
                    raise FormatError(
                        f"{self.path}: image {some[i]} is not the one that was written (other SHA-256); {REMEDY}"
                    )
                yield pixels

    def _has_hashes(self, resolution: int) -> bool:
        recorded = self.pyramid.file.get(f"{PHOTOS}/sha256")
        return resolution == self.pyramid.resolution and recorded is not None and recorded.shape == (self.count,)


read = LevelImageSet
"""Reader of the formats' registry: opens the largest level of an HDF5 file."""
