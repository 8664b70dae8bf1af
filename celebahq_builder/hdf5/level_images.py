"""A level of an HDF5 file as an image set."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.labels import read_labels
from celebahq_builder.hdf5.layout import PHOTOS
from celebahq_builder.hdf5.metadata import Metadata, read_metadata
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.image_set import Labels, NamedImage, Pixels
from celebahq_builder.storage import sha256

BLOCK_BYTES = 16 * 2**20
"""Images are read together up to this size."""


def read(path: Path) -> LevelImageSet:
    """Open the largest level of a multi-resolution HDF5 file.

    The smaller levels are checked for presence, size and count; their pixels follow from the largest.

    Raises:
        FormatError: as `LevelImages` does.
    """
    return LevelImageSet(path)


class LevelImageSet:
    """The images of one resolution, a `ImageSet`; all levels of the file are checked before one is read.

    Args:
        path: of an HDF5 file.
        resolution: which level; default the largest.

    Raises:
        FormatError: not an HDF5 file or cut short, no levels, one missing, of another type or with another number
            of images than the rest, no images, or not the level asked for.
    """

    def __init__(self, path: Path, resolution: int | None = None) -> None:
        self.path = path
        self.pyramid = PyramidFile.with_images(path)
        self.resolution = self.pyramid.resolution if resolution is None else resolution
        try:
            self.pyramid.check_resolution(self.resolution)
        except FormatError:
            self.pyramid.file.close()
            raise
        self.count = self.pyramid.count
        self.channels = self.pyramid.channels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pyramid.file.close()

    @property
    def is_top(self) -> bool:
        """Whether it is the largest level, which the recorded hashes are of."""
        return self.resolution == self.pyramid.resolution

    @functools.cached_property
    def metadata(self) -> Metadata:
        """What the file knows of its images; hashes only with the level that they are of."""
        return self.metadata_of(slice(None))

    def metadata_of(self, rows: slice) -> Metadata:
        """Return `metadata` of some images."""
        metadata = read_metadata(self.pyramid, rows)
        if not self.is_top:
            metadata.columns.pop("sha256", None)
        return metadata

    @functools.cached_property
    def labels(self) -> Labels | None:
        """Of the file ``<stem>-labels.npy`` beside it, or else the attributes: 1 where a photo has it, 0 elsewhere."""
        labels = read_labels(self.path, self.count)
        return self.metadata.attribute_labels if labels is None else labels

    @property
    def label_names(self) -> tuple[str, ...]:
        """One for each column of the labels, where the file has them."""
        stored = self.pyramid.column("label_names")
        names = self.metadata.attribute_names if stored is None else tuple(map(str, stored))
        return names if self.labels is not None and len(names) == self.labels.shape[1] else ()

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on; see `pixels` for errors."""
        files = self.metadata.columns.get("file")
        for number, pixels in enumerate(self.pixels(range(start, self.count)), start):
            yield NamedImage(pixels, str(files[number]) if files is not None else f"{number:08d}")

    def pixels(self, numbers: Sequence[int], resolution: int | None = None) -> Iterator[Pixels]:
        """Yield images uint8 [C, r, r] by their numbers; those of the largest level are checked by their hashes.

        Args:
            numbers: a range of step 1 is read in blocks.
            resolution: r, default the level's own.

        Raises:
            FormatError: an image that cannot be read, or that is not the one that was written.
        """
        r = self.resolution if resolution is None else resolution
        block = max(1, BLOCK_BYTES // (self.channels * r * r)) if isinstance(numbers, range) else 1
        for k in range(0, len(numbers), block):
            some = numbers[k : k + block]
            rows = slice(some[0], some[-1] + 1)
            for number, hashed, pixels in zip(some, self._hashes(rows, r), self.pyramid.read(some, r), strict=True):
                if hashed is not None and sha256(pixels.tobytes()) != hashed:
                    raise FormatError(
                        f"{self.path}: image {number} is not the one that was written: its SHA-256 is another; the "
                        "file is damaged, get or build it again"
                    )
                yield pixels

    def _hashes(self, rows: slice, resolution: int) -> list[str | None]:
        unknown: list[str | None] = [None] * (rows.stop - rows.start)
        recorded = self.pyramid.file.get(f"{PHOTOS}/sha256")
        if resolution != self.pyramid.resolution or recorded is None or recorded.shape != (self.count,):
            return unknown
        return list(recorded.asstr()[rows])
