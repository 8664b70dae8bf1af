"""Where pictures to evaluate come from: data sets of any format, read by number, in any order."""

from __future__ import annotations

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
from celebahq_builder.formats.catalogue import reader_of, recognise
from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.formats.identity import content_sha256
from celebahq_builder.formats.level import Level
from celebahq_builder.formats.pictures import PictureSet, Pixels

Numbers = NDArray[np.int64]

READERS = 2
"""Batches that are read beside each other, and beside what is done with them."""


class Described(Protocol):
    """What is known of pictures of one size before one of them is read."""

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


class Source(Described, Protocol):
    """Pictures of one size that can be had by number, again and again."""

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, path, and what tells it from others, as JSON has it."""

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield pictures in the order of their numbers, uint8 [n, C, R, R], n at most `at_once`.

        Raises:
            CelebAHQError: one of them cannot be had.
        """


@runtime_checkable
class AnyOrder(Protocol):
    """A `PictureSet` whose pictures can be read in any order."""

    def pixels(self, numbers: Sequence[int]) -> Iterator[Pixels]:
        """Yield pictures uint8 [C, R, R] by their numbers."""


class LevelSource:
    """A level of a multi-resolution HDF5 file.

    Args:
        path: of the file.
        resolution: of the level; None for the largest.

    Raises:
        FormatError: not a multi-resolution file, cut short, without pictures, or without that level.
    """

    def __init__(self, path: Path, resolution: int | None = None) -> None:
        self.path = path
        with PyramidFile.with_pictures(path) as file:
            if resolution is not None:
                file.check_resolution(resolution)
            self.count: int | None = file.count
            self.channels, self.file_resolution = file.channels, file.resolution
            self.sha256 = content_sha256(file)
        self.level = Level(path, resolution)
        self.resolution = self.level.resolution

    @property
    def where(self) -> str:
        """How messages name it."""
        return str(self.path)

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, path, and what tells the file from others: `formats.identity` has the hash, as runs of `train` do."""
        told = {"kind": "hdf5", "path": str(self.path), "pictures": self.count, "sha256": self.sha256}
        return {**told, "resolution_of_file": self.file_resolution}

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield pictures in the order of their numbers; those to come are read meanwhile."""
        parts = (numbers[i : i + at_once] for i in range(0, len(numbers), at_once))
        yield from map(torch.from_numpy, parallel.run_threads(self.level.read, parts, workers=READERS))


class SetSource:
    """A data set in another format: a folder or a zip of pictures."""

    def __init__(self, pictures: PictureSet, reader: AnyOrder, path: Path, kind: str) -> None:
        self.reader, self.path, self.kind = reader, path, kind
        self.count: int | None = pictures.count
        self.resolution, self.channels = pictures.resolution, pictures.channels

    @property
    def where(self) -> str:
        """How messages name it."""
        return str(self.path)

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, path and count; what it holds is told by the hash of the pixels, which every score has."""
        return {"kind": self.kind, "path": str(self.path), "pictures": self.count}

    def read(self, numbers: Numbers, at_once: int) -> Iterator[Tensor]:
        """Yield pictures in the order of their numbers; some are decoded ahead, in threads."""
        pixels = self.reader.pixels(numbers.tolist())
        while batch := list(itertools.islice(pixels, at_once)):
            yield torch.from_numpy(np.stack(batch))


def open_set(path: Path, resolution: int | None = None) -> Source:
    """Open a data set: an HDF5 file, a folder of pictures, or a zip of them.

    Args:
        path: of the file or folder.
        resolution: that its pictures shall have; a level of an HDF5 file. None: the largest there is.

    Raises:
        FormatError: nothing there, of no known format, damaged, not of that resolution, or of a format whose pictures
            can only be read one after another.
    """
    kind = kind_of(path)
    if kind == "hdf5":
        return LevelSource(path, resolution)
    try:
        pictures = reader_of(kind)(path, None, ())
    except FormatError as error:
        if "--resize" in str(error):  # of import, whose message it is
            raise FormatError(f"{error}, to celebahq import, and evaluate the HDF5 file that it makes") from None
        raise
    if not isinstance(pictures, AnyOrder):
        raise FormatError(
            f"{path} is of the format {kind}, whose pictures cannot be drawn at random; make it an HDF5 file: celebahq "
            f"import {path} --out FILE.h5"
        )
    check_resolution(str(path), pictures.resolution, resolution)
    return SetSource(pictures, pictures, path, kind)


def kind_of(path: Path) -> str:
    """Return the format of a data set.

    Raises:
        FormatError: there is nothing, or it is of no known format.
    """
    return recognise(path, "give an HDF5 file, a folder or a zip of pictures, or a generator")


def check_resolution(where: str, has: int, wanted: int | None) -> None:
    """Raise if pictures that have one size only have another than is wanted.

    Raises:
        FormatError: says both.
    """
    if wanted not in (None, has):
        raise FormatError(
            f"{where} has pictures of {has}x{has}, wanted are {wanted}x{wanted}; only an HDF5 file has several "
            "resolutions: celebahq import makes one"
        )
