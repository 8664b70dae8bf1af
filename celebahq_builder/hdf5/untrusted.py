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
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5 import LEVEL_NAME, PHOTOS, REMEDY
from celebahq_builder.limits import (
    MAX_CHUNK_BYTES,
    MAX_HDF5_CHECK_BYTES,
    MAX_HDF5_CHECK_CPU_S,
    MAX_ITEMS,
    MAX_JSON_BYTES,
    MAX_VALUE_BYTES,
)
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
    status = os.fstat(file) if isinstance(file, int) else file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_signature(path: Path) -> None:
    """Check that a path is a regular file with HDF5's signature."""
    if not path.exists():
        raise FormatError(f"{path} does not exist; check the path")
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
    reason = f"it starts with the signature of {found}" if found else "it has no signature" if size else "it is empty"
    raise FormatError(f"{path} is not an HDF5 file: {reason}; give the path of another file")


def _check_in_child(path: Path) -> None:
    """Let a child process check a file, and raise its verdict, or its end by a limit, as a FormatError."""
    paths = os.pathsep.join(str(Path(one).absolute()) for one in sys.path)
    command = [sys.executable, "-P", "-m", __name__, str(path.absolute())]
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


# --- The child process

BLOCK_BYTES = 1 << 24
"""Rows of numbers are read together up to this size."""

TEXT_ROWS = 1024
"""Rows of text are read together, as their size is not known before."""

MAX_MESSAGE = 200
"""Characters of HDF5's own message that are shown."""


def find_problem(path: Path) -> str | None:
    """Return why an HDF5 file cannot be read, as the rest of a sentence about it, or None.

    The check accepts datasets that are part of the file itself and have names that can be printed. It refuses links to
    other places, data in other files, and chunks, columns and attributes that are too large. It considers only what
    this package reads: attributes of the file, levels, and the group ``photos``.
    """
    try:
        with h5py.File(path, "r") as file:
            problem = next(_problems(file, path.stat().st_size), None)
    except MemoryError:
        return f"is not a readable HDF5 file: it needs too much memory; {REMEDY}"
    except Exception as error:  # h5py raises almost any class for damaged files
        reason = printable(" ".join(str(error).split())[:MAX_MESSAGE]) or type(error).__name__
        return f"is not a readable HDF5 file: {reason}; {REMEDY}"
    return problem and f"cannot be used: {problem}; write the file again with plain datasets, or get another copy"


def _problems(file: h5py.File, size_bytes: int) -> Iterator[str]:
    yield from _attribute_problems(file)
    for name in file:
        if LEVEL_NAME.fullmatch(name):
            yield from _link_problems(file, name, name)
            if isinstance(file[name], h5py.Dataset):
                yield from _level_problems(file[name], name)
    if PHOTOS not in file:
        return
    yield from _link_problems(file, PHOTOS, PHOTOS)
    group, left_bytes = file[PHOTOS], max(MAX_CHUNK_BYTES, size_bytes)
    if not isinstance(group, h5py.Group):
        yield f"{PHOTOS} is not a group; expected one of columns"
    for name in group:
        where = f"{PHOTOS}/{printable(name)}"
        yield from _link_problems(group, name, where)
        if isinstance(group[name], h5py.Dataset):
            yield from _dataset_problems(group[name], where)
            left_bytes -= group[name].nbytes
            if not group[name].ndim:
                yield f"{where} is a single value, expected one row per image"
            if left_bytes < 0:
                yield f"{where} is announced with {group[name].nbytes} bytes, more than the file has"
            yield from _column_problems(group[name], where, size_bytes)


def _link_problems(group: h5py.Group, name: str, where: str) -> Iterator[str]:
    if not name.isprintable():
        yield f"the name {where} has characters that cannot be printed"
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        kind = {h5py.SoftLink: "a soft link", h5py.ExternalLink: "a link to another file"}.get(type(link), "a link")
        yield f"{where} is {kind}, expected the data itself"


