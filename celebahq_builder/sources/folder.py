"""A folder of photos with a CSV table of landmarks."""

from __future__ import annotations

import csv
from pathlib import Path

from celebahq_builder.errors import SourceError
from celebahq_builder.sources.landmark_table import TableRow, make_source, normalize
from celebahq_builder.sources.photo import COLUMNS, SPLITS, PhotoSource


class PhotoFolder(PhotoSource):
    r"""A folder of photos with a CSV table of landmarks; see `read_folder`.

    Args:
        folder: folder of the photos.
        table: CSV file with the columns ``file``, ``lefteye_x``, ... ``rightmouth_y`` and optionally ``split``.

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

    def __init__(self, folder: Path | str, table: Path | str) -> None:
        super().__init__(**vars(read_folder(Path(folder), Path(table))))


def read_folder(folder: Path, table: Path) -> PhotoSource:
    """Read any folder of photos and a CSV table of landmarks.

    The first row of the table names its columns: ``file`` (relative to the folder), the ten of `COLUMNS`, and
    optionally ``split``.

    Args:
        folder: of the photos.
        table: CSV file.

    Raises:
        SourceError: the folder or the table cannot be read, or a column is missing.
    """
    if not folder.is_dir():
        raise SourceError(f"`photos` {folder} is not a folder")
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"landmark table {table} cannot be read: {error}") from None
    lines = csv.reader(text.splitlines(), skipinitialspace=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        missing = [name for name in ("file", *COLUMNS) if name not in header]
        if missing:
            raise SourceError(
                f"landmark table {table}: column {missing[0]} is missing; the first row must name "
                f"file, {', '.join(COLUMNS)}; it has {', '.join(header)[:200] or 'nothing'}"
            )
        rows, splits = [], {}
        for cells in lines:
            if cells:
                row, split = _csv_row(table, lines.line_num, header, [cell.strip() for cell in cells])
                rows.append(row)
                splits[row.file] = split
    except csv.Error as error:
        raise SourceError(f"landmark table {table} cannot be read as CSV: {error}") from None
    return make_source(folder, rows, table.name, splits=splits)


def _csv_row(table: Path, line: int, header: list[str], cells: list[str]) -> tuple[TableRow, str]:
    """Return a row with its file and landmark cells, and its split."""
    named = dict(zip(header, cells, strict=False))
    split = named.get("split", "")
    if split and split not in SPLITS:
        raise SourceError(f"{table}:{line}: split must be one of {', '.join(SPLITS)}, got {split[:80]!r}")
    numbers = [named[column] for column in COLUMNS if column in named]
    # A decimal comma splits a number into two cells, so no cell of a row that is too long can be trusted.
    return TableRow(
        line, normalize(named.get("file", "")), numbers + [cell for cell in cells[len(header) :] if cell]
    ), split
