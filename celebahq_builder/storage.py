"""Atomic file writes, hashes, locks, and the folder in which an output is made before it gets its name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from celebahq_builder.errors import CelebAHQError, DiskFull, FormatError, WorkspaceError, WorkspaceLocked

RUN_TOKEN = secrets.token_hex(4)
"""Token in the names of this process's partial files; its worker processes use it, too."""

NAME_BYTES = 80
"""Bytes of a file's name that the name of its partial file repeats; file systems allow 255 for the whole name."""

STORAGE_LOST = (errno.EIO, errno.EROFS, errno.ENOTCONN, errno.ESTALE)
"""A disk that fails, one that turned read-only, a network or user-space file system that went away."""

NO_HARD_LINKS = (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)
"""Errors of file systems without hard links, or without one of this file."""


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


def partial_path(path: Path, token: str = RUN_TOKEN, ending: str = "") -> Path:
    """Return the partial file that this process writes before the file gets its name.

    The name is ``.NAME.HOST-PID-TOKEN.partial`` and an ending. A long NAME is cut and ends with a hash.

    Args:
        path: final path; the partial file is in the same folder.
        token: of the run for which this process works.
        ending: of the name, where a program needs a certain one, such as ``.mp4``.
    """
    name, encoded = path.name, os.fsencode(path.name)
    if len(encoded) > NAME_BYTES:
        name = encoded[: NAME_BYTES - 17].decode(errors="ignore") + "~" + sha256(encoded)[:16]
    return path.with_name(f".{name}.{HOST}-{os.getpid()}-{token}.partial{ending}")


@contextlib.contextmanager
def partial_file(path: Path, token: str = RUN_TOKEN, ending: str = "") -> Iterator[Path]:
    """Make an empty partial file, see `partial_path`, and delete it at the end if it still has that name.

    Args:
        path: final path; its folder must exist.
        token: of the run for which this process works.
        ending: of the name.

    Raises:
        WorkspaceError: the folder was deleted meanwhile.
    """
    partial = partial_path(path, token, ending)
    with contextlib.suppress(FileNotFoundError):
        path.lstat()  # raises for a name that is too long, before anybody relies on the partial file
    with _no_file_vanishes(path):
        partial.unlink(missing_ok=True)  # of this process, or of a dead one that had the same id; never through a link
        partial.open("xb").close()
    try:
        yield partial
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


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


def write_atomic(path: Path, data: bytes, *, new: bool = False, parents: bool = True) -> None:
    """Write a file so that it is either whole under its name or not there at all.

    The content is on the disk before the file gets its name.

    Args:
        path: of the file.
        data: its contents.
        new: never replace a file of that name.
        parents: make missing folders.

    Raises:
        FileExistsError: `new`, and there is something of that name.
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


def publish_new(partial: Path, path: Path) -> None:
    """Give a file its name, unless there is something of that name already, which a rename would replace.

    Raises:
        FileExistsError: there is.
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
    """Rename a file where the file system has no hard links: look first, then rename.

    Raises:
        FileExistsError: there is something of that name already.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))
    source.rename(target)


class NewFiles:
    """Files that are made together, all of them or none; a context manager.

    After an error the files that were written here are deleted again, and the folders that were made for them. Nothing
    else is ever deleted or replaced.
    """

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.folders: list[Path] = []
        """Innermost last."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a file, and make the folders that it needs.

        Raises:
            OSError: there is something of that name already, or it cannot be written.
            DiskFull: no space left.
        """
        missing = [folder for folder in path.absolute().parents if not folder.exists()]
        self.folders += reversed(missing)
        self.files.append(path)  # first, so that Ctrl-C cannot come between
        try:
            write_atomic(path, data, new=True)
        except Exception:
            self.files.pop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        missing = [path for path in self.files if not os.path.lexists(path)]
        if error is None and not missing:
            return
        for path in self.files:
            with contextlib.suppress(OSError):
                path.unlink()
        for folder in reversed(self.folders):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if error is None:
            raise WorkspaceError(
                f"{missing[0]} was deleted while this command worked ({len(missing)} of {len(self.files)} files); "
                "nothing is left of the others, run the same command again"
            )


def is_partial_of(name: str, file: str) -> bool:
    """Return whether a name is that of a partial file of a file with a short name, by any process."""
    return re.fullmatch(rf"\.{re.escape(file)}\.\w+-\d+-[0-9a-f]+\.partial", name) is not None


def may_delete_partial(name: str, token: str = RUN_TOKEN) -> bool:
    """Return whether a name is that of a partial file of this run, or of a process that is certainly dead.

    A process of another host may be alive, and so may one of this host whose id is in use.
    """
    match = re.fullmatch(r"\..+\.(\w+)-(\d+)-([0-9a-f]+)\.partial(?:\.\w+)?", name, re.DOTALL)
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


def holds(path: Path, keys: set[str]) -> bool:
    """Return whether a path is a regular file, not a link, that holds a JSON object with these keys."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and keys <= values.keys()


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


