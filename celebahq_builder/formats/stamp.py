"""What tells whether a file or folder is still the one that an earlier command has read, without reading it again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def stamp(path: Path) -> str:
    """Return a hash of the sizes and times of a file, or of all files of a folder, and of their names in it."""
    if not path.is_dir():
        return _hash([_line("", path.stat())])
    lines = []
    for root, _, files in os.walk(path):
        for name in files:
            file = Path(root) / name
            if file.exists():  # a link to nowhere is none
                lines.append(_line(file.relative_to(path).as_posix(), file.stat()))
    return _hash(sorted(lines))


def _line(name: str, known: os.stat_result) -> str:
    return f"{name}\0{known.st_size}\0{known.st_mtime_ns}\n"


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
