"""How the chunks of an HDF5 dataset are compressed, one at a time and away from the file.

HDF5 compresses within its filter pipeline, in one thread and with zlib. What a `Codec` makes is byte for byte such as
that pipeline reads and writes, so that many workers at once can compress chunks for h5py's direct chunk write, and
readers can decompress what its direct chunk read returns.
"""

from __future__ import annotations

import importlib
import math
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import deflate
import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError

Chunk = NDArray[np.uint8]

BLOSC2 = 32026
"""Number of the Blosc2 filter in The HDF Group's list of registered filters."""

FAST_LEVEL = 1
"""Of libdeflate: several times as fast as zlib's level 4, and hardly larger.

ISA-L takes half of its time for 5 % more bytes, but not always the same ones: of some 100,000 images that were
compressed again by the package isal 1.9.1, two came out with other matches, one of them a byte longer.
"""

STATED_LEVEL = 4
"""Of zlib, that HDF5 is told for chunks of libdeflate: it wants one, for those that it may add itself."""


class Codec(Protocol):
    """A way to compress the chunks of a dataset."""

    @property
    def name(self) -> str:
        """As recipes and messages have it."""

    @property
    def keywords(self) -> Mapping[str, Any]:
        """Arguments of h5py's ``create_dataset`` for a dataset of such chunks.

        Raises:
            FormatError: a package that is needed is missing.
        """

    def compress(self, chunk: Chunk) -> bytes:
        """Return what HDF5 stores for a whole chunk, uint8 of the dataset's chunk shape and in C order."""

    def decompress(self, data: bytes, shape: tuple[int, ...]) -> Chunk:
        """Return the chunk, uint8 of `shape`, that HDF5 stored as `data`; not to be written to.

        Raises:
            FormatError: the data are damaged, or of another size.
        """


@dataclass(frozen=True)
class Stored:
    """No compression."""

    name: str = field(default="none", init=False)

    @property
    def keywords(self) -> Mapping[str, Any]:
        """Arguments of ``create_dataset``."""
        return {}

    def compress(self, chunk: Chunk) -> bytes:
        """Return the chunk's bytes."""
        return chunk.tobytes()

    def decompress(self, data: bytes, shape: tuple[int, ...]) -> Chunk:
        """Return the chunk of some bytes."""
        return _shaped(data, shape, self.name)


@dataclass(frozen=True)
class Gzip:
    """Deflate in a zlib stream (RFC 1950): the filter that every build of HDF5 has."""

    level: int = 0
    """0: by libdeflate, several times as fast as zlib; 1 to 9: zlib's own levels, for files some per cent smaller."""
    name: str = field(default="gzip", init=False)

    @property
    def keywords(self) -> Mapping[str, Any]:
        """Arguments of ``create_dataset``; of the level, only who adds to the file later will take notice."""
        return {"compression": "gzip", "compression_opts": self.level or STATED_LEVEL}

    def compress(self, chunk: Chunk) -> bytes:
        """Return the chunk's zlib stream."""
        buffer = np.ascontiguousarray(chunk).data
        packed = zlib.compress(buffer, self.level) if self.level else deflate.zlib_compress(buffer, FAST_LEVEL)
        return bytes(packed)

    def decompress(self, data: bytes, shape: tuple[int, ...]) -> Chunk:
        """Return the chunk of a zlib stream, whoever wrote it."""
        size = math.prod(shape)
        try:
            # libdeflate needs to know the size beforehand and is given whole chunks: twice as fast as zlib.
            unpacked = deflate.zlib_decompress(data, max(1, size))
        except deflate.DeflateError as error:
            raise FormatError(
                f"a gzip chunk of {len(data)} bytes is damaged, or holds more than {size} of shape {list(shape)}: "
                f"{error}"
            ) from None
        return _shaped(unpacked, shape, self.name)


