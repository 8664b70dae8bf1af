"""The list of the official CelebA-HQ: which CelebA photo each of its pictures is made from, and the MD5s to meet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.errors import SourceError

COLUMNS = ("idx", "orig_idx", "orig_file", "proc_md5", "final_md5")

INDEX_MAX = 99_999
"""Deltas are named by five digits."""

REMEDY = "take image_list.txt as it comes with the deltas"


@dataclass(frozen=True)
class Listed:
    """One row of the list."""

    index: int
    """Place in the official data set, from 0."""
    file: str
    """Name of the CelebA photo, ASCII, without folder."""
    proc_md5: str
    """MD5 of the aligned picture's bytes, channels first, before the delta is added; 32 lower-case hex digits."""
    final_md5: str
    """MD5 of the official picture's bytes, channels first."""


def read_image_list(path: Path) -> tuple[Listed, ...]:
    """Read an image list.

    The first line names the columns `COLUMNS`; the others have their five values, in any order of ``idx``.

    Returns:
        The rows in the order of ``idx``, which is that of the official data set.

    Raises:
        SourceError: unreadable, or a line that is not such; names file, line, what was expected and found.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"image list {path} cannot be read: {error}; {REMEDY}") from None
    if not lines or tuple(lines[0].split()) != COLUMNS:
        found = lines[0][:80] if lines else ""
        raise SourceError(f"{path}:1: expected the column names {' '.join(COLUMNS)}, got {found!r}; {REMEDY}")
    rows: list[Listed] = []
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
        raise SourceError(f"{path}:2: expected a row for each picture, got none; {REMEDY}")
    return tuple(sorted(rows, key=lambda row: row.index))


def _row(place: str, line: str) -> Listed:
    cells = line.split()
    if len(cells) != len(COLUMNS):
        raise SourceError(
            f"{place}: expected {len(COLUMNS)} values ({' '.join(COLUMNS)}), got {len(cells)}: {line[:80]!r}; {REMEDY}"
        )
    index, _, file, *sums = cells
    if not re.fullmatch(r"[0-9]{1,5}", index):
        raise SourceError(f"{place}: expected idx to be a number from 0 to {INDEX_MAX}, got {index!r}; {REMEDY}")
    if not re.fullmatch(r"[!-~]+", file) or "/" in file:
        raise SourceError(f"{place}: expected orig_file to be a plain file name, got {file!r}; {REMEDY}")
    for name, value in zip(COLUMNS[3:], sums, strict=True):
        if not re.fullmatch(r"[0-9a-f]{32}", value):
            raise SourceError(f"{place}: expected {name} to be 32 lower-case hex digits, got {value!r}; {REMEDY}")
    return Listed(int(index), file, *sums)
