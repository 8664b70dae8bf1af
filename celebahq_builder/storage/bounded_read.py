"""Reading of files of users with a bound on their size.

A named pipe, a device and a file that is too large are refused before anything of them is read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from celebahq_builder.limits import MAX_IMAGE_FILE_BYTES, MAX_JSON_BYTES, MAX_TEXT_BYTES

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
"""Names of what a path may be instead of a regular file."""


def irregular_kind(status: os.stat_result) -> str | None:
    """Return the kind of a path that is no regular file, such as "a named pipe", or None for a regular file."""
    return None if stat.S_ISREG(status.st_mode) else KINDS.get(stat.S_IFMT(status.st_mode), "a special file")


@contextlib.contextmanager
def open_file(path: Path, max_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Args:
        path: path of the file; a symbolic link is followed.
        max_bytes: largest size in bytes; None allows any size.

    Raises:
        OSError: see `read_file`.
    """
    # Without O_NONBLOCK, opening a named pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if kind := irregular_kind(status):
            raise OSError(errno.EINVAL, f"{kind}, not a regular file", str(path))
        if max_bytes is not None and status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes; at most {max_bytes} are read", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def read_file(path: Path, max_bytes: int = MAX_IMAGE_FILE_BYTES) -> bytes:
    """Return the content of a regular file.

    Args:
        path: path of the file; a symbolic link is followed.
        max_bytes: largest size in bytes.

    Raises:
        OSError: the file cannot be opened or read, is not a regular file, or is larger than `max_bytes`. The attribute
            `strerror` says so in a few words.

    Examples:
        >>> read_file(Path("/dev/zero"))
        Traceback (most recent call last):
        OSError: [Errno 22] a device, not a regular file: '/dev/zero'
    """
    with open_file(path, max_bytes) as stream:
        data = stream.read(max_bytes + 1)  # the file may grow meanwhile, and files of /proc announce no size
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"more than {max_bytes} bytes", str(path))
    return data


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the content of a UTF-8 text file, without a byte order mark.

    Raises:
        OSError: see `read_file`.
        UnicodeDecodeError: the file is not UTF-8; this is a ValueError.
    """
    return read_file(path, max_bytes).decode("utf-8-sig")


def parse_json(text: str | bytes) -> object:
    """Return the value of a JSON document; bytes are UTF-8.

    Raises:
        ValueError: the document is longer than `MAX_JSON_BYTES`, nested too deeply, or not JSON.

    Examples:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: nested too deeply
    """
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"a document of {len(text)} bytes; at most {MAX_JSON_BYTES} are read")
    try:
        value: object = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value
