"""Members of tar archives, plain or compressed by gzip, without unpacking them."""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import tarfile
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, cast

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats import REMEDY
from celebahq_builder.formats.records import check_name
from celebahq_builder.image_set import FolderListing, is_hidden, is_image_name
from celebahq_builder.limits import MAX_CHUNK_BYTES, MAX_IMAGE_FILE_BYTES

log = logging.getLogger(__name__)

BLOCK_BYTES = tarfile.BLOCKSIZE

HEADER_MAX_BYTES = 1 << 14
"""Maximum size of a name or another extended header: `tarfile` takes quadratic time for one that consists of digits."""

ENDING_MAX_BYTES = 1 << 26
"""Maximum length of the zeros after the end of an archive; tar fills its last record, usually to 10 kB."""

PADDING_MAX_BYTES = 1 << 22
"""Maximum number of zeros in a row in a file that gzip compressed."""

UNPACKED_RATIO = 200
"""An archive that unpacks to more than so many times its size is a decompression bomb; images compress little."""

COMPRESSIONS = {
    b"BZ": ("bzip2", "bunzip2"),
    b"\xfd7": ("xz", "unxz"),
    b"(\xb5": ("zstd", "unzstd"),
}
"""First two bytes of compressed files that are not read: the kind of compression, and the program that unpacks it."""

TAR_ERRORS = (tarfile.TarError, EOFError, ValueError, OverflowError, IndexError, RecursionError, MemoryError)
"""Exceptions that tarfile raises for corrupt archives."""


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    """Relative path with ``/`` between folders."""
    offset: int
    """Start of its contents in the unpacked tar, in bytes."""
    size_bytes: int
    file: IO[bytes]
    """Its contents, which can be read until the next member is asked for."""


def open_gzip(file: BinaryIO) -> IO[bytes]:
    """Return a file of the unpacked bytes of a file that gzip compressed.

    Zeros between and after its parts are skipped, as gzip does. More than `PADDING_MAX_BYTES` in a row, as in a sparse
    file, raise an EOFError on reading: Python skips them one by one, which takes hours.
    """
    return cast(IO[bytes], gzip.GzipFile(fileobj=cast(BinaryIO, _BoundedPadding(file))))


class _BoundedPadding:
    def __init__(self, file: BinaryIO) -> None:
        self._file, self._zeros = file, 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._zeros = 0 if any(data) else self._zeros + len(data)
        if self._zeros > PADDING_MAX_BYTES:
            raise EOFError(f"it has {PADDING_MAX_BYTES} zeros in a row")
        return data

    def seek(self, position: int) -> int:
        self._zeros = 0
        return self._file.seek(position)


@contextlib.contextmanager
def open_tar(path: Path) -> Iterator[IO[bytes]]:
    """Open a tar as a file of its unpacked bytes; errors of reading become FormatErrors.

    Raises:
        FormatError: it is not a regular file, cannot be read, has a wrong CRC, or is compressed by another program.
    """
    try:
        if path.exists() and not path.is_file():
            raise FormatError(f"{path} is not a regular file; remove it")
        with path.open("rb") as raw:
            start = raw.read(2)
            raw.seek(0)
            if start in COMPRESSIONS:
                kind, program = COMPRESSIONS[start]
                raise FormatError(f"{path} is compressed by {kind}; unpack it first, with {program}")
            if start != b"\x1f\x8b":
                yield raw
                return
            with open_gzip(raw) as unpacked:
                yield unpacked
    except (OSError, zlib.error, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FormatError(f"{path} cannot be read, or is cut short: {reason}; {REMEDY}") from None


def members(path: Path) -> Generator[Member, None, None]:
    """Yield the files of a tar in their order, without folders and hidden files; the log says what is passed over.

    Memory does not depend on the number of members.

    Raises:
        FormatError: it is not a tar, is damaged, or cut short, also between two members; a member is neither file nor
            folder, or its name leads out of a folder.
    """
    hidden = []
    with open_tar(path) as file:
        size = _unpacked_size(path, file)
        try:
            reads = _BoundedReads(file)
            with tarfile.open(fileobj=cast(IO[bytes], reads), mode="r:") as tar:
                while (entry := reads.next_header(tar)) is not None:
                    vars(tar)["members"].clear()  # it would keep them all
                    if entry.size < 0 or entry.offset_data + entry.size > size:
                        name = printable(entry.name)[:80]
                        raise FormatError(f"{path} is cut short: {name} ends after the file; {REMEDY}")
                    if entry.isdir():
                        continue
                    name = check_name(entry.name.removeprefix("./"), path)
                    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.issparse():
                        raise FormatError(f"{path}: {name} is not a plain file, but a link or the like; {REMEDY}")
                    contents = tar.extractfile(entry)
                    if is_hidden(name):
                        hidden += [name] if is_image_name(name) else []
                    elif contents is not None:
                        yield Member(name, entry.offset_data, entry.size, contents)
                end = tar.offset
        except TAR_ERRORS as error:
            reason = printable(str(error))[:200] or type(error).__name__
            raise FormatError(f"{path} is not a readable tar, or cut short: {reason}; {REMEDY}") from None
        _check_ending(path, file, end, size)
    for remark in FolderListing(hidden=hidden).remarks():
        log.info("%s: %s", printable(str(path)), remark)


class _BoundedReads:
    """A file for tarfile that refuses too large reads: a damaged size would fill the memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell
        self.max_bytes = HEADER_MAX_BYTES

    def next_header(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        self.max_bytes = HEADER_MAX_BYTES
        entry = tar.next()
        self.max_bytes = MAX_IMAGE_FILE_BYTES
        return entry

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.max_bytes:
            raise OSError(errno.EFBIG, f"it announces {size} bytes, expected at most {self.max_bytes}")
        return self.file.read(size)


def _unpacked_size(path: Path, file: IO[bytes]) -> int:
    """Return the size of a tar; all of a compressed one is read, which verifies its CRC."""
    packed = path.stat().st_size
    if not isinstance(cast(object, file), gzip.GzipFile):
        return packed
    size, most = 0, max(MAX_CHUNK_BYTES, UNPACKED_RATIO * packed)
    while block := file.read(1 << 20):
        size += len(block)
        if size > most:
            raise FormatError(
                f"{path} unpacks to more than {most} bytes; it looks like a decompression bomb, delete it"
            )
    file.seek(0)
    return size


def _check_ending(path: Path, file: IO[bytes], end: int, size: int) -> None:
    """Check that two blocks of zeros end a tar, and nothing else follows."""
    file.seek(end)
    ending = file.read(2 * BLOCK_BYTES)
    if any(ending[:BLOCK_BYTES]):
        raise FormatError(f"{path} is damaged: at byte {end} there is no valid member; {REMEDY}")
    if len(ending) < 2 * BLOCK_BYTES:
        raise FormatError(f"{path} is cut short: it lacks the blocks of zeros at the end of a tar; {REMEDY}")
    while ending:
        if any(ending) or size - end > ENDING_MAX_BYTES:
            raise FormatError(f"{path} continues after its end, as joined archives do; separate them")
        ending = file.read(1 << 20)
