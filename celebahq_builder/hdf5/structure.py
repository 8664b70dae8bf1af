"""Checks of the structure of an HDF5 file, and the program that makes them in a process of their own.

It imports little, because `untrusted` starts it for every file that is opened.
"""

from __future__ import annotations

import json
import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from celebahq_builder.errors import printable
from celebahq_builder.hdf5.layout import LEVEL_NAME, PHOTOS, REMEDY
from celebahq_builder.limits import (
    MAX_CHUNK_BYTES,
    MAX_HDF5_CHECK_BYTES,
    MAX_HDF5_CHECK_CPU_S,
    MAX_ITEMS,
    MAX_JSON_BYTES,
    MAX_VALUE_BYTES,
)

BLOCK_BYTES = 1 << 24
"""Rows of numbers are read together up to this size."""

TEXT_ROWS = 1024
"""Rows of text are read together, as their size is not known before."""

MAX_MESSAGE = 200
"""Characters of HDF5's own message that are shown."""


def find_problem(path: Path) -> str | None:
    """Return why an HDF5 file cannot be read, as the rest of a sentence about it, or None.

    Accepted are datasets that are part of the file itself: no links to other places, no data in other files, no chunk,
    column or attribute that is too large, and names that can be printed. Only what this package reads is considered:
    attributes of the file, levels, and the group ``photos``.
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
    row_bytes = max(1, column.dtype.itemsize * math.prod(column.shape[1:]))
    rows, text_bytes = TEXT_ROWS if text else max(1, BLOCK_BYTES // row_bytes), 0
    for start in range(0, len(column), rows):
        block = column[start : start + rows]
        if text:
            lengths = [len(value) for value in np.asarray(block).flat]
            text_bytes += sum(lengths)
            if max(lengths, default=0) > MAX_VALUE_BYTES or text_bytes > max(size_bytes, MAX_VALUE_BYTES):
                yield f"{where} holds longer texts than {MAX_VALUE_BYTES} bytes, or more text than the file has bytes"


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
    """Print the problem of a file, or null, as JSON; see `untrusted` for the limits."""
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
