"""The official CelebA-HQ: its image list, and the encrypted deltas that turn aligned faces into its images."""

from __future__ import annotations

import base64
import bz2
import hashlib
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.fernet import Fernet, InvalidToken
from numpy.typing import NDArray

from celebahq_builder.errors import SourceError
from celebahq_builder.limits import MAX_LIST_BYTES
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.storage import read_text

COLUMNS = ("idx", "orig_idx", "orig_file", "proc_md5", "final_md5")

INDEX_MAX = 99_999
"""Deltas are named by five digits."""

REMEDY = "take image_list.txt as it comes with the deltas"


@dataclass(frozen=True)
class ImageListRow:
    """A row of the image list."""

    index: int
    """Position in the official data set, from 0."""
    file: str
    """Name of the CelebA photo, ASCII, without folder."""
    proc_md5: str
    """MD5 of the aligned image's bytes, channels first, before the delta is added; 32 lower-case hex digits."""
    final_md5: str
    """MD5 of the official image's bytes, channels first."""


def read_image_list(path: Path) -> tuple[ImageListRow, ...]:
    """Read an image list.

    The first line names the columns `COLUMNS`; each other line has their five values, in any order of ``idx``.

    Returns:
        The rows by ``idx``, which is the order of the official data set.

    Raises:
        SourceError: the file or a line cannot be read; names file, line, the expected and the found text.
    """
    try:
        lines = read_text(path, MAX_LIST_BYTES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SourceError(f"image list {path} cannot be read: {reason}; {REMEDY}") from None
    if not lines or tuple(lines[0].split()) != COLUMNS:
        found = lines[0][:80] if lines else ""
        raise SourceError(f"{path}:1: expected the column names {' '.join(COLUMNS)}, got {found!r}; {REMEDY}")
    rows: list[ImageListRow] = []
    seen: dict[int | str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        row = _row(f"{path}:{number}", line)
        for name, value in (("idx", row.index), ("orig_file", row.file)):
            if value in seen:
                raise SourceError(f"{path}:{number}: {name} {value} is in line {seen[value]} already; {REMEDY}")
            seen[value] = number
        rows.append(row)
    if not rows:
        raise SourceError(f"{path}:2: expected a row for each image, got none; {REMEDY}")
    return tuple(sorted(rows, key=lambda row: row.index))


def _row(place: str, line: str) -> ImageListRow:
    cells = line.split()
    if len(cells) != len(COLUMNS):
        raise SourceError(
            f"{place}: expected {len(COLUMNS)} values ({' '.join(COLUMNS)}), got {len(cells)}: {line[:80]!r}; {REMEDY}"
        )
    index, _, file, *sums = cells
    if not re.fullmatch(r"[0-9]{1,5}", index):
        raise SourceError(f"{place}: expected idx to be a number from 0 to {INDEX_MAX}, got {index[:80]!r}; {REMEDY}")
    if not re.fullmatch(r"[!-~]+", file) or "/" in file:
        raise SourceError(f"{place}: expected orig_file to be a plain file name, got {file[:80]!r}; {REMEDY}")
    for name, value in zip(COLUMNS[3:], sums, strict=True):
        if not re.fullmatch(r"[0-9a-f]{32}", value):
            raise SourceError(f"{place}: expected {name} to be 32 lower-case hex digits, got {value[:80]!r}; {REMEDY}")
    return ImageListRow(int(index), file, *sums)


PER_ZIP = 1000

PBKDF2_ITERATIONS = 100_000

RESOLUTION = 1024
"""Side length of the official images in px."""

ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""Errors of zipfile for archives that are damaged, cut short, or of a kind that it cannot read."""


def zip_name(index: int) -> str:
    """Return the name of the archive that holds the delta of image `index`."""
    return f"deltas{index - index % PER_ZIP:05d}.zip"


def member_name(index: int) -> str:
    """Return the name of an image's delta in its archive."""
    return f"delta{index:05d}.dat"


def archives(folder: Path) -> tuple[Path, ...]:
    """Return the archives of deltas in a folder, by name.

    Raises:
        SourceError: the folder does not exist, or has none.
    """
    if not folder.is_dir():
        raise SourceError(f"`deltas` {folder} is not a folder; expected one that holds deltas00000.zip, ...")
    found = tuple(sorted(folder.glob("deltas[0-9][0-9][0-9][0-9][0-9].zip")))
    if not found:
        has = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise SourceError(f"`deltas` {folder} holds none of deltas00000.zip, deltas01000.zip, ...; it has {has}")
    return found


def photo_key(data: bytes, file: str) -> bytes:
    """Return the key of a photo's delta: PBKDF2-HMAC-SHA256 of its file's bytes, salted with its name in ASCII.

    Returns:
        32 bytes as URL-safe base64, the format of Fernet.
    """
    return base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", data, file.encode("ascii"), PBKDF2_ITERATIONS, 32))


def read_delta(folder: Path, index: int, key: bytes, resolution: int = RESOLUTION) -> NDArray[np.uint8]:
    """Return an image's delta, uint8 [3, resolution, resolution], to be added modulo 256.

    Memory is bounded by one delta, for any archive and any size that it claims to unpack to.

    Raises:
        Rejection: DELTA_MISSING or DELTA_UNREADABLE.
        SourceError: the folder does not exist any more.
        OSError: the archive exists but cannot be read.
    """
    size = 3 * resolution * resolution
    archive, member = folder / zip_name(index), member_name(index)
    again = f"download {archive.name} again"
    try:
        token = Fernet(key).decrypt(_member(archive, member, size))
    except InvalidToken:
        raise Rejection(
            Reason.DELTA_UNREADABLE,
            f"{archive.name}: the photo's bytes do not open {member}; the photo is not the original file (saved again, "
            f"or another one of that name), or the archive is damaged: take the file from CelebA's own, or {again}",
        ) from None
    unpacker = bz2.BZ2Decompressor()
    try:
        delta = unpacker.decompress(token, max_length=size + 1)
    except (OSError, ValueError):
        delta = b""
    if len(delta) != size or not unpacker.eof:
        raise Rejection(
            Reason.DELTA_UNREADABLE,
            f"{archive.name}: {member} does not unpack to the {size} bytes of 3 x {resolution} x {resolution}; {again}",
        )
    return np.frombuffer(delta, np.uint8).reshape(3, resolution, resolution)


def _member(archive: Path, member: str, size: int) -> bytes:
    """Return a member of an archive, which must not be much larger than `size` bytes."""
    try:
        with zipfile.ZipFile(archive) as file:
            if (claimed := file.getinfo(member).file_size) > 2 * size + 4096:
                raise zipfile.BadZipFile(f"{member} claims {claimed} bytes")
            return file.read(member)
    except FileNotFoundError:
        if not archive.parent.is_dir():
            raise SourceError(
                f"the folder of deltas {archive.parent} is gone; bring it back and run the same command"
            ) from None
        detail = f"{archive.name} is not in the folder of deltas; put it there and `redo` align"
        raise Rejection(Reason.DELTA_MISSING, detail) from None
    except KeyError:
        raise Rejection(Reason.DELTA_MISSING, f"{archive.name} has no {member}; download it again") from None
    except ZIP_ERRORS as error:
        raise Rejection(
            Reason.DELTA_UNREADABLE,
            f"{archive.name}, {archive.stat().st_size} bytes, is damaged or cut short ({error}); download it again",
        ) from None
