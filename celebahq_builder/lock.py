"""A folder that one process holds at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from celebahq_builder.errors import WorkspaceError, WorkspaceLocked
from celebahq_builder.files import as_storage_error


@contextlib.contextmanager
def lock(root: Path, what: str, option: str) -> Iterator[None]:
    """Hold a directory for this process; a kill of any kind releases it.

    Args:
        root: made if need be; gets a file named ``lock``.
        what: what the user knows the directory as.
        option: where another one would be given.

    Raises:
        WorkspaceLocked: another process holds it; says which.
        WorkspaceError: the path is a file, or cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise WorkspaceError(f"{what} {root} cannot be used: {error.strerror}; choose another {option}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise WorkspaceLocked(f"{root} is in use by {holder}; wait for it, or use another {option}") from None
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # a folder that was made for this alone goes again
                (root / "lock").unlink()
                root.rmdir()
            with contextlib.suppress(OSError):  # what could not be written is tried once more
                file.close()
            raise as_storage_error(error, root) from error
        try:
            yield
        finally:
            file.truncate(0)
