"""Rows of landmark tables: parsing, checks, and matching with the files of a folder."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import list_images, nfc, photo_path, png_name, utf8_name
from celebahq_builder.limits import MAX_TABLE_ROWS
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.face_ids import left_to_right, unique_ids, unsafe_id
from celebahq_builder.sources.photo import (
    COLUMNS,
    LandmarkOrder,
    LandmarkRow,
    Photo,
    PhotoSource,
    eyes_to_mouth,
    five_points,
    in_column_order,
    is_mirrored,
)
from celebahq_builder.storage import read_text

EXPECTED = (
    "a CSV table, a folder of .pts files, ffhq-dataset-v2.json, or JSON of the form {file: [faces]} or [{file, kps}] "
    "with five points; docs/landmarks.md describes them"
)
"""Tables that are read, for messages."""

POINTS = 68
"""Points of a face in the tables of dlib and iBUG, which are reduced to five."""

COORDINATE_MAX = 1e8
"""Largest coordinate in px that a row may have; larger ones would overflow in the geometry of the crop."""

ALIGNED_EYES = (69.5, 111.3, 107.6, 111.4)
"""Means of the eyes in list_landmarks_align_celeba, which belongs to CelebA's aligned images of 178x218 px."""

PLACES_SHOWN = 8
"""Lines of a table that a message names; a hostile table has a million for one file, and each is rejected."""

FILE_CHARACTERS_MAX = 4096
"""Length of the longest path that Linux takes."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a landmark table, not checked yet."""

    line: int
    """Line number in the file, from 1."""
    file: str
    """File name, see `normalize`."""
    cells: list[str]
    """The ten landmark numbers."""
    id: str = ""
    """Id of the face; empty for a row that gives none."""
    split: str = ""
    place: str = ""
    """Place of the row in a table that has no lines, such as ``entry 3``."""
    problem: str = ""
    """Reason for which the reader of the table cannot use the row; empty if it can."""


def normalize(file: str) -> str:
    """Return the one spelling of a listed file name.

    >>> normalize("./a.jpg")
    'a.jpg'
    """
    return PurePosixPath(file).as_posix() if "/" in file else file


