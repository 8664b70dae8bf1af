"""Rows of landmark tables: parsing, checks, and matching with the files of a folder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import list_images, png_name, utf8_name
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.photo import COLUMNS, LandmarkRow, Photo, PhotoSource


@dataclass(frozen=True)
class TableRow:
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


def problem_of(row: TableRow) -> str | None:
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


def numbers(row: TableRow) -> LandmarkRow:
    """Return the landmarks of a row that has no problem."""
    return tuple(float(cell) for cell in row.cells)


def assemble(
    folder: Path,
    rows: list[TableRow],
    table: str,
    warnings: list[str],
    splits: dict[str, str],
    attribute_names: tuple[str, ...],
    attributes: dict[str, tuple[int, ...]],
) -> PhotoSource:
    """Turn table rows and the folder's listing into photos and rejects."""
    by_file: dict[str, list[TableRow]] = {}
    rejected = []
    for row in rows:
        problem = problem_of(row)
        if problem:
            rejected.append(
                Rejected(row.file or f"{table}:{row.line}", Reason.BAD_ROW, f"{table}:{row.line}: {problem}")
            )
        else:
            by_file.setdefault(row.file, []).append(row)
    good: dict[str, LandmarkRow] = {}
    for file, same in by_file.items():
        agree = all(numbers(row) == numbers(same[0]) for row in same)
        if agree:
            good[file] = numbers(same[0])
        lines = ", ".join(str(row.line) for row in same)
        said = "alike; the first is used" if agree else "that differ; none is used"
        for row in same[1:] if agree else same:
            rejected.append(Rejected(file, Reason.DUPLICATE_ROW, f"{table}:{row.line}: lines {lines} list it, {said}"))
    listed, on_disk = {row.file for row in rows}, list_images(folder)
    present = set(on_disk)
    stand_ins = {png_name(file): file for file in listed if file not in present and png_name(file) in present}
    for png, file in stand_ins.items():
        if png in listed and file in good:
            del good[file]
            rejected.append(Rejected(file, Reason.FILE_MISSING, f"only {png} is there, and the table lists that too"))
    for name in on_disk:
        if name not in listed and name not in stand_ins:
            rejected.append(Rejected(utf8_name(name), Reason.NOT_LISTED, f"{table} has no row for it"))
    if not good and not rejected:
        raise SourceError(f"{table} lists no photos")
    ids = _unique_ids(good)
    photos = tuple(
        Photo(ids[file], file, row, splits.get(file, ""), attributes.get(file, (0,) * len(attribute_names)))
        for file, row in good.items()
    )
    return PhotoSource(folder, photos, tuple(rejected), tuple(warnings), attribute_names)


def _unique_ids(files: Iterable[str]) -> dict[str, str]:
    """Name photos by their stems; those that share one, by their whole path."""
    stems: dict[str, list[str]] = {}
    for file in files:
        stems.setdefault(PurePosixPath(file).stem, []).append(file)
    ids = {}
    for stem, same in stems.items():
        for file in same:
            ids[file] = stem if len(same) == 1 else file.replace("/", "__")
    taken = set(ids.values())
    if len(taken) != len(ids):
        raise SourceError("two photos would get the same id: rename files that hold '__' where others hold '/'")
    return ids
