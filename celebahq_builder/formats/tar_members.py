"""The members of a tar archive, checked: what tarfile passes over in silence is an error here."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.names import check_name

REMEDY = "get or make it again"

BLOCK_BYTES = tarfile.BLOCKSIZE

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}
"""First two bytes of what a tar may be packed by."""


class Member(NamedTuple):
    """A file in a tar, and where its contents lie; they are not read."""

    name: str
    """Relative, with ``/`` between folders."""
    offset: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """Yield the files of a tar in their order; folders and hidden files are left out.

    Memory does not depend on how many there are.

    Raises:
        FormatError: no tar, a compressed or damaged one, or one that is cut short, even between two members; a
            member that is neither file nor folder, or whose name leads out of a folder.
    """
    try:
        with path.open("rb") as file:
            yield from _members(path, file)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None


def _members(path: Path, file: BinaryIO) -> Iterator[Member]:
    packed = COMPRESSED.get(file.read(2))
    if packed:
        raise FormatError(f"{path} is compressed by {packed}; unpack it to a plain tar first")
    size = file.seek(0, 2)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if entry.isdir():
                    continue
                name = check_name(entry.name.removeprefix("./"), path)
                if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise FormatError(f"{path}: {name} is no plain file, but a link or the like; {REMEDY}")
                if entry.offset_data + entry.size > size:
                    raise FormatError(f"{path} is cut short: {name} ends after the file; {REMEDY}")
                if not name.rpartition("/")[2].startswith("."):
                    yield Member(name, entry.offset_data, entry.size)
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise FormatError(f"{path} is not a readable tar, or cut short: {error}; {REMEDY}") from None
    _check_end(path, file, end)


def _check_end(path: Path, file: BinaryIO, end: int) -> None:
    """Raise if what follows the last member is not what ends an archive: zeros, two blocks of them at least."""
    file.seek(end)
    ending = file.read(2 * BLOCK_BYTES)
    if any(ending[:BLOCK_BYTES]):
        raise FormatError(f"{path} is damaged: what begins at byte {end} is no member; {REMEDY}")
    if len(ending) < 2 * BLOCK_BYTES:
        raise FormatError(f"{path} is cut short: it lacks the blocks of zeros that end a tar; {REMEDY}")
    while ending:
        if any(ending):
            raise FormatError(f"{path} goes on after its end, as archives put one after another do; take them apart")
        ending = file.read(1 << 20)