def read_table(path: Path) -> str:
    """Return the text of a table.

    Raises:
        SourceError: the file cannot be read, is not UTF-8, or has too many rows.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise SourceError(f"table {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"table {path} cannot be read: byte {error.start} is not UTF-8; save it as UTF-8") from None
    rows = max(text.count("\n"), text.count("\r"))
    if rows > MAX_TABLE_ROWS:
        raise SourceError(f"table {path} has {rows} rows; at most {MAX_TABLE_ROWS} are read: divide it")
    return text


def reduced_cells(cells: Sequence[str], origin: int = 0) -> list[str]:
    """Return ten landmark numbers for the numbers of 68 points.

    Args:
        cells: 136 numbers, x and y of each point.
        origin: coordinates of the centre of the first pixel, which are subtracted.

    Raises:
        ValueError: there are more or fewer, or one is not a finite number.
    """
    if len(cells) != 2 * POINTS:
        raise ValueError(f"expected {2 * POINTS} landmark numbers, got {len(cells)}")
    numbers = []
    for place, cell in enumerate(cells):
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{'xy'[place % 2]} of point {place // 2} is {cell[:80] or 'empty'}, not a number")
        numbers.append(number - origin)
    return [repr(number) for number in five_points(numbers)]


def make_source(
    folder: Path,
    rows: list[TableRow],
    table: str,
    *,
    order: LandmarkOrder = "viewer",
    several_faces: bool = False,
    rejected: Iterable[Rejected] = (),
    warnings: Iterable[str] = (),
    splits: dict[str, str] | None = None,
    attribute_names: tuple[str, ...] = (),
    attributes: dict[str, tuple[int, ...]] | None = None,
) -> PhotoSource:
    """Match table rows with the files of a folder: return the photos, and the rows and files that are rejected.

    Args:
        table: name of the table, for messages.
        order: of the ten numbers of a row.
        several_faces: whether rows of one file with different landmarks are faces of one photo. If not, none is used.
        rejected: files that the table names without landmarks.
        warnings: about the table as a whole.
        splits: by file, for rows without one; photos without any get an empty one.
        attribute_names: in the order of the attributes.
        attributes: by file; photos without any get zeros.

    Raises:
        SourceError: the folder cannot be read, there are no photos at all, two would get the same id, or most rows
            have their numbers in another order.

    The photos have the order of the table. Faces of one photo come together, from left to right as the viewer sees
    them; see `face_ids.left_to_right`.
    """
    try:
        os.scandir(folder).close()  # a message of its own for the folder itself
    except OSError as error:
        raise SourceError(f"folder of photos {folder} cannot be read: {error.strerror}") from None
    on_disk = list_images(folder)
    splits, attributes = splits or {}, attributes or {}
    if spelled := _spelling_on_disk(rows, on_disk):
        rows = [replace(row, file=spelled[row.file]) if row.file in spelled else row for row in rows]
        splits = {spelled.get(file, file): split for file, split in splits.items()}
        attributes = {spelled.get(file, file): values for file, values in attributes.items()}
    rejected = list(rejected)
    listed = {one.photo for one in rejected} | {row.file for row in rows}
    faces, unusable = _usable_rows(table, rows, order, several_faces)
    rejected += unusable + _match_files(table, faces, listed, on_disk)
    if not faces and not rejected:
        raise SourceError(f"{table} lists no photos")
    _check_order(table, [face.landmarks for some in faces.values() for face in some], order)
    _check_wild(table, folder, faces)
    for file, some in faces.items():
        if len(some) > 1:
            faces[file] = [some[i] for i in left_to_right(folder, file, [face.landmarks for face in some])]
    ids = unique_ids(table, {file: [face.row.id for face in some] for file, some in faces.items()})
    none = (0,) * len(attribute_names)
    photos = tuple(
        Photo(
            id=name,
            file=file,
            landmarks=face.landmarks,
            split=face.row.split or splits.get(file, ""),
            attributes=attributes.get(file, none),
            shares_file=len(some) > 1,
        )
        for file, some in faces.items()
        for name, face in zip(ids[file], some, strict=True)
    )
    return PhotoSource(folder, photos, tuple(rejected), tuple(warnings), attribute_names)


class _FaceRow(NamedTuple):
    """A row that is used, and its landmarks in the order of `COLUMNS`."""

    row: TableRow
    landmarks: LandmarkRow


def _usable_rows(
    table: str, rows: Iterable[TableRow], order: LandmarkOrder, several_faces: bool
) -> tuple[dict[str, list[_FaceRow]], list[Rejected]]:
    """Return the faces of each file, and the rows that are rejected: those with a problem, and duplicates."""
    rejected: list[Rejected] = []
    by_file: dict[str, list[TableRow]] = {}
    for row in rows:
        if problem := _row_problem(row):
            place = _place(table, row)
            named = row.file if len(row.file) <= FILE_CHARACTERS_MAX else ""
            rejected.append(Rejected(named or place, Reason.BAD_ROW, f"{place}: {problem}"))
        else:
            by_file.setdefault(row.file, []).append(row)
    usable: dict[str, list[_FaceRow]] = {}
    for file, same in by_file.items():
        faces: dict[LandmarkRow, list[TableRow]] = {}
        for row in same:
            faces.setdefault(in_column_order(tuple(map(float, row.cells)), order), []).append(row)
        if len(faces) > 1 and not several_faces:
            rejected += _duplicates(table, same, same, "with different values; none is used")
            continue
        usable[file] = [_FaceRow(equal[0], landmarks) for landmarks, equal in faces.items()]
        for equal in (rows for rows in faces.values() if len(rows) > 1):
            rejected += _duplicates(table, equal[1:], equal, "with equal values; the first is used")
    return usable, rejected


def _match_files(
    table: str, faces: dict[str, list[_FaceRow]], listed: Collection[str], on_disk: Sequence[str]
) -> list[Rejected]:
    """Return the files that are rejected, and remove their faces; a PNG stands in for a listed file that is missing."""
    present = set(on_disk)
    rejected: list[Rejected] = []
    absent = sorted(file for file in listed if file not in present)
    stand_ins = {png_name(file): file for file in absent if png_name(file) in present}
    for png, file in stand_ins.items():
        if png in listed and file in faces:
            missing = Rejected(file, Reason.FILE_MISSING, f"only {png} exists, and the table lists that too")
            rejected += [missing] * len(faces.pop(file))
    for name in on_disk:
        if name not in listed and name not in stand_ins:
            rejected.append(Rejected(utf8_name(name), Reason.NOT_LISTED, f"{table} has no row for it"))
    return rejected


def _place(table: str, row: TableRow) -> str:
    return f"{table}: {row.place}" if row.place else f"{table}:{row.line}"


def _duplicates(table: str, unused: Sequence[TableRow], same: Sequence[TableRow], detail: str) -> list[Rejected]:
    """Return the rejections of `unused`, which are among the rows `same` of one file."""
    places = ", ".join(row.place or str(row.line) for row in same[:PLACES_SHOWN])
    places += f" and {len(same) - PLACES_SHOWN} more" if len(same) > PLACES_SHOWN else ""
    text = f"{'' if same[0].place else 'lines '}{places} list it, {detail}"
    return [Rejected(row.file, Reason.DUPLICATE_ROW, f"{_place(table, row)}: {text}") for row in unused]


def _row_problem(row: TableRow) -> str | None:
    """Return why a row cannot be used, or None if it can."""
    if not row.file:
        return "no file name"
    if len(row.file) > FILE_CHARACTERS_MAX:
        return f"a file name of {len(row.file)} characters"
    if "/" in row.file or row.file in (".", ".."):  # a path takes long to parse, and a table may have 200,000 rows
        path = PurePosixPath(row.file)
        if path.is_absolute() or ".." in path.parts:
            return f"{row.file} is outside the folder of photos"
        if not path.name:
            return f"{row.file} is not a file name"
    if row.problem:
        return row.problem
    if row.id and (unsafe := unsafe_id(row.id)):
        return f"id {row.id[:80]} {unsafe}"
    if len(row.cells) != len(COLUMNS):
        return f"expected {len(COLUMNS)} landmark numbers, got {len(row.cells)}"
    for name, cell in zip(COLUMNS, row.cells, strict=True):
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not abs(number) <= COORDINATE_MAX:
            expected = "position in px" if math.isfinite(number) else "number"
            return f"{name} is {cell[:80] or 'empty'}, not a {expected}"
    return None


def _spelling_on_disk(rows: Iterable[TableRow], on_disk: Sequence[str]) -> dict[str, str]:
    """Return the names on disk of listed files that differ from them in Unicode normalization only.

    macOS decomposes accented letters in file names, and tables usually have them composed.
    """
    names = {nfc(name): name for name in on_disk}
    present = set(on_disk)
    other = {row.file: names.get(nfc(row.file)) for row in rows if row.file not in present}
    return {file: name for file, name in other.items() if name is not None}


def _check_order(table: str, landmarks: Sequence[LandmarkRow], order: LandmarkOrder) -> None:
    """Raise a SourceError if most rows are those of mirrored faces; names the likely cause."""
    mirrored = [row for row in landmarks if is_mirrored(row)]
    if 2 * len(mirrored) <= len(landmarks):
        return
    ways = [eyes_to_mouth(row) for row in mirrored]
    if order != "viewer":
        cause = f"the table was read with `landmark_order` {order}; leave it out"
    elif sum(abs(x) > abs(y) for x, y in ways) * 2 > len(ways):
        cause = "x and y seem to be exchanged; `landmark_order` yx reads such a table"
    elif sum(y < 0 for _, y in ways) * 2 > len(ways):
        cause = "y seems to be counted from the bottom of the image; count it from the top"
    else:
        cause = (
            "left and right seem to be those of the person instead of the viewer; `landmark_order` subject reads such "
            "a table"
        )
    raise SourceError(
        f"{table}: in {len(mirrored)} of {len(landmarks)} rows the face is mirrored; expected lefteye to be the eye on "
        f"the left side of the image; {cause}"
    )


def _check_wild(table: str, folder: Path, faces: dict[str, list[_FaceRow]]) -> None:
    """Raise a SourceError for the landmarks of CelebA's aligned images, unless the photos are these images."""
    rows = (face.landmarks for some in faces.values() for face in some)
    columns = list(zip(*rows, strict=True))[:4]
    if not columns or any(
        abs(statistics.median(column) - mean) > 2 for column, mean in zip(columns, ALIGNED_EYES, strict=True)
    ):
        return
    for file in faces:
        try:
            if not (path := photo_path(folder, file)).is_file():
                continue
            with Image.open(path) as image:
                is_aligned = image.size == (178, 218)
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        if not is_aligned:
            raise SourceError(
                f"{table} has the landmarks of CelebA's aligned images (list_landmarks_align_celeba), which have "
                f"178x218 px, but {file} has {image.size[0]}x{image.size[1]} px; give the table of the photos in the "
                "wild, list_landmarks_celeba"
            )
        return
