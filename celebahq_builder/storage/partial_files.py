"""Partial files: their names, and who may delete them.

A file is written as ``.NAME.HOST-PID-TOKEN.partial`` in the folder of its final path, and renamed once it is complete.
The name tells which process writes it, so that a command deletes only its own partial files and those of dead
processes, never those of a process that may still be writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

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
    return f"{re.sub('[^0-9A-Za-z]', '_', name)[:24]}_{hashlib.sha256(f'{name} {namespace}'.encode()).hexdigest()[:8]}"


HOST = _host_label()

_folders: set[Path] = set()
"""Folders in which this process has made partial files."""


def partial_path(path: Path, token: str = RUN_TOKEN, ending: str = "") -> Path:
    """Return the partial file that this process writes before the file gets its name.

    The name is ``.NAME.HOST-PID-TOKEN.partial`` and an ending. A long NAME is cut and ends with a hash.

    Args:
        path: final path; the partial file is in the same folder.
        token: of the run for which this process works.
        ending: of the name, where a program needs a certain one, such as ``.mp4``.
    """
    _folders.add(path.parent)
    return path.with_name(f".{_short_name(path.name)}.{HOST}-{os.getpid()}-{token}.partial{ending}")


def _short_name(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= NAME_BYTES:
        return name
    return encoded[: NAME_BYTES - 17].decode(errors="ignore") + "~" + hashlib.sha256(encoded).hexdigest()[:16]


def delete_interrupted_files() -> None:
    """Delete the partial files of this process in all folders; only for an interrupted process that ends now.

    A KeyboardInterrupt may be raised between the call that makes a file and the statement that would delete it.
    """
    ending = re.compile(rf"\..+\.{HOST}-{os.getpid()}-[0-9a-f]+\.partial(?:\.\w+)?", re.DOTALL)
    for folder in _folders:
        with contextlib.suppress(OSError):
            for name in [one.name for one in folder.iterdir() if ending.fullmatch(one.name)]:
                Path(folder, name).unlink()


def is_partial_of(name: str, file: str) -> bool:
    """Return whether a name is that of a partial file of a file, by any process."""
    pattern = rf"\.{re.escape(_short_name(file))}\.\w+-\d+-[0-9a-f]+\.partial(?:\.\w+)?"
    return re.fullmatch(pattern, name, re.DOTALL) is not None


def may_delete_partial(name: str) -> bool:
    """Return whether a name is that of a partial file of this run, or of a process that is certainly dead.

    A process of another host may be alive, and so may one of this host whose id is in use.
    """
    match = re.fullmatch(r"\..+\.(\w+)-(\d+)-([0-9a-f]+)\.partial(?:\.\w+)?", name, re.DOTALL)
    if match is None:
        return False
    return match[3] == RUN_TOKEN or (match[1] == HOST and is_dead_process(int(match[2])))


def is_dead_process(pid: int) -> bool:
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


def partials_of_dead(folder: Path) -> list[str]:
    """Return the names of the partial files in a folder, which need not exist, that `may_delete_partial` allows."""
    try:
        return [one.name for one in os.scandir(folder) if may_delete_partial(one.name)]
    except OSError:
        return []


def delete_partial_of(path: Path, names: Iterable[str] | None = None) -> None:
    """Delete the partial files of a file that this run or dead processes have left.

    Args:
        path: the file.
        names: what `partials_of_dead` returned for its folder; None to look there.
    """
    for name in partials_of_dead(path.parent) if names is None else names:
        if is_partial_of(name, path.name):
            with contextlib.suppress(OSError):  # a file that stays does no harm
                path.with_name(name).unlink()


def delete_partial_files(folder: Path, *, recursive: bool = False) -> None:
    """Delete the partial files of this run and of dead processes in a folder; only for the holder of its lock."""
    for parent, folders, names in os.walk(folder):
        if not recursive:
            folders.clear()
        for name in filter(may_delete_partial, names):
            with contextlib.suppress(OSError):  # a file that stays does no harm
                Path(parent, name).unlink()


def delete_folder(folder: Path, own: str) -> None:
    """Delete our files in a folder, and the folders that are empty then; nothing else, and nothing behind a link.

    Partial files of processes that may be alive stay: such a process may write into the folder while this function
    works.

    Args:
        folder: the folder; one that is a link stays as it is.
        own: regular expression of the relative paths of our files.
    """
    if folder.is_symlink():
        return
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in names):
            if may_delete_partial(path.name) or re.fullmatch(own, path.relative_to(folder).as_posix()):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            Path(parent).rmdir()
