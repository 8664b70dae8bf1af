"""Compression of the chunks of an HDF5 dataset, one at a time and outside the file.

HDF5 compresses within its filter pipeline, in one thread and with zlib. A `Codec` makes the bytes that this pipeline
reads and writes. So many threads can compress chunks for h5py's direct chunk write, and decompress stored ones.
"""

from __future__ import annotations

import importlib
import math
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import deflate
import h5py
import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.image_set import Pixels

BLOSC2 = 32026
"""Number of the Blosc2 filter in The HDF Group's list of registered filters."""

FAST_LEVEL = 1
"""Level of libdeflate for gzip at level 0: several times as fast as zlib's level 4, and hardly larger.

ISA-L takes half of its time for 5 % more bytes, but not always the same ones: of some 100,000 images that the package
isal 1.9.1 compressed twice, two came out with other matches, one of them a byte longer.
"""

STATED_LEVEL = 4
"""Level of zlib that a file states where libdeflate was used: HDF5 requires one, for chunks that it may add."""


class Codec:
    """Compression of the chunks of a dataset; this class stores them as they are."""

    name: ClassVar[str] = "none"
    """Name in recipes and messages."""

    @property
    def keywords(self) -> Mapping[str, object]:
        """Arguments of h5py's ``create_dataset`` for a dataset of such chunks.

        Raises:
            FormatError: a package that is needed is missing.
        """
        return {}

    def compress(self, chunk: Pixels) -> bytes:
        """Return what HDF5 stores for a whole chunk, uint8 of the dataset's chunk shape."""
        return chunk.tobytes()

    def decompress(self, data: bytes | bytearray, shape: tuple[int, ...]) -> Pixels:
        """Return the read-only chunk, uint8 of `shape`, that HDF5 stored as `data`.

        Raises:
            FormatError: the data are damaged, or of another size.
        """
        if len(data) != math.prod(shape):
            size = f"{len(data)} bytes, expected {math.prod(shape)} of shape {list(shape)}"
            raise FormatError(f"a {self.name} chunk has {size}")
        chunk = np.frombuffer(data, np.uint8).reshape(shape)
        chunk.flags.writeable = False
        return chunk


@dataclass(frozen=True)
class Gzip(Codec):
    """Deflate in a zlib stream (RFC 1950): the filter that every build of HDF5 has."""

    level: int = 0
    """0: by libdeflate, several times as fast as zlib; 1 to 9: zlib's own levels, for files some per cent smaller."""
    name: ClassVar[str] = "gzip"

    @property
    def keywords(self) -> Mapping[str, object]:
        """Arguments of ``create_dataset``; their level matters only to programs that add images to the file."""
        return {"compression": "gzip", "compression_opts": self.level or STATED_LEVEL}

    def compress(self, chunk: Pixels) -> bytes:
        """Return the chunk's zlib stream."""
        buffer = np.ascontiguousarray(chunk).data
        return bytes(zlib.compress(buffer, self.level) if self.level else deflate.zlib_compress(buffer, FAST_LEVEL))

    def decompress(self, data: bytes | bytearray, shape: tuple[int, ...]) -> Pixels:
        """Return the chunk of a zlib stream, which any program may have written."""
        size = math.prod(shape)
        try:
            # libdeflate needs the size beforehand and gets whole chunks: twice as fast as zlib.
            return super().decompress(deflate.zlib_decompress(data, max(1, size)), shape)
        except deflate.DeflateError as error:
            raise FormatError(
                f"a gzip chunk of {len(data)} bytes is damaged, or holds more than {size} of shape {list(shape)}: "
                f"{error}"
            ) from None


GZIP = Gzip()
"""The default."""


