"""Atomic file writes, JSON and CSV files, hashes, and the meaning of write errors."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from celebahq_builder.errors import DiskFull, WorkspaceError
from celebahq_builder.storage.bounded_read import irregular_kind, parse_json, read_text
from celebahq_builder.storage.partial_files import RUN_TOKEN, partial_path

STORAGE_LOST = (errno.EIO, errno.EROFS, errno.ENOTCONN, errno.ESTALE)
"""Errors of a failing disk, a read-only file system, or a network file system that is gone."""

NO_HARD_LINKS = (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)
"""Errors of file systems that do not support hard links, or do not allow one to this file."""


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def read_json(path: Path) -> Any:
    """Read a JSON file of the run directory.

    Raises:
        WorkspaceError: the file is not JSON; this package never leaves such a file.
    """
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise WorkspaceError(
            f"{path} cannot be read: {error}; it was changed by another program; restore it or delete it"
        ) from None


def write_json(path: Path, values: object, *, parents: bool = True) -> None:
    """Write values as an indented JSON file, atomically; see `write_atomic`."""
    write_atomic(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode(), parents=parents)


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    r"""Return rows as a CSV file in UTF-8 from which a reader gets every text back.

    A row with a line end in a cell is quoted as a whole. A text that a spreadsheet would take for a formula gets an
    apostrophe in front. `path_cell` makes such a text a path instead. Bytes of names that are not UTF-8 are escaped.

    Example:
        >>> csv_bytes([["file", "score"], ["a\rb.png", -0.5], ["=1+1", "-1"]])
        b'file,score\n"a\rb.png","-0.5"\n\'=1+1,-1\n'
    """
    text = io.StringIO()
    for row in rows:
        cells = [_cell(value) for value in row]
        # Before Python 3.13, the writer does not quote a carriage return, at which readers end the row.
        quoted = any(isinstance(cell, str) and ("\r" in cell or "\n" in cell) for cell in cells)
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL).writerow(cells)
    return re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", text.getvalue()).encode(
        "utf-8", "backslashreplace"
    )


def path_cell(path: str) -> str:
    """Return a relative path that no spreadsheet takes for a formula: ``./=1.png`` is the same file as ``=1.png``."""
    return f"./{path}" if _is_formula(path) else path


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return f"'{value}" if _is_formula(value) else value


def _is_formula(text: str) -> bool:
    """Return whether a spreadsheet may take a text for a formula; spreadsheets skip white space in front of it."""
    begin = text.lstrip()[:1]
    return (
        begin != ""
        and begin in "=+-@\uff1d\uff0b\uff0d\uff20"
        and not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.I)
    )


def holds(path: Path, keys: set[str]) -> bool:
    """Return whether a path is a regular file, not a link, that holds a JSON object with these keys."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        values = parse_json(read_text(path))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and keys <= values.keys()


def holds_bytes(path: Path, data: bytes) -> bool:
    """Return whether a path is a regular file, not a link, with this content."""
    try:
        status = path.lstat()
        return stat.S_ISREG(status.st_mode) and status.st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def write_atomic(path: Path, data: bytes, *, new: bool = False, parents: bool = True) -> None:
    """Write a file: under its name it is either complete or absent.

    The content is on the disk before the file gets its name.

    Args:
        new: never replace a file of that name.
        parents: create missing folders.

    Raises:
        FileExistsError: `new` is true and the name is taken.
        DiskFull: no space left; nothing remains of the file.
        WorkspaceError: the file system failed, or the partial file was deleted meanwhile.
        OSError: any other reason, such as a name that is too long.
    """
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path) as partial:
            _write(partial, path, data)
            if new:
                publish_new(partial, path)
            else:
                with _no_file_vanishes(path):
                    partial.replace(path)
    except OSError as error:
        raise as_storage_error(error, path) from error


