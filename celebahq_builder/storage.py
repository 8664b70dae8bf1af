"""Atomic file writes, hashes, locks, and the folder in which an output is made before it gets its name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
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

RUN_TOKEN = secrets.token_hex(4)
"""Token in the names of this process's partial files; its worker processes use it, too."""

NAME_BYTES = 80
"""Bytes of a file's name that the name of its partial file repeats; file systems allow 255 for the whole name."""


def _host_label() -> str:
    """Return a short label of this machine: equal labels mean that a process id names the same process."""
    name = socket.gethostname()
    namespace = ""
    with contextlib.suppress(OSError):  # Linux only: containers with one host name count their processes separately
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{re.sub('[^0-9A-Za-z]', '_', name)[:24]}_{sha256(f'{name} {namespace}'.encode())[:8]}"


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


HOST = _host_label()


def partial_path(path: Path, token: str = RUN_TOKEN) -> Path:
    """Return the partial file that this process writes before the file gets its name.

    The name is ``.NAME.HOST-PID-TOKEN.partial``. A long NAME is cut and ends with a hash.

    Args:
        path: final path; the partial file is in the same folder.
        token: of the run for which this process works.
    """
    name, encoded = path.name, os.fsencode(path.name)
    if len(encoded) > NAME_BYTES:
        name = encoded[: NAME_BYTES - 17].decode(errors="ignore") + "~" + sha256(encoded)[:16]
    return path.with_name(f".{name}.{HOST}-{os.getpid()}-{token}.partial")


def write_partial(path: Path, data: bytes, token: str = RUN_TOKEN) -> Path:
    """Write the partial file of `path` to the disk and return its path; `publish` renames it.

    Args:
        path: final path; its folder is created.
        data: content of the file.
        token: see `partial_path`.

    Raises:
        DiskFull: no space left; nothing remains of the file.
        WorkspaceError: the file system failed, or the folder was deleted meanwhile.
        OSError: any other reason, such as a name that is too long.
    """
    partial = partial_path(path, token)
    with _removed_on_error(partial, path):
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


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole under its name or not there at all.

    The content is on the disk before the file gets its name.

    Raises:
        DiskFull: no space left; nothing remains of the file.
        WorkspaceError: the file system failed, or the partial file was deleted meanwhile.
        OSError: any other reason, such as a name that is too long.
    """
    partial = partial_path(path)
    with _removed_on_error(partial, path):
        _write(partial, path, data)
        with _no_file_vanishes(path):
            partial.replace(path)


def _write(partial: Path, path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.lstat()  # raises for a name that is too long, before anybody relies on the partial file
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


def may_delete_partial(name: str, token: str = RUN_TOKEN) -> bool:
    """Return whether a name is that of a partial file of this run, or of a process that is certainly dead.

    A process of another host may be alive, and so may one of this host whose id is in use.
    """
    match = re.fullmatch(r"\..+\.(\w+)-(\d+)-([0-9a-f]+)\.partial", name, re.DOTALL)
    if match is None:
        return False
    return match[3] == token or (match[1] == HOST and _is_dead(int(match[2])))


def _is_dead(pid: int) -> bool:
    """Return whether the process that had an id, other than this process, has ended."""
    if pid == os.getpid():
        return True  # the id is in use again: by this process, whose files have another token
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    with contextlib.suppress(OSError):  # Linux only: a zombie still has an id, but it writes nothing any more
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "Z"
    return False


def delete_partial_files(folder: Path, *, recursive: bool = False) -> None:
    """Delete the partial files of this run and of dead processes in a folder; only for the holder of its lock."""
    for parent, folders, names in os.walk(folder):
        if not recursive:
            folders.clear()
        for name in filter(may_delete_partial, names):
            with contextlib.suppress(OSError):  # a file that stays does no harm
                Path(parent, name).unlink()


def delete_folder(folder: Path) -> None:
    """Delete a folder, except for partial files of processes that may be alive and the folders that hold them.

    Such a process may write into the folder while this function works.
    """
    for parent, folders, names in os.walk(folder, topdown=False):
        for name in names:
            if not name.endswith(".partial") or may_delete_partial(name):
                Path(parent, name).unlink(missing_ok=True)
        for link in (Path(parent, name) for name in folders if Path(parent, name).is_symlink()):
            link.unlink()
        with contextlib.suppress(OSError):  # not empty
            Path(parent).rmdir()


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
