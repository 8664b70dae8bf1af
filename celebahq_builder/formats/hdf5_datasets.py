"""The datasets of an HDF5 file in the making, which grow as its pictures come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.codecs import Codec
from celebahq_builder.formats.hdf5_layout import level_name, pictures_per_chunk
from celebahq_builder.formats.packing import compress_chunk

ROWS = 1024
"""Rows of a growing column that are written together."""


@dataclass(frozen=True)
class Place:
    """Where a chunk lies in the file."""

    offset: int
    """In bytes from the file's beginning."""
    size: int
    """In bytes."""


class LevelDataset:
    """A dataset that grows by whole chunks; what does not fill one waits.

    Args:
        resolution: r of its pictures.
        channels: C.
        codec: of its chunks.
    """

    def __init__(self, resolution: int, channels: int, codec: Codec) -> None:
        self.resolution, self.codec = resolution, codec
        self.shape = (channels, resolution, resolution)
        self.size = pictures_per_chunk(resolution, channels)
        self.start = self.waiting = 0
        self.buffer = np.empty((self.size, *self.shape), np.uint8)

    def create(self, file: h5py.File, count: int, keywords: Mapping[str, Any]) -> None:
        """Make the dataset, for `count` pictures; `keywords` are the codec's."""
        self.dataset = file.create_dataset(
            level_name(self.resolution),
            shape=(count, *self.shape),
            maxshape=(None, *self.shape),
            chunks=(self.size, *self.shape),
            dtype=np.uint8,
            **keywords,
        )

    def add(self, content: list[bytes] | NDArray[np.uint8]) -> None:
        """Store compressed chunks, or pictures uint8 [n, C, r, r], which are compressed as soon as they fill one."""
        if isinstance(content, list):
            for chunk in content:
                self._store(chunk)
            return
        while len(content):
            taken = content[: self.size - self.waiting]
            self.buffer[self.waiting : self.waiting + len(taken)] = taken
            self.waiting += len(taken)
            content = content[len(taken) :]
            if self.waiting == self.size:
                self.close()

    def last(self, chunks: int) -> list[Place]:
        """Return where the chunks lie that were stored last."""
        starts = range(self.start - chunks * self.size, self.start, self.size)
        found = (self.dataset.id.get_chunk_info_by_coord((start, 0, 0, 0)) for start in starts)
        return [Place(chunk.byte_offset, chunk.size) for chunk in found]

    def close(self) -> None:
        """Store what waits."""
        if self.waiting:
            self._store(compress_chunk(self.buffer[: self.waiting], self.size, self.codec))
            self.waiting = 0

    def _store(self, chunk: bytes) -> None:
        self.dataset.id.write_direct_chunk((self.start, 0, 0, 0), chunk)
        self.start += self.size


class TextDataset:
    """A column of `count` texts that come with the pictures."""

    def __init__(self, group: h5py.Group, name: str, count: int) -> None:
        self.dataset = group.create_dataset(name, shape=(count,), dtype=h5py.string_dtype())
        self.name, self.start = name, 0
        self.waiting: list[str] = []

    def add(self, texts: Sequence[str]) -> None:
        """Store the texts that follow, or let them wait for more."""
        check_text(self.name, texts)
        self.waiting += texts
        if len(self.waiting) >= ROWS:
            self.close()

    def close(self) -> None:
        """Store what waits."""
        if self.waiting:
            self.dataset[self.start : self.start + len(self.waiting)] = self.waiting
            self.start += len(self.waiting)
            self.waiting = []


def check_text(column: str, texts: Sequence[str]) -> None:
    """Raise for text that HDF5 cannot hold, such as a file name in a legacy encoding."""
    for text in texts:
        if "\0" in text or not _is_unicode(text):
            raise FormatError(f"{column} {text!r} cannot be stored in HDF5, which takes UTF-8 without NUL; rename it")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
