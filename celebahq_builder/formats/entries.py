"""Files under names in a fixed order: those of an LMDB by key, those below a folder by path."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol
from weakref import WeakValueDictionary

from celebahq_builder.errors import FormatError
from celebahq_builder.source.listing import IMAGE_SUFFIXES

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
    """The pictures below a folder, in the order of their paths' parts; only one folder's names are held at a time.

    Pictures are files with the usual endings; others are passed over and said to be, hidden ones are passed over.

    Raises:
        FormatError: a folder cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.others: list[str] = []
        self.count = sum(1 for _ in self._names("", self.others))
        if self.others:
            some = ", ".join(self.others[:3]) + (", ..." if len(self.others) > 3 else "")
            log.warning("%s: passed over what is no picture by its ending: %d files, %s", path, len(self.others), some)

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
