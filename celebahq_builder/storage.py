"""Atomic file writes, hashes, locks, and the folder in which an output is made before it gets its name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder.errors import CelebAHQError, DiskFull, FormatError, WorkspaceError, WorkspaceLocked

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


def source_fingerprint(path: Path) -> str:
    """Return a hash of the sizes and times of a file, or of all files of a folder, and of their names in it."""
    if not path.is_dir():
        return _hash([_line("", path.stat())])
    lines = []
    for root, _, files in os.walk(path):
        for name in files:
            file = Path(root) / name
            if file.exists():  # a link to nowhere is none
                lines.append(_line(file.relative_to(path).as_posix(), file.stat()))
    return _hash(sorted(lines))


def _line(name: str, known: os.stat_result) -> str:
    return f"{name}\0{known.st_size}\0{known.st_mtime_ns}\n"


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Staging:
    """Where the parts of a target lie until it is whole."""

    root: Path
    """``OUT.partial``: also holds ``plan.json``, ``lock``, and notes on what is done."""

    @property
    def data(self) -> Path:
        """What becomes the target."""
        return self.root / "data"


@contextlib.contextmanager
def staging(target: Path, plan: dict[str, Any]) -> Iterator[Staging]:
    """Make `target` under another name, and give it its own at the end.

    A kill leaves ``OUT.partial``; the same command then finds there what it had done. So does Ctrl-C, and the loss of
    a worker process. After any other error nothing is left.

    Args:
        target: file or folder; must not exist.
        plan: all that decides the target's bytes.

    Raises:
        FormatError: the target exists, cannot be written, or an unfinished one of another plan is in its place.
        DiskFull: no space left.
        WorkspaceLocked: another process makes it.
    """
    check_free(target)
    made = [folder for folder in target.absolute().parents if not folder.exists()]
    root = target.with_name(target.name + ".partial")
    stage = Staging(root)
    if root.exists() and not (root / "lock").is_file():
        raise FormatError(f"{root} is in the way and was not made by this command; move it, or choose another --out")
    with lock(root, "folder", "--out"):
        _check_plan(stage, plan, target)
        try:
            write_json(root / "plan.json", plan)
            for left in root.rglob("*.partial"):
                if left.is_file():
                    left.unlink()  # half-written, by a killed run
            yield stage
            check_free(target)
            stage.data.rename(target)
        except BaseException as error:
            if _can_go_on(error):
                raise
            _discard(root, made)
            if isinstance(error, OSError):
                raise _storage_error(error, target) from None
            if isinstance(error, DiskFull):
                raise _disk_full(target) from None
            raise
        shutil.rmtree(root)


def check_free(target: Path, option: str = "--out") -> None:
    """Raise if there is something where a target shall be; the message names the option that it was given by.

    Raises:
        FormatError: what to do about it.
    """
    if os.path.lexists(target):
        raise FormatError(f"{target} exists and is not overwritten; delete it, or choose another {option}")


def check_writable(target: Path, option: str = "--out") -> None:
    """Raise if no file can be made where a target shall be: better before the work than after it.

    Raises:
        FormatError: what to do about it.
    """
    folder = next(one for one in target.absolute().parents if one.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FormatError(f"{target} cannot be written ({folder}: {error.strerror}); choose another {option}") from None


def _check_plan(stage: Staging, plan: dict[str, Any], target: Path) -> None:
    path = stage.root / "plan.json"
    if not path.exists():
        return
    old = read_json(path)
    different = next((key for key in plan if old.get(key) != plan[key]), None)
    if different is not None:
        raise FormatError(
            f"{stage.root} holds an unfinished {target.name} with {different} = {old.get(different)}, this one has "
            f"{plan[different]}; delete {stage.root}, or choose another --out"
        )
    log.info("%s: an earlier command was stopped before its end; this one goes on from there", stage.root)


def _can_go_on(error: BaseException) -> bool:
    """Whether what is done is sound and worth keeping: stopped by the user, or a worker was."""
    if isinstance(error, WorkspaceError):
        return not isinstance(error, DiskFull)
    return isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))


def _discard(root: Path, made: list[Path]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _storage_error(error: OSError, target: Path) -> CelebAHQError:
    known = as_storage_error(error, target)
    if isinstance(known, DiskFull):
        return _disk_full(target)
    if isinstance(known, CelebAHQError):
        return known
    return FormatError(f"{target} cannot be written: {error}; see to it, or choose another --out")


def _disk_full(target: Path) -> DiskFull:
    return DiskFull(f"no space left to write {target}; what there was of it is deleted, free some and run it again")
