"""Opening of HDF5 files that may be damaged or hostile.

The HDF5 library was not written for untrusted files. On damaged ones it may loop for ever, take any amount of memory,
or end the process, and Python cannot interrupt it. A check in front would have to parse heaps, object headers and trees
as HDF5 itself does. So a child process reads the file first, under limits of processor time and memory: every object,
attribute and column that this package may read, and the index of all chunks, but no image. Whatever happens to HDF5
there becomes a message. A new interpreter is used instead of a fork, because this process may have threads.

The child takes 0.2 s of processor time, of which it reads a file of 30,000 images for 0.05 s. The verdict is kept for
the process, so it costs once per file, and nothing for files that the process wrote itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5 import structure
from celebahq_builder.hdf5.layout import REMEDY
from celebahq_builder.storage.bounded_read import irregular_kind

SIGNATURE = b"\x89HDF\r\n\x1a\n"

OTHER_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"PAR1": "Parquet",
    b"\x93NUMPY": "NumPy",
    b"\x0e\x03\x13\x01": "HDF4",
    b"version https://git-lfs": "a Git LFS pointer",
}
"""Beginnings of files that have been given the name of an HDF5 file."""

FileIdentity = tuple[int, int, int, int]
"""Device, inode, size and time of change of a file."""

_sound: set[FileIdentity] = set()
"""Files that this process has checked, or has written itself."""


def open_hdf5(path: Path, **options: Any) -> h5py.File:
    """Open an HDF5 file for reading; `options` are those of `h5py.File`.

    Raises:
        FormatError: no such file, not HDF5, truncated, or with a structure that this package does not read; see
            `find_problem`.
    """
    try:
        _check_signature(path)
        if file_identity(path) not in _sound:
            _check_in_child(path)
            trust(path)
        return h5py.File(path, "r", **options)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or printable(str(error))}; {REMEDY}") from None


def trust(path: Path) -> None:
    """Leave out the check of a file when this process opens it next, as it is sound or was written by the process."""
    _sound.add(file_identity(path))


def file_identity(file: Path | int) -> FileIdentity:
    """Return what changes when a file is replaced or changed; `file` is a path or a descriptor."""
    status = os.stat(file)  # noqa: PTH116 (of a descriptor, too)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_signature(path: Path) -> None:
    """Check that a path is a regular file with HDF5's signature.

    Raises:
        FormatError: it is not.
    """
    if not path.exists():
        raise FormatError(f"{path} does not exist")
    if kind := irregular_kind(path.stat()):
        raise FormatError(f"{path} is {kind}; expected an HDF5 file")
    with path.open("rb") as file:
        begin = file.read(64)
        size = file.seek(0, os.SEEK_END)
        place = 0
        while place < size:  # HDF5 allows a block of other data in front
            file.seek(place)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return
            place = max(512, 2 * place)
    found = next((name for signature, name in OTHER_SIGNATURES.items() if begin.startswith(signature)), None)
    reason = (
        "it is empty" if not size else f"it starts with the signature of {found}" if found else "it has no signature"
    )
    raise FormatError(f"{path} is not an HDF5 file: {reason}; give the path of another file")


def _check_in_child(path: Path) -> None:
    """Let a child process check a file.

    Raises:
        FormatError: the file has a problem, or the child process met a limit or was killed.
    """
    paths = os.pathsep.join(os.path.abspath(one) for one in sys.path)  # noqa: PTH100 (an archive is no path)
    command = [sys.executable, "-P", "-m", structure.__name__, os.path.abspath(path)]  # noqa: PTH100
    environment = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False)
    if done.returncode == 0:
        if problem := json.loads(done.stdout):
            raise FormatError(f"{path} {problem}")
    elif done.returncode < 0:
        ended = done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
        reason = "does not finish reading it" if ended else f"crashes on it ({signal.Signals(-done.returncode).name})"
        raise FormatError(f"{path} is not a readable HDF5 file: HDF5 {reason}; {REMEDY}")
    else:
        lines = done.stderr.decode(errors="replace").splitlines() or ["no message"]
        raise FormatError(f"{path} cannot be checked: {printable(lines[-1])}; free some memory, and try again")
