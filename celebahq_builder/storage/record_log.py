"""A log with one record per file, from which a killed command resumes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.limits import MAX_JSON_BYTES
from celebahq_builder.storage.bounded_read import parse_json, read_file
from celebahq_builder.storage.files import as_storage_error, open_own, sha256, write_atomic
from celebahq_builder.storage.folder_lock import try_flock
from celebahq_builder.storage.partial_files import delete_partial_of

_LINE_ERRORS = (ValueError, LookupError, TypeError)
"""Exceptions of a line that is no record."""

Record = Mapping[str, Any]
"""A record as a JSON table."""


class RecordLog:
    """Records of files, one JSON line each, appended as they are made.

    The first line holds the kind of the log and the rules by which records are made. A log of other rules starts anew.
    A line that a kill cut off is ignored. A record holds as long as size and modification time of its file.

    Args:
        path: of the log; its folder must exist.
        kind: name of the command that writes it.
        rules: everything that a record depends on, except the file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.jpg").write_bytes(b"...")
        >>> with RecordLog(folder / "log.jsonl", "count", {"version": 1}) as log:
        ...     log.add("a.jpg", (folder / "a.jpg").stat(), {"bytes": 3})
        >>> with RecordLog(folder / "log.jsonl", "count", {"version": 1}) as log:
        ...     log.is_valid("a.jpg", (folder / "a.jpg").stat()), log.latest("a.jpg")
        (True, {'bytes': 3})
    """

    def __init__(self, path: Path, kind: str, rules: Mapping[str, Any]) -> None:
        self.path = path
        self._header = {"kind": kind, "rules": dict(rules)}
        self._places: dict[str, tuple[int, int, int]] = {}
        self._written: set[tuple[str, str]] = set()
        self._file: BinaryIO

    def __enter__(self) -> Self:
        """Lock and read the log; make it if it does not exist.

        Raises:
            WorkspaceError: another process writes it, it is something else, or it cannot be used.
        """
        try:
            self._file = os.fdopen(open_own(self.path, what="a log"), "rb+")
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise WorkspaceError(f"{self.path} is {error.strerror}; move it, or choose another name") from None
            raise as_storage_error(error, self.path) from error
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str, status: os.stat_result, record: Record) -> None:
        """Append the record of a file, whose status was taken before it was read.

        Raises:
            DiskFull: no space left.
            WorkspaceError: the disk failed.
        """
        line = {"file": name, "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "record": record}
        self._places[name] = (self._append(line), status.st_size, status.st_mtime_ns)

    def is_valid(self, name: str, status: os.stat_result) -> bool:
        """Return whether the log has a record of a file that is unchanged since."""
        return self._places.get(name, (0, -1, -1))[1:] == (status.st_size, status.st_mtime_ns)

    def latest(self, name: str) -> Record:
        """Return the latest record of a file.

        Raises:
            KeyError: the log has none.
        """
        self._file.seek(self._places[name][0])
        record: Record = json.loads(self._file.readline(MAX_JSON_BYTES))["record"]
        return record

    def write(self, path: Path, data: bytes) -> None:
        """Write a result made from the log; a file that this method did not write, or that was changed, is kept.

        Partial files of the result that dead processes have left are deleted.

        Raises:
            WorkspaceError: such a file has the name.
            DiskFull: no space left.
        """
        if not (path.is_file() and read_file(path) == data):
            self.check(path)
        written = path.name, sha256(data)
        if written not in self._written:
            self._append({"written": written})
            self._written.add(written)
        delete_partial_of(path)
        write_atomic(path, data)

    def check(self, path: Path) -> None:
        """Raise the WorkspaceError of `write` for a file that it would keep."""
        if path.exists() and not (path.is_file() and (path.name, sha256(read_file(path))) in self._written):
            raise WorkspaceError(
                f"{path} exists, and was not written by {self._header['kind']} or was changed since; move it, or "
                "choose another `out`"
            )

    def _append(self, line: Mapping[str, object]) -> int:
        """Write a line at the end and return its position."""
        try:
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(_encode(line))
            self._file.flush()
        except OSError as error:
            raise as_storage_error(error, self.path) from error
        return start

    def _begin(self) -> None:
        if try_flock(self._file.fileno()) is False:
            raise WorkspaceError(f"{self.path} is being written by another process; wait for it")
        header = _encode(self._header)
        first = self._file.readline(MAX_JSON_BYTES)
        if not header.startswith(first) and not self._is_own(first):
            raise WorkspaceError(
                f"{self.path} exists and is not a log of {self._header['kind']}; move it, or choose another name"
            )
        for start, line in self._lines():
            with contextlib.suppress(*_LINE_ERRORS):  # cut off by a kill
                table: Any = parse_json(line)
                if "written" in table:
                    self._written.add((str(table["written"][0]), str(table["written"][1])))
                elif first == header and isinstance(table["record"], dict):
                    self._places[table["file"]] = (start, table["size_bytes"], table["mtime_ns"])
        if first != header:
            self._file.seek(0)
            self._file.truncate()
            self._file.writelines((header, *(_encode({"written": one}) for one in sorted(self._written))))
            self._file.flush()

    def _is_own(self, first: bytes) -> bool:
        try:
            header: Any = parse_json(first)
            return bool(header["kind"] == self._header["kind"])
        except _LINE_ERRORS:
            return False

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield position and content of each line after the first; end a line that a kill cut off."""
        start = self._file.tell()
        while line := self._file.readline(MAX_JSON_BYTES):
            yield start, line
            start += len(line)
            if not line.endswith(b"\n"):
                self._file.seek(0, os.SEEK_END)
                self._file.write(b"\n")
                self._file.flush()
                return


def _encode(line: Mapping[str, object]) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"
