"""The multi-resolution HDF5 file: all levels of all pictures, and what is known of each photo.

One dataset per level, named ``data1024x1024`` ... ``data1x1``: uint8 [N, 3, r, r], RGB, growable along N, gzip.
Readers of the ProGAN authors' files take every key that starts with "data" as a level; what else is known lies in
the group ``photos``, one dataset per column, and in the file's attributes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import DiskFull, FormatError
from celebahq_builder.imaging.pyramid import Pixels, build_pyramid, levels
from celebahq_builder.workspace import as_storage_error, sha256

FORMAT_VERSION = 1

BATCH = 32
"""Pictures that are compressed and read together; a multiple of every chunk's."""

CHUNK_BYTES = 65536
"""Small pictures share a chunk up to this size; larger ones have one each."""

Chunks = list[list[bytes]]
"""Compressed chunks of a batch: for each level, largest first, in order."""


def level_name(resolution: int) -> str:
    """Return the name of a level's dataset."""
    return f"data{resolution}x{resolution}"


def pictures_per_chunk(resolution: int) -> int:
    """Return how many pictures of a level share a chunk: a power of two, at most `BATCH`."""
    fit = max(1, CHUNK_BYTES // (3 * resolution * resolution))
    return int(min(BATCH, 1 << (fit.bit_length() - 1)))


def compress_batch(
    pictures: Iterator[Pixels] | Sequence[Pixels], resolution: int, gzip_level: int
) -> tuple[Chunks, list[str]]:
    """Build the levels of at most `BATCH` pictures and compress them into chunks.

    Args:
        pictures: uint8 [3, R, R] each.
        resolution: R.
        gzip_level: zlib's, 1 (fast) to 9 (small).

    Returns:
        The chunks of all levels, and the SHA-256 of each picture's bytes.
    """
    waiting: list[list[Pixels]] = [[] for _ in levels(resolution)]
    chunks: Chunks = [[] for _ in waiting]
    hashes = []

    def close_chunk(level: int) -> None:
        stacked = np.stack(waiting[level])
        missing = pictures_per_chunk(stacked.shape[-1]) - len(stacked)
        whole = np.concatenate([stacked, np.zeros((missing, *stacked.shape[1:]), np.uint8)]) if missing else stacked
        chunks[level].append(zlib.compress(whole.tobytes(), gzip_level))
        waiting[level].clear()

    for picture in pictures:
        hashes.append(sha256(np.ascontiguousarray(picture).tobytes()))
        for level, pixels in enumerate(build_pyramid(picture)):
            waiting[level].append(pixels)
            if len(waiting[level]) == pictures_per_chunk(pixels.shape[-1]):
                close_chunk(level)
    for level, rest in enumerate(waiting):
        if rest:
            close_chunk(level)
    return chunks, hashes


class PyramidWriter:
    """Writes a file of known length, batch by batch, under a ``.partial`` name; `finish` gives it its own."""

    def __init__(self, path: Path, resolution: int, count: int, gzip_level: int) -> None:
        self.path, self.resolution, self.count = path, resolution, count
        self.partial = path.with_name(path.name + ".partial")
        self.partial.unlink(missing_ok=True)
        try:
            self.file = h5py.File(self.partial, "w", libver=("earliest", "v110"))
            for r in levels(resolution):
                self.file.create_dataset(
                    level_name(r),
                    shape=(count, 3, r, r),
                    maxshape=(None, 3, r, r),
                    chunks=(pictures_per_chunk(r), 3, r, r),
                    dtype=np.uint8,
                    compression="gzip",
                    compression_opts=gzip_level,
                )
        except OSError as error:
            raise as_storage_error(error, path) from error

    def write_batch(self, start: int, chunks: Chunks) -> None:
        """Store the chunks of the pictures from number `start`, a multiple of `BATCH`, on.

        Raises:
            DiskFull: no space left.
        """
        try:
            for r, level in zip(levels(self.resolution), chunks, strict=True):
                dataset = self.file[level_name(r)]
                for i, chunk in enumerate(level):
                    dataset.id.write_direct_chunk((start + i * pictures_per_chunk(r), 0, 0, 0), chunk)
        except (OSError, RuntimeError) as error:
            raise _disk_error(error, self.path) from error

    def finish(self, columns: Mapping[str, NDArray[Any] | list[str]], attributes: Mapping[str, Any]) -> None:
        """Add what is known of the photos, close the file and give it its name.

        Args:
            columns: for the group ``photos``: arrays, or lists of text, of N rows each.
            attributes: of the file; tables and lists are stored as JSON.

        Raises:
            DiskFull: no space left.
        """
        try:
            group = self.file.create_group("photos")
            for name, values in columns.items():
                if isinstance(values, list):
                    group.create_dataset(name, data=values, dtype=h5py.string_dtype())
                else:
                    group.create_dataset(name, data=values)
            self.file.attrs["format_version"] = FORMAT_VERSION
            for name, value in attributes.items():
                self.file.attrs[name] = json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value
            self.file.close()
            with self.partial.open("rb+") as raw:
                os.fsync(raw.fileno())
            self.partial.replace(self.path)
        except (OSError, RuntimeError) as error:
            raise _disk_error(error, self.path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with contextlib.suppress(
                OSError, RuntimeError
            ):  # a full disk fails again; the first error is the one to show
                self.file.close()
            self.partial.unlink(missing_ok=True)


def _disk_error(error: OSError | RuntimeError, path: Path) -> Exception:
    """HDF5 hides the operating system's error in its text."""
    if "No space left" in str(error) or "Disk quota" in str(error):
        return DiskFull(
            f"no space left to write {path}; free some and run the same command again, it goes on from here"
        )
    return as_storage_error(error, path) if isinstance(error, OSError) else error


class PyramidFile:
    """A multi-resolution file, open for reading.

    Raises:
        FormatError: no such file, not HDF5 (or cut short), or without usable levels.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise FormatError(f"{path} does not exist")
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            raise FormatError(
                f"{path} is not a readable HDF5 file (a writer that was killed leaves such): {error}"
            ) from None
        try:
            self.resolutions = self._levels()
        except FormatError:
            self.file.close()
            raise
        self.resolution = self.resolutions[0]
        self.count = int(self.file[level_name(self.resolution)].shape[0])

    def _levels(self) -> tuple[int, ...]:
        """Return the resolutions of all levels, largest first: of every key that starts with "data"."""
        names = [name for name in self.file if name.startswith("data")]
        if not names:
            has = ", ".join(self.file) or "nothing"
            raise FormatError(f"{self.path} has no datasets data1024x1024, ...; it has {has}")
        found = []
        for name in names:
            match = re.fullmatch(r"data(\d+)x\1", name)
            level = self.file[name]
            side = int(match[1]) if match else 0
            if not side or side & (side - 1) or not isinstance(level, h5py.Dataset) or level.ndim != 4:
                raise FormatError(f"{self.path}: {name} is not a level; expected [N, 3, r, r] named data1024x1024, ...")
            found.append(side)
        return tuple(sorted(found, reverse=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def level(self, resolution: int) -> h5py.Dataset:
        """Return the dataset of a level, uint8 [N, 3, r, r]."""
        return self.file[level_name(resolution)]

    def column(self, name: str) -> NDArray[Any] | list[str] | None:
        """Return a column of what is known of the photos, or None if the file lacks it."""
        if "photos" not in self.file or name not in self.file["photos"]:
            return None
        dataset = self.file["photos"][name]
        if h5py.check_string_dtype(dataset.dtype):
            return [str(value) for value in dataset.asstr()[:]]
        return np.asarray(dataset[:])

    def problems(self) -> Iterator[str]:
        """Yield, in one line each, what is wrong with the file; nothing for a sound one.

        Checked: all levels are there with the same number of pictures; the top level's pictures have the
        SHA-256 recorded for them; every other level is the 2x2 mean of the one above, as `build_pyramid` has it.
        """
        wanted = levels(self.resolution)
        for r in wanted:
            if r not in self.resolutions:
                yield f"level {r}x{r} is missing"
            elif self.level(r).shape != (self.count, 3, r, r):
                yield f"level {r}x{r} has shape {self.level(r).shape}, expected {(self.count, 3, r, r)}"
            elif self.level(r).dtype != np.uint8:
                yield f"level {r}x{r} holds {self.level(r).dtype}, expected uint8"
        if self.resolutions != wanted or any(self.level(r).shape != (self.count, 3, r, r) for r in wanted):
            return
        hashes = self.column("sha256")
        if hashes is not None and len(hashes) != self.count:
            yield f"photos/sha256 has {len(hashes)} rows, expected {self.count}"
            hashes = None
        for start in range(0, self.count, BATCH):
            yield from self._problems_of_batch(start, hashes)

    def _problems_of_batch(self, start: int, hashes: NDArray[Any] | list[str] | None) -> Iterator[str]:
        wanted = levels(self.resolution)
        try:
            stored = {r: self.level(r)[start : start + BATCH] for r in wanted}
        except OSError as error:
            yield f"pictures {start} to {start + BATCH - 1} cannot be read: {error}"
            return
        for i, picture in enumerate(stored[self.resolution]):
            if hashes is not None and sha256(picture.tobytes()) != hashes[start + i]:
                yield f"picture {start + i}: its SHA-256 is not the one recorded"
            for r, pixels in zip(wanted, build_pyramid(picture), strict=True):
                if not np.array_equal(stored[r][i], pixels):
                    yield f"picture {start + i}: level {r}x{r} is not the mean of the level above"
