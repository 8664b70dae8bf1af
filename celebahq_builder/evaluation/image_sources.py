"""Image sources for evaluation, read by index, and the images of one side of a comparison."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.formats.registry import reader_of, recognise
from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.hdf5.reader import PyramidFile, content_sha256
from celebahq_builder.image_set import ImageSet, Pixels
from celebahq_builder.metrics.batches import Batches

Numbers = NDArray[np.int64]

READERS = 2
"""Batches that are read beside each other, and beside what is done with them."""


class Described(Protocol):
    """What is known of images of one size before one of them is read."""

    @property
    def count(self) -> int | None:
        """How many there are; None for a generator, which makes as many as are asked for."""

    @property
    def resolution(self) -> int:
        """R, the side in pixels."""

    @property
    def channels(self) -> int:
        """C: 3, or 1 for grey."""

    @property
    def where(self) -> str:
        """How messages name it."""


class ImageSource(Described, Protocol):
    """Images of one size that can be had by number, again and again."""

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, path, and what tells it from others, as JSON has it."""

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield images in the order of their numbers, uint8 [n, C, R, R], n at most `at_once`.

        Raises:
            CelebAHQError: one of them cannot be had.
        """


@runtime_checkable
class RandomAccess(Protocol):
    """A `ImageSet` whose images can be read in any order."""

    def pixels(self, numbers: Sequence[int]) -> Iterator[Pixels]:
        """Yield images uint8 [C, R, R] by their numbers."""


class LevelSource:
    """A level of a multi-resolution HDF5 file.

    Args:
        path: of the file.
        resolution: of the level; None for the largest.

    Raises:
        FormatError: not a multi-resolution file, cut short, without images, or without that level.
    """

    def __init__(self, path: Path, resolution: int | None = None) -> None:
        self.path = path
        with PyramidFile.with_images(path) as file:
            if resolution is not None:
                file.check_resolution(resolution)
            self.count: int | None = file.count
            self.channels, self.file_resolution = file.channels, file.resolution
            self.sha256 = content_sha256(file)
        self.level = LevelReader(path, resolution)
        self.resolution = self.level.resolution

    @property
    def where(self) -> str:
        """How messages name it."""
        return str(self.path)

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, path, and what tells the file from others: `formats.identity` has the hash, as runs of `train` do."""
        told = {"kind": "hdf5", "path": str(self.path), "images": self.count, "sha256": self.sha256}
        return {**told, "resolution_of_file": self.file_resolution}

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield images in the order of their numbers; those to come are read meanwhile."""
        parts = (numbers[i : i + at_once] for i in range(0, len(numbers), at_once))
        yield from map(torch.from_numpy, parallel.run_threads(self.level.read, parts, workers=READERS))


class ImageSetSource:
    """A data set in another format: a folder or a zip of images."""

    def __init__(self, images: ImageSet, reader: RandomAccess, path: Path, kind: str) -> None:
        self.reader, self.path, self.kind = reader, path, kind
        self.count: int | None = images.count
        self.resolution, self.channels = images.resolution, images.channels

    @property
    def where(self) -> str:
        """How messages name it."""
        return str(self.path)

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, path and count; what it holds is told by the hash of the pixels, which every score has."""
        return {"kind": self.kind, "path": str(self.path), "images": self.count}

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield images in the order of their numbers; some are decoded ahead, in threads."""
        pixels = self.reader.pixels(numbers.tolist())
        while batch := list(itertools.islice(pixels, at_once)):
            yield torch.from_numpy(np.stack(batch))


def open_data_set(path: Path, resolution: int | None = None) -> ImageSource:
    """Open a data set: an HDF5 file, a folder of images, or a zip of them.

    Args:
        path: of the file or folder.
        resolution: that its images shall have; a level of an HDF5 file. None: the largest there is.

    Raises:
        FormatError: nothing there, of no known format, damaged, not of that resolution, or of a format whose images
            can only be read one after another.
    """
    kind = data_set_format(path)
    if kind == "hdf5":
        return LevelSource(path, resolution)
    try:
        images = reader_of(kind)(path, None, ())
    except FormatError as error:
        if "--resize" in str(error):  # of import, whose message it is
            raise FormatError(f"{error}, to celebahq import, and evaluate the HDF5 file that it makes") from None
        raise
    if not isinstance(images, RandomAccess):
        raise FormatError(
            f"{path} is of the format {kind}, whose images cannot be drawn at random; make it an HDF5 file: celebahq "
            f"import {path} --out FILE.h5"
        )
    check_resolution(str(path), images.resolution, resolution)
    return ImageSetSource(images, images, path, kind)


def data_set_format(path: Path) -> str:
    """Return the format of a data set.

    Raises:
        FormatError: there is nothing, or it is of no known format.
    """
    return recognise(path, "give an HDF5 file, a folder or a zip of images, or a generator")


def check_resolution(where: str, has: int, wanted: int | None) -> None:
    """Raise if images that have one size only have another than is wanted.

    Raises:
        FormatError: says both.
    """
    if wanted not in (None, has):
        raise FormatError(
            f"{where} has images of {has}x{has}, wanted are {wanted}x{wanted}; only an HDF5 file has several "
            "resolutions: celebahq import makes one"
        )


MEMORY_BYTES = 2**30
"""Images that fit are kept, so that they are read, decoded or generated once; all others again in every pass."""

BATCH_BYTES = 8 * 2**20
"""Of images that are handed on together."""

BATCH_IMAGES = 512


class SourceImages:
    """The images of a source, in the order in which an evaluation takes them.

    Of a data set they are a random permutation of all, so that any first n are drawn at random without replacement,
    and what lies between n and 2n is disjoint from them; images that lie beside each other in the data set do not
    meet in pairs or splits. A generator's are those of its seed, from number 0 on.

    Args:
        source: of the images.
        seed: of the permutation.
        memory_bytes: budget for keeping images.
        batch_bytes: of images handed on together; decides no number.
    """

    def __init__(
        self, source: ImageSource, seed: int, *, memory_bytes: int = MEMORY_BYTES, batch_bytes: int = BATCH_BYTES
    ) -> None:
        self.source, self.seed = source, seed
        self.memory_bytes = memory_bytes
        self.image_bytes = source.channels * source.resolution**2
        self.at_once = min(BATCH_IMAGES, max(1, batch_bytes // self.image_bytes))
        self._order = None if source.count is None else np.random.default_rng(seed).permutation(source.count)
        self._kept: Tensor | None = None
        self._known = 0
        self._marks: set[int] = set()
        self._hash, self._hashed = hashlib.sha256(), 0
        self._digests: dict[int, str] = {}

    def will_need(self, last: int, marks: set[int]) -> None:
        """Prepare for passes over the images up to place `last`, and for `sha256` of some counts of them."""
        self._marks |= marks
        if self._kept is None or len(self._kept) < last:
            fits = last * self.image_bytes <= self.memory_bytes
            r = self.source.resolution
            grown = torch.empty((last, self.source.channels, r, r), dtype=torch.uint8) if fits else None
            if grown is not None and self._kept is not None:
                grown[: self._known] = self._kept[: self._known]
            if grown is None:
                self._known = 0
            self._kept = grown

    def batches(self, start: int, stop: int) -> Batches:
        """Return the images of the places from `start` to `stop`, to be gone through as often as need be."""
        return lambda: self._pass(start, stop)

    def sha256(self, count: int) -> str:
        """Return the SHA-256 of the pixels of the first `count` images, one after the other, as they are taken."""
        if count not in self._digests:
            self._marks.add(count)
            if self._hashed >= count:
                self._hash, self._hashed = hashlib.sha256(), 0
            for _ in self._pass(0, count):
                pass
        return self._digests[count]

    def _pass(self, start: int, stop: int) -> Iterator[Tensor]:
        if start < self._known:
            end = min(stop, self._known)
            yield from self._from_memory(start, end)
            start = end
        if start >= stop:
            return
        at = start
        for batch in self.source.read(self._numbers(start, stop), self.at_once):
            self._keep(at, batch)
            self._update(at, batch)
            at += len(batch)
            yield batch

    def _from_memory(self, start: int, stop: int) -> Iterator[Tensor]:
        assert self._kept is not None
        for at in range(start, stop, self.at_once):
            batch = self._kept[at : min(at + self.at_once, stop)]
            self._update(at, batch)
            yield batch

    def _numbers(self, start: int, stop: int) -> Numbers:
        return np.arange(start, stop) if self._order is None else self._order[start:stop]

    def _keep(self, at: int, batch: Tensor) -> None:
        end = at + len(batch)
        if self._kept is not None and at <= self._known < end <= len(self._kept):
            self._kept[at:end] = batch
            self._known = end

    def _update(self, at: int, batch: Tensor) -> None:
        """Hash what has not been hashed yet, up to the last count that a hash is wanted of."""
        last = max(self._marks, default=0)
        while at <= self._hashed < min(at + len(batch), last):
            end = min((mark for mark in self._marks if mark > self._hashed), default=last)
            end = min(end, at + len(batch))
            self._hash.update(batch[self._hashed - at : end - at].contiguous().numpy().data)
            self._hashed = end
            if end in self._marks:
                self._digests[end] = self._hash.hexdigest()


class Reference:
    """A source to compare others with. Made once, it serves many evaluations: what is computed of it alone, it keeps.

    Those are its floors, its own scores and the statistics of its features; and its images, if they fit.

    Args:
        source: of the images.
        seed: of the protocols it will be used with.
        memory_bytes: budget for keeping images.
        batch_bytes: of images that are handed on together; decides no number.
    """

    def __init__(
        self, source: ImageSource, seed: int = 0, *, memory_bytes: int = MEMORY_BYTES, batch_bytes: int = BATCH_BYTES
    ) -> None:
        self.source, self.seed = source, seed
        self.images = SourceImages(source, seed, memory_bytes=memory_bytes, batch_bytes=batch_bytes)
        self.known: dict[tuple[Any, ...], Any] = {}
        """What has been computed, by what it is and of which places."""
