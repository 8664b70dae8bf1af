"""Image sources of an evaluation, and the images of one side of a comparison."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.evaluation.features import Features
from celebahq_builder.evaluation.protocol import ImageSource
from celebahq_builder.evaluation.result import Number
from celebahq_builder.formats import find_format, recognize
from celebahq_builder.formats.image_file import SizeError
from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.hdf5.reader import content_sha256, open_pyramid
from celebahq_builder.image_set import DataSet, Numbers

READERS = 2
"""Threads that read batches in advance."""

# --- Sources ----------------------------------------------------------------------------------------------------


class LevelSource:
    """A level of a multi-resolution HDF5 file.

    Args:
        resolution: resolution of the level; None for the largest.

    Raises:
        FormatError: the file has another format, is incomplete, or has no images or not this level.
    """

    def __init__(self, path: Path, resolution: int | None = None) -> None:
        self.where = str(path)
        with open_pyramid(path) as file:
            if resolution is not None:
                file.check_resolution(resolution)
            self.count: int | None = file.count
            self.channels, self.file_resolution = file.channels, file.resolution
            self.sha256 = content_sha256(file)
        self.level = LevelReader(path, resolution)
        self.resolution = self.level.resolution

    @property
    def facts(self) -> dict[str, object]:
        """Kind, path, number of images, and the hash that a training run also records of its data."""
        known = {"kind": "hdf5", "path": self.where, "images": self.count, "sha256": self.sha256}
        return {**known, "resolution_of_file": self.file_resolution}

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield images in the order of their numbers; the next batches are read in advance."""
        parts = (numbers[i : i + at_once] for i in range(0, len(numbers), at_once))
        yield from map(torch.from_numpy, parallel.run_threads(self.level.read, parts, workers=READERS))


