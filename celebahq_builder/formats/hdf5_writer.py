"""The one process that writes a multi-resolution HDF5 file, from chunks that others have packed.

The file is written from its beginning to its end, under a ``.partial`` name: HDF5 keeps the index of its chunks in
memory and rewrites it in place, so the file is whole only once it is closed, and one that is written in one go is the
same byte for byte however often it was begun. What a killed writer leaves is deleted by the next one; `hdf5_resumed`
goes on with it instead, where that is worth its while.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import DiskFull, FormatError
from celebahq_builder.files import as_storage_error
from celebahq_builder.formats.codecs import Codec
from celebahq_builder.formats.hdf5_datasets import LevelDataset, TextDataset, check_text
from celebahq_builder.formats.hdf5_layout import FORMAT_VERSION, PHOTOS
from celebahq_builder.formats.packing import Packed
from celebahq_builder.imaging.pyramid import levels

Columns = Mapping[str, NDArray[Any] | Sequence[str]]
"""What is known of the pictures: arrays or lists of text, of N rows each."""

NAMES = ("attribute_names", "label_names")
"""Columns with a row for each attribute or label instead of each picture."""

UNFINISHED = "pictures.h5"
"""Name of an unfinished file in a folder of its own."""


class PyramidWriter:
    """Writes a file of known length, in order, under a ``.partial`` name; `finish` gives it its own.

    Args:
        path: of the file.
        count: of the pictures.
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
        """Store the pictures that follow.

        Args:
            packed: `pictures_per_job` of them; fewer only at the end.
            columns: text known of each of them, for columns that need not be in memory as a whole.

        Raises:
            FormatError: more pictures than were announced.
            DiskFull: no space left.
        """
        self.done += len(packed.sha256)
        if self.done > self.count:
            raise FormatError(f"{self.path}: {self.count} pictures were announced, {self.done} came")
        with self.storing():
            for level, content in zip(self.levels, packed.levels, strict=True):
                level.add(content)
            for name, texts in {**(columns or {}), "sha256": packed.sha256}.items():
                if name not in self.columns:
                    self.columns[name] = TextDataset(self.file[PHOTOS], name, self.count)
                self.columns[name].add(texts)

    def finish(self, columns: Columns, attributes: Mapping[str, Any]) -> None:
        """Add what is known of the pictures, close the file and give it its name.

        Args:
            columns: for the group ``photos``, beside those written with the pictures.
            attributes: of the file; tables and lists are stored as JSON.

        Raises:
            FormatError: fewer pictures were written than announced, or a column has another number of rows.
            DiskFull: no space left.
        """
        if self.done != self.count:
            raise FormatError(f"{self.path}: {self.count} pictures were announced, {self.done} came")
        for name, values in columns.items():
            if len(values) != self.count and name not in NAMES:
                raise FormatError(f"{self.path}: column {name} has {len(values)} rows, expected {self.count}")
            if not isinstance(values, np.ndarray):
                check_text(name, values)
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
            self.partial.unlink(missing_ok=True)
        self.held.close()


def _held(partial: Path, path: Path) -> BinaryIO:
    """Return the partial file, locked: whoever else wants to write it is told so; a killed writer's lock is gone."""
    partial.parent.mkdir(parents=True, exist_ok=True)
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
