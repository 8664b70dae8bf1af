"""A folder of photos with a CSV table of landmarks."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from celebahq_builder.errors import SourceError
from celebahq_builder.sources.landmark_table import TableRow, make_source, normalize, read_table
from celebahq_builder.sources.photo import COLUMNS, SPLITS, LandmarkOrder, PhotoSource

SEPARATORS = (",", ";", "\t")


class PhotoFolder(PhotoSource):
    r"""A folder of photos with a CSV table of landmarks; see `read_folder`.

    Args:
        folder: folder of the photos.
        table: CSV file with the columns ``file``, ``lefteye_x``, ... ``rightmouth_y`` and optionally ``split``.
        landmark_order: order of the ten numbers of a row; see `sources.photo.LandmarkOrder`.

    Example:
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
    """Read any folder of photos and a CSV table of landmarks.

    The first row of the table names its columns: ``file`` (relative to the folder) or, as in CelebA's CSV tables,
    ``image_id``; the ten of `COLUMNS`; and optionally ``split``. Commas, semicolons or tabs separate the columns; where
    commas do not, a number may have a decimal comma.

    Args:
        folder: of the photos.
        table: CSV file.
        landmark_order: order of the ten numbers; the names of the columns keep CelebA's order.

    Raises:
        SourceError: the folder or the table cannot be read, or a column is missing.
    """
    try:
        is_folder = folder.is_dir()
    except OSError as error:
        raise SourceError(f"`photos` {str(folder)[:200]} cannot be read: {error.strerror}") from None
    if not is_folder:
        raise SourceError(f"`photos` {folder} is not a folder")
    text = read_table(table)
    try:
        header, separator = _read_header(table, text)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        next(lines)
        rows = []
        for cells in lines:
            if any(cells):
                rows.append(_csv_row(table, lines.line_num, header, [cell.strip() for cell in cells], separator))
    except csv.Error as error:
        raise SourceError(f"landmark table {table} cannot be read as CSV: {error}") from None
    return make_source(folder, rows, table.name, order=landmark_order, several_faces=True)


def _read_header(table: Path, text: str) -> tuple[list[str], str]:
    """Return the names of the columns, and the character that separates them."""
    header: list[str] = []
    for separator in SEPARATORS:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        found = [name.strip() for name in next(lines, [])]
        if len(found) > len(header):
            header, best = found, separator
    if "file" not in header and "image_id" in header:
        header[header.index("image_id")] = "file"
    missing = [name for name in ("file", *COLUMNS) if name not in header]
    if missing:
        is_celeba = text[:20].split("\n")[0].strip().isdecimal()
        hint = "; this looks like CelebA's own table, which `celeba_root` reads" if is_celeba else ""
        raise SourceError(
            f"landmark table {table}: column {missing[0]} is missing; the first row must name "
            f"file, {', '.join(COLUMNS)}, separated by commas, semicolons or tabs; it has "
            f"{', '.join(header)[:200] or 'nothing'}{hint}"
        )
    for name in ("file", "id", *COLUMNS):
        if header.count(name) > 1:
            raise SourceError(f"landmark table {table}: column {name} is there {header.count(name)} times; keep one")
    return header, best


def _csv_row(table: Path, line: int, header: list[str], cells: list[str], separator: str) -> TableRow:
    """Return a row with its file and landmark cells, its id and its split."""
    named = dict(zip(header, cells, strict=False))
    split = named.get("split", "")
    if split and split not in SPLITS:
        raise SourceError(f"{table}:{line}: split must be one of {', '.join(SPLITS)}, got {split[:80]!r}")
    numbers = [named[column] for column in COLUMNS if column in named]
    if separator != ",":
        numbers = [number.replace(",", ".") for number in numbers]
    # A decimal comma splits a number into two cells, so no cell of a row that is too long can be trusted.
    numbers += [cell for cell in cells[len(header) :] if cell]
    return TableRow(line, normalize(named.get("file", "")), numbers, named.get("id", ""), split)
