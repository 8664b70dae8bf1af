"""LSUN: a category as LMDB, or as a folder of image files."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol
from weakref import WeakValueDictionary

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.image_file import middle_square
from celebahq_builder.image_set import IMAGE_SUFFIXES, NamedImage, Pixels
from celebahq_builder.imaging.image_io import open_rgb, pil_to_array
from celebahq_builder.outcome import Rejection

log = logging.getLogger(__name__)


class Entries(Protocol):
    """What both kinds are to their reader."""

    @property
    def count(self) -> int:
        """How many there are."""

    def read(self, start: int = 0) -> Iterator[tuple[str, bytes]]:
        """Yield name and contents from number `start` on; may be called again meanwhile."""

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that no entry has."""


class DatabaseEntries:
    """The entries of an LMDB, in the order of their keys; memory does not depend on its size.

    It is opened for reading only and without its lock file, so a read-only disk will do; nobody may write to it
    meanwhile. A database that was cut short is refused when opened, because LMDB itself would end the process at the
    first page that is not there.

    Raises:
        FormatError: not an LMDB, damaged, or the package ``lmdb`` is not installed.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self.path, self.remedy = path, remedy
        self.lmdb = _package()
        try:
            self.environment = _Environment.of(path, self.lmdb)
            about = self.environment.opened.info(), self.environment.opened.stat()
        except self.lmdb.Error as error:
            raise FormatError(f"{path} is not a readable LMDB: {error}; {remedy}") from None
        needed = (about[0]["last_pgno"] + 1) * about[1]["psize"]
        size = (path / "data.mdb" if path.is_dir() else path).stat().st_size
        if size < needed:
            raise FormatError(f"{path} is cut short: it needs {needed} bytes and has {size}; {remedy}")
        self.count = int(about[1]["entries"])

    def read(self, start: int = 0) -> Iterator[tuple[str, bytes]]:
        """Yield key and value from number `start` on."""
        try:
            with self.environment.opened.begin() as transaction, transaction.cursor() as cursor:
                keys = cursor.iternext(keys=True, values=False)
                for _ in zip(range(start), keys, strict=False):
                    pass
                for key in keys:
                    yield key.decode("utf-8", "backslashreplace"), cursor.value()
        except self.lmdb.Error as error:
            raise FormatError(f"{self.path} is damaged: {error}; {self.remedy}") from None

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that are no keys."""
        with self.environment.opened.begin() as transaction:
            return [name for name in names if not name or transaction.get(name.encode()) is None]


class _Environment:
    """An open LMDB; a process may open each only once, so all readers of it share this."""

    held: ClassVar[WeakValueDictionary[str, _Environment]] = WeakValueDictionary()

    def __init__(self, path: Path, lmdb: Any) -> None:
        self.opened = lmdb.open(
            str(path), subdir=path.is_dir(), readonly=True, create=False, lock=False, readahead=False
        )

    @classmethod
    def of(cls, path: Path, lmdb: Any) -> _Environment:
        name = os.fspath(path.resolve())
        environment = cls.held.get(name)
        if environment is None:
            environment = cls.held[name] = cls(path, lmdb)
        return environment

    def __del__(self) -> None:
        if hasattr(self, "opened"):
            self.opened.close()


def _package() -> Any:
    try:
        import lmdb
    except ImportError:
        raise FormatError("an LMDB needs a package of its own: pip install 'celebahq-builder[lsun]'") from None
    return lmdb


class FolderEntries:
    """The images below a folder, in the order of their paths' parts; only one folder's names are held at a time.

    Images are files with the usual endings; others are passed over and said to be, hidden ones are passed over.

    Raises:
        FormatError: a folder cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.others: list[str] = []
        self.count = sum(1 for _ in self._names("", self.others))
        if self.others:
            some = ", ".join(self.others[:3]) + (", ..." if len(self.others) > 3 else "")
            log.warning("%s: passed over what is no image by its ending: %d files, %s", path, len(self.others), some)

    def read(self, start: int = 0) -> Iterator[tuple[str, bytes]]:
        """Yield path and contents from number `start` on."""
        for number, name in enumerate(self._names("", [])):
            if number >= start:
                try:
                    yield name, (self.path / name).read_bytes()
                except OSError as error:
                    raise FormatError(f"{self.path / name} cannot be read: {error.strerror}") from None

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that are no files below the folder."""
        return [name for name in names if not name.lower().endswith(IMAGE_SUFFIXES) or not (self.path / name).is_file()]

    def _names(self, prefix: str, others: list[str]) -> Iterator[str]:
        try:
            with os.scandir(self.path / prefix) as found:
                entries = sorted((one.name, one.is_dir()) for one in found if not one.name.startswith("."))
        except OSError as error:
            raise FormatError(f"{self.path / prefix} cannot be read: {error.strerror}") from None
        for name, is_folder in entries:
            if is_folder:
                yield from self._names(f"{prefix}{name}/", others)
            elif name.lower().endswith(IMAGE_SUFFIXES):
                yield prefix + name
            else:
                others.append(prefix + name)


