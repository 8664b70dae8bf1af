"""Rows of landmark tables, as they stand there, and what is wrong with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePosixPath

from celebahq_builder.source.photo import COLUMNS, LandmarkRow


@dataclass(frozen=True)
class Row:
    """A row that nothing has been made of yet."""

    line: int
    """Its number in the file, from 1."""
    file: str
    """As `normal` spells it."""
    cells: list[str]
    """All but the file name."""


def normal(file: str) -> str:
    """Return one spelling of a listed name: ``./a.jpg`` is ``a.jpg``."""
    return PurePosixPath(file).as_posix() if file else file


def problem_of(row: Row) -> str | None:
    """Return why a row cannot be used, or None if it can."""
    if not row.file:
        return "no file name"
    path = PurePosixPath(row.file)
    if path.is_absolute() or ".." in path.parts:
        return f"{row.file} leads out of the folder of photos"
    if not path.name:
        return f"{row.file} is not a file name"
    if len(row.cells) != len(COLUMNS):
        return f"expected {len(COLUMNS)} landmark numbers, got {len(row.cells)}"
    for name, cell in zip(COLUMNS, row.cells, strict=True):
        if _number(cell) is None:
            return f"{name} is {cell or 'empty'}, not a number"
    return None


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def numbers(row: Row) -> LandmarkRow:
    """Return the landmarks of a row that has no problem."""
    return tuple(float(cell) for cell in row.cells)
