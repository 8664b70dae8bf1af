"""Writer of the multi-resolution HDF5 file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import DiskFull, FormatError
from celebahq_builder.hdf5 import FORMAT_VERSION, NAME_COLUMNS, PHOTOS, images_per_chunk, images_per_job, level_name
from celebahq_builder.hdf5.codecs import Codec
from celebahq_builder.hdf5.untrusted import trust
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.pyramid import build_pyramid, levels
from celebahq_builder.storage import (
    as_storage_error,
    is_partial_of,
    may_delete_partial,
    partial_path,
    publish_new,
    sha256,
    try_flock,
)

Columns = Mapping[str, NDArray[np.generic] | Sequence[str]]
"""Metadata of the images by name: arrays, or sequences of text, of N rows each."""

TEXT_ROWS = 1024
"""Rows of a text column that are written together."""


# --- Packing: by any number of threads ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """Consecutive images at all levels, largest first, ready to be stored."""

    levels: tuple[list[bytes] | Pixels, ...]
    """Compressed chunks; or pixels uint8 [n, C, r, r] of a level whose chunks hold more than these n images."""
    sha256: list[str]
    """SHA-256 of each image's bytes, [C, R, R]."""


def pack(images: Iterable[Pixels], resolution: int, channels: int, codec: Codec) -> Packed:
    """Build all levels of some images and compress them.

    Args:
        images: uint8 [C, R, R] each: `images_per_job` of them, or fewer, at least one, at the end of a data set.
        resolution: R.
        channels: C.

    Raises:
        FormatError: an image has another shape or type.
    """
    together = list(images)
    shape = (channels, resolution, resolution)
    for image in together:
        check_pixels("an image", image, shape)
    at_once = images_per_job(resolution, channels)
    packed: list[list[bytes] | Pixels] = []
    for level in build_pyramid(together[0][None] if len(together) == 1 else np.stack(together)):
        size = images_per_chunk(level.shape[-1], channels)
        if size > at_once:
            packed.append(level)
        else:
            starts = range(0, len(level), size)
            packed.append([compress_chunk(level[start : start + size], size, codec) for start in starts])
    return Packed(tuple(packed), [sha256(image.tobytes()) for image in together])


def check_pixels(name: str, pixels: Pixels, shape: tuple[int, ...]) -> None:
    """Raise a FormatError if pixels are not uint8 of a shape; `name` is the image's name in the message."""
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise FormatError(f"{name} is {pixels.dtype} of shape {list(pixels.shape)}, expected uint8 of {list(shape)}")


def compress_chunk(images: Pixels, size: int, codec: Codec) -> bytes:
    """Compress at most `size` images, uint8 [n, C, r, r], as one chunk; HDF5 needs it whole, so zeros fill the rest."""
    missing = size - len(images)
    if missing:
        images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
    return codec.compress(images)


# --- Storing: by one thread --------------------------------------------------------------------------------------


