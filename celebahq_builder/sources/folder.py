"""A folder of photos with a table of landmarks; tables as CSV, and as folders of ``.pts`` files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import list_images, nfc, photo_path, png_name, utf8_name, walk_folder
from celebahq_builder.limits import MAX_TABLE_ROWS, MAX_VALUE_BYTES
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.landmark_json import read_json_table, starts_as_json
from celebahq_builder.sources.landmark_table import (
    EXPECTED,
    POINTS,
    TableRow,
    make_source,
    normalize,
    read_table,
    reduced_cells,
)
from celebahq_builder.sources.photo import COLUMNS, SPLITS, LandmarkOrder, PhotoSource
from celebahq_builder.storage import read_text

SEPARATORS = (",", ";", "\t")

POINT_COLUMN = re.compile(r"([xy])_?([0-9]{1,2})")

PTS_FILE = re.compile(r"\s*(?:version:\s*\S+\s+)?n_points:\s*([0-9]{1,6})\s*\{([^{}]*)\}\s*")


class PhotoFolder(PhotoSource):
    r"""A folder of photos with a table of landmarks; see `read_folder`.

    Args:
        folder: folder of the photos.
        table: CSV file with the columns ``file``, ``lefteye_x``, ... ``rightmouth_y`` and optionally ``id`` and
            ``split``, or a table that another program writes.
        landmark_order: order of the ten numbers of a row; see `sources.photo.LandmarkOrder`.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (100, 100)).save(folder / "a.png")
        >>> row = "a.png,30,40,70,40,50,60,35,80,65,80"
        >>> _ = (folder / "table.csv").write_text(",".join(("file", *COLUMNS)) + "\n" + row)
        >>> PhotoFolder(folder, folder / "table.csv").photos[0].landmarks[:2]
        (30.0, 40.0)
    """

    def __init__(self, folder: Path | str, table: Path | str, landmark_order: LandmarkOrder = "viewer") -> None:
        super().__init__(**vars(read_folder(Path(folder), Path(table), landmark_order)))


def read_folder(folder: Path, table: Path, landmark_order: LandmarkOrder = "viewer") -> PhotoSource:
    """Read any folder of photos, or one photo, and a table of landmarks.

    The table is recognized by its content: a CSV table, JSON (see `landmark_json.read_json_table`), or a folder of
    ``.pts`` files (see `read_pts_folder`).

    The first row of a CSV table names its columns: ``file`` (relative to the folder) or, as in CelebA's CSV tables,
    ``image_id``; the ten of `COLUMNS`, or ``x_0``, ``y_0``, ... ``x_67``, ``y_67`` of 68 points; and optionally ``id``
    and ``split``. Other columns are ignored. Commas, semicolons or tabs separate the columns; where commas do not, a
    number may have a decimal comma.

    Rows of one file with different landmarks are several faces of one photo. Without an ``id``, their ids are
    ``name_0``, ``name_1``, ... from left to right; see `face_ids`.

    Args:
        folder: of the photos; or one photo of a folder.
        landmark_order: order of the ten numbers; the names of the columns keep CelebA's order.

    Raises:
        SourceError: the folder or the table cannot be read, the table is none of these, or two faces have one id.
    """
    if not _is_folder("photos", folder):
        if not folder.is_file():
            raise SourceError(f"`photos` {folder} is not a folder; expected one that holds photos")
        source = read_folder(folder.parent, table, landmark_order)
        named = (photo for photo in source.photos if folder.name in (photo.file, png_name(photo.file)))
        photos = tuple(photo for photo in named if photo_path(folder.parent, photo.file) == folder)
        return replace(source, photos=photos, rejected=tuple(r for r in source.rejected if r.photo == folder.name))
    rejected: list[Rejected] = []
    if _is_folder("landmarks", table):
        rows, rejected = read_pts_folder(table, folder)
    elif starts_as_json(table):
        rows, rejected = read_json_table(table, folder)
    else:
        rows = _read_csv(table)
    name = table.name or str(table)
    source = make_source(folder, rows, name, order=landmark_order, several_faces=True, rejected=rejected)
    return replace(source, is_own=True)


def _is_folder(argument: str, path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise SourceError(f"`{argument}` {str(path)[:200]} cannot be read: {error.strerror}") from None


# --- CSV --------------------------------------------------------------------------------------------------------


class _Header(NamedTuple):
    """The first row of a CSV table."""

    names: list[str]
    separator: str
    columns: list[str]
    """Columns of the landmark numbers: ten, or 136."""


def _read_csv(table: Path) -> list[TableRow]:
    text = read_table(table)
    try:
        header = _read_header(table, text)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=header.separator, skipinitialspace=True)
        next(lines)
        rows = []
        for cells in lines:
            if any(cells):
                rows.append(_csv_row(table, lines.line_num, header, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise SourceError(f"landmark table {table} cannot be read as CSV: {error}") from None
    return rows


def _read_header(table: Path, text: str) -> _Header:
    names: list[str] = []
    for separator in SEPARATORS:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        found = [name.strip() for name in next(lines, [])]
        if len(found) > len(names):
            names, best = found, separator
    if "file" not in names and "image_id" in names:
        names[names.index("image_id")] = "file"
    columns = list(COLUMNS)
    if not names or not set(COLUMNS) <= set(names):
        columns = _columns_of_68_points(names) or columns
    missing = [name for name in ("file", *columns) if name not in names]
    if missing:
        first = text[:20].split("\n")[0].strip()
        hint = ""
        if first.isdecimal():
            hint = "; this looks like CelebA's own table, which `celeba_root` reads"
        elif first.startswith(("version:", "n_points:")):
            hint = "; this looks like a .pts file: give the folder of these files"
        raise SourceError(
            f"landmark table {table}: column {missing[0]} is missing; the first row must name "
            f"file, {', '.join(COLUMNS)} (or file, x_0, y_0, ... x_67, y_67), separated by commas, semicolons or tabs; "
            f"it has {', '.join(names)[:200] or 'nothing'}{hint}; docs/landmarks.md describes other tables"
        )
    for name in ("file", "id", *columns):
        if names.count(name) > 1:
            raise SourceError(f"landmark table {table}: column {name} is there {names.count(name)} times; keep one")
    return _Header(names, best, columns)


def _csv_row(table: Path, line: int, header: _Header, cells: list[str]) -> TableRow:
    """Return a row with its file and landmark cells, its id and its split."""
    named = dict(zip(header.names, cells, strict=False))
    split = named.get("split", "")
    if split and split not in SPLITS:
        raise SourceError(f"{table}:{line}: split must be one of {', '.join(SPLITS)}, got {split[:80]!r}")
    numbers = [named[column] for column in header.columns if column in named]
    if header.separator != ",":
        numbers = [number.replace(",", ".") for number in numbers]
    # A decimal comma splits a number into two cells, so no cell of a row that is too long can be trusted.
    numbers += [cell for cell in cells[len(header.names) :] if cell]
    problem = ""
    if len(header.columns) != len(COLUMNS):
        try:
            numbers = reduced_cells(numbers)
        except ValueError as error:
            problem = str(error)
    return TableRow(line, normalize(named.get("file", "")), numbers, named.get("id", ""), split, problem=problem)


def _columns_of_68_points(header: Sequence[str]) -> list[str] | None:
    """Return the columns of x and y of each point, or None for a table that lacks some.

    OpenFace names them ``x_0``, ..., ``x_67``, ``y_0``, ..., ``y_67``; without the underscore they are known, too.
    """
    found: dict[tuple[int, str], str] = {}
    for name in header:
        if match := POINT_COLUMN.fullmatch(name):
            found.setdefault((int(match[2]), match[1]), name)
    wanted = [(point, axis) for point in range(POINTS) for axis in "xy"]
    return [found[one] for one in wanted] if found.keys() >= set(wanted) else None


# --- Folders of .pts files --------------------------------------------------------------------------------------


def read_pts_folder(table: Path, folder: Path) -> tuple[list[TableRow], list[Rejected]]:
    """Read a folder of ``.pts`` files as iBUG publishes them: ``version``, ``n_points`` and 68 points in braces.

    ``a/b.pts`` belongs to the photo ``a/b`` with the ending of any image. Coordinates count from 1, as in MATLAB, so 1
    is subtracted.

    Args:
        table: folder of the files; it may be the folder of the photos.

    Returns:
        A row for each file that has a photo, and rejections of the others.

    Raises:
        SourceError: the folder cannot be read, holds no such file, or none of a photo.
    """
    try:
        names = sorted(name for kind, name in walk_folder(table) if kind == "others" and name.lower().endswith(".pts"))
    except OSError as error:
        raise SourceError(f"landmark table {table} cannot be read: {error.strerror}") from None
    if not names:
        raise SourceError(f"landmark table {table} is a folder without .pts files; expected {EXPECTED}")
    if len(names) > MAX_TABLE_ROWS:
        raise SourceError(f"landmark table {table} has {len(names)} files; at most {MAX_TABLE_ROWS} are read")
    images: dict[str, list[str]] = {}
    for image in list_images(folder):
        images.setdefault(_stem(image), []).append(image)
    rows, rejected = [], []
    for number, name in enumerate(names, start=1):
        own, place = images.get(_stem(name), []), utf8_name(name)
        if len(own) == 1:
            try:
                row = TableRow(number, own[0], _read_pts(table / name), place=place)
            except ValueError as error:
                row = TableRow(number, own[0], [], place=place, problem=str(error))
            rows.append(row)
        elif own:
            detail = f"{place} may belong to {' or '.join(map(utf8_name, own))}; keep one of them"
            rejected += [Rejected(utf8_name(image), Reason.BAD_ROW, detail) for image in own]
        else:
            detail = f"no photo has the name of {place} with the ending of an image"
            rejected.append(Rejected(place, Reason.FILE_MISSING, detail))
    if not rows and not any(one.reason is Reason.BAD_ROW for one in rejected):
        raise SourceError(
            f"none of the {len(names)} .pts files in {table} has the name of a photo in {folder}; expected a/b.pts for "
            f"the photo a/b.jpg, the first is {utf8_name(names[0])}"
        )
    if rows and all(row.problem for row in rows):
        raise SourceError(f"landmark table {table}: no .pts file can be used, first {rows[0].place}: {rows[0].problem}")
    return rows, rejected


def _stem(name: str) -> str:
    return nfc(str(PurePosixPath(name).with_suffix("")))


def _read_pts(path: Path) -> list[str]:
    """Return ten landmark numbers; a ValueError says why the file cannot be used."""
    try:
        text = read_text(path, MAX_VALUE_BYTES)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("it is not a text in UTF-8") from None
    match = PTS_FILE.fullmatch(text)
    if match is None:
        raise ValueError("expected the lines version, n_points, {, x and y of each point, }")
    count, cells = int(match[1]), match[2].split()
    if count != POINTS:
        raise ValueError(f"expected {POINTS} points in the order of iBUG, got n_points {count}")
    if len(cells) != 2 * POINTS:
        raise ValueError(f"expected {2 * POINTS} numbers in braces, got {len(cells)}")
    return reduced_cells(cells, origin=1)
