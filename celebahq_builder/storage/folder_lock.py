"""The lock of a folder, which also marks the folder as one of this package.

The file ``.celebahq-lock`` names the kind of folder in its first line, and the process that holds it in its second. The
first line stays. A folder without the file that already holds a name which the command writes is not ours: the command
refuses it and changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.errors import WorkspaceError, WorkspaceLocked
from celebahq_builder.storage.files import as_storage_error

LOCK_NAME = ".celebahq-lock"


MARK = "celebahq "
"""Beginning of the first line of a lock file."""


@dataclass(frozen=True)
class LockedFolder:
    """A folder that this process has locked."""

    path: Path
    """Path of the lock file."""
    descriptor: int

    @property
    def intact(self) -> bool:
        """True if the folder is still the one that was locked."""
        try:
            return os.path.samestat(self.path.lstat(), os.fstat(self.descriptor))
        except OSError:
            return False


@contextlib.contextmanager
def lock(
    root: Path, what: str, argument: str, *, names: Sequence[str] = (), known: bool = False, stays: bool = True
) -> Iterator[LockedFolder]:
    """Lock a folder for this process; the lock ends with the process, however it ends.

    After an error, a folder that is new and still empty is deleted.

    Args:
        root: folder to lock; created if it does not exist.
        what: kind of folder, as the user knows it, such as "run directory".
        argument: name of the argument that gave the folder, for messages.
        names: names that the command writes or deletes in the folder, as patterns of `fnmatch`.
        known: the folder is known to be of this kind even without the lock file, which earlier versions did not write.
        stays: the folder must still exist at the end.

    Raises:
        WorkspaceLocked: another process holds it; the message names it.
        WorkspaceError: the path is a file, cannot be written, holds one of `names` that this package did not write, or
            was deleted meanwhile.
    """
    path = root / LOCK_NAME
    new_folders = [folder for folder in (root, *root.absolute().parents) if not folder.exists()]
    new_lock = not os.path.lexists(path)
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a socket
            raise _foreign(path, argument) from None
        raise WorkspaceError(f"{what} {root} cannot be used: {error.strerror}; choose another `{argument}`") from None
    with contextlib.closing(os.fdopen(descriptor, "r+b", buffering=0)):
        mark = f"{MARK}{what}\n".encode()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _foreign(path, argument)
        content = os.pread(descriptor, 1000, 0)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lines = content.decode(errors="replace").splitlines()
            holder = lines[1] if len(lines) == 2 else "another process"
            raise WorkspaceLocked(f"{root} is in use by {holder}; wait for it, or use another `{argument}`") from None
        content = os.pread(descriptor, 1000, 0)
        if content and not content.startswith(mark):
            if content.startswith(MARK.encode()):
                kind = content.decode(errors="replace").splitlines()[0].removeprefix(MARK)
                raise WorkspaceError(f"{root} is a {kind}, expected a {what}; choose another `{argument}`")
            raise _foreign(path, argument)
        if not content and not known:
            there = sorted(one.name for one in root.iterdir())
            taken = [one for one in there if any(fnmatch.fnmatchcase(one, name) for name in names)]
            if taken:
                if new_lock:
                    path.unlink()
                raise WorkspaceError(
                    f"{root} holds {taken[0]} and is not a {what} of this package: nothing there is replaced; choose "
                    f"another `{argument}`"
                )
        try:
            os.ftruncate(descriptor, len(content[: len(mark)]))
            os.pwrite(descriptor, mark + f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            os.fsync(descriptor)
        except OSError as error:
            if new_lock:
                _delete_empty(path, new_folders)
            raise as_storage_error(error, root) from error
        held = LockedFolder(path, descriptor)
        try:
            yield held
        except BaseException:
            if new_lock and held.intact and [one.name for one in root.iterdir()] == [LOCK_NAME]:
                _delete_empty(path, new_folders)
            raise
        finally:
            os.ftruncate(descriptor, len(mark))
        if stays and not held.intact:
            raise WorkspaceError(
                f"{root} was deleted or replaced while this command worked in it; run the same command again"
            )


def _delete_empty(path: Path, folders: Sequence[Path]) -> None:
    """Delete a lock file, and folders that are empty then; the innermost folder comes first."""
    with contextlib.suppress(OSError):
        path.unlink()
        for folder in folders:
            folder.rmdir()


def _foreign(path: Path, argument: str) -> WorkspaceError:
    return WorkspaceError(f"{path} was not made by this package; move it away, or choose another `{argument}`")
