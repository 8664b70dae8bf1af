"""Photos and their landmarks: CelebA as its authors ship it, or any folder with a table.

Nothing is decoded here. Rows and files that cannot be used become `Rejected` records, each for its reason.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from celebahq_builder.errors import SourceError
from celebahq_builder.image_list import Listed
from celebahq_builder.outcome import Reason, Rejected

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

COLUMNS = tuple(
    f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)
"""Landmark columns in CelebA's order; left and right as the viewer sees them."""

SPLITS = ("train", "val", "test")

LandmarkRow = tuple[float, ...]
"""Ten numbers: x, y of `COLUMNS`, px in the stored picture, (0, 0) is the first pixel's centre."""


@dataclass(frozen=True)
class Photo:
    """One photo of the source."""

    id: str
    """Unique name without suffix, used for its files in the run directory."""
    file: str
    """File name in the landmark table, relative to the folder of photos."""
    landmarks: LandmarkRow
    split: str = ""
    """``train``, ``val``, ``test``, or empty where the source has no partition."""
    attributes: tuple[int, ...] = ()
    """1 or -1 for each of the source's attribute names; empty where it has none."""
    listed: Listed | None = None
    """Its row of the official image list, where one was asked for."""


@dataclass(frozen=True)
class Source:
    """What there is to build from."""

    folder: Path
    """Folder that the photos' file names are relative to."""
    photos: tuple[Photo, ...]
    """Photos with usable landmark rows, in the order of the table."""
    rejected: tuple[Rejected, ...]
    """Rows and files that cannot be used."""
    warnings: tuple[str, ...] = ()
    """Oddities that concern no single photo."""
    attribute_names: tuple[str, ...] = ()

    def sha256(self) -> str:
        """Return a hash of all that decides the result apart from the pictures' bytes."""
        digest = hashlib.sha256("\x1f".join(self.attribute_names).encode())
        for photo in self.photos:
            row = (photo.id, photo.file, *map(repr, photo.landmarks), photo.split, *map(str, photo.attributes))
            official = () if photo.listed is None else map(str, dataclasses.astuple(photo.listed))
            digest.update("\x1f".join((*row, *official)).encode() + b"\n")
        return digest.hexdigest()


def read_celeba(root: Path) -> Source:
    """Read a folder laid out as CelebA's authors ship it.

    Looked for: ``img_celeba/`` (also ``Img/img_celeba/``), ``Anno/list_landmarks_celeba.txt``; and, where they
    exist, ``Eval/list_eval_partition.txt`` and ``Anno/list_attr_celeba.txt``.

    Raises:
        SourceError: the folder is not laid out so, or a table is not one.
    """
    folder = _first([root / "img_celeba", root / "Img" / "img_celeba"], root, "the folder of in-the-wild photos")
    table = _first(_anywhere(root, "Anno", "list_landmarks_celeba.txt"), root, "the landmark table")
    rows, warnings = _read_celeba_landmarks(table)
    splits = _read_partition(_optional(_anywhere(root, "Eval", "list_eval_partition.txt")))
    names, attributes = _read_attributes(_optional(_anywhere(root, "Anno", "list_attr_celeba.txt")))
    return _assemble(folder, rows, table.name, warnings, splits, names, attributes)


def read_folder(folder: Path, table: Path) -> Source:
    """Read any folder of photos and a CSV table of landmarks.

    The table's first row names its columns: ``file`` (relative to `folder`), the ten of `COLUMNS`, and
    perhaps ``split``.

    Raises:
        SourceError: no such folder or table, or columns that are missing.
    """
    if not folder.is_dir():
        raise SourceError(f"--photos {folder} is not a folder")
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
    return _assemble(folder, rows, table.name, [], splits, (), {})


def _csv_row(table: Path, line: int, header: list[str], cells: list[str]) -> tuple[_Row, str]:
    """Return a row's file and landmark cells, and its split."""
    named = dict(zip(header, cells, strict=False))
    split = named.get("split", "")
    if split and split not in SPLITS:
        raise SourceError(f"{table}:{line}: split must be one of {', '.join(SPLITS)}, got {split[:80]!r}")
    numbers = [named[column] for column in COLUMNS if column in named]
    # A decimal comma makes two cells of a number, so a row that is too long has no cell that can be trusted.
    return _Row(line, _normal(named.get("file", "")), numbers + [cell for cell in cells[len(header) :] if cell]), split


