"""Tables beside image files: those of Hugging Face and StyleGAN in a folder or archive, and CelebA's."""

from __future__ import annotations

import contextlib
import csv
import logging
import posixpath
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

import numpy as np

from celebahq_builder.errors import FormatError, SourceError, printable
from celebahq_builder.formats.records import COLUMNS_MAX, check_name, parse_records
from celebahq_builder.image_set import IMAGE_SUFFIXES, Described, FolderListing, Metadata, Record, nfc
from celebahq_builder.limits import MAX_JSON_BYTES, MAX_VALUE_BYTES
from celebahq_builder.sources.celeba import read_attributes, read_partition
from celebahq_builder.storage import parse_json

log = logging.getLogger(__name__)

METADATA = "metadata.jsonl"
"""One JSON object per line and image: ``file_name``, and metadata.

Source: https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""

METADATA_CSV = "metadata.csv"
"""Metadata as a table with a column ``file_name``."""

LABELS = "dataset.json"
"""Labels of StyleGAN: ``{"labels": [[name, label], ...]}``, or null in place of the list."""

TABLES = (METADATA, METADATA_CSV, LABELS)

ATTRIBUTES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
"""CelebA's attributes, from its authors and from Kaggle."""

PARTITION = ("list_eval_partition.txt", "list_eval_partition.csv")
"""CelebA's division into train, val and test."""

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".npy", ".cls")
"""Endings of files that may hold labels."""

LINE_BYTES_MAX = 1 << 20
"""Bytes of one line of metadata."""

NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)?(\.\d*)?([eE][+-]?\d+)?|nan|NaN")
"""Numbers in a CSV file; ids such as 000001 are text."""


def check_listing(where: Path, listing: FolderListing, tables: Collection[str] = TABLES) -> None:
    """Say in the log what is not read of a folder or archive, and where labels are looked for if a file may hold some.

    Args:
        where: folder or archive.
        listing: its files.
        tables: names of files that are read.

    Raises:
        FormatError: there are no images.
    """
    unread = [name for name in listing.others if posixpath.basename(name) not in tables]
    for remark in replace(listing, others=unread).remarks():
        log.info("%s: %s", printable(str(where)), remark)
    labels = next((name for name in unread if name.lower().endswith((*TABLE_SUFFIXES, *ATTRIBUTES))), None)
    if labels is not None:
        known = ", ".join(TABLES)
        log.info("%s: if %s holds labels, write them to one of %s", printable(str(where)), printable(labels), known)
    if not listing.images:
        raise FormatError(f"{where} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")


