"""Reader of the multi-resolution HDF5 file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.codecs import load_filters
from celebahq_builder.hdf5.layout import PHOTOS, REMEDY, Column, level_name, open_hdf5, read_column
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.pyramid import build_pyramid, levels
from celebahq_builder.storage import sha256

BATCH = 32
"""Images that are checked together."""


class PyramidFile:
    """A multi-resolution file, open for reading.

    Attributes:
        resolution: R, of the largest level.
        resolutions: of all levels, largest first, down to 1.
        count: N.
        channels: C, 3 or 1.

    Raises:
        FormatError: no such file, not HDF5 (or cut short), without levels, or with levels that do not belong
            together: one is missing, or their numbers of images or channels differ.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open_hdf5(path)
        try:
            self.resolutions = self._levels()
            self.resolution = self.resolutions[0]
            self.count, self.channels = self._size()
            self._check_levels()
        except FormatError:
            self.file.close()
            raise

    @classmethod
    def with_images(cls, path: Path) -> Self:
        """Open a file whose images are to be read.

        Raises:
            FormatError: it has none, or their compression needs a package that is not installed.
        """
        pyramid = cls(path)
        try:
            if not pyramid.count:
                raise FormatError(f"{path} holds no images; its writer was killed, get or build it again")
            pyramid._load_filters()
        except FormatError:
            pyramid.file.close()
            raise
        return pyramid

    def _load_filters(self) -> None:
        for r in self.resolutions:
            load_filters(self.level(r))

    def _levels(self) -> tuple[int, ...]:
        """Return the resolutions of all levels, largest first: of every key that starts with "data"."""
        names = [name for name in self.file if name.startswith("data")]
        if not names:
            has = ", ".join(self.file) or "nothing"
            raise FormatError(f"{self.path} has no datasets data1024x1024, ...; it has {has}")
        found = []
        for name in names:
            match = re.fullmatch(r"data(\d+)x\1", name)
            side = int(match[1]) if match else 0
            if not side or side & (side - 1) or not isinstance(self.file[name], h5py.Dataset):
                raise FormatError(
                    f"{self.path}: {name} is not a level; expected datasets [N, 3, r, r] named data1024x1024, ..., "
                    "data1x1, r a power of two"
                )
            found.append(side)
        return tuple(sorted(found, reverse=True))

    def _size(self) -> tuple[int, int]:
        """Return the numbers of images and of channels, as the largest level has them."""
        shape = self.level(self.resolution).shape
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise FormatError(
                f"{self.path}: {level_name(self.resolution)} has shape {list(shape)}, expected "
                f"[N, 3 or 1, {self.resolution}, {self.resolution}]"
            )
        return int(shape[0]), int(shape[1])

    def _check_levels(self) -> None:
        wanted = levels(self.resolution)
        missing = [level_name(r) for r in wanted if r not in self.resolutions]
        if missing:
            raise FormatError(
                f"{self.path} has {level_name(self.resolution)} but lacks {', '.join(missing)}; expected all levels "
                "down to 1x1, write the file again"
            )
        for r in wanted:
            level, shape = self.level(r), (self.count, self.channels, r, r)
            if level.shape != shape or level.dtype != np.uint8:
                raise FormatError(
                    f"{self.path}: {level_name(r)} is {level.dtype} {list(level.shape)}, expected uint8 {list(shape)} "
                    f"as {level_name(self.resolution)} has {self.count} images"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def level(self, resolution: int) -> h5py.Dataset:
        """Return the dataset of a level, uint8 [N, C, r, r]."""
        return self.file[level_name(resolution)]

    def check_resolution(self, resolution: int) -> None:
        """Raise if the file has no such level.

        Raises:
            FormatError: names those it has.
        """
        if resolution not in self.resolutions:
            has = ", ".join(map(str, self.resolutions))
            raise FormatError(f"{self.path} has no level {resolution}x{resolution}; it has {has}: ask for one of these")

    def read(self, numbers: Sequence[int] | NDArray[np.int64], resolution: int) -> Pixels:
        """Return some images, at least one, as a level has them, uint8 [n, C, r, r].

        Those that follow each other are read at once. `level.Level` is quicker where they do not.

        Raises:
            FormatError: one of them cannot be read.
        """
        first, last = int(numbers[0]), int(numbers[-1])
        if not np.array_equal(numbers, np.arange(first, first + len(numbers))):
            return np.stack([self.image(int(number), resolution) for number in numbers])
        try:
            return np.asarray(self.level(resolution)[first : last + 1], np.uint8)
        except OSError as error:
            if first < last:  # one by one, to name the first that is damaged
                return np.stack([self.image(number, resolution) for number in range(first, last + 1)])
            raise FormatError(
                f"{self.path}: image {first} of {level_name(resolution)} cannot be read: {_reason(error)}; {REMEDY}"
            ) from None

    def image(self, number: int, resolution: int) -> Pixels:
        """Return one image, uint8 [C, r, r]; as `read` does."""
        pixels: Pixels = self.read([number], resolution)[0]
        return pixels

    def column(self, name: str, rows: slice = slice(None)) -> Column | None:
        """Return some rows of a column of what is known of the photos; as `read_column` does."""
        return read_column(self.file, name, rows)

    def problems(self) -> Iterator[str]:
        """Yield, in one line each, what is wrong with the images; nothing for a sound file.

        Checked: the top level's images have the SHA-256 recorded for them; every other level is the 2x2 mean of the
        one above, as `build_pyramid` has it.

        Raises:
            FormatError: the compression needs a package that is not installed.
        """
        self._load_filters()
        hashes = self.column("sha256")
        if hashes is not None and len(hashes) != self.count:
            yield f"{PHOTOS}/sha256 has {len(hashes)} rows, expected {self.count}"
            hashes = None
        for start in range(0, self.count, BATCH):
            yield from self._problems_of_batch(start, hashes)

    def _problems_of_batch(self, start: int, hashes: NDArray[Any] | list[str] | None) -> Iterator[str]:
        numbers = range(start, min(start + BATCH, self.count))
        stored: dict[int, dict[int, Pixels]] = {}
        for r in self.resolutions:
            stored[r], faults = self._readable(numbers, r)
            yield from (f"{fault} of {level_name(r)} cannot be read: {reason}" for fault, reason in faults)
        for number, image in stored[self.resolution].items():
            if hashes is not None and sha256(image.tobytes()) != hashes[number]:
                yield f"image {number}: its SHA-256 is not the one recorded"
            for r, pixels in zip(self.resolutions, build_pyramid(image), strict=True):
                if number in stored[r] and not np.array_equal(stored[r][number], pixels):
                    yield f"image {number}: level {r}x{r} is not the mean of the level above"

    def _readable(self, numbers: range, resolution: int) -> tuple[dict[int, Pixels], list[tuple[str, str]]]:
        """Return those of some images that can be read, and which cannot, together where they follow each other."""
        level = self.level(resolution)
        try:
            return dict(zip(numbers, level[numbers.start : numbers.stop], strict=True)), []
        except OSError:
            pass
        found: dict[int, Pixels] = {}
        faults: list[tuple[int, int, str]] = []
        for number in numbers:
            try:
                found[number] = level[number]
            except OSError as error:
                alike = faults and faults[-1][1:] == (number - 1, _reason(error))
                faults.append((faults.pop()[0] if alike else number, number, _reason(error)))
        return found, [(f"image {a}" if a == b else f"images {a} to {b}", reason) for a, b, reason in faults]


def _reason(error: OSError) -> str:
    return " ".join(str(error).split())


def content_sha256(file: PyramidFile) -> str:
    """Return a SHA-256 that is equal for equal images in one order.

    It is that of the recorded hashes of the images or, where the file has none, of the level of 4x4: one file is
    told from another by that as surely as is needed, and it is quickly read.
    """
    hashes = file.column("sha256")
    if hashes is not None:
        return sha256("\n".join(map(str, hashes)).encode())
    return sha256(file.level(min(4, file.resolution))[:].tobytes())