def subset(source: Source, *, limit: int | None = None, ids: Iterable[str] | None = None) -> Source:
    """Return a source of only some photos: those named in `ids` (id or file name), at most `limit` of them.

    With `ids`, what was rejected already stays only where `ids` names it; `limit` counts usable photos alone.

    Raises:
        SourceError: a name in `ids` is neither a photo of the source nor one of its rejects.
    """
    photos, rejected = source.photos, source.rejected
    if ids is not None:
        wanted = set(ids)
        known = {p.id for p in photos} | {p.file for p in photos}
        known |= {r.photo for r in rejected} | {PurePosixPath(r.photo).stem for r in rejected}
        unknown = sorted(wanted - known)
        if unknown:
            raise SourceError(
                f"{len(unknown)} of {len(wanted)} names in --ids are not in the source, first: {unknown[0]}"
            )
        photos = tuple(p for p in photos if p.id in wanted or p.file in wanted)
        rejected = tuple(r for r in rejected if r.photo in wanted or PurePosixPath(r.photo).stem in wanted)
    if limit is not None:
        photos = photos[:limit]
    return Source(source.folder, photos, rejected, source.warnings, source.attribute_names)


def official(source: Source, image_list: Sequence[Listed]) -> Source:
    """Return a source of only the photos of an image list, in its order; all others are left out without a word.

    A photo of the list that the source knows nothing of is rejected as NOT_IN_TABLE.

    Raises:
        SourceError: the source has none of them.
    """
    by_file = {photo.file: photo for photo in source.photos}
    photos = tuple(dataclasses.replace(by_file[row.file], listed=row) for row in image_list if row.file in by_file)
    if not photos:
        raise SourceError(
            f"none of the {len(image_list)} photos of the image list is in the landmark table: the list has "
            f"{image_list[0].file}, ..., the table {next(iter(by_file), 'nothing')}, ...; give CelebA's own"
        )
    files = {row.file for row in image_list}
    rejected = [one for one in source.rejected if one.photo in files]
    known = by_file.keys() | {one.photo for one in rejected}
    for row in image_list:
        if row.file not in known:
            rejected.append(Rejected(row.file, Reason.NOT_IN_TABLE, f"idx {row.index} of the image list"))
    return dataclasses.replace(source, photos=photos, rejected=tuple(rejected))


@dataclass(frozen=True)
class _Row:
    line: int
    file: str
    cells: list[str]


def _assemble(
    folder: Path,
    rows: list[_Row],
    table: str,
    warnings: list[str],
    splits: dict[str, str],
    attribute_names: tuple[str, ...],
    attributes: dict[str, tuple[int, ...]],
) -> Source:
    """Turn table rows and the folder's listing into photos and rejects."""
    by_file: dict[str, list[_Row]] = {}
    rejected = []
    for row in rows:
        problem = _row_problem(row)
        if problem:
            rejected.append(
                Rejected(row.file or f"{table}:{row.line}", Reason.BAD_ROW, f"{table}:{row.line}: {problem}")
            )
        else:
            by_file.setdefault(row.file, []).append(row)
    good: dict[str, LandmarkRow] = {}
    for file, same in by_file.items():
        agree = all(_numbers(row) == _numbers(same[0]) for row in same)
        if agree:
            good[file] = _numbers(same[0])
        lines = ", ".join(str(row.line) for row in same)
        said = "alike; the first is used" if agree else "that differ; none is used"
        for row in same[1:] if agree else same:
            rejected.append(Rejected(file, Reason.DUPLICATE_ROW, f"{table}:{row.line}: lines {lines} list it, {said}"))
    listed, on_disk = {row.file for row in rows}, _listing(folder)
    present = set(on_disk)
    stand_ins = {_as_png(file): file for file in listed if file not in present and _as_png(file) in present}
    for png, file in stand_ins.items():
        if png in listed and file in good:
            del good[file]
            rejected.append(Rejected(file, Reason.FILE_MISSING, f"only {png} is there, and the table lists that too"))
    for name in on_disk:
        if name not in listed and name not in stand_ins:
            rejected.append(Rejected(_printable(name), Reason.NOT_LISTED, f"{table} has no row for it"))
    if not good and not rejected:
        raise SourceError(f"{table} lists no photos")
    ids = _unique_ids(good)
    photos = tuple(
        Photo(ids[file], file, row, splits.get(file, ""), attributes.get(file, (0,) * len(attribute_names)))
        for file, row in good.items()
    )
    return Source(folder, photos, tuple(rejected), tuple(warnings), attribute_names)