@dataclass(frozen=True)
class ImageTables:
    """The tables of a folder or archive of images.

    Args:
        where: folder or archive, for messages.
        images: paths of all images, in their order.
        others: paths of all other files.
        open_entry: opens one of the other files for reading; raises a FormatError or an OSError.
    """

    where: Path
    images: Sequence[str]
    others: Iterable[str]
    open_entry: Callable[[str], AbstractContextManager[IO[bytes]]]

    def read(self) -> Described:
        """Read the tables that lie in the common folder of all images, and name the other tables in the log.

        The names are those of the images in the order of their metadata, or else in that of the folder or archive.
        Labels are those of ``dataset.json``, or else those of the metadata.

        Raises:
            FormatError: a table is damaged, or does not describe these images.
        """
        usable = self._usable_tables()
        metadata = usable.get(METADATA) or usable.get(METADATA_CSV)
        described = self._read_metadata(metadata) if metadata else Described(names=self.images)
        if LABELS in usable:
            labelled = self._read_labels(usable[LABELS], described.names)
            if labelled.labels is not None:
                described = replace(described, labels=labelled.labels, label_names=labelled.label_names)
        return described

    def _usable_tables(self) -> dict[str, str]:
        """Return the path of each table by its kind."""
        usable: dict[str, str] = {}
        tables = [posixpath.split(path) for path in self.others if posixpath.basename(path) in TABLES]
        for folder, kind in sorted(tables, key=lambda table: (TABLES.index(table[1]), table[0].count("/"), table[0])):
            path = posixpath.join(folder, kind)
            if folder and not all(name.startswith(folder + "/") for name in self.images):
                remedy = "import its folder alone to use it"
            elif kind in usable or (kind == METADATA_CSV and METADATA in usable):
                remedy = f"{usable.get(kind) or METADATA} is used; delete that to use this one"
            else:
                usable[kind] = path
                continue
            log.warning("%s: the table %s is not read: %s", self.where, printable(path), printable(remedy))
        return usable

    def _read_metadata(self, table: str) -> Described:
        where, folder = self.where / printable(table), posixpath.dirname(table)
        names: dict[str, None] = {}
        known = {nfc(name): name for name in self.images}
        read_rows = _csv_records if table.endswith(METADATA_CSV) else _json_records

        def records() -> Generator[Record, None, None]:
            with self._open(table) as file:
                for line, record in read_rows(file, where):
                    name = record.pop("file_name", None)
                    if not isinstance(name, str):
                        fault = f"the file_name is {printable(repr(name))[:80]}, expected a string"
                        raise FormatError(f"{where}:{line}: {fault}; correct or delete the file")
                    path = posixpath.join(folder, check_name(posixpath.normpath(name) if name else name, where))
                    if nfc(path) not in known:
                        raise FormatError(
                            f"{where} names {printable(name)}, which does not exist; restore it, or remove its line"
                        )
                    path = known[nfc(path)]
                    if path in names:
                        raise FormatError(f"{where} names {printable(name)} twice; remove one of the lines")
                    names[path] = None
                    yield record

        with contextlib.closing(records()) as rows:  # so that an error closes the table
            described = parse_records(rows, where)
        extra = sorted(set(self.images) - set(names))
        if extra:
            fault = f"does not name {printable(extra[0])} ({len(extra)} such)"
            raise FormatError(f"{where} {fault}; add their lines, or delete {posixpath.basename(table)}")
        return replace(described, names=list(names))

    def _read_labels(self, table: str, names: Sequence[str]) -> Described:
        where, folder = self.where / printable(table), posixpath.dirname(table)
        with self._open(table) as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise FormatError(f"{where} has more than {MAX_JSON_BYTES} bytes; remove it")
        expected = "labels: null, or a list of a name and a label for each image"
        fault = FormatError(f"{where} is not a table of labels; expected {expected}: correct or remove it")
        lists = data.count(b"[") + data.count(b"{")
        if len(data) > 2**20 and lists > 2 * len(names) + 100:  # parsed, each would take about 60 bytes
            raise FormatError(f"{where} has {lists} lists for {len(names)} images; correct or remove it")
        try:
            values = parse_json(data)
            if not isinstance(values, dict):
                raise fault
            rows = values["labels"]
            if rows is None:
                return Described()
            labels = {nfc(posixpath.normpath(str(name))): label for name, label in rows}
        except (ValueError, KeyError, TypeError):
            raise fault from None
        found: list[Record] = []
        for name in names:
            inside = nfc(posixpath.relpath(name, folder) if folder else name)
            if inside not in labels and nfc(name) not in labels:
                raise FormatError(f"{where} has no label for {printable(name)}; add it, or set labels to null")
            label = labels[inside if inside in labels else nfc(name)]
            if label is None:
                raise fault
            found.append({"labels" if isinstance(label, list) else "label": label})
        if len(labels) > len(names):
            raise FormatError(f"{where} has labels for {len(labels)} images, there are {len(names)}; make it again")
        return parse_records(found, where)

    @contextlib.contextmanager
    def _open(self, table: str) -> Iterator[IO[bytes]]:
        try:
            with self.open_entry(table) as file:
                yield file
        except OSError as error:
            raise FormatError(f"{self.where / printable(table)} cannot be read: {error.strerror}") from None


