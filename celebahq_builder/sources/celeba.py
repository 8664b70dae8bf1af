"""CelebA as its authors ship it: in-the-wild photos and tables of landmarks, splits and attributes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import cast

from celebahq_builder.errors import SourceError
from celebahq_builder.image_set import is_image_name, nfc
from celebahq_builder.sources.landmark_table import TableRow, make_source, normalize, read_table
from celebahq_builder.sources.photo import COLUMNS, SPLITS, LandmarkOrder, PhotoSource

PAGE = "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
"""Page of CelebA's authors, where the photos are."""

ALIGNED = ("img_align_celeba", "img_align_celeba_png")
"""Folders of CelebA's aligned images, as JPEG and PNG."""

FILE_COLUMNS = ("image_id", "file", "file_name")
"""Names of the column of file names in a CSV table; Kaggle's tables have the first one."""

ATTRIBUTE_VALUES = {"1": 1, "-1": -1, "0": 0}
"""Values of an attribute as they are written."""


class AlignedImagesOnly(SourceError):
    """The folder has CelebA's aligned images, but not the in-the-wild photos."""

    def __init__(self, message: str, aligned: Path) -> None:
        super().__init__(message)
        self.aligned = aligned
        """Folder of the aligned images."""


class CelebA(PhotoSource):
    """CelebA as its authors publish it; see `read_celeba`.

    Args:
        root: folder of ``img_celeba/`` and ``Anno/list_landmarks_celeba.txt``.
        landmark_order: order of the ten numbers of a row, see `sources.photo.LandmarkOrder`; CelebA's is the default.

    Examples:
        >>> source = CelebA("tests/sample/celeba")
        >>> len(source.photos), source.photos[0].file
        (15, '000001.jpg')
    """

    def __init__(self, root: Path | str, landmark_order: LandmarkOrder = "viewer") -> None:
        super().__init__(**vars(read_celeba(Path(root), landmark_order)))


def read_celeba(root: Path, landmark_order: LandmarkOrder = "viewer") -> PhotoSource:
    """Read a folder in the layout of CelebA's authors.

    The folder must hold ``img_celeba/`` (or ``Img/img_celeba/``) and ``Anno/list_landmarks_celeba.txt``. It may hold
    ``Eval/list_eval_partition.txt`` and ``Anno/list_attr_celeba.txt``. Tables may also lie in `root` itself.

    Raises:
        AlignedImagesOnly: the photos are missing, but CelebA's aligned images are there.
        SourceError: a needed file or folder is missing, or a table cannot be read.
    """
    try:
        return _read_celeba(root, landmark_order)
    except OSError as error:
        raise SourceError(f"`celeba_root` {root} cannot be read: {error.strerror}") from None


def _read_celeba(root: Path, landmark_order: LandmarkOrder) -> PhotoSource:
    folders = [root / "img_celeba", root / "Img" / "img_celeba"]
    tables = _places(root, "Anno", "list_landmarks_celeba.txt")
    if _existing(folders) is None and (aligned := _aligned_images(root)):
        needed = "img_celeba.7z" if _existing(tables) else "img_celeba.7z and Anno/list_landmarks_celeba.txt"
        raise AlignedImagesOnly(
            f"`celeba_root` {root} has only CelebA's aligned images ({aligned}); a build needs the in-the-wild photos: "
            f"get {needed} from {PAGE}, and give the folder that holds img_celeba; imported with the crop celeba, the "
            "aligned images make CelebA at 128x128",
            aligned,
        )
    folder = _required(folders, root, "the folder of in-the-wild photos")
    table = _required(tables, root, "the landmark table")
    rows, warnings = _read_celeba_landmarks(table)
    partition = _existing(_places(root, "Eval", "list_eval_partition.txt"))
    attribute_table = _existing(_places(root, "Anno", "list_attr_celeba.txt"))
    splits = read_partition(partition) if partition else {}
    names, attributes = read_attributes(attribute_table) if attribute_table else ((), {})
    for path, known in ((partition, splits), (attribute_table, attributes)):
        files = {nfc(file) for file in known}
        missing = [row.file for row in rows if nfc(row.file) not in files]
        if path and missing:
            some = f"{len(missing)} of {len(rows)} rows of {table.name}, such as {missing[0]}"
            warnings.append(f"{path.name} lacks {some}")
    return make_source(
        folder,
        rows,
        table.name,
        order=landmark_order,
        warnings=warnings,
        splits=splits,
        attribute_names=names,
        attributes=attributes,
    )


def _aligned_images(root: Path) -> Path | None:
    """Return the folder of CelebA's aligned images, which Kaggle ships within another of that name."""
    places = [root / within / name for within in ("", "Img", "celeba") for name in ALIGNED]
    if root.absolute().name in ALIGNED:
        places.append(root)
    for place in places:
        for folder in (place, place / place.name):
            if folder.is_dir() and any(is_image_name(path.name) for path in folder.iterdir()):
                return place
    return None


