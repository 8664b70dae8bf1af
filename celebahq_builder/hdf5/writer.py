"""Writer of the multi-resolution HDF5 file: workers compress chunks, one process stores them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import DiskFull, FormatError
from celebahq_builder.hdf5.codecs import Chunk, Codec
from celebahq_builder.hdf5.layout import FORMAT_VERSION, PHOTOS, images_per_chunk, images_per_job, level_name
from celebahq_builder.imaging.pyramid import Pixels, build_pyramid, levels
from celebahq_builder.storage import as_storage_error, sha256


@dataclass(frozen=True)
class Packed:
    """Some images in all levels, largest first, ready to be stored."""

    levels: tuple[list[bytes] | Pixels, ...]
    """Compressed chunks; or pixels uint8 [n, C, r, r] where more images share a chunk than were packed together."""
    sha256: list[str]
    """Of each image's bytes, [C, R, R]."""


def pack(images: Iterable[Pixels], resolution: int, channels: int, codec: Codec) -> Packed:
    """Build the levels of some images and compress them.

    Args:
        images: uint8 [C, R, R] each; `images_per_job` of them, or fewer, but one, at the end of a data set.
        resolution: R.
        channels: C.
        codec: of all levels.

    Raises:
        FormatError: an image of another shape or type.
    """
    together = list(images)
    for image in together:
        if image.shape != (channels, resolution, resolution) or image.dtype != np.uint8:
            raise FormatError(
                f"an image is {image.dtype} of shape {list(image.shape)}, expected uint8 of "
                f"{[channels, resolution, resolution]}"
            )
    at_once = images_per_job(resolution, channels)
    packed: list[list[bytes] | Pixels] = []
    stack = together[0][None] if len(together) == 1 else np.stack(together)
    for level in build_pyramid(stack):
        size = images_per_chunk(level.shape[-1], channels)
        if size > at_once:
            packed.append(level)
        else:
            starts = range(0, len(level), size)
            packed.append([compress_chunk(level[start : start + size], size, codec) for start in starts])
    return Packed(tuple(packed), [sha256(image.tobytes()) for image in together])


def compress_chunk(images: Chunk, size: int, codec: Codec) -> bytes:
    """Compress at most `size` images as one chunk; HDF5 wants it whole, so a last one is filled up with zeros."""
    missing = size - len(images)
    if missing:
        images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
    return codec.compress(images)


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
        resolution: r of its images.
        channels: C.
        codec: of its chunks.
    """

    def __init__(self, resolution: int, channels: int, codec: Codec) -> None:
        self.resolution, self.codec = resolution, codec
        self.shape = (channels, resolution, resolution)
        self.size = images_per_chunk(resolution, channels)
        self.start = self.waiting = 0
        self.buffer = np.empty((self.size, *self.shape), np.uint8)

    def create(self, file: h5py.File, count: int, keywords: Mapping[str, Any]) -> None:
        """Make the dataset, for `count` images; `keywords` are the codec's."""
        self.dataset = file.create_dataset(
            level_name(self.resolution),
            shape=(count, *self.shape),
            maxshape=(None, *self.shape),
            chunks=(self.size, *self.shape),
            dtype=np.uint8,
            **keywords,
        )

    def add(self, content: list[bytes] | NDArray[np.uint8]) -> None:
        """Store compressed chunks, or images uint8 [n, C, r, r], which are compressed as soon as they fill one."""
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
    """A column of `count` texts that come with the images."""

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


Columns = Mapping[str, NDArray[Any] | Sequence[str]]
"""What is known of the images: arrays or lists of text, of N rows each."""

NAME_COLUMNS = ("attribute_names", "label_names")
"""Columns with a row for each attribute or label instead of each image."""

UNFINISHED = "images.h5"
"""Name of an unfinished file in a folder of its own."""