def photo_path(folder: Path, file: str) -> Path:
    """Return where a listed photo lies: under its name, or as PNG, as CelebA is also shipped."""
    path = folder / file
    if not path.exists() and path.with_suffix(".png").exists():
        return path.with_suffix(".png")
    return path


def _normal(file: str) -> str:
    """Return one spelling of a listed name: ``./a.jpg`` is ``a.jpg``."""
    return PurePosixPath(file).as_posix() if file else file


def _as_png(file: str) -> str:
    """Return the name that a listed photo has where CelebA is shipped as PNG."""
    path = PurePosixPath(file)
    return path.with_suffix(".png").as_posix() if path.name else file


def _row_problem(row: _Row) -> str | None:
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


def _numbers(row: _Row) -> LandmarkRow:
    return tuple(float(cell) for cell in row.cells)


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


def _is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory: its pictures are results, not photos."""
    return (folder / "run.json").exists() and (folder / "stages").is_dir()


def _listing(folder: Path) -> list[str]:
    """Return all image files below a folder, relative to it with forward slashes, sorted."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_run(Path(parent) / name))
        prefix = Path(parent).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        found += [prefix + name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(found)


def _printable(name: str) -> str:
    """Return a file name as UTF-8 can hold it, with other bytes written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read_celeba_landmarks(table: Path) -> tuple[list[_Row], list[str]]:
    lines = _lines(table)
    count = _count_line(table, lines)
    if len(lines) < 2 or (lines[1].split() and lines[1].split()[0] != COLUMNS[0]):
        found = lines[1] if len(lines) > 1 else "nothing"
        raise SourceError(f"{table}:2: expected the column names {COLUMNS[0]} ... {COLUMNS[-1]}, got {found[:80]!r}")
    rows = []
    for number, line in enumerate(lines[2:], start=3):
        cells = line.split()
        if cells:
            rows.append(_Row(number, _normal(cells[0]), cells[1:]))
    return rows, _count_warning(table, count, len(rows))


def _count_line(table: Path, lines: list[str]) -> int:
    try:
        return int(lines[0])
    except (IndexError, ValueError):
        found = lines[0][:80] if lines else ""
        raise SourceError(f"{table}:1: expected the number of photos, got {found!r}") from None


def _count_warning(table: Path, count: int, rows: int) -> list[str]:
    return [f"{table.name}:1 says {count} rows, the table has {rows}; the rows count"] if count != rows else []


def _read_partition(table: Path | None) -> dict[str, str]:
    splits = {}
    for number, line in enumerate(_lines(table) if table else (), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 2 or cells[1] not in ("0", "1", "2"):
            raise SourceError(f"{table}:{number}: expected a file name and 0, 1 or 2, got {line[:80]!r}")
        splits[_normal(cells[0])] = SPLITS[int(cells[1])]
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
        attributes[_normal(cells[0])] = tuple(map(int, cells[1:]))
    return names, attributes


def _lines(table: Path) -> list[str]:
    try:
        return table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"table {table} cannot be read: {error}") from None


def _anywhere(root: Path, folder: str, name: str) -> list[Path]:
    return [root / folder / name, root / name]


def _optional(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _first(paths: list[Path], root: Path, what: str) -> Path:
    found = _optional(paths)
    if found is None:
        if not root.is_dir():
            raise SourceError(f"--celeba-root {root} is not a folder")
        looked = ", ".join(path.relative_to(root).as_posix() for path in paths)
        has = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
        raise SourceError(f"{what} is not in --celeba-root {root}: looked for {looked}; the folder has {has}")
    return found