def write_json(path: Path, values: Any, *, parents: bool = True) -> None:
    """Write values as an indented JSON file, atomically; see `write_atomic`."""
    write_atomic(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode(), parents=parents)


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


LOCK_NAME = ".celebahq-lock"

MARK = "celebahq "
"""Beginning of the first line."""


@dataclass(frozen=True)
class Held:
    """A folder that this process holds."""

    path: Path
    """Of the lock file."""
    descriptor: int

    @property
    def intact(self) -> bool:
        """Whether the folder is still the one that was locked."""
        try:
            return os.path.samestat(self.path.lstat(), os.fstat(self.descriptor))
        except OSError:
            return False


@contextlib.contextmanager
def lock(
    root: Path, what: str, option: str, *, names: Sequence[str] = (), known: bool = False, stays: bool = True
) -> Iterator[Held]:
    """Hold a directory for this process; a kill of any kind releases it.

    Args:
        root: made if need be; gets the file ``.celebahq-lock``.
        what: the kind of directory, as the user knows it.
        option: the option by which another one is given.
        names: of all files and folders that the command writes or deletes there, as patterns of `fnmatch`.
        known: the directory is known to be of this kind, though it may have no mark: an earlier version made none.
        stays: the directory must still be there at the end.

    Raises:
        WorkspaceLocked: another process holds it; the message names it.
        WorkspaceError: the path is a file, cannot be written, holds one of `names` that this package did not write, or
            was deleted meanwhile.
    """
    path = root / LOCK_NAME
    made, created = not root.exists(), not os.path.lexists(path)
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a socket
            raise _foreign(path, option) from None
        raise WorkspaceError(f"{what} {root} cannot be used: {error.strerror}; choose another {option}") from None
    with contextlib.closing(os.fdopen(descriptor, "r+b", buffering=0)):
        mark = f"{MARK}{what}\n".encode()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _foreign(path, option)
        content = os.pread(descriptor, 1000, 0)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lines = content.decode(errors="replace").splitlines()
            holder = lines[1] if len(lines) == 2 else "another process"
            raise WorkspaceLocked(f"{root} is in use by {holder}; wait for it, or use another {option}") from None
        content = os.pread(descriptor, 1000, 0)
        if content and not content.startswith(mark):
            if content.startswith(MARK.encode()):
                kind = content.decode(errors="replace").splitlines()[0].removeprefix(MARK)
                raise WorkspaceError(f"{root} is a {kind}, expected a {what}; choose another {option}")
            raise _foreign(path, option)
        if not content and not known:
            there = sorted(one.name for one in root.iterdir())
            taken = [one for one in there if any(fnmatch.fnmatchcase(one, name) for name in names)]
            if taken:
                if created:
                    path.unlink()
                raise WorkspaceError(
                    f"{root} holds {taken[0]} and is not a {what} of this package: nothing there is replaced; choose "
                    f"another {option}"
                )
        try:
            os.ftruncate(descriptor, len(content[: len(mark)]))
            os.pwrite(descriptor, mark + f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            os.fsync(descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                if created:
                    path.unlink()
                if made:
                    root.rmdir()
            raise as_storage_error(error, root) from error
        held = Held(path, descriptor)
        try:
            yield held
        finally:
            os.ftruncate(descriptor, len(mark))
        if stays and not held.intact:
            raise WorkspaceError(
                f"{root} was deleted or replaced while this command worked in it; run the same command again"
            )


def _foreign(path: Path, option: str) -> WorkspaceError:
    return WorkspaceError(f"{path} was not made by this package; move it away, or choose another {option}")


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

PLAN = "plan.json"

MADE_BY = "celebahq_builder"

OWN = (PLAN, "data", "done", "checkpoint.json", "new", "left", "gone")
"""All that ``OUT.partial`` may hold besides the lock; nothing else in it is ever deleted."""


@dataclass(frozen=True)
class Staging:
    """Where the parts of a target lie until it is whole."""

    root: Path
    """``OUT.partial``: also holds ``plan.json``, the lock, and notes on what is done."""

    @property
    def data(self) -> Path:
        """What becomes the target."""
        return self.root / "data"

    def check(self, paths: Iterable[Path]) -> None:
        """Raise if a file that was written is not there any more.

        Raises:
            FormatError: names the first one.
        """
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise FormatError(
                f"{missing[0]} was deleted while this command worked ({len(missing)} files in all); leave {self.root} "
                "alone, and run the same command again"
            )


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
    plan = {"made_by": MADE_BY, "target": target.name, **plan}
    _check_ours(root, target)
    with lock(root, "folder", "--out", stays=False) as held:
        _check_plan(stage, plan, target)
        try:
            write_json(root / PLAN, plan, parents=False)
            delete_partial_files(root, recursive=True)
            yield stage
            check_free(target)
            if held.intact:
                stage.data.rename(target)
        except BaseException as error:
            if not held.intact and isinstance(error, (OSError, FormatError)):
                raise _vanished(root, target) from None
            if _can_go_on(error):
                raise
            _discard(root, held, made)
            if isinstance(error, OSError):
                raise _storage_error(error, target) from None
            if isinstance(error, DiskFull):
                raise _disk_full(target) from None
            raise
        if not held.intact:
            raise _vanished(root, target)
        _discard(root, held, [])


@contextlib.contextmanager
def new_files(files: NewFiles | None = None) -> Iterator[NewFiles]:
    """Open files for ``--out`` that are made together, all or none; see `NewFiles`.

    Args:
        files: already made ones, which they belong to; None for new ones.

    Raises:
        FormatError: one is there already, or cannot be written.
    """
    try:
        with files or NewFiles() as together:
            yield together
    except OSError as error:
        if error.filename is None:
            raise
        raise FormatError(
            f"{error.filename2 or error.filename} cannot be written: {error.strerror}; choose another --out"
        ) from None


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


def _check_ours(root: Path, target: Path) -> None:
    """Raise if a folder is there that was not made for this target by this package, or that has links in it.

    Raises:
        FormatError: what to do about it.
    """
    if not os.path.lexists(root):
        return
    ours = root.is_dir() and not root.is_symlink()
    if ours and os.path.lexists(root / PLAN):
        known = holds(root / PLAN, {"made_by", "target"}) and read_json(root / PLAN)
        ours = known and (known["made_by"], known["target"]) == (MADE_BY, target.name)
    elif ours:  # killed before there was a plan
        names = [path.name for path in root.iterdir()]
        ours = [name for name in names if not is_partial_of(name, PLAN)] == [LOCK_NAME]
    if not ours:
        raise FormatError(f"{root} is in the way and was not made by this command; move it, or choose another --out")
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            if (path := Path(folder, name)).is_symlink():
                raise FormatError(f"{path} is a link, and this command makes none; move it, or choose another --out")


def _check_plan(stage: Staging, plan: dict[str, Any], target: Path) -> None:
    path = stage.root / PLAN
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


def _discard(root: Path, held: Held, made: list[Path]) -> None:
    """Delete what this package wrote into a folder, the folder if nothing else is in it, and others made for it."""
    if held.intact:
        delete_partial_files(root)
        for path in (root / name for name in OWN):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)
        others = sorted(path.name for path in root.iterdir() if path.name != LOCK_NAME)
        if others:
            log.warning("warning: %s stays, as %s in it was not made by this command", root, others[0])
        held.path.unlink()
        made = [root, *made]
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _vanished(root: Path, target: Path) -> FormatError:
    return FormatError(
        f"{root} was deleted or replaced while this command wrote {target} in it; leave it alone, and run the same "
        "command again"
    )


def _storage_error(error: OSError, target: Path) -> CelebAHQError:
    known = as_storage_error(error, target)
    if isinstance(known, DiskFull):
        return _disk_full(target)
    if isinstance(known, CelebAHQError):
        return known
    return FormatError(f"{target} cannot be written: {error}; see to it, or choose another --out")


def _disk_full(target: Path) -> DiskFull:
    return DiskFull(f"no space left to write {target}; what there was of it is deleted, free some and run it again")