class ImageSetSource:
    """A data set in another format: a folder or a zip of images.

    Raises:
        FormatError: its images cannot be drawn at random.
    """

    def __init__(self, images: DataSet, path: Path, kind: str) -> None:
        if images.pixels is None:
            raise FormatError(
                f"{path} is of the format {kind}, whose images cannot be drawn at random; make it an HDF5 file with "
                "celebahq import"
            )
        self.pixels, self.kind, self.where = images.pixels, kind, str(path)
        self.count: int | None = images.count
        self.resolution, self.channels = images.resolution, images.channels

    @property
    def facts(self) -> dict[str, object]:
        """Kind, path and number of images; every score has a hash of the pixels."""
        return {"kind": self.kind, "path": self.where, "images": self.count}

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield images in the order of their numbers; the next images are decoded in advance."""
        pixels = self.pixels(numbers.tolist())
        while batch := list(itertools.islice(pixels, at_once)):
            yield torch.from_numpy(np.stack(batch))


def open_data_set(path: Path, resolution: int | None = None) -> ImageSource:
    """Open a data set: an HDF5 file, a folder of images, or a zip of images.

    Args:
        resolution: the resolution that the images must have, a level of an HDF5 file. None: the largest.

    Raises:
        FormatError: the path does not exist, is damaged, or has an unknown format, a format without random access,
            or another resolution.
    """
    kind = data_set_format(path)
    if kind == "hdf5":
        return LevelSource(path, resolution)
    try:
        images = find_format(kind).open(path)
    except SizeError as error:  # its advice is for the import command
        raise FormatError(f"{error}, to celebahq import, and evaluate the HDF5 file that it makes") from None
    source = ImageSetSource(images, path, kind)
    check_resolution(source.where, source.resolution, resolution)
    return source


def data_set_format(path: Path) -> str:
    """Return the name of the format of a data set.

    Raises:
        FormatError: the path does not exist or has an unknown format.
    """
    return recognize(path, "give an HDF5 file, a folder or a zip of images, or a generator")


def check_resolution(where: str, resolution: int, wanted: int | None) -> None:
    """Raise a FormatError if the images of a set without levels have another resolution than the one asked for."""
    if wanted not in (None, resolution):
        raise FormatError(
            f"{where} has images of {resolution}x{resolution}, wanted are {wanted}x{wanted}; only an HDF5 file has "
            "several resolutions: celebahq import makes one"
        )


# --- Images of one side -----------------------------------------------------------------------------------------

MEMORY_BYTES = 2**30
"""Images that fit are kept in memory; others are read, decoded or generated again in every pass."""

BATCH_BYTES = 8 * 2**20
"""Size of a batch of images."""

BATCH_IMAGES = 512
"""Largest number of images in a batch."""

FeatureKey = tuple[str, str, int, int]
"""SHA-256 of the Inception weights if the metric uses them, metric, first place, and the place after the last one."""


class SourceImages:
    """The images of a source, in the order in which an evaluation uses them.

    A data set is permuted at random: any first n images are a random sample without replacement, and the images from
    n to 2n are disjoint from them. A generator gives the images of its seed from number 0. The images, features and
    baselines of a reference are kept, so that a second evaluation with it is faster.

    Args:
        seed: seed of the protocols with which the images are used.
    """

    def __init__(self, source: ImageSource, seed: int = 0) -> None:
        self.source, self.seed = source, seed
        self.features: dict[FeatureKey, Features] = {}
        """Features that were extracted from these images."""
        self.numbers: dict[tuple[FeatureKey, ...], Number] = {}
        """Baselines that were computed from parts of these images, if they are a reference."""
        self._image_bytes = source.channels * source.resolution**2
        self._batch_images = min(BATCH_IMAGES, max(1, BATCH_BYTES // self._image_bytes))
        self._order = None if source.count is None else np.random.default_rng(seed).permutation(source.count)
        self._kept: Tensor | None = None
        self._kept_count = 0
        self._hash, self._hashed = hashlib.sha256(), 0
        self._hash_counts: set[int] = set()
        self._digests: dict[int, str] = {}

    def will_need(self, count: int, hashed: set[int]) -> None:
        """Prepare for passes over the first `count` images, and for `sha256` of some numbers of images."""
        self._hash_counts |= hashed
        if self._kept is not None and len(self._kept) >= count:
            return
        old, self._kept = self._kept, None
        if count * self._image_bytes <= MEMORY_BYTES:
            r = self.source.resolution
            self._kept = torch.empty((count, self.source.channels, r, r), dtype=torch.uint8)
            if old is not None:
                self._kept[: self._kept_count] = old[: self._kept_count]
        else:
            self._kept_count = 0

    def sha256(self, count: int) -> str:
        """Return the SHA-256 of the pixels of the first `count` images in order."""
        if count not in self._digests:
            self._hash_counts.add(count)
            if self._hashed >= count:
                self._hash, self._hashed = hashlib.sha256(), 0
            for _ in self.batches(0, count):
                pass
        return self._digests[count]

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the images from place `start` to place `stop`; keep and hash them.

        They come from memory as far as they are kept, then from the source.
        """
        known = min(stop, self._kept_count)
        if self._kept is not None:
            for place in range(start, known, self._batch_images):
                batch = self._kept[place : min(place + self._batch_images, known)]
                self._update_hash(place, batch)
                yield batch
        place = max(start, known)
        if place < stop:
            numbers = np.arange(place, stop) if self._order is None else self._order[place:stop]
            for batch in self.source.read(numbers, self._batch_images):
                self._keep(place, batch)
                self._update_hash(place, batch)
                place += len(batch)
                yield batch

    def _keep(self, place: int, batch: Tensor) -> None:
        """Keep a batch if it continues the images that are kept."""
        end = place + len(batch)
        if self._kept is not None and place <= self._kept_count < end <= len(self._kept):
            self._kept[place:end] = batch
            self._kept_count = end

    def _update_hash(self, place: int, batch: Tensor) -> None:
        """Hash images that have not been hashed yet, up to the largest number of images whose hash is needed."""
        for count in sorted(self._hash_counts):
            end = min(count, place + len(batch))
            if place <= self._hashed < end:
                self._hash.update(batch[self._hashed - place : end - place].contiguous().numpy().data)
                self._hashed = end
                if end == count:
                    self._digests[count] = self._hash.hexdigest()