class PyramidWriter:
    """Writes a file of known length, in order, under a ``.partial`` name; `finish` gives it its own.

    Args:
        path: of the file.
        count: of the images.
        resolution: of the largest level.
        channels: 3, or 1 for grey.
        codec: of all levels.
        within: folder for the unfinished file, which stays there if it is never finished; default beside `path`, and
            then it is deleted.

    Raises:
        FormatError: the codec needs a package that is missing, or another process is writing the same file.
        DiskFull: no space left.
    """

    def __init__(
        self, path: Path, *, count: int, resolution: int, channels: int, codec: Codec, within: Path | None = None
    ) -> None:
        self.path, self.count, self.codec = path, count, codec
        self.stays = within is not None
        self.partial = path.with_name(path.name + ".partial") if within is None else within / UNFINISHED
        self.levels = [LevelDataset(r, channels, codec) for r in levels(resolution)]
        self.columns: dict[str, TextDataset] = {}
        self.done = 0
        keywords = codec.keywords
        with self.storing():
            self.held = _held(self.partial, path)
        try:
            with self.storing():
                # The lock is ours: HDF5's own would meet it and give up.
                self.file = h5py.File(self.partial, "w", libver=("earliest", "v110"), locking=False)
                for level in self.levels:
                    level.create(self.file, count, keywords)
                self.file.create_group(PHOTOS)
        except BaseException:
            self._discard()
            raise

    def write(self, packed: Packed, columns: Mapping[str, Sequence[str]] | None = None) -> None:
        """Store the images that follow.

        Args:
            packed: `images_per_job` of them; fewer only at the end.
            columns: text known of each of them, for columns that need not be in memory as a whole.

        Raises:
            FormatError: more images than were announced.
            DiskFull: no space left.
        """
        self.done += len(packed.sha256)
        if self.done > self.count:
            raise FormatError(f"{self.path}: {self.count} images were announced, {self.done} came")
        with self.storing():
            for level, content in zip(self.levels, packed.levels, strict=True):
                level.add(content)
            for name, texts in {**(columns or {}), "sha256": packed.sha256}.items():
                if name not in self.columns:
                    self.columns[name] = TextDataset(self.file[PHOTOS], name, self.count)
                self.columns[name].add(texts)

    def finish(self, columns: Columns, attributes: Mapping[str, Any]) -> None:
        """Add what is known of the images, close the file and give it its name.

        Args:
            columns: for the group ``photos``, beside those written with the images.
            attributes: of the file; tables and lists are stored as JSON.

        Raises:
            FormatError: fewer images were written than announced, or a column has another number of rows.
            DiskFull: no space left.
        """
        if self.done != self.count:
            raise FormatError(f"{self.path}: {self.count} images were announced, {self.done} came")
        for name, values in columns.items():
            if len(values) != self.count and name not in NAME_COLUMNS:
                raise FormatError(f"{self.path}: column {name} has {len(values)} rows, expected {self.count}")
            if not isinstance(values, np.ndarray):
                check_text(name, values)
        if not self.partial.exists():
            raise FormatError(f"{self.partial} was deleted while it was written; run the same command again")
        with self.storing():
            for level in self.levels:
                level.close()
            for column in self.columns.values():
                column.close()
            for name, values in columns.items():
                text = None if isinstance(values, np.ndarray) else h5py.string_dtype()
                self.file[PHOTOS].create_dataset(name, data=values, dtype=text)
            self.file.attrs["format_version"] = FORMAT_VERSION
            for name, value in attributes.items():
                self.file.attrs[name] = json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value
            self.file.close()
            with self.partial.open("rb+") as raw:
                os.fsync(raw.fileno())
            if not os.path.samestat(self.partial.lstat(), os.fstat(self.held.fileno())):
                raise FormatError(f"{self.partial} was replaced while it was written; run the same command again")
            self.partial.replace(self.path)
            self.held.close()

    @contextlib.contextmanager
    def storing(self) -> Iterator[None]:
        """Make known errors of what is done meanwhile.

        Raises:
            DiskFull: no space left.
        """
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise _disk_error(error, self.path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def _discard(self) -> None:
        """Close the file and delete it, unless it has got its name or stays for a later command."""
        if self.held.closed:
            return
        with contextlib.suppress(OSError, RuntimeError, AttributeError):  # a full disk fails again, or did at once
            self.file.close()
        if not self.stays:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(self.partial.lstat(), os.fstat(self.held.fileno())):
                    self.partial.unlink()
        self.held.close()


def _held(partial: Path, path: Path) -> BinaryIO:
    """Return the partial file, locked: whoever else wants to write it is told so; a killed writer's lock is gone."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    if partial.is_symlink():
        raise FormatError(f"{partial} is a link, which is not written through; move it, or give another name")
    file = partial.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if partial.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise FileNotFoundError
    except (BlockingIOError, FileNotFoundError):  # or it got its name a moment ago
        file.close()
        raise FormatError(f"{path} is being written by another process; wait for it, or give another name") from None
    return file


def _disk_error(error: OSError | RuntimeError, path: Path) -> Exception:
    """HDF5 hides the operating system's error in its text."""
    if "No space left" in str(error) or "Disk quota" in str(error):
        return DiskFull(f"no space left to write {path}; free some and run the same command again")
    return as_storage_error(error, path) if isinstance(error, OSError) else error
