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
    """A row of a landmark table, not checked yet."""

    line: int
    """Line number in the file, from 1."""
    file: str
    """File name, see `normalize`."""
    cells: list[str]
    """All cells but the file name."""


def normalize(file: str) -> str:
    """Return the one spelling of a listed file name.

    >>> normalize("./a.jpg")
    'a.jpg'
    """
    return PurePosixPath(file).as_posix() if file else file


def make_source(
    folder: Path,
    rows: list[TableRow],
    table: str,
    *,
    warnings: Iterable[str] = (),
    splits: dict[str, str],
    attribute_names: tuple[str, ...] = (),
    attributes: dict[str, tuple[int, ...]] | None = None,
) -> PhotoSource:
    """Match table rows with the files of a folder: return the photos, and the rows and files that are rejected.

    Args:
        folder: of the photos.
        rows: of the landmark table.
        table: name of the table, for messages.
        warnings: about the table as a whole.
        splits: by file; photos without one get an empty one.
        attribute_names: in the order of the attributes.
        attributes: by file; photos without any get zeros.

    Raises:
        SourceError: there are no photos at all, or two would get the same id.
    """
    rejected: list[Rejected] = []

    # --- Rows that cannot be used, and rows of one file ---
    by_file: dict[str, list[TableRow]] = {}
    for row in rows:
        if problem := _row_problem(row):
            place = f"{table}:{row.line}"
            rejected.append(Rejected(row.file or place, Reason.BAD_ROW, f"{place}: {problem}"))
        else:
            by_file.setdefault(row.file, []).append(row)
    good: dict[str, LandmarkRow] = {}
    for file, same in by_file.items():
        agree = all(_landmarks(row) == _landmarks(same[0]) for row in same)
        if agree:
            good[file] = _landmarks(same[0])
        lines = ", ".join(str(row.line) for row in same)
        detail = "with equal values; the first is used" if agree else "with different values; none is used"
        for row in same[1:] if agree else same:
            text = f"{table}:{row.line}: lines {lines} list it, {detail}"
            rejected.append(Rejected(file, Reason.DUPLICATE_ROW, text))

    # --- Files of the folder; a PNG stands in for a listed file that is missing ---
    listed, on_disk = {row.file for row in rows}, list_images(folder)
    present = set(on_disk)
    stand_ins = {png_name(file): file for file in listed if file not in present and png_name(file) in present}
    for png, file in stand_ins.items():
        if png in listed and file in good:
            del good[file]
            rejected.append(Rejected(file, Reason.FILE_MISSING, f"only {png} exists, and the table lists that too"))
    for name in on_disk:
        if name not in listed and name not in stand_ins:
            rejected.append(Rejected(utf8_name(name), Reason.NOT_LISTED, f"{table} has no row for it"))

    if not good and not rejected:
        raise SourceError(f"{table} lists no photos")
    ids, attributes, none = _unique_ids(good), attributes or {}, (0,) * len(attribute_names)
    photos = tuple(
        Photo(ids[file], file, landmarks, splits.get(file, ""), attributes.get(file, none))
        for file, landmarks in good.items()
    )
    return PhotoSource(folder, photos, tuple(rejected), tuple(warnings), attribute_names)


def _row_problem(row: TableRow) -> str | None:
    """Return why a row cannot be used, or None if it can."""
    if not row.file:
        return "no file name"
    path = PurePosixPath(row.file)
    if path.is_absolute() or ".." in path.parts:
        return f"{row.file} is outside the folder of photos"
    if not path.name:
        return f"{row.file} is not a file name"
    if len(row.cells) != len(COLUMNS):
        return f"expected {len(COLUMNS)} landmark numbers, got {len(row.cells)}"
    for name, cell in zip(COLUMNS, row.cells, strict=True):
        if not _is_number(cell):
            return f"{name} is {cell or 'empty'}, not a number"
    return None


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _landmarks(row: TableRow) -> LandmarkRow:
    return tuple(float(cell) for cell in row.cells)


def _unique_ids(files: Iterable[str]) -> dict[str, str]:
    """Return an id for each file: its stem, or its whole path where several have that stem."""
    stems: dict[str, list[str]] = {}
    for file in files:
        stems.setdefault(PurePosixPath(file).stem, []).append(file)
    ids = {file: stem if len(same) == 1 else file.replace("/", "__") for stem, same in stems.items() for file in same}
    if len(set(ids.values())) != len(ids):
        raise SourceError("two photos would get the same id: rename files that have '__' where others have '/'")
    return ids
