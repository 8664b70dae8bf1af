"""Tables of 68 points: their reduction to five points, columns of a CSV table, and folders of ``.pts`` files."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import list_images, nfc, utf8_name, walk_folder
from celebahq_builder.limits import MAX_TABLE_ROWS, MAX_VALUE_BYTES
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.sources.landmark_table import TableRow
from celebahq_builder.sources.photo import LandmarkRow
from celebahq_builder.storage import read_text

EXPECTED = (
    "a CSV table, a folder of .pts files, ffhq-dataset-v2.json, or JSON of the form {file: [faces]} or [{file, kps}] "
    "with five points; docs/landmarks.md describes them"
)
"""Tables that are read, for messages."""

POINTS = 68

POINT_COLUMN = re.compile(r"([xy])_?([0-9]{1,2})")

PTS_FILE = re.compile(r"\s*(?:version:\s*\S+\s+)?n_points:\s*([0-9]{1,6})\s*\{([^{}]*)\}\s*")


def five_points(points: Sequence[float]) -> LandmarkRow:
    """Return eyes, nose and mouth corners of 68 points, reduced as FFHQ does it; in the order of `photo.COLUMNS`.

    An eye is the mean of its six points; 36 to 41 are those of the eye on the left side of the image. The nose is point
    30; the corners of the mouth are points 48 and 54.

    Args:
        points: 136 numbers, x and y of each point in the order of dlib and iBUG.

    >>> five_points([float(number) for number in range(136)])
    (77.0, 78.0, 89.0, 90.0, 60.0, 61.0, 96.0, 97.0, 108.0, 109.0)
    """
    eyes = [sum(points[2 * first + axis : 2 * first + 12 : 2]) / 6 for first in (36, 42) for axis in (0, 1)]
    return (*eyes, *points[60:62], *points[96:98], *points[108:110])


def reduced_cells(cells: Sequence[str], origin: int = 0) -> tuple[list[str], str]:
    """Return ten landmark numbers for the numbers of 68 points, and why they cannot be used, or an empty text.

    Args:
        cells: 136 numbers, x and y of each point.
        origin: coordinates of the centre of the first pixel, which are subtracted.
    """
    numbers = []
    for place, cell in enumerate(cells):
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            return [], f"{'xy'[place % 2]} of point {place // 2} is {cell[:80] or 'empty'}, not a number"
        numbers.append(number - origin)
    return [repr(number) for number in five_points(numbers)], ""


def columns_of_68_points(header: Sequence[str]) -> list[str] | None:
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
        folder: of the photos.

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
            cells, problem = _read_pts(table / name)
            rows.append(TableRow(number, own[0], cells, place=place, problem=problem))
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


def _read_pts(path: Path) -> tuple[list[str], str]:
    """Return ten landmark numbers, and why the file cannot be used, or an empty text."""
    try:
        text = read_text(path, MAX_VALUE_BYTES)
    except OSError as error:
        return [], f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return [], "it is not a text in UTF-8"
    match = PTS_FILE.fullmatch(text)
    if match is None:
        return [], "expected the lines version, n_points, {, x and y of each point, }"
    count, cells = int(match[1]), match[2].split()
    if count != POINTS:
        return [], f"expected {POINTS} points in the order of iBUG, got n_points {count}"
    if len(cells) != 2 * POINTS:
        return [], f"expected {2 * POINTS} numbers in braces, got {len(cells)}"
    return reduced_cells(cells, origin=1)
