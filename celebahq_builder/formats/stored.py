"""Pictures of a multi-resolution HDF5 file, by number and level: ours, the ProGAN authors' tool's, RGB or grey."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.hdf5 import PyramidFile, level_name
from celebahq_builder.formats.pictures import Pixels

REMEDY = "the file is damaged, or its writer was killed: build it again, or get another copy"


def printable(text: str) -> str:
    """Return a text from a file on one line, with a question mark for what is no letter, digit, sign or blank."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class StoredPictures:
    """The pictures of a file, read one by one or in blocks; memory does not depend on how many there are.

    Attributes:
        count: how many there are, at least one.
        resolutions: of the levels, largest first.
        channels: 3, or 1 for grey.

    Raises:
        FormatError: no such file, not HDF5 or cut short, without levels, with levels of different lengths, or empty,
            or compressed in a way that needs a package that is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pyramid = PyramidFile(path)
        self.resolutions = self.pyramid.resolutions
        top = self.pyramid.level(self.resolutions[0])
        self.count, self.channels = int(top.shape[0]), int(top.shape[1])
        try:
            self._check_levels()
            for r in self.resolutions:
                _load_filters(self.pyramid.level(r))
        except FormatError:
            self.pyramid.file.close()
            raise

    def _check_levels(self) -> None:
        for r in self.resolutions:
            level, expected = self.pyramid.level(r), (self.count, self.channels, r, r)
            if level.shape != expected or level.dtype != np.uint8 or self.channels not in (1, 3):
                wanted = f"[{self.count}, {self.channels if self.channels in (1, 3) else '3 or 1'}, {r}, {r}]"
                got = f"{level.dtype} {list(level.shape)}"
                raise FormatError(f"{self.path}: {level_name(r)} is {got}, expected uint8 {wanted}; {REMEDY}")
        if not self.count:
            raise FormatError(f"{self.path} has no pictures; expected at least one; {REMEDY}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pyramid.file.close()

    def check_resolution(self, resolution: int) -> None:
        """Raise if the file has no such level.

        Raises:
            FormatError: names those it has.
        """
        if resolution not in self.resolutions:
            has = ", ".join(map(str, self.resolutions))
            raise FormatError(f"{self.path} has no level {resolution}x{resolution}; it has {has}: ask for one of these")

    def picture(self, number: int, resolution: int) -> Pixels:
        """Return a picture, uint8 [C, r, r].

        Raises:
            FormatError: it cannot be read.
        """
        return self._read(resolution, number, f"picture {number}")

    def pictures(self, numbers: Sequence[int] | NDArray[np.int64], resolution: int) -> Pixels:
        """Return some pictures, uint8 [n, C, r, r]; those that follow each other are read at once.

        Raises:
            FormatError: one of them cannot be read.
        """
        first, last = int(numbers[0]), int(numbers[-1])
        if np.array_equal(numbers, np.arange(first, first + len(numbers))):
            return self._read(resolution, slice(first, last + 1), f"one of the pictures {first} to {last}")
        return np.stack([self.picture(int(number), resolution) for number in numbers])

    def _read(self, resolution: int, where: int | slice, what: str) -> Pixels:
        try:
            return np.asarray(self.pyramid.level(resolution)[where])
        except OSError as error:
            reason = " ".join(str(error).split())
            raise FormatError(
                f"{self.path}: {what} of {level_name(resolution)} cannot be read: {reason}; {REMEDY}"
            ) from None

    def text(self, column: str) -> list[str] | None:
        """Return what the file knows of each picture under a name, as text; None where it does not.

        Raises:
            FormatError: there is not one for each picture.
        """
        values = self._column(column)
        return None if values is None else [str(value) for value in values]

    def numbers(self, column: str) -> NDArray[np.float64] | None:
        """Return what the file knows of each picture under a name, as numbers; None where it does not.

        Raises:
            FormatError: there is not one for each picture, or they are no numbers.
        """
        values = self._column(column)
        try:
            return None if values is None else np.asarray(values, np.float64)
        except ValueError:
            raise FormatError(f"{self.path}: photos/{column} holds no numbers; {REMEDY}") from None

    def _column(self, name: str) -> NDArray[Any] | list[str] | None:
        if not isinstance(self.pyramid.file.get("photos"), h5py.Group):
            return None
        try:
            values = self.pyramid.column(name)
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(f"{self.path}: photos/{name} cannot be read: {error}; {REMEDY}") from None
        if values is not None and len(values) != self.count:
            raise FormatError(f"{self.path}: photos/{name} has {len(values)} rows, expected {self.count}; {REMEDY}")
        return values


def _load_filters(level: h5py.Dataset) -> None:
    """See to it that HDF5 can undo a level's compression; importing hdf5plugin registers all that it has."""
    properties = level.id.get_create_plist()
    for code in (properties.get_filter(i)[0] for i in range(properties.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")
        if not h5py.h5z.filter_avail(code):
            raise FormatError(
                f"{level.file.filename}: {level.name[1:]} is compressed by HDF5's filter {code}, which is not "
                "installed: pip install 'celebahq-builder[blosc2]'"
            )
