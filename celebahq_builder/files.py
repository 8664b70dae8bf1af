"""Files that are whole or not there at all, and what an error in writing one means."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from celebahq_builder.errors import DiskFull, WorkspaceError

STORAGE_LOST = (errno.EIO, errno.EROFS, errno.ENOTCONN, errno.ESTALE)
"""A disk that fails, one that turned read-only, a network or user-space file system that went away."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole under its name or not there at all.

    Raises:
        DiskFull: no space left; nothing remains of the file.
        WorkspaceError: the file system failed or is gone; the next file would fare no better.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:  # Ctrl-C among them
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise as_storage_error(error, path) from error
        raise


def as_storage_error(error: OSError, path: Path) -> OSError | WorkspaceError:
    """Return what an error in writing a file means for every file to come: a full disk, or one that is lost.

    An error that is about this one file, such as a name too long, is returned as it is.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left to write {path}; free some and run the same command again")
    if error.errno in STORAGE_LOST:
        return WorkspaceError(
            f"{path} cannot be written: {error.strerror}; see to the disk or the mount, then run the same command again"
        )
    return error


def write_json(path: Path, values: Any) -> None:
    """Write values as an indented JSON file, atomically."""
    write_atomic(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of the run directory.

    Raises:
        WorkspaceError: it is not JSON; this package never leaves such a file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkspaceError(
            f"{path} cannot be read: {error}; it was altered from outside, restore or delete it"
        ) from None


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
