"""The lock of a folder, which also marks the folder as one of this package.

The file ``.celebahq-lock`` names the kind of folder in its first line, and the process that holds it in its second. The
first line stays. A folder without the file that already holds a name which the command writes is not ours: the command
refuses it and changes nothing.

On a network file system, `flock` may be missing, or may hold for the processes of one machine only. Two rules decide:

- On one machine, `flock` decides. It ends with its process, however the process ends.
- Between machines, the holder's line decides. The holder touches the file every `BEAT_S`, and counts as alive for
  `STALE_S` after that, by the clock of the file server. A process that replaces a line first creates a claim,
  ``.celebahq-lock.ID``: the name depends on the line, and the file can be created only once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from celebahq_builder.errors import WorkspaceError, WorkspaceLocked
from celebahq_builder.storage.files import as_storage_error, open_own, partial_file
from celebahq_builder.storage.partial_files import HOST, is_dead_process, is_partial_of

log = logging.getLogger(__name__)

LOCK_NAME = ".celebahq-lock"

MARK = "celebahq "
"""Beginning of the first line of a lock file."""

BEAT_S = 15.0
"""Interval at which a holder touches its lock file."""

STALE_S = 120.0
"""A holder on another machine that has not touched its file for this time counts as dead."""

RETRY_S = 0.2
"""Pause before a lock is tried again."""

SETTLE_S = 10.0
"""A process that has taken the `flock` must write its line within this time."""

HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""Errors of `flock` for a lock that another process holds; any other error means that the file system has no such
lock."""


def _machine_label() -> str:
    """Return a label of the running kernel, which is the same in all containers of a machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()  # Linux only
    except OSError:
        boot = socket.gethostname().encode()
    return hashlib.sha256(boot).hexdigest()[:8]


MACHINE = _machine_label()


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names."""

    name: str
    """Process id and host, as messages show them."""
    role: str = ""
    """Part of the work that the process does, such as ``shard 3/16``; empty for the whole."""
    machine: str = ""
    """See `MACHINE`; empty for a holder that gives no signs of life: an earlier version wrote the line."""
    host: str = ""
    """See `partial_files.HOST`."""
    token: str = ""

    @classmethod
    def of_this_process(cls, role: str) -> Holder:
        """Return a new holder; no two are equal."""
        name = f"process {os.getpid()} on {socket.gethostname()}"
        return cls(name, role, MACHINE, HOST, secrets.token_hex(8))

    @classmethod
    def parse(cls, line: bytes) -> Holder | None:
        """Return the holder of a line, or None for an empty line."""
        text, *more = line.decode(errors="replace").removesuffix("\n").split("\t")
        return (cls(text, *more) if len(more) == 4 else cls(text)) if text else None

    def line(self) -> bytes:
        """Return the line of the lock file."""
        return "\t".join((self.name, self.role, self.machine, self.host, self.token)).encode() + b"\n"

    def __str__(self) -> str:
        return f"{self.name} ({self.role})" if self.role else self.name

    def has_ended(self) -> bool:
        """Return whether the process is one of this host that has certainly ended."""
        found = re.match(r"process (\d+) ", self.name)
        return bool(found and self.host == HOST and int(found[1]) != os.getpid() and is_dead_process(int(found[1])))


@dataclass(frozen=True)
class LockedFolder:
    """A folder that this process has locked."""

    path: Path
    """Path of the lock file."""
    descriptor: int
    holder: Holder

    @property
    def intact(self) -> bool:
        """True if the folder is still the one that was locked, and no other process has taken it over."""
        try:
            is_same = os.path.samestat(self.path.lstat(), os.fstat(self.descriptor))
            return is_same and _holder_line(self.descriptor) == self.holder.line()
        except OSError:
            return False

    def check(self) -> None:
        """Raise a WorkspaceError unless the lock is `intact`."""
        if not self.intact:
            raise WorkspaceError(
                f"{self.path.parent} was deleted or replaced while this command worked in it, or another process has "
                "taken it over; run the same command again"
            )