def _json_records(file: IO[bytes], where: Path) -> Iterator[tuple[int, Record]]:
    for number, line in _lines(file, where):
        try:
            record = parse_json(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or "file_name" not in record:
            raise FormatError(f"{where}:{number} is not a JSON object with a file_name; correct or delete the file")
        yield number, record


def _lines(file: IO[bytes], where: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and content of each line that is not blank."""
    number = blank = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise FormatError(f"{where}:{number} has more than {LINE_BYTES_MAX} bytes; correct or delete the file")
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield number, line
        elif (blank := blank + 1) > MAX_VALUE_BYTES:
            raise FormatError(f"{where} has more than {MAX_VALUE_BYTES} blank lines; correct or delete the file")


def _csv_records(file: IO[bytes], where: Path) -> Iterator[tuple[int, Record]]:
    """Yield the rows of a CSV file; columns whose values are all numbers, or all true or false, are not text."""
    lines = (line.decode("utf-8") for _, line in _lines(file, where))
    reader = csv.DictReader(lines, strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        names = reader.fieldnames or ()
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        if len(names) > COLUMNS_MAX:
            raise ValueError(f"it has {len(names)} columns, expected at most {COLUMNS_MAX}")
        for row in reader:
            if None in row or None in row.values() or "file_name" not in row:
                raise ValueError("a row does not have one value per column, or there is no column file_name")
            rows.append((reader.line_num, row))
    except (csv.Error, ValueError) as error:
        fault = f"is not a CSV table with a column file_name: {printable(str(error))}"
        raise FormatError(f"{where} {fault}; correct or delete the file") from None
    columns: dict[str, list[object]] = {}
    for key in list(rows[0][1]) if rows else ():
        columns[key] = _typed(key, [row[key] for _, row in rows])
    for index, (line, _) in enumerate(rows):
        yield line, {key: column[index] for key, column in columns.items()}


def _typed(key: str, values: list[str]) -> list[object]:
    given = [value for value in values if value]
    if key in ("file_name", "file", "id") or not given:
        return list(values)
    if all(value.lower() in ("true", "false") for value in given):
        return [value.lower() == "true" if value else None for value in values]
    if all(map(NUMBER.fullmatch, given)):
        parse = int if all(value.lstrip("+-").isdigit() for value in given) else float
        with contextlib.suppress(ValueError):  # of "." and "e5", for instance
            return [parse(value) if value else None for value in values]
    return list(values)


# --- Tables of CelebA

Row = TypeVar("Row")


def read_celeba_tables(folder: Path, names: Sequence[str]) -> Described:
    """Return CelebA's attributes as metadata and labels, and its splits as a column, where their tables exist.

    The tables lie in the folder of the images, its parent, or the parent of that, or there in ``Anno`` or ``Eval``: the
    authors ship ``Img/img_align_celeba``, Kaggle ``img_align_celeba/img_align_celeba``. The log names tables that are
    missing or not used, and rows of images that do not exist.

    Args:
        folder: of the images.
        names: of its images, in their order. A PNG file stands for a JPEG file that a table names.

    Raises:
        FormatError: a table cannot be read, or has no row for an image.
    """
    metadata = Metadata()
    label_names: tuple[str, ...] = ()
    try:
        if partition := _find_table(folder, PARTITION, "splits"):
            metadata.columns["split"] = _rows_of(names, read_partition(partition), folder, partition)
        if table := _find_table(folder, ATTRIBUTES, "labels"):
            label_names, values = read_attributes(table)
            if not label_names:
                raise FormatError(f"{table} names no attributes; correct the table, or move it away")
            attributes = np.array(_rows_of(names, values, folder, table), np.int8)
            if attributes.min() == 0:  # a table of 0 and 1
                attributes[attributes == 0] = -1
            metadata = Metadata({**metadata.columns, "attributes": attributes}, label_names)
    except SourceError as error:
        raise FormatError(str(error)) from None
    return Described(metadata, metadata.attribute_labels, label_names, names)


def _find_table(folder: Path, names: Sequence[str], content: str) -> Path | None:
    """Return the nearest of CelebA's tables with one of these names."""
    folder = folder.absolute()
    places = [base / within for base in (folder, *folder.parents[:2]) for within in ("", "Anno", "Eval")]
    paths = [place / name for place in places for name in names]
    found = [path for path in paths if path.exists() or path.is_symlink()]  # a broken link is an error, not no table
    if not found:
        log.info("no %s: neither %s nor %s is next to %s", content, *names, printable(str(folder)))
        return None
    for other in found[1:]:
        log.warning("the table %s is not read: %s is used", printable(str(other)), printable(str(found[0])))
    return found[0]


def _rows_of(names: Sequence[str], rows: Mapping[str, Row], folder: Path, table: Path) -> list[Row]:
    """Return the row of each image."""
    listed = {nfc(file): file for file in rows}
    image_of: dict[str, str] = {}
    missing = []
    for name in names:
        file = listed.get(nfc(name))
        if file is None and name.lower().endswith(".png"):
            file = listed.get(nfc(PurePosixPath(name).with_suffix(".jpg").name))
        if file is None:
            missing.append(name)
        elif file in image_of:
            fault = f"{printable(image_of[file])} and {printable(name)} are both the image of one row of {table}"
            raise FormatError(f"{folder}: {fault}; remove one of them")
        else:
            image_of[file] = name
    if missing:
        fault = f"{table} does not name {printable(missing[0])} of {folder} ({len(missing)} such)"
        raise FormatError(f"{fault}; add their lines, or move the table away")
    if len(image_of) < len(rows):
        first = next(file for file in rows if file not in image_of)
        count = len(rows) - len(image_of)
        log.warning("%s names %d images that do not exist, such as %s", table, count, printable(first))
    return [rows[file] for file in image_of]