def open_own(path: Path, flags: int = 0, what: str = "a regular file") -> int:
    """Open a file of this package to read and write it, and return its descriptor; create it if it does not exist.

    Args:
        flags: further flags of `os.open`.
        what: kind of file, for the message.

    Raises:
        OSError: it cannot be opened, or is a link, so that its content is not ours; EINVAL if it is no regular file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o666)
    if kind := irregular_kind(os.fstat(descriptor)):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{kind}, not {what}", os.fspath(path))
    return descriptor


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[BinaryIO]:
    """Open a file of lines to read it and to write at its end; errors are those of `open_own`."""
    with os.fdopen(open_own(path, os.O_APPEND), "ab+") as file:
        yield file


def write_partial(path: Path, data: bytes, token: str = RUN_TOKEN) -> Path:
    """Write the partial file of `path` to the disk and return its path; `publish` renames it.

    Args:
        path: final path; its folder is created.
        token: see `partial_path`.

    Raises:
        DiskFull: no space left; nothing remains of the file.
        WorkspaceError: the file system failed, or the folder was deleted meanwhile.
        OSError: any other reason, such as a name that is too long.
    """
    partial = partial_path(path, token)
    with _removed_on_error(partial, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # raises for a name that is too long, before anybody relies on the partial file
        _write(partial, path, data)
    return partial


def publish(partial: Path, path: Path) -> None:
    """Rename a partial file to its final name.

    Raises:
        WorkspaceError: the file system failed, or the partial file was deleted meanwhile.
        OSError: any other reason.
    """
    with _removed_on_error(partial, path), _no_file_vanishes(path):
        partial.replace(path)


def publish_new(partial: Path, path: Path) -> None:
    """Rename a partial file to its final name, unless that name is taken.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        rename_new(partial, path)
    else:
        partial.unlink()


def rename_new(source: Path, target: Path) -> None:
    """Rename a file where the file system has no hard links: check that the name is free, then rename.

    Raises:
        FileExistsError: the name is taken.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))
    source.rename(target)


@contextlib.contextmanager
def partial_file(path: Path, ending: str = "") -> Iterator[Path]:
    """Make an empty partial file, see `partial_path`, and delete it at the end if it still has that name.

    Args:
        path: final path; its folder must exist.
        ending: of the name.

    Raises:
        WorkspaceError: the folder was deleted meanwhile.
    """
    partial = partial_path(path, ending=ending)
    with contextlib.suppress(FileNotFoundError):
        path.lstat()  # raises for a name that is too long, before anybody relies on the partial file
    try:
        with _no_file_vanishes(path):
            partial.unlink(missing_ok=True)  # of this process, or of a dead one that had its id; never through a link
            partial.open("xb").close()
        yield partial
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _write(partial: Path, path: Path, data: bytes) -> None:
    with _no_file_vanishes(path), partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _removed_on_error(partial: Path, path: Path) -> Iterator[None]:
    """Delete the partial file of `path` after any error, and raise a write error as `as_storage_error` returns it."""
    try:
        yield
    except BaseException as error:  # KeyboardInterrupt, too
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise as_storage_error(error, path) from error
        raise


@contextlib.contextmanager
def _no_file_vanishes(path: Path) -> Iterator[None]:
    """Raise a WorkspaceError where a folder or a partial file is missing that this process has made.

    Another process deleted it, so the error says nothing about the file's content.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WorkspaceError(
            f"{path} cannot be written: its folder or its partial file was deleted meanwhile; make sure that no other "
            "process works there, then run the same command again"
        ) from error


def sync_file(path: Path) -> None:
    """Write a file's content, which another program has written, to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, so that renames before this call survive a power failure.

    Raises:
        WorkspaceError: the file system failed, or the folder was deleted meanwhile.
    """
    try:
        with _no_file_vanishes(folder):
            descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):  # not every file system can do this
            raise as_storage_error(error, folder) from error


def as_storage_error(error: OSError, path: Path) -> OSError | WorkspaceError:
    """Return the error to raise for a write error: a full or lost disk becomes an error that ends the command.

    An error of this one file, such as a name that is too long, is returned unchanged.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left to write {path}; free some and run the same command again")
    if error.errno in STORAGE_LOST:
        return WorkspaceError(
            f"{path} cannot be written: {error.strerror}; check the disk or the mount, then run the same command again"
        )
    return error