@dataclass(frozen=True)
class Blosc2:
    """Zstandard after a bit shuffle, through the Blosc2 filter of the package hdf5plugin.

    The filter alone knows its format, so each chunk goes through an HDF5 file in memory that holds nothing else.
    """

    level: int = 1
    """1 (fast) to 9 (small)."""
    name: str = field(default="blosc2", init=False)

    @property
    def keywords(self) -> Mapping[str, Any]:
        """Arguments of ``create_dataset``."""
        plugin = _hdf5plugin()
        return dict(plugin.Blosc2(cname="zstd", clevel=self.level, filters=plugin.Blosc2.BITSHUFFLE))

    def compress(self, chunk: Chunk) -> bytes:
        """Return the chunk as the filter packs it."""
        with _memory_file() as file:
            dataset = file.create_dataset(
                "chunk", shape=chunk.shape, dtype=np.uint8, chunks=chunk.shape, **self.keywords
            )
            dataset[...] = chunk
            return bytes(dataset.id.read_direct_chunk((0,) * chunk.ndim)[1])

    def decompress(self, data: bytes, shape: tuple[int, ...]) -> Chunk:
        """Return the chunk of what the filter packed."""
        with _memory_file() as file:
            dataset = file.create_dataset("chunk", shape=shape, dtype=np.uint8, chunks=shape, **self.keywords)
            dataset.id.write_direct_chunk((0,) * len(shape), data)
            try:
                return np.asarray(dataset[...])
            except OSError as error:
                raise FormatError(f"a Blosc2 chunk of {len(data)} bytes is damaged: {error}") from None


def codec(name: str, level: int = 0) -> Codec:
    """Return a codec by its name.

    Args:
        name: ``gzip``, ``none`` or ``blosc2``.
        level: 1 (fast) to 9 (small); 0: the one that suits the codec best.

    Raises:
        FormatError: no such codec or level, or one whose package is not installed.
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
    return Stored()


def codec_of(dataset: h5py.Dataset) -> Codec:
    """Return the codec that reads a dataset's chunks.

    Chunks whose filter mask is not 0 are an exception: HDF5 leaves out a filter that gains nothing, and says so there.

    Raises:
        FormatError: the dataset is not chunked, has a filter that is none of ours, or needs a package that is missing.
    """
    where = f"{dataset.file.filename}: {dataset.name[1:]}"
    if dataset.chunks is None:
        raise FormatError(f"{where} is not stored in chunks; expected a dataset with them")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    if not filters:
        return Stored()
    number, _, values, _ = filters[0]
    if len(filters) == 1 and number == h5py.h5z.FILTER_DEFLATE:
        return Gzip()
    if len(filters) == 1 and number == BLOSC2:
        _hdf5plugin(where)
        return Blosc2(values[4])
    found = ", ".join(f"{one[3].decode() or one[0]}" for one in filters)
    raise FormatError(f"{where} has the filters {found}; expected gzip, blosc2 or none")


def load_filters(dataset: h5py.Dataset) -> None:
    """See to it that HDF5 can undo a dataset's compression; importing hdf5plugin registers all filters that it has.

    Raises:
        FormatError: a filter is not installed.
    """
    properties = dataset.id.get_create_plist()
    for number in (properties.get_filter(i)[0] for i in range(properties.get_nfilters())):
        where = f"{dataset.file.filename}: {dataset.name[1:]}, compressed by HDF5's filter {number},"
        if not h5py.h5z.filter_avail(number):
            _hdf5plugin(where)
        if not h5py.h5z.filter_avail(number):
            raise FormatError(
                f"{where} cannot be read: neither HDF5 nor hdf5plugin has that filter; copy the file with h5repack "
                "where it was written"
            )


def _shaped(data: bytes | bytearray, shape: tuple[int, ...], name: str) -> Chunk:
    if len(data) != math.prod(shape):
        raise FormatError(f"a {name} chunk has {len(data)} bytes, expected {math.prod(shape)} of shape {list(shape)}")
    chunk = np.frombuffer(data, np.uint8).reshape(shape)
    chunk.flags.writeable = False
    return chunk


def _memory_file() -> h5py.File:
    """Return an empty HDF5 file in memory, without a cache of chunks: what is written is filtered there and then."""
    name = f"chunk-{threading.get_ident()}"  # HDF5 takes two open files of one name for the same
    return h5py.File(name, "w", driver="core", backing_store=False, rdcc_nbytes=0)


def _hdf5plugin(where: str = "compression blosc2") -> Any:
    try:
        return importlib.import_module("hdf5plugin")
    except ImportError:
        raise FormatError(f"{where} needs the package hdf5plugin: pip install 'celebahq-builder[blosc2]'") from None
