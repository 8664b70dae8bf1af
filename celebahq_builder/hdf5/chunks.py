"""Reading the images of a level by chunk offset, without going through HDF5."""

from __future__ import annotations

import itertools
import math
import os
import re
import weakref
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.codecs import Codec, Stored, codec_of
from celebahq_builder.hdf5.layout import open_hdf5
from celebahq_builder.imaging.pyramid import Pixels


class ChunkTable(NamedTuple):
    """The chunks of a dataset of images [N, C, r, r]."""

    shape: tuple[int, ...]
    """Of a chunk: some images, or parts of them."""
    offsets: NDArray[np.int64]
    """Bytes from the file's start; [chunks along N, along C, along height, along width], as are the other two."""
    sizes: NDArray[np.int64]
    """Bytes as stored."""
    coded: NDArray[np.bool_]
    """Whether the codec was at work; HDF5 may leave it out for single chunks."""
    codec: Codec


def chunk_table(dataset: h5py.Dataset) -> ChunkTable:
    """Return where a dataset's chunks lie; of a contiguous one, each image counts as a chunk.

    Raises:
        FormatError: chunks that were never written, a codec that is none of ours, or data in other files.
    """
    if dataset.chunks is None:
        return _contiguous(dataset)
    shape = tuple(dataset.chunks)
    grid = tuple(-(-side // part) for side, part in zip(dataset.shape, shape, strict=True))
    table = ChunkTable(
        shape, np.full(grid, -1, np.int64), np.zeros(grid, np.int64), np.zeros(grid, bool), codec_of(dataset)
    )

    def enter(chunk: Any) -> None:
        place = tuple(start // part for start, part in zip(chunk.chunk_offset, shape, strict=True))
        table.offsets[place], table.sizes[place], table.coded[place] = (
            chunk.byte_offset,
            chunk.size,
            chunk.filter_mask == 0,
        )

    dataset.id.chunk_iter(enter)
    missing = int((table.offsets < 0).sum())
    if missing:
        raise FormatError(
            f"{_where(dataset)} lacks {missing} of its {table.offsets.size} chunks, its writer was stopped; "
            "write the file again"
        )
    return table


def _contiguous(dataset: h5py.Dataset) -> ChunkTable:
    start = None if dataset.is_virtual or dataset.external else dataset.id.get_offset()
    if start is None:
        raise FormatError(f"{_where(dataset)} is neither chunked nor one block of this file; copy it with h5repack")
    size = math.prod(dataset.shape[1:])
    offsets = start + size * np.arange(len(dataset), dtype=np.int64).reshape(-1, 1, 1, 1)
    sizes, coded = np.full(offsets.shape, size, np.int64), np.zeros(offsets.shape, bool)
    return ChunkTable((1, *dataset.shape[1:]), offsets, sizes, coded, Stored())


def _where(dataset: h5py.Dataset) -> str:
    return f"{dataset.file.filename}: {dataset.name[1:]}"


Numbers = Sequence[int] | NDArray[np.int64]

SHARES = 16
"""Parts for each thread, of what is to be read: so many that threads end together, so few that parts are worth it."""


class LevelReader:
    """One level of a multi-resolution file, open for reading.

    It goes through pickle and fork; a process opens the file when it first reads. All of them read the file that this
    object was made of, and refuse one that was put in its place or altered since. Memory is 17 bytes a chunk.

    Args:
        path: of a file of this project, of the ProGAN authors' tool, or any with levels named like theirs.
        resolution: r of the level; None for the largest.
        threads: that decompress; None for one per core.

    Raises:
        FormatError: no such file or level, a level of another length than the largest, or of an unknown codec.
    """

    def __init__(self, path: Path, resolution: int | None = None, threads: int | None = None) -> None:
        self.path = path
        self.threads = threads or os.cpu_count() or 1
        file = open_hdf5(path)
        self._identity = _identity(path.stat())
        with file:
            largest, dataset = _find(file, path, resolution)
            self.resolution = int(dataset.shape[-1])
            self.name: str = dataset.name[1:]
            self.shape: tuple[int, ...] = dataset.shape
            """N, C, r, r"""
            if len(dataset) != len(largest):
                raise FormatError(
                    f"{path}: {self.name} has {len(dataset)} images, {largest.name[1:]} has {len(largest)}; "
                    "its writer was stopped, write the file again"
                )
            if not dataset.size:
                raise FormatError(f"{path}: {self.name} has no images")
            self.table = chunk_table(dataset)
        self._absolute = path.absolute()  # of later processes, which may be elsewhere
        self._file: int | None = None
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all images, decompressed."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read(self, numbers: Numbers, *, parallel: bool = True) -> Pixels:
        """Return images by their numbers, uint8 [n, C, r, r], in the order asked for.

        A chunk is decompressed once, however many of its images are wanted.

        Args:
            numbers: from 0 to N - 1; may repeat.
            parallel: False for no threads, as in one of several processes that read.

        Raises:
            FormatError: the file was replaced, altered or damaged.
            IndexError: there is no image of that number.
        """
        wanted = np.asarray(numbers, np.int64).reshape(-1)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"{self.path} has images 0 to {len(self) - 1}, not {wanted.min()} to {wanted.max()}")
        file = self._open()
        pixels = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        rows, inside = (part.tolist() for part in np.divmod(wanted, self.table.shape[0]))
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for place, (row, i) in enumerate(zip(rows, inside, strict=True)):
            places[row].append((place, i))

        def copy(some: list[int]) -> None:
            for row in some:
                self._copy(file, row, places[row], pixels)

        needed = list(places)
        if parallel and self.threads > 1 and len(needed) > 1:
            share = -(-len(needed) // (self.threads * SHARES))
            list(self._threads().map(copy, (needed[i : i + share] for i in range(0, len(needed), share))))
        else:
            copy(needed)
        return pixels

    def _copy(self, file: int, row: int, places: list[tuple[int, int]], pixels: Pixels) -> None:
        """Copy images of one row of chunks, each from its place in the chunk to that in the result."""
        for column in itertools.product(*map(range, self.table.offsets.shape[1:])):
            chunk = self._chunk(file, (row, *column))
            sides = zip(column, self.table.shape[1:], self.shape[1:], strict=True)
            part = tuple(slice(i * side, min((i + 1) * side, whole)) for i, side, whole in sides)
            inner = tuple(slice(0, one.stop - one.start) for one in part)
            for place, i in places:
                pixels[place][part] = chunk[i][inner]

    def _chunk(self, file: int, place: tuple[int, ...]) -> Pixels:
        table, size = self.table, int(self.table.sizes[place])
        try:
            data = os.pread(file, size, int(table.offsets[place]))
            if len(data) < size:
                raise FormatError(f"the file ends {size - len(data)} bytes early")
            return (table.codec if table.coded[place] else Stored()).decompress(data, table.shape)
        except (FormatError, OSError) as error:
            first = place[0] * table.shape[0]
            last = min(first + table.shape[0], len(self)) - 1
            which = f"image {first}" if first == last else f"one of the images {first} to {last}"
            raise FormatError(f"{self.path}: {self.name}, {which}: {error}; write the file again") from None

    def _open(self) -> int:
        """Return the file's descriptor in this process; after a fork that of the parent, which has no position."""
        if self._file is None:
            try:
                self._file = os.open(self._absolute, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise FormatError(f"{self.path} cannot be opened any more: {error.strerror}") from None
            weakref.finalize(self, os.close, self._file)
        if _identity(os.fstat(self._file)) != self._identity:
            raise FormatError(f"{self.path} was replaced or altered while it was in use; start again with the new file")
        return self._file

    def _threads(self) -> ThreadPoolExecutor:
        """Return this process's threads: a fork copies none."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self.threads, "chunks")
        return self._pool[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pool": None}


def _find(file: h5py.File, path: Path, resolution: int | None) -> tuple[h5py.Dataset, h5py.Dataset]:
    """Return the largest level and the one wanted; what else is in the file, and which other levels, is no matter."""
    found = {int(match[1]): name for name in file if (match := re.fullmatch(r"data(\d+)x\1", name))}
    if not found:
        raise FormatError(f"{path} has no datasets data1024x1024, ...; it has {', '.join(file) or 'nothing'}")
    r = max(found) if resolution is None else resolution
    if r not in found:
        sides = ", ".join(map(str, sorted(found, reverse=True)))
        raise FormatError(f"{path} has no level {r}x{r}; it has those of {sides} px")
    for side in {r, max(found)}:
        level = file[found[side]]
        shape = level.shape if isinstance(level, h5py.Dataset) else None
        if shape is None or len(shape) != 4 or shape[2:] != (side, side) or level.dtype != np.uint8:
            holds = "no array" if shape is None else f"{level.dtype} {list(shape)}"
            raise FormatError(f"{path}: {found[side]} holds {holds}, expected uint8 [N, C, {side}, {side}]")
    return file[found[max(found)]], file[found[r]]


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