@contextlib.contextmanager
def lock(
    root: Path,
    what: str,
    argument: str,
    *,
    names: Sequence[str] = (),
    known: bool = False,
    stays: bool = True,
    role: str = "",
    wait: Callable[[Holder], bool] | None = None,
) -> Iterator[LockedFolder]:
    """Lock a folder for this process; the lock ends with the process, however it ends.

    Where the process was killed on another machine, the lock ends `STALE_S` after the last sign of life. This function
    waits for that time. After an error, a folder that is new and still empty is deleted.

    Args:
        root: folder to lock; created if it does not exist.
        what: kind of folder, as the user knows it, such as "run directory".
        argument: name of the argument that gave the folder, for messages.
        names: names that the command writes or deletes in the folder, as patterns of `fnmatch`.
        known: the folder is known to be of this kind even without the lock file, which earlier versions did not write.
        stays: the folder must still exist at the end.
        role: part of the work that this process does, for messages and for `wait` in other processes.
        wait: returns whether to wait for a holder that is alive; None waits for none.

    Raises:
        WorkspaceLocked: another process holds it; the message names it.
        WorkspaceError: the path is a file, cannot be written, holds one of `names` that this package did not write, or
            was deleted or taken over meanwhile.
    """
    path = root / LOCK_NAME
    new_folders = [folder for folder in (root, *root.absolute().parents) if not folder.exists()]
    new_lock = not os.path.lexists(path)
    with contextlib.closing(_open_lock_file(path, what, argument)) as file:
        descriptor, mark = file.fileno(), f"{MARK}{what}\n".encode()
        attempt = _Attempt(path, argument, Holder.of_this_process(role), wait or (lambda _: False))
        attempt.flock(descriptor)
        content = os.pread(descriptor, 1000, 0)
        _check_mark(path, content, what, argument)
        there = () if content or known else sorted(one.name for one in root.iterdir())
        taken = next((one for one in there if any(fnmatch.fnmatchcase(one, name) for name in names)), None)
        if taken is not None:
            if new_lock:
                path.unlink()
            raise WorkspaceError(
                f"{root} holds {taken} and is not a {what} of this package: nothing there is replaced; choose another "
                f"`{argument}`"
            )
        held = LockedFolder(path, descriptor, attempt.holder)
        try:
            attempt.claim()
            os.ftruncate(descriptor, len(content[: len(mark)]))
            os.pwrite(descriptor, mark + held.holder.line(), 0)
            os.fsync(descriptor)
            attempt.delete_claims(of_all=True)
        except BaseException as error:
            attempt.delete_claims()
            if not isinstance(error, OSError):
                raise
            if new_lock:
                _delete_empty(path, new_folders)
            raise as_storage_error(error, root) from error
        with _signs_of_life(descriptor, held.holder):
            try:
                yield held
            except BaseException:
                if new_lock and held.intact and [one.name for one in root.iterdir()] == [LOCK_NAME]:
                    _delete_empty(path, new_folders)
                raise
            if stays:
                held.check()


def _open_lock_file(path: Path, what: str, argument: str) -> FileIO:
    """Open the lock file of a folder; make both if they do not exist."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(open_own(path), "r+b", buffering=0)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EINVAL):  # a link, a folder, a socket, a pipe
            raise _foreign(path, argument) from None
        raise WorkspaceError(
            f"{what} {path.parent} cannot be used: {error.strerror}; choose another `{argument}`"
        ) from None


def _check_mark(path: Path, content: bytes, what: str, argument: str) -> None:
    """Check that the first line of a lock file, if it has one, is that of a kind of folder."""
    if not content or content.startswith(f"{MARK}{what}\n".encode()):
        return
    if not content.startswith(MARK.encode()):
        raise _foreign(path, argument)
    kind = content.decode(errors="replace").splitlines()[0].removeprefix(MARK)
    raise WorkspaceError(f"{path.parent} is a {kind}, expected a {what}; choose another `{argument}`")


def try_flock(descriptor: int) -> bool | None:
    """Take the `flock` of a file without waiting; return whether it succeeded, or None where the system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in HELD else None
    return True


def last_holder(root: Path) -> Holder | None:
    """Return the holder of a folder that seems to be alive, or None; for messages, without changing the folder."""
    path = root / LOCK_NAME
    try:
        signed_s = path.stat().st_mtime
        holder = Holder.parse(_fresh_line(path))
    except OSError:
        return None
    is_alive = holder is not None and not holder.has_ended() and time.time() - signed_s < STALE_S
    return holder if is_alive else None


def is_lock_file(name: str) -> bool:
    """Return whether a name is that of a lock file, or of a file that a process makes while it locks a folder."""
    return name == LOCK_NAME or _CLAIM.fullmatch(name) is not None or is_partial_of(name, LOCK_NAME)


_CLAIM = re.compile(rf"{re.escape(LOCK_NAME)}\.[0-9a-f]{{16}}")


