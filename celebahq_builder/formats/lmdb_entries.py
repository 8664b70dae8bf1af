"""Entries of an LMDB, read in a child process; see `isolated`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats import REMEDY
from celebahq_builder.limits import MAX_IMAGE_FILE_BYTES, MAX_ITEMS


class LmdbFacts(NamedTuple):
    """The contents of an LMDB."""

    entries: int
    """Number of entries."""
    unknown: str | None
    """The first of some names that no entry has."""
    first: dict[int, bytes]
    """First entry of each size, if all keys but ``length`` are SIZE-NUMBER; else empty."""


@contextlib.contextmanager
def _cursor(path: Path) -> Iterator[tuple[Any, int]]:
    """Open an LMDB for reading, and yield a cursor and the number of entries.

    No lock file is made, so the LMDB can be on a read-only disk; no other process may write to it.
    """
    import lmdb

    try:
        how = {"readonly": True, "create": False, "lock": False, "readahead": False}
        with lmdb.open(str(path), subdir=path.is_dir(), **how) as database:
            info, stat = database.info(), database.stat()
            needed = (info["last_pgno"] + 1) * stat["psize"]
            size = (path / "data.mdb" if path.is_dir() else path).stat().st_size
            if size < needed:
                raise FormatError(f"{path} is cut short: it needs {needed} bytes and has {size}; {REMEDY}")
            if not 0 <= stat["entries"] <= min(MAX_ITEMS, size):
                raise FormatError(f"{path} announces {stat['entries']} entries in {size} bytes; {REMEDY}")
            with database.begin() as transaction, transaction.cursor() as cursor:
                yield cursor, int(stat["entries"])
    except lmdb.Error as error:
        raise FormatError(f"{path} is not a readable LMDB, or damaged: {error}; {REMEDY}") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}; {REMEDY}") from None


def lmdb_facts(path: Path, names: list[str]) -> Iterator[LmdbFacts]:
    """Yield the facts of an LMDB; the first of `names` that no entry has is one of them."""
    with _cursor(path) as (cursor, count):
        unknown = next((name for name in names if not name or not cursor.set_key(name.encode())), None)
        first: dict[int, bytes] = {}
        there = cursor.first()
        while there:
            match = re.fullmatch(rb"(\d{1,5})-\d+", cursor.key())
            if match and len(first) < 64:
                first[int(match[1])] = cursor.value()
                there = cursor.set_range(match[1] + b".")  # the character after the hyphen
            elif cursor.key() == b"length":
                there = cursor.next()
            else:
                first.clear()
                break
        yield LmdbFacts(count, unknown, first)


def lmdb_count(path: Path, prefix: bytes) -> Iterator[int]:
    """Yield the number of keys that begin with a prefix."""
    with _cursor(path) as (cursor, _):
        found, there = 0, cursor.set_range(prefix)
        while there and cursor.key().startswith(prefix):
            found += 1
            there = found < MAX_ITEMS and cursor.next()
        yield found


def lmdb_entries(path: Path, prefix: bytes, skip: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    """Yield key and contents of the entries whose keys begin with a prefix, without some of them.

    Raises:
        FormatError: the LMDB is damaged, or an entry is too large for an image.
    """
    with _cursor(path) as (cursor, announced):
        found = 0
        there = cursor.set_range(prefix) if prefix else cursor.first()
        while there and cursor.key().startswith(prefix):
            found += 1
            if found > announced:  # pages that form a circle
                raise FormatError(f"{path} announces {announced} entries and holds more; it is damaged, {REMEDY}")
            name = cursor.key().decode("utf-8", "backslashreplace")
            if name not in skip:
                value = cursor.value()
                if len(value) > MAX_IMAGE_FILE_BYTES:
                    size = f"{len(value)} bytes, expected at most {MAX_IMAGE_FILE_BYTES}"
                    raise FormatError(f"{path}: entry {printable(name)[:80]} has {size}; {REMEDY}")
                yield name, value
            there = cursor.next()
        if not prefix and found != announced:
            raise FormatError(f"{path} announces {announced} entries and holds {found}; it is damaged, {REMEDY}")