def _read_celeba_landmarks(table: Path) -> tuple[list[TableRow], list[str]]:
    lines = read_table(table).splitlines()
    count = _read_count(table, lines[0] if lines else "")
    if len(lines) < 2 or (lines[1].split() and lines[1].split()[0] != COLUMNS[0]):
        found = lines[1] if len(lines) > 1 else "nothing"
        raise SourceError(f"{table}:2: expected the column names {COLUMNS[0]} ... {COLUMNS[-1]}, got {found[:80]!r}")
    rows = []
    for number, line in enumerate(lines[2:], start=3):
        cells = line.split()
        if cells:
            rows.append(TableRow(number, normalize(cells[0]), cells[1:]))
    warning = f"{table.name}:1 says {count} rows, the table has {len(rows)}; all of them are used"
    return rows, [warning] if count != len(rows) else []


def _read_count(table: Path, line: str) -> int:
    try:
        return int(line)
    except ValueError:
        raise SourceError(f"{table}:1: expected the number of photos, got {line[:80]!r}") from None


# --- Splits and attributes, as the authors (.txt) and Kaggle (.csv) publish them --------------------------------


def read_partition(table: Path) -> dict[str, str]:
    """Return the split of each file of ``list_eval_partition``: ``train``, ``val`` or ``test``.

    Raises:
        SourceError: the table cannot be read, a row is not a file and 0, 1 or 2, or a file is listed twice.
    """
    rows = _rows(table)
    if _is_csv(table):
        _csv_columns(table, rows)
    splits: dict[str, str] = {}
    for number, cells in rows:
        if len(cells) != 2 or not cells[0] or cells[1] not in ("0", "1", "2"):
            raise SourceError(f"{table}:{number}: expected a file name and 0, 1 or 2, got {_shown(cells)}")
        splits[_new_file(table, number, cells[0], splits)] = SPLITS[int(cells[1])]
    return splits


def read_attributes(table: Path) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Return the names of the attributes in ``list_attr_celeba``, and the values of each file: 1, -1 or 0.

    Raises:
        SourceError: the table cannot be read, a row is not a file and one value per name, or a file is listed twice.
    """
    rows = _rows(table)
    if _is_csv(table):
        names = _csv_columns(table, rows)
    else:
        _, count = next(rows, (1, []))
        _read_count(table, " ".join(count))
        _, names = next(rows, (2, []))
    attributes: dict[str, tuple[int, ...]] = {}
    for number, cells in rows:
        values = tuple(map(ATTRIBUTE_VALUES.get, cells[1:]))
        if len(values) != len(names) or not cells[0] or None in values:
            raise SourceError(
                f"{table}:{number}: expected a file name and {len(names)} values 1 or -1, got {_shown(cells)}"
            )
        attributes[_new_file(table, number, cells[0], attributes)] = cast("tuple[int, ...]", values)
    return tuple(names), attributes


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each row that is not blank."""
    text = read_table(table)
    if not _is_csv(table):
        for number, line in enumerate(text.splitlines(), start=1):
            if cells := line.split():
                yield number, cells
        return
    separator = max(",;\t", key=text.partition("\n")[0].count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for cells in lines:
            if any(cells):
                yield lines.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise SourceError(f"table {table} cannot be read as CSV: {error}") from None


def _is_csv(table: Path) -> bool:
    return table.suffix.lower() == ".csv"


def _csv_columns(table: Path, rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    """Return the names of all columns but the first, which must be that of the file names."""
    number, cells = next(rows, (1, []))
    if not cells or cells[0] not in FILE_COLUMNS:
        raise SourceError(f"{table}:{number}: expected the column names image_id, ..., got {_shown(cells)}")
    return cells[1:]


def _new_file(table: Path, number: int, cell: str, known: Container[str]) -> str:
    file = normalize(cell)
    if file in known:
        raise SourceError(f"{table}:{number}: {file[:80]!r} is listed twice; remove one of the lines")
    return file


def _shown(cells: list[str]) -> str:
    return repr(" ".join(cells)[:80])


# --- Places -----------------------------------------------------------------------------------------------------


def _places(root: Path, folder: str, name: str) -> list[Path]:
    return [root / folder / name, root / name]


def _existing(paths: list[Path]) -> Path | None:
    return next((path for path in paths if os.path.lexists(path)), None)  # a broken link is an error, not no table


def _required(paths: list[Path], root: Path, what: str) -> Path:
    found = _existing(paths)
    if found is None:
        if not root.is_dir():
            raise SourceError(
                f"`celeba_root` {root} is not a folder; expected CelebA's, which holds img_celeba and Anno"
            )
        looked = ", ".join(path.relative_to(root).as_posix() for path in paths)
        has = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
        raise SourceError(f"{what} is not in `celeba_root` {root}: looked for {looked}; the folder has {has}")
    return found
