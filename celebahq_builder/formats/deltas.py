"""The official CelebA-HQ deltas: what is to be added to the aligned picture, locked with the original photo's bytes.

``deltas00000.zip``, ``deltas01000.zip``, ... hold 1000 each; ``delta00042.dat`` in the first is
Fernet(bz2(uint8 [3, 1024, 1024])). So only who has CelebA can open them.
"""

from __future__ import annotations

import base64
import bz2
import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np
from cryptography.fernet import Fernet, InvalidToken
from numpy.typing import NDArray

from celebahq_builder.errors import SourceError
from celebahq_builder.outcome import Reason, Rejection

PER_ZIP = 1000

ITERATIONS = 100_000
"""Of PBKDF2."""

RESOLUTION = 1024
"""Side of the official pictures in px."""

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What zipfile raises for archives that are damaged, cut short, or not of a kind it reads."""


def zip_name(index: int) -> str:
    """Return the name of the archive that holds the delta of picture `index`."""
    return f"deltas{index - index % PER_ZIP:05d}.zip"


def member_name(index: int) -> str:
    """Return the name of a picture's delta in its archive."""
    return f"delta{index:05d}.dat"


def archives(folder: Path) -> tuple[Path, ...]:
    """Return the archives of deltas in a folder, by name.

    Raises:
        SourceError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise SourceError(f"--deltas {folder} is not a folder; expected one that holds deltas00000.zip, ...")
    found = tuple(sorted(folder.glob("deltas[0-9][0-9][0-9][0-9][0-9].zip")))
    if not found:
        has = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise SourceError(f"--deltas {folder} holds none of deltas00000.zip, deltas01000.zip, ...; it has {has}")
    return found


def photo_key(data: bytes, file: str) -> bytes:
    """Return the key to a photo's delta: PBKDF2-HMAC-SHA256 of its file's bytes, salted with its name in ASCII.

    Returns:
        32 bytes as URL-safe base64, as Fernet takes them.
    """
    return base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", data, file.encode("ascii"), ITERATIONS, 32))


def read_delta(folder: Path, index: int, key: bytes, resolution: int = RESOLUTION) -> NDArray[np.uint8]:
    """Return a picture's delta, uint8 [3, resolution, resolution], to be added modulo 256.

    No more than this one delta is held, however large the archive or what it claims to unpack to.

    Raises:
        Rejection: DELTA_MISSING or DELTA_UNREADABLE.
        SourceError: the folder is gone.
        OSError: the archive is there but cannot be read.
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
    """Return a member of an archive; it cannot be much larger than what it stands for."""
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
        detail = f"{archive.name} is not in the folder of deltas; put it there and run with --redo align"
        raise Rejection(Reason.DELTA_MISSING, detail) from None
    except KeyError:
        raise Rejection(Reason.DELTA_MISSING, f"{archive.name} has no {member}; download it again") from None
    except DAMAGE as error:
        raise Rejection(
            Reason.DELTA_UNREADABLE,
            f"{archive.name}, {archive.stat().st_size} bytes, is damaged or cut short ({error}); download it again",
        ) from None