@dataclass(frozen=True)
class Blosc2(Codec):
    """Zstandard after a bit shuffle, through the Blosc2 filter of the package hdf5plugin.

    Only the filter knows its format, so each chunk passes through an HDF5 file in memory that holds nothing else.
    """

    level: int = 1
    """1 (fast) to 9 (small)."""
    name: ClassVar[str] = "blosc2"

    @property
    def keywords(self) -> Mapping[str, object]:
        """Arguments of ``create_dataset``."""
        plugin = _hdf5plugin()
        return dict(plugin.Blosc2(cname="zstd", clevel=self.level, filters=plugin.Blosc2.BITSHUFFLE))

    def compress(self, chunk: Pixels) -> bytes:
        """Return the filter's output for the chunk."""
        with _memory_file() as file:
            dataset = self._dataset(file, chunk.shape)
            dataset[...] = chunk
            return bytes(dataset.id.read_direct_chunk((0,) * chunk.ndim)[1])

    def decompress(self, data: bytes | bytearray, shape: tuple[int, ...]) -> Pixels:
        """Return the chunk of the filter's output."""
        with _memory_file() as file:
            dataset = self._dataset(file, shape)
            dataset.id.write_direct_chunk((0,) * len(shape), data)
            try:
                return np.asarray(dataset[...])
            except OSError as error:
                raise FormatError(f"a Blosc2 chunk of {len(data)} bytes is damaged: {error}") from None

    def _dataset(self, file: h5py.File, shape: tuple[int, ...]) -> h5py.Dataset:
        return file.create_dataset("chunk", shape=shape, dtype=np.uint8, chunks=shape, **self.keywords)


def codec(name: str, level: int = 0) -> Codec:
    """Return a codec by its name.

    Args:
        name: ``gzip``, ``none`` or ``blosc2``.
        level: 1 (fast) to 9 (small); 0 for the one that suits the codec best.

    Raises:
        FormatError: no such codec or level, or its package is not installed.

    Example:
        >>> chunk = np.zeros((1, 3, 64, 64), np.uint8)
        >>> gzip = codec("gzip")
        >>> bool((gzip.decompress(gzip.compress(chunk), chunk.shape) == chunk).all())
        True
    """
    if not 0 <= level <= 9:
        raise FormatError(f"compression level {level} must be 1 (fast) to 9 (small), or 0 for what suits {name}")
    if name == "gzip":
        return Gzip(level)
    if name == "blosc2":
        _hdf5plugin()
        return Blosc2(level or 1)
    if name != "none":
        raise FormatError(f"compression {name!r} is none of gzip, none, blosc2")
    if level:
        raise FormatError(f"compression none has no levels, but level {level} is asked for; leave it out")
    return Codec()


def codec_of(dataset: h5py.Dataset) -> Codec | None:
    """Return the codec that decompresses the chunks of a dataset, or None if none of ours does.

    Chunks whose filter mask is not 0 are stored without it: HDF5 may leave out a filter that gains nothing.
    """
    filters = _filters(dataset)
    if not filters:
        return Codec()
    number, _, values, _ = filters[0]
    if len(filters) == 1 and number == h5py.h5z.FILTER_DEFLATE:
        return Gzip()
    if len(filters) == 1 and number == BLOSC2:
        return Blosc2(values[4])
    return None


def load_filters(dataset: h5py.Dataset) -> None:
    """Make HDF5 able to decompress a dataset: importing hdf5plugin registers all filters that it has.

    Raises:
        FormatError: a filter is not installed.
    """
    for number, *_ in _filters(dataset):
        where = f"{dataset.file.filename}: {dataset.name[1:]}, compressed by HDF5's filter {number},"
        if not h5py.h5z.filter_avail(number):
            _hdf5plugin(where)
        if not h5py.h5z.filter_avail(number):
            raise FormatError(
                f"{where} cannot be read: neither HDF5 nor hdf5plugin has that filter; copy the file with h5repack "
                "where it was written"
            )


def _filters(dataset: h5py.Dataset) -> list[tuple[int, int, tuple[int, ...], bytes]]:
    """Return number, flags, values and name of each filter of a dataset."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(i) for i in range(properties.get_nfilters())]


def _memory_file() -> h5py.File:
    """Return an empty HDF5 file in memory, without a cache of chunks, so that each is filtered at once."""
    name = f"chunk-{threading.get_ident()}"  # HDF5 takes two open files of one name for the same
    return h5py.File(name, "w", driver="core", backing_store=False, rdcc_nbytes=0)


def _hdf5plugin(where: str = "compression blosc2") -> ModuleType:
    try:
        return importlib.import_module("hdf5plugin")
    except ImportError:
        raise FormatError(
            f"{where} needs the package hdf5plugin: pip install '.[blosc2]' in the folder of the project"
        ) from None