RESOLUTION = 256
"""Of the ProGAN paper's results on LSUN."""

PIXELS_MAX = 100_000_000
"""Images of more pixels are not decoded."""

REMEDY = (
    "LSUN's categories are downloaded with https://github.com/fyu/lsun, and unzipped to bedroom_train_lmdb and such"
)


@dataclass(frozen=True)
class Lsun:
    """Images of one size, in the order of their keys or paths; decoded as they are asked for."""

    entries: Entries
    path: Path
    resolution: int
    count: int
    skip: frozenset[str] = frozenset()
    channels: int = 3
    labels: None = None
    label_names: tuple[str, ...] = ()

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on, named by key, or by path below the folder.

        Raises:
            FormatError: an entry is no image, or there are fewer than when the set was opened.
        """
        if self.skip:
            kept = (entry for entry in self.entries.read() if entry[0] not in self.skip)
            entries = itertools.islice(kept, start, self.count)
        else:
            entries = itertools.islice(self.entries.read(start), max(self.count - start, 0))
        done = min(start, self.count)
        for name, data in entries:
            yield NamedImage(_square(self.path, name, data, self.resolution), name)
            done += 1
        if done < self.count:
            raise FormatError(f"{self.path} had {self.count} images when it was opened, now {done}; begin again")

    def unreadable(self) -> Iterator[tuple[str, str]]:
        """Yield name and fault of every entry that is no image; reads all of them."""
        for name, data in self.entries.read():
            try:
                open_rgb(data, PIXELS_MAX, "this reader")
            except Rejection as rejection:
                yield name, str(rejection)


def read(path: Path, resolution: int = RESOLUTION, *, limit: int | None = None, skip: Collection[str] = ()) -> Lsun:
    """Read a category of LSUN, or any folder of images, as squares of one size, uint8 [3, resolution, resolution].

    Args:
        path: the folder of an LMDB (with ``data.mdb``), such a file, or a folder of images, to any depth.
        resolution: of the result, a power of two.
        limit: so many from the beginning; the presets other than bedroom and dog have 100,000.
        skip: keys, or paths below the folder, to leave out.

    Raises:
        FormatError: there is neither, or the LMDB is damaged, or an entry to be left out is not there.
    """
    if resolution < 1 or resolution & (resolution - 1):
        raise FormatError(f"resolution {resolution} is not a power of two; take {RESOLUTION}, say")
    if not path.exists():
        raise FormatError(f"{path} does not exist; expected an LMDB of LSUN or a folder of images; {REMEDY}")
    is_database = path.is_file() or (path / "data.mdb").is_file()
    entries: Entries = DatabaseEntries(path, REMEDY) if is_database else FolderEntries(path)
    leave_out = frozenset(skip)
    for name in entries.missing(leave_out):
        raise FormatError(f"{path} has no entry {name} to leave out; check the name")
    count = entries.count - len(leave_out)
    if count <= 0:
        raise FormatError(f"{path} has no images; expected an LMDB of LSUN or a folder of images; {REMEDY}")
    return Lsun(entries, path, resolution, count if limit is None else min(count, limit), leave_out)


def _square(path: Path, name: str, data: bytes, resolution: int) -> Pixels:
    """Return the square in the middle of an image at one size."""
    try:
        image = open_rgb(data, PIXELS_MAX, "this reader")[0]
    except Rejection as rejection:
        raise FormatError(f"{path}: entry {name} is no image: {rejection}; mend it, or leave it out (--skip)") from None
    return pil_to_array(middle_square(image, resolution))
