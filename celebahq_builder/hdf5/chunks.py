"""Reader of one level of the multi-resolution HDF5 file, by the byte offsets of its chunks."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import weakref
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5 import REMEDY, find_levels
from celebahq_builder.hdf5.codecs import Codec, codec_of, load_filters
from celebahq_builder.hdf5.untrusted import file_identity, open_hdf5
from celebahq_builder.image_set import Numbers, Pixels
from celebahq_builder.limits import MAX_CHUNK_BYTES
from celebahq_builder.parallel import cores

Indices = Sequence[int] | Numbers

PARTS_PER_THREAD = 16
"""Parts that each thread reads of one request: enough that all threads end together, and not too small."""

HDF5_CACHE_BYTES = 64 << 20
"""Cache of decompressed chunks where HDF5 itself reads; its default of 1 MB holds no image of 1024x1024."""


class UnreadableImagesError(FormatError):
    """Consecutive images that cannot be read, because their chunk is damaged."""

    problem: str
    """The message without the path of the file and the remedy."""
    last: int
    """Index of the last of the images."""


def _unreadable(path: Path, level: str, first: int, last: int, error: Exception) -> UnreadableImagesError:
    which = f"image {first}" if first == last else f"images {first} to {last}"
    problem = f"{which} of {level} cannot be read: {' '.join(str(error).split())}"
    made = UnreadableImagesError(f"{path}: {problem}; {REMEDY}")
    made.problem, made.last = problem, last
    return made


# --- Where the chunks are ----------------------------------------------------------------------------------------


class ChunkTable(NamedTuple):
    """Byte offsets of the chunks of a dataset [N, C, r, r]; the arrays have one element per chunk, on 4 axes."""

    shape: tuple[int, ...]
    """Shape of a chunk: one or more images, or parts of them."""
    offsets: NDArray[np.int64]
    """Bytes from the start of the file."""
    sizes: NDArray[np.int64]
    """Bytes as stored."""
    coded: NDArray[np.bool_]
    """True where the codec was applied; HDF5 may leave it out for single chunks."""
    codec: Codec


def chunk_table(dataset: h5py.Dataset) -> ChunkTable | None:
    """Return the chunks of a dataset, or None where only HDF5 can read it: by filters other than those of `codecs`.

    Each image of a contiguous dataset counts as one chunk.

    Raises:
        FormatError: data that were never written, which HDF5 would return as zeros.
    """
    where = f"{dataset.file.filename}: {dataset.name[1:]}"
    if dataset.chunks is None:
        start = dataset.id.get_offset()
        if start is None and dataset.id.get_storage_size() == 0:
            raise FormatError(f"{where} was never written; {REMEDY}")
        if start is None:  # a small dataset inside its header
            return None
        size = math.prod(dataset.shape[1:])
        offsets = start + size * np.arange(len(dataset), dtype=np.int64).reshape(-1, 1, 1, 1)
        sizes, coded = np.broadcast_to(np.int64(size), offsets.shape), np.broadcast_to(np.False_, offsets.shape)
        return ChunkTable((1, *dataset.shape[1:]), offsets, sizes, coded, Codec())
    shape = tuple(dataset.chunks)
    grid = tuple(-(-length // part) for length, part in zip(dataset.shape, shape, strict=True))
    missing = math.prod(grid) - dataset.id.get_num_chunks()  # before memory for that many chunks is taken
    if missing <= 0:
        codec = codec_of(dataset)
        if codec is None:
            return None
        table = ChunkTable(shape, np.full(grid, -1, np.int64), np.zeros(grid, np.int64), np.zeros(grid, bool), codec)

        def enter(chunk: h5py.h5d.StoreInfo) -> None:
            place = tuple(start // part for start, part in zip(chunk.chunk_offset, shape, strict=True))
            if all(at < length for at, length in zip(place, grid, strict=True)):
                table.offsets[place], table.sizes[place] = chunk.byte_offset, chunk.size
                table.coded[place] = chunk.filter_mask == 0

        dataset.id.chunk_iter(enter)
        missing = int((table.offsets < 0).sum())
        if not missing:
            return table
    raise FormatError(f"{where} lacks {missing} of its {math.prod(grid)} chunks; {REMEDY}")


# --- Reading -----------------------------------------------------------------------------------------------------


class LevelReader:
    """The images of one level, read in any order by any number of threads and processes.

    HDF5 decompresses under one lock, and its cache does not help where images are drawn at random. So it is asked only
    once where the chunks are; then they are read by offset and decompressed in threads. HDF5 reads chunks with filters
    that this package does not know.

    The reader can be pickled and forked: each process opens the file when it first reads. A file that was replaced or
    changed since the reader was made is refused. Memory: 17 bytes per chunk.

    Args:
        source: HDF5 file of this project, of the ProGAN authors' tool, or any other with levels named like theirs; a
            path, or the file opened by h5py.
        resolution: r of the level; None for the largest.
        threads: threads that decompress; None for one per core.

    Attributes:
        path: path of the file.
        name: name of the level's dataset.
        resolution: r.
        shape: (N, C, r, r).
        nbytes: size of all images in bytes, decompressed.

    Raises:
        FormatError: no such file or level, no images, another number of images than the largest level, or a filter
            that is not installed.

    Example:
        >>> import h5py, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "faces.h5"
        >>> with h5py.File(path, "w") as file:
        ...     file["data2x2"] = np.arange(36, dtype=np.uint8).reshape(3, 3, 2, 2)
        >>> level = LevelReader(path, resolution=2)
        >>> len(level), level[:2].shape, level[-1].shape, level.read([2, 0])[:, 0, 0, 0].tolist()
        (3, (2, 3, 2, 2), (3, 2, 2), [24, 0])
    """

    def __init__(
        self, source: Path | str | h5py.File, resolution: int | None = None, threads: int | None = None
    ) -> None:
        self.threads = threads or cores()
        with contextlib.ExitStack() as stack:
            file = source if isinstance(source, h5py.File) else stack.enter_context(open_hdf5(Path(source)))
            self.path = Path(file.filename)
            largest, dataset = _find_level(file, self.path, resolution)
            self.name: str = dataset.name[1:]
            self.shape: tuple[int, ...] = dataset.shape
            if len(dataset) != len(largest):
                has = f"{self.name} has {len(dataset)} images, {largest.name[1:]} has {len(largest)}"
                raise FormatError(f"{self.path}: {has}; {REMEDY}")
            if not dataset.size:
                raise FormatError(f"{self.path}: {self.name} has no images")
            load_filters(dataset)
            self._table = chunk_table(dataset)
            self._identity = file_identity(file.id.get_vfd_handle())
        self.resolution = self.shape[-1]
        self.nbytes = math.prod(self.shape)
        self._absolute = self.path.absolute()  # other processes may work in another folder
        self._file: int | None = None
        self._hdf5: tuple[int, h5py.Dataset] | None = None
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __len__(self) -> int:
        """Return the number of images, N."""
        return self.shape[0]

    def __getitem__(self, index: int | slice | Indices | NDArray[np.bool_]) -> Pixels:
        """Return one image, uint8 [C, r, r], or several, uint8 [n, C, r, r], as numpy would index an array of them.

        Raises:
            IndexError: no image has that index.
            FormatError: as `read` does.
        """
        indices = np.asarray(np.arange(len(self))[index])
        pixels = self.read(indices)
        return pixels if indices.ndim else np.asarray(pixels[0])

    def read(self, indices: Indices, *, parallel: bool = True) -> Pixels:
        """Return images uint8 [n, C, r, r] by their indices, in the order asked for.

        A chunk is decompressed once, however many of its images are wanted.

        Args:
            indices: each from 0 to N - 1; may repeat.
            parallel: False to use no threads, as in one of several processes that read.

        Raises:
            FormatError: the file was replaced or changed, or is damaged.
            IndexError: no image has that index.
        """
        wanted = np.asarray(indices, np.int64).reshape(-1)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"{self.path} has images 0 to {len(self) - 1}, not {wanted.min()} to {wanted.max()}")
        if self._table is None:
            return self._read_by_hdf5(wanted)
        table, file = self._table, self._open()
        pixels = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        rows, inside = (part.tolist() for part in np.divmod(wanted, table.shape[0]))
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for place, (row, i) in enumerate(zip(rows, inside, strict=True)):
            places[row].append((place, i))

        def copy(some: list[int]) -> None:
            for row in some:
                self._copy_row(table, file, row, places[row], pixels)

        needed = list(places)
        if parallel and self.threads > 1 and len(needed) > 1:
            part = -(-len(needed) // (self.threads * PARTS_PER_THREAD))
            list(self._threads().map(copy, (needed[i : i + part] for i in range(0, len(needed), part))))
        else:
            copy(needed)
        return pixels

    def _copy_row(self, table: ChunkTable, file: int, row: int, places: list[tuple[int, int]], pixels: Pixels) -> None:
        """Copy images of one row of chunks, each from its place in the chunk to that in the result."""
        for column in itertools.product(*map(range, table.offsets.shape[1:])):
            chunk = self._chunk(table, file, (row, *column))
            sides = zip(column, table.shape[1:], self.shape[1:], strict=True)
            part = tuple(slice(i * side, min((i + 1) * side, whole)) for i, side, whole in sides)
            inner = tuple(slice(0, one.stop - one.start) for one in part)
            for place, i in places:
                pixels[place][part] = chunk[i][inner]

    def _chunk(self, table: ChunkTable, file: int, place: tuple[int, ...]) -> Pixels:
        size, offset = int(table.sizes[place]), int(table.offsets[place])
        try:
            if offset + size > self._identity[2]:
                raise FormatError(f"the file ends {offset + size - self._identity[2]} bytes early")
            if size > MAX_CHUNK_BYTES:
                raise FormatError(f"its chunk is announced with {size} bytes; at most {MAX_CHUNK_BYTES} are read")
            data = os.pread(file, size, offset)
            return (table.codec if table.coded[place] else Codec()).decompress(data, table.shape)
        except (FormatError, OSError) as error:
            first = place[0] * table.shape[0]
            last = min(first + table.shape[0], len(self)) - 1
            raise _unreadable(self.path, self.name, first, last, error) from None

    def _read_by_hdf5(self, wanted: NDArray[np.int64]) -> Pixels:
        if self._hdf5 is None or self._hdf5[0] != os.getpid():
            file = open_hdf5(self._absolute, rdcc_nbytes=HDF5_CACHE_BYTES)
            self._check_identity(file.id.get_vfd_handle())
            load_filters(file[self.name])
            self._hdf5 = os.getpid(), file[self.name]
        pixels = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        for place, index in enumerate(wanted.tolist()):
            try:
                pixels[place] = self._hdf5[1][index]
            except OSError as error:
                raise _unreadable(self.path, self.name, index, index, error) from None
        return pixels

    def _open(self) -> int:
        """Return the file's descriptor; a forked process shares that of its parent, as `pread` moves no position."""
        if self._file is None:
            try:
                self._file = os.open(self._absolute, os.O_RDONLY)
            except OSError as error:
                raise FormatError(f"{self.path} cannot be opened any more: {error.strerror}") from None
            weakref.finalize(self, os.close, self._file)
        self._check_identity(self._file)
        return self._file

    def _check_identity(self, file: int) -> None:
        if file_identity(file) != self._identity:
            raise FormatError(f"{self.path} was replaced or changed while it was in use; start again with the new file")

    def _threads(self) -> ThreadPoolExecutor:
        """Return this process's threads: a forked process has none of its parent's."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self.threads, "chunks")
        return self._pool[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None, "_hdf5": None, "_pool": None}


def _find_level(file: h5py.File, path: Path, resolution: int | None) -> tuple[h5py.Dataset, h5py.Dataset]:
    """Return the largest level and the one wanted; all other datasets of the file are ignored."""
    found = find_levels(file)
    r = max(found) if resolution is None else resolution
    if r not in found:
        has = ", ".join(map(str, found))
        raise FormatError(f"{path} has no level {r}x{r}; it has those of {has} px")
    for side in {r, max(found)}:
        level = file[found[side]]
        shape = level.shape if isinstance(level, h5py.Dataset) else None
        if shape is None or len(shape) != 4 or shape[2:] != (side, side) or level.dtype != np.uint8:
            holds = "no array" if shape is None else f"{level.dtype} {list(shape)}"
            raise FormatError(f"{path}: {found[side]} holds {holds}, expected uint8 [N, C, {side}, {side}]")
    return file[found[max(found)]], file[found[r]]
