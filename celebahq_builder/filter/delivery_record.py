"""The record of the files that this command put into a destination, so that it can remove exactly these.

DESTINATION/
  sub/a.jpg                             an image, under the path that it has in the folder of images
  .celebahq-filter.jsonl                the record: the files that this command put there, a JSON line each
  .celebahq-0123456789abcdef.partial    the copy in progress; removed at the end, or by the next command
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from celebahq_builder.errors import DeliveryError

RECORD_NAME = ".celebahq-filter.jsonl"

RECORD_HEAD = b'{"celebahq filter": "files that it put into this folder", "version": 1}\n'

PARTIAL_NAME = re.compile(r"\.celebahq-[0-9a-f]{16}\.partial")


@dataclass(frozen=True, slots=True)
class DeliveredFile:
    """A file that this command put into a destination, as it was then."""

    path: str
    """Relative to the destination, with forward slashes."""
    size_bytes: int
    content: str
    """``sha256:`` and hexadecimal digits, or ``symlink:`` and the path that a symbolic link holds."""

    @classmethod
    def at(cls, path: str, file: Path) -> DeliveredFile:
        """Describe a regular file or a symbolic link.

        Raises:
            OSError: it cannot be read.
        """
        if file.is_symlink():
            return cls(path, 0, f"symlink:{file.readlink()}")
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return cls(path, os.fstat(opened.fileno()).st_size, f"sha256:{digest}")

    def is_unchanged(self, out: Path) -> bool:
        """Return whether the file is still in the destination with the same contents.

        A file below a symbolic link to a folder is not in the destination: the link may lead to the originals.
        """
        file = out / self.path
        try:
            if file.parent.resolve() != out.resolve() / PurePosixPath(self.path).parent:
                return False
            found = file.lstat()
            if not stat.S_ISLNK(found.st_mode) and (
                not stat.S_ISREG(found.st_mode) or found.st_size != self.size_bytes
            ):
                return False
            return DeliveredFile.at(self.path, file) == self
        except OSError:
            return False


class DeliveryRecord:
    """The files that this command put into a destination.

    Each line is written before its file appears, so a killed command leaves no file that is not in the record.
    Lines are only ever added; a line that a kill cut off names a file that does not exist.
    """

    def __init__(self, out: Path) -> None:
        """Read the record of a destination, which may have none.

        Raises:
            DeliveryError: a file of its name is something else.
        """
        self.out = out
        self.path = out / RECORD_NAME
        self.files: dict[str, DeliveredFile] = {}
        self.partials: set[str] = set()
        self._appended = False
        data = self._read()
        self._has_head = data.startswith(RECORD_HEAD)
        if not self._has_head and not RECORD_HEAD.startswith(data):
            raise DeliveryError(
                f"{self.path} is not a record of celebahq filter; move it away, or choose another `out`"
            )
        for line in data.splitlines()[1:]:
            with contextlib.suppress(KeyError, TypeError, ValueError):  # cut off by a kill
                self._apply(json.loads(line))

    def _read(self) -> bytes:
        try:
            with os.fdopen(
                os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
            ) as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return file.read()
                error = "not a regular file"
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as failure:
            error = failure.strerror or str(failure)
        raise DeliveryError(f"{self.path} cannot be read as a record of celebahq filter: {error}; choose another `out`")

    def _apply(self, line: dict[str, Any]) -> None:
        if "removed" in line:
            self.files.pop(line["removed"], None)
            self.partials.discard(line["removed"])
        elif "partial" in line:
            if PARTIAL_NAME.fullmatch(line["partial"]):
                self.partials.add(line["partial"])
        else:
            file = DeliveredFile(str(line["file"]), int(line["bytes"]), str(line["content"]))
            if _is_plain(file.path):
                self.files[file.path] = file

    def add(self, file: DeliveredFile) -> None:
        """Record a file that is about to appear.

        Raises:
            OSError: the line cannot be written.
        """
        self._append({"file": file.path, "bytes": file.size_bytes, "content": file.content})

    def add_partial(self) -> Path:
        """Record a new name for an unfinished copy, and return its path."""
        name = f".celebahq-{secrets.token_hex(8)}.partial"
        self._append({"partial": name})
        return self.out / name

    def remove(self, name: str) -> None:
        """Record that a file or an unfinished copy is gone."""
        self._append({"removed": name})

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode("ascii") + b"\n"
        if not self._appended:
            data = (b"\n" if self._has_head else RECORD_HEAD) + data  # a blank line ends one that a kill cut off
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.path, flags, 0o666), "wb") as file:
            if not self._has_head:
                file.truncate(0)
            file.write(data)
        self._appended = self._has_head = True
        self._apply(line)


def _is_plain(path: str) -> bool:
    """Return whether a path from a record leads to a place below the destination."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts
