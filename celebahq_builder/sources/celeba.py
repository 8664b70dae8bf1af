"""CelebA as its authors ship it: in-the-wild photos and tables of landmarks, splits and attributes."""

from __future__ import annotations

from pathlib import Path

from celebahq_builder.errors import SourceError
from celebahq_builder.sources.landmark_table import TableRow, make_source, normalize, read_table
from celebahq_builder.sources.photo import COLUMNS, SPLITS, LandmarkOrder, PhotoSource


class CelebA(PhotoSource):
    """CelebA as its authors publish it; see `read_celeba`.

    Args:
        root: folder of ``img_celeba/`` and ``Anno/list_landmarks_celeba.txt``.
        landmark_order: order of the ten numbers of a row, see `sources.photo.LandmarkOrder`; CelebA's is the default.

    Example:
        >>> source = CelebA("tests/sample/celeba")
        >>> len(source.photos), source.photos[0].file
        (15, '000001.jpg')
    """

    def __init__(self, root: Path | str, landmark_order: LandmarkOrder = "viewer") -> None:
        super().__init__(**vars(read_celeba(Path(root), landmark_order)))


def read_celeba(root: Path, landmark_order: LandmarkOrder = "viewer") -> PhotoSource:
    """Read a folder in the layout of CelebA's authors.

    Needed are ``img_celeba/`` (or ``Img/img_celeba/``) and ``Anno/list_landmarks_celeba.txt``. Optional are
    ``Eval/list_eval_partition.txt`` and ``Anno/list_attr_celeba.txt``. Tables may also lie in `root` itself.

    Raises:
        SourceError: a needed file or folder is missing, or a table cannot be read.

    >>> source = read_celeba(Path("tests/sample/celeba"))
    >>> len(source.photos), source.photos[0].file
    (15, '000001.jpg')
    """
    try:
        return _read_celeba(root, landmark_order)
    except OSError as error:
        raise SourceError(f"`celeba_root` {root} cannot be read: {error.strerror}") from None


def _read_celeba(root: Path, landmark_order: LandmarkOrder) -> PhotoSource:
    folder = _required([root / "img_celeba", root / "Img" / "img_celeba"], root, "the folder of in-the-wild photos")
    table = _required(_places(root, "Anno", "list_landmarks_celeba.txt"), root, "the landmark table")
    rows, warnings = _read_celeba_landmarks(table)
    splits = _read_partition(_existing(_places(root, "Eval", "list_eval_partition.txt")))
    names, attributes = _read_attributes(_existing(_places(root, "Anno", "list_attr_celeba.txt")))
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


def _read_celeba_landmarks(table: Path) -> tuple[list[TableRow], list[str]]:
    lines = _lines(table)
    count = _count_line(table, lines)
    if len(lines) < 2 or (lines[1].split() and lines[1].split()[0] != COLUMNS[0]):
        found = lines[1] if len(lines) > 1 else "nothing"
        raise SourceError(f"{table}:2: expected the column names {COLUMNS[0]} ... {COLUMNS[-1]}, got {found[:80]!r}")
    rows = []
    for number, line in enumerate(lines[2:], start=3):
        cells = line.split()
        if cells:
            rows.append(TableRow(number, normalize(cells[0]), cells[1:]))
    return rows, _count_warning(table, count, len(rows))


def _count_line(table: Path, lines: list[str]) -> int:
    try:
        return int(lines[0])
    except (IndexError, ValueError):
        found = lines[0][:80] if lines else ""
        raise SourceError(f"{table}:1: expected the number of photos, got {found!r}") from None


def _count_warning(table: Path, count: int, rows: int) -> list[str]:
    return [f"{table.name}:1 says {count} rows, the table has {rows}; all of them are used"] if count != rows else []


def _read_partition(table: Path | None) -> dict[str, str]:
    splits = {}
    for number, line in enumerate(_lines(table) if table else (), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 2 or cells[1] not in ("0", "1", "2"):
            raise SourceError(f"{table}:{number}: expected a file name and 0, 1 or 2, got {line[:80]!r}")
        splits[normalize(cells[0])] = SPLITS[int(cells[1])]
    return splits


def _read_attributes(table: Path | None) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    if table is None:
        return (), {}
    lines = _lines(table)
    _count_line(table, lines)
    names = tuple(lines[1].split()) if len(lines) > 1 else ()
    attributes = {}
    for number, line in enumerate(lines[2:], start=3):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != len(names) + 1 or not set(cells[1:]) <= {"1", "-1", "0"}:
            raise SourceError(
                f"{table}:{number}: expected a file name and {len(names)} values 1 or -1, got {line[:80]!r}"
            )
        attributes[normalize(cells[0])] = tuple(map(int, cells[1:]))
    return names, attributes


def _lines(table: Path) -> list[str]:
    return read_table(table).splitlines()


def _places(root: Path, folder: str, name: str) -> list[Path]:
    return [root / folder / name, root / name]


def _existing(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _required(paths: list[Path], root: Path, what: str) -> Path:
    found = _existing(paths)
    if found is None:
        if not root.is_dir():
            raise SourceError(f"`celeba_root` {root} is not a folder")
        looked = ", ".join(path.relative_to(root).as_posix() for path in paths)
        has = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
        raise SourceError(f"{what} is not in `celeba_root` {root}: looked for {looked}; the folder has {has}")
    return found