class PyramidWriter:
    """Write a file of a known number of images, in order; a context manager.

    The images are written to a partial file, to which `finish` gives its name. Without `finish` nothing remains. The
    partial file of a killed process is deleted by the next writer of the same file.

    Args:
        count: number of images, N.
        resolution: R of the largest level, a power of two.
        channels: 3 for RGB, 1 for grey.
        new: never replace a file of that name, not even one that appears meanwhile.

    Raises:
        FormatError: the codec needs a package that is missing, or another process is writing the same file.
        DiskFull: no space left.
    """

    def __init__(
        self, path: Path, *, count: int, resolution: int, channels: int, codec: Codec, new: bool = False
    ) -> None:
        self.path, self.count, self.new = path, count, new
        self.done = 0
        """Number of images written so far."""
        keywords = codec.keywords
        with self._storing():
            self._partial, self._held = _open_partial(path)
        try:
            with self._storing():
                # `_held` is the lock; HDF5 would refuse to open a file that is locked already.
                self._file = h5py.File(self._partial, "w", libver=("earliest", "v110"), locking=False)
                self._levels = [_Level(self._file, r, count, channels, codec, keywords) for r in levels(resolution)]
                self._photos = self._file.create_group(PHOTOS)
                self._texts: dict[str, _TextColumn] = {}
        except BaseException:
            self._discard()
            raise

    def write(self, packed: Packed, columns: Mapping[str, Sequence[str]] | None = None) -> None:
        """Store the images that follow.

        Args:
            packed: `images_per_job` images; fewer only at the end.
            columns: text columns of these images, which need not be in memory as a whole.

        Raises:
            FormatError: more images than announced, or a text that HDF5 cannot hold.
            DiskFull: no space left.
        """
        self.done += len(packed.sha256)
        if self.done > self.count:
            raise self._wrong_count()
        with self._storing():
            for level, content in zip(self._levels, packed.levels, strict=True):
                level.add(content)
            for name, texts in {**(columns or {}), "sha256": packed.sha256}.items():
                if name not in self._texts:
                    self._texts[name] = _TextColumn(self._photos, name, self.count)
                self._texts[name].add(texts)

    def finish(self, columns: Columns, attributes: Mapping[str, object]) -> None:
        """Add metadata, close the file and give it its name.

        Args:
            columns: further columns of the group ``photos``.
            attributes: attributes of the file; dicts and lists are stored as JSON.

        Raises:
            FormatError: fewer images than announced, a column of another length, a text that HDF5 cannot hold, or the
                name of a new file is taken.
            DiskFull: no space left.
        """
        if self.done != self.count:
            raise self._wrong_count()
        for name, values in columns.items():
            if len(values) != self.count and name not in NAME_COLUMNS:
                raise FormatError(f"{self.path}: column {name} has {len(values)} rows, expected {self.count}")
            if not isinstance(values, np.ndarray):
                _check_text(name, values)
        if not self._partial.exists():
            raise FormatError(f"{self._partial} was deleted while it was written; run the same command again")
        with self._storing():
            for level in self._levels:
                level.flush()
            for column in self._texts.values():
                column.flush()
            for name, values in columns.items():
                text = None if isinstance(values, np.ndarray) else h5py.string_dtype()
                self._photos.create_dataset(name, data=values, dtype=text)
            self._file.attrs["format_version"] = FORMAT_VERSION
            for name, value in attributes.items():
                plain = json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value
                self._file.attrs[name] = plain
            self._file.close()
            with self._partial.open("rb+") as raw:
                os.fsync(raw.fileno())
            if not self._partial_is_ours():
                raise FormatError(f"{self._partial} was replaced while it was written; run the same command again")
            if self.new:
                try:
                    publish_new(self._partial, self.path)
                except FileExistsError:
                    raise FormatError(f"{self.path} exists already; choose another `out`, or delete it first") from None
            else:
                self._partial.replace(self.path)
            trust(self.path)
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def _discard(self) -> None:
        """Close and delete the partial file, unless it has got its name."""
        if self._held.closed:
            return
        with contextlib.suppress(OSError, RuntimeError, AttributeError):  # a full disk fails again, or did at once
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            if self._partial_is_ours():
                self._partial.unlink()
        self._held.close()

    def _partial_is_ours(self) -> bool:
        return os.path.samestat(self._partial.lstat(), os.fstat(self._held.fileno()))

    def _wrong_count(self) -> FormatError:
        return FormatError(f"{self.path}: expected {self.count} images, got {self.done}")

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """Raise errors of the file system, and of HDF5, which hides those in its text, as errors of this package."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            if "No space left" in str(error) or "Disk quota" in str(error):
                raise DiskFull(
                    f"no space left to write {self.path}; free some and run the same command again"
                ) from error
            if isinstance(error, OSError):
                raise as_storage_error(error, self.path) from error
            raise


class _Level:
    """A dataset that is written in whole chunks; images that do not fill one wait in a buffer."""

    def __init__(
        self, file: h5py.File, resolution: int, count: int, channels: int, codec: Codec, keywords: Mapping[str, object]
    ) -> None:
        shape = (channels, resolution, resolution)
        self.size, self.codec = images_per_chunk(resolution, channels), codec
        self.start = self.waiting = 0
        self.buffer = np.empty((self.size, *shape), np.uint8)
        self.dataset = file.create_dataset(
            level_name(resolution),
            shape=(count, *shape),
            maxshape=(None, *shape),
            chunks=(self.size, *shape),
            dtype=np.uint8,
            **keywords,
        )

    def add(self, content: list[bytes] | Pixels) -> None:
        """Store compressed chunks, or images uint8 [n, C, r, r], which are compressed as soon as they fill a chunk."""
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
                self.flush()

    def flush(self) -> None:
        if self.waiting:
            self._store(compress_chunk(self.buffer[: self.waiting], self.size, self.codec))
            self.waiting = 0

    def _store(self, chunk: bytes) -> None:
        self.dataset.id.write_direct_chunk((self.start, 0, 0, 0), chunk)
        self.start += self.size


class _TextColumn:
    """A text column that is written in blocks of rows."""

    def __init__(self, group: h5py.Group, name: str, count: int) -> None:
        self.dataset = group.create_dataset(name, shape=(count,), dtype=h5py.string_dtype())
        self.name, self.start = name, 0
        self.waiting: list[str] = []

    def add(self, texts: Sequence[str]) -> None:
        _check_text(self.name, texts)
        self.waiting += texts
        if len(self.waiting) >= TEXT_ROWS:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.dataset[self.start : self.start + len(self.waiting)] = self.waiting
            self.start += len(self.waiting)
            self.waiting = []


def _check_text(column: str, texts: Sequence[str]) -> None:
    """Raise a FormatError for text that HDF5 cannot hold, such as a file name in a legacy encoding."""
    for text in texts:
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise FormatError(f"{column} {text!r} cannot be stored in HDF5, which takes UTF-8 without NUL; rename it")


def _open_partial(path: Path) -> tuple[Path, BinaryIO]:
    """Make the partial file of `path` and lock it; delete those of dead processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in sorted(path.parent.iterdir()):
        if not is_partial_of(other.name, path.name) or other.is_symlink():
            continue
        with contextlib.suppress(OSError), other.open("rb+") as file:
            if try_flock(file.fileno()) is False:
                raise FormatError(f"{path} is being written by another process; wait for it, or choose another `out`")
            if may_delete_partial(other.name):
                other.unlink()
    partial = partial_path(path)
    if partial.is_symlink():
        raise FormatError(f"{partial} exists and is a link; delete it, or choose another `out`")
    held = partial.open("xb")
    try_flock(held.fileno())
    return partial, held