class _Attempt:
    """The attempt of this process to become the holder of a lock file."""

    def __init__(self, path: Path, argument: str, holder: Holder, wait: Callable[[Holder], bool]) -> None:
        self.path, self.argument, self.holder, self.wait = path, argument, holder, wait
        self.flocked = False
        """True if `flock` works here. It then decides between processes of this machine."""
        self.claims: list[Path] = []
        self.watched: dict[bytes, tuple[float, float]] = {}
        """First time of modification, and time of this process, at which each line was seen."""
        self.server_ahead_s: float | None = None
        """Clock of the file server, minus that of this process."""

    def flock(self, descriptor: int) -> None:
        """Take the `flock`, where the file system has one; raise WorkspaceLocked if another process has it."""
        until_s = time.monotonic() + SETTLE_S
        while True:
            taken = try_flock(descriptor)
            if taken is not False:
                self.flocked = bool(taken)
                return
            holder = Holder.parse(_holder_line(descriptor))
            is_settled = (holder is not None and not holder.has_ended()) or time.monotonic() > until_s
            if is_settled and not (holder and self.wait(holder)):
                raise self._locked(holder, os.fstat(descriptor).st_mtime)
            if is_settled:  # the next holder has its own time
                until_s = time.monotonic() + SETTLE_S
            time.sleep(RETRY_S)

    def claim(self) -> None:
        """Win the right to write the next holder's line; raise WorkspaceLocked if another process has or wins it."""
        try:
            while True:
                line = _fresh_line(self.path)
                if (not line or self._is_over(self.path, line)) and self._create_claim(line):
                    # The claim is invalid if the line was replaced before the claim was made.
                    if _fresh_line(self.path) == line:
                        return
                    self.delete_claims()
        except (FileNotFoundError, NotADirectoryError):
            raise WorkspaceError(
                f"{self.path.parent} was deleted or replaced while this command began; run the same command again"
            ) from None

    def _create_claim(self, line: bytes) -> bool:
        """Create the claim that follows a line, or that follows a dead process's claim; return whether it succeeded."""
        while True:
            claim = self.path.with_name(f"{LOCK_NAME}.{hashlib.sha256(line).hexdigest()[:16]}")
            try:
                descriptor = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                try:
                    content = _read_fresh(claim)
                    if not self._is_over(claim, content):
                        return False
                except FileNotFoundError:  # its process has become the holder, or has given up
                    return False
                line = claim.name.encode() + content
                continue
            self.claims.append(claim)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.holder.line())
                file.flush()
                os.fsync(descriptor)
            return True

    def delete_claims(self, *, of_all: bool = False) -> None:
        """Delete the claims of this process; those of all processes, once the holder's line is written."""
        found = [one for one in self.path.parent.iterdir() if _CLAIM.fullmatch(one.name)] if of_all else self.claims
        for claim in found:
            with contextlib.suppress(OSError):
                claim.unlink()
        self.claims = []

    def _is_over(self, path: Path, line: bytes) -> bool:
        """Return whether the process of a line is dead; raise WorkspaceLocked if it lives. If unknown, wait a moment.

        The path is that of the lock file, or of a claim, whose line may be empty.
        """
        holder = Holder.parse(line)
        if holder and (not holder.machine or (self.flocked and holder.machine == MACHINE) or holder.has_ended()):
            return True
        signed_s, now_s = path.stat().st_mtime, time.monotonic()
        first_signed_s, since_s = self.watched.setdefault(line, (signed_s, now_s))
        silent_s = now_s - since_s if signed_s == first_signed_s else 0.0
        if max(self._server_s() - signed_s, silent_s) > STALE_S:
            log.info("%s is taken over from %s, which is dead", self.path.parent, holder or "another process")
            return True
        if (holder and holder.host == HOST) or signed_s != first_signed_s:
            if not (holder and self.wait(holder)):
                raise self._locked(holder, signed_s)
        elif now_s == since_s:
            log.info(
                "%s: waiting for a sign of life of %s, at most %.0f s",
                *(self.path.parent, holder or "another process", STALE_S - max(self._server_s() - signed_s, 0)),
            )
        time.sleep(RETRY_S)
        return False

    def _server_s(self) -> float:
        """Return the time of the file server's clock, which dates the files in the folder."""
        if self.server_ahead_s is None:
            with partial_file(self.path) as probe:
                os.utime(probe)
                self.server_ahead_s = probe.stat().st_mtime - time.monotonic()
        return time.monotonic() + self.server_ahead_s

    def _locked(self, holder: Holder | None, signed_s: float) -> WorkspaceLocked:
        root, who, remedy = self.path.parent, str(holder or "another process"), "wait for it"
        if holder and holder.machine not in ("", MACHINE):
            age_s = max(self._server_s() - signed_s, 0.0)
            who += f", which gave its last sign of life {age_s:.0f} s ago"
            if age_s > STALE_S:  # the file server still has its `flock`
                remedy = f"wait for it; or end it, or delete {self.path} if its machine is gone"
        return WorkspaceLocked(f"{root} is in use by {who}; {remedy}, or use another `{self.argument}`")


@contextlib.contextmanager
def _signs_of_life(descriptor: int, holder: Holder) -> Iterator[None]:
    """Touch a lock file while its folder is in use, and remove the holder's line at the end."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                if _holder_line(descriptor) == holder.line():
                    os.utime(descriptor)

    thread = threading.Thread(target=beat, name="sign of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            if _holder_line(descriptor) == holder.line():
                os.ftruncate(descriptor, os.pread(descriptor, 1000, 0).index(b"\n") + 1)


def _holder_line(descriptor: int) -> bytes:
    """Return what follows the first line of a lock file."""
    return os.pread(descriptor, 1000, 0).partition(b"\n")[2]


def _fresh_line(path: Path) -> bytes:
    """Return the holder's line; opening a file makes a network file system ask the server for its content."""
    return _read_fresh(path).partition(b"\n")[2]


def _read_fresh(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.pread(descriptor, 1000, 0)
    finally:
        os.close(descriptor)


def _delete_empty(path: Path, folders: Sequence[Path]) -> None:
    """Delete a lock file, and folders that are empty then; the innermost folder comes first."""
    with contextlib.suppress(OSError):
        path.unlink()
        for folder in folders:
            folder.rmdir()


def _foreign(path: Path, argument: str) -> WorkspaceError:
    return WorkspaceError(f"{path} was not made by this package; move it away, or choose another `{argument}`")
