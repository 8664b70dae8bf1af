"""Where the chunks of an HDF5 dataset lie in its file, so that they can be read without HDF5."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.codecs import Codec, Stored, codec_of


class ChunkTable(NamedTuple):
    """The chunks of a dataset of pictures [N, C, r, r]."""

    shape: tuple[int, ...]
    """Of a chunk: some pictures, or parts of them."""
    offsets: NDArray[np.int64]
    """Bytes from the file's start; [chunks along N, along C, along height, along width], as are the other two."""
    sizes: NDArray[np.int64]
    """Bytes as stored."""
    coded: NDArray[np.bool_]
    """Whether the codec was at work; HDF5 may leave it out for single chunks."""
    codec: Codec


def chunk_table(dataset: h5py.Dataset) -> ChunkTable:
    """Return where a dataset's chunks lie; of a contiguous one, each picture counts as a chunk.

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