def _dataset_problems(dataset: h5py.Dataset, where: str) -> Iterator[str]:
    if dataset.shape is None:
        yield f"{where} has no shape, expected an array"
    if dataset.is_virtual or dataset.external:
        yield f"the data of {where} are in other files, expected them in the file itself"
    if any(length > MAX_ITEMS for length in dataset.shape[:1]):
        yield f"{where} is announced with {dataset.shape[0]} rows; at most {MAX_ITEMS} are read"
    chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        yield f"{where} is announced with chunks of {chunk_bytes} bytes; at most {MAX_CHUNK_BYTES} are read"


def _level_problems(level: h5py.Dataset, name: str) -> Iterator[str]:
    yield from _dataset_problems(level, name)
    image_bytes = math.prod(level.shape[1:])
    if image_bytes > MAX_CHUNK_BYTES:
        yield f"{name} is announced with images of {image_bytes} bytes; at most {MAX_CHUNK_BYTES} are read"
    if level.chunks is not None:
        level.id.get_num_chunks()  # visits the whole index


def _column_problems(column: h5py.Dataset, where: str, size_bytes: int) -> Iterator[str]:
    """Read a column. A text that many rows share in a hostile file would need more memory than the file has bytes."""
    text = h5py.check_string_dtype(column.dtype) is not None
    if not text and column.dtype.kind not in "biuf":
        yield f"{where} holds {printable(str(column.dtype))}, expected numbers or text"
    if missing := _unwritten(column):
        yield f"{where} lacks {missing}, which HDF5 would return as zeros or empty texts; restore it, or make it again"
        return
    row_bytes = max(1, column.dtype.itemsize * math.prod(column.shape[1:]))
    rows, text_bytes = TEXT_ROWS if text else max(1, BLOCK_BYTES // row_bytes), 0
    for start in range(0, len(column), rows):
        block = column[start : start + rows]
        if text:
            lengths = [len(value) for value in np.asarray(block).flat]
            text_bytes += sum(lengths)
            if max(lengths, default=0) > MAX_VALUE_BYTES or text_bytes > max(size_bytes, MAX_VALUE_BYTES):
                yield f"{where} holds longer texts than {MAX_VALUE_BYTES} bytes, or more text than the file has bytes"


def _unwritten(column: h5py.Dataset) -> str:
    """Return what of a column was never written, or an empty string."""
    if column.chunks is None:
        return "its data" if column.size and column.id.get_storage_size() == 0 else ""
    chunks = math.prod(-(-length // part) for length, part in zip(column.shape, column.chunks, strict=True))
    missing = chunks - column.id.get_num_chunks()
    return f"{missing} of its {chunks} chunks" if missing > 0 else ""


def _attribute_problems(file: h5py.File) -> Iterator[str]:
    left_bytes = MAX_JSON_BYTES
    for name in file.attrs:
        if not name.isprintable():
            yield f"the name {printable(name)} has characters that cannot be printed"
        attribute = file.attrs.get_id(name)
        left_bytes -= attribute.get_space().get_simple_extent_npoints() * attribute.get_type().get_size()
        if left_bytes >= 0:
            value = file.attrs[name]
            left_bytes -= sum(len(one) for one in np.asarray(value, object).flat if isinstance(one, (str, bytes)))
        if left_bytes < 0:
            yield f"its attribute {printable(name)} is too large; at most {MAX_JSON_BYTES} bytes are read"


def _main(path: Path) -> None:
    """Print the problem of a file, or null, as JSON; under the limits."""
    cpu_s = MAX_HDF5_CHECK_CPU_S + (path.stat().st_blocks * 512 >> 30)  # a sparse file has few blocks
    used_bytes = _address_space_bytes()
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + MAX_HDF5_CHECK_BYTES,) * 2)
    sys.stdout.write(json.dumps(find_problem(path)))


def _address_space_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # Linux only
        return 1 << 30


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
