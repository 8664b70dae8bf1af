"""A table with a column of pictures, in one or several Parquet files, read in small batches of rows."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.arrow import pyarrow

log = logging.getLogger(__name__)

BUFFER_BYTES = 2**20
"""Read ahead of a column; without it, all that a row group has of one would be in memory, now it is a page."""

BATCH = 16
"""Pictures that are read together."""

UNPACKED_BYTES, UNPACKED_TIMES = 2**26, 1000
"""A row group whose pictures, which are compressed already, unpack to more, and to so many times as much, is a bomb."""


@dataclass(frozen=True)
class Table:
    """The rows of some files, in their order."""

    files: list[Path]
    counts: list[int]
    """Rows of each."""
    schema: Any
    """Arrow's, of all of them."""
    image: str
    """Name of the column of pictures, a struct of ``bytes`` and perhaps ``path``."""

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(self.counts)

    @property
    def others(self) -> list[str]:
        """Names of the columns that are no pictures, and no bytes of anything else."""
        return [one.name for one in self.schema if not _holds_bytes(one.type)]

    def pictures(self, start: int = 0) -> Iterator[tuple[str, bytes]]:
        """Yield where each picture is, as an error has it, and its file.

        Raises:
            FormatError: a file is damaged, or a row has no picture.
        """
        first = 0
        for path, count in zip(self.files, self.counts, strict=True):
            if start < first + count:
                yield from self._of_file(path, max(start - first, 0))
            first += count

    def _of_file(self, path: Path, start: int) -> Iterator[tuple[str, bytes]]:
        with opened(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            group, row = 0, 0
            while row + sizes[group] <= start:
                row, group = row + sizes[group], group + 1
            groups = list(range(group, len(sizes)))
            column = f"{self.image}.bytes"
            for batch in file.iter_batches(BATCH, row_groups=groups, columns=[column], use_threads=False):
                (pictures,) = batch.column(0).flatten()
                for picture in pictures:
                    where = f"{path}: row {row}"
                    if row >= start:
                        data = picture.as_py()
                        if data is None:
                            raise FormatError(f"{where} has no bytes in its column {self.image}; embed the pictures")
                        yield where, data
                    row += 1

    def column(self, name: str) -> Any:
        """Return a column of all rows, or one part of a struct (``image.path``), as Arrow's chunked array.

        Raises:
            FormatError: a file is damaged.
        """
        chunks: list[Any] = []
        for path in self.files:
            with opened(path) as file:
                column = file.read(columns=[name], use_threads=False).column(0)
                chunks += column.chunks
        found = pyarrow().chunked_array(chunks)
        for _ in name.split(".")[1:] if name not in self.schema.names else ():
            (found,) = found.flatten()
        return found

    def class_names(self, name: str) -> tuple[str, ...]:
        """Return the names of the classes whose numbers a column holds, as `datasets` notes them; empty without."""
        try:
            features = json.loads(self.schema.metadata[b"huggingface"])["info"]["features"]
            return tuple(map(str, features[name]["names"]))
        except (KeyError, TypeError, ValueError):
            return ()


def read_table(files: list[Path]) -> Table:
    """Return the table of some files of equal columns; none of its rows is read.

    Raises:
        FormatError: no Parquet, damaged or cut short, without or with several columns of pictures, with other
            columns than the first file, or pyarrow is not installed.
    """
    schemas, counts = [], []
    for path in files:
        with opened(path) as file:
            schemas.append(file.schema_arrow)
            counts.append(file.metadata.num_rows)
            if not schemas[0].equals(schemas[-1]):
                raise FormatError(
                    f"{path} has the columns {_told(schemas[-1])}, {files[0].name} {_told(schemas[0])}; expected the "
                    "same in all files: give a folder of one set alone"
                )
            if len(schemas) == 1:
                image = _image_column(files[0], schemas[0])
            _check_sizes(path, file.metadata, f"{image}.bytes")
    table = Table(files, counts, schemas[0], image)
    if not table.count:
        raise FormatError(f"{files[0]} has no rows; get or make it again")
    left = [one.name for one in table.schema if one.name not in (*table.others, image)]
    if left:
        log.info("%s: passed over columns of bytes: %s", files[0], ", ".join(left))
    return table


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file; what is wrong with it while it is read is told.

    Raises:
        FormatError: it is none, or damaged.
    """
    package = pyarrow()
    try:
        with package.parquet.ParquetFile(
            path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            yield file
    except (package.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise FormatError(
            f"{path} is not readable Parquet, damaged or cut short: {reason}; get or make it again"
        ) from None


def _image_column(path: Path, schema: Any) -> str:
    types = pyarrow().types
    found = [
        one.name
        for one in schema
        if types.is_struct(one.type) and any(part.name == "bytes" and _holds_bytes(part.type) for part in one.type)
    ]
    if len(found) == 1 or "image" in found:
        return "image" if "image" in found else str(found[0])
    has = f"several columns of pictures, {', '.join(found)}" if found else f"the columns {_told(schema)}"
    raise FormatError(
        f"{path} has {has}; expected one of pictures, image: struct<bytes: binary, path: string>, as Hugging Face "
        "datasets writes it"
    )


def _holds_bytes(kind: Any) -> bool:
    types = pyarrow().types
    if types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _check_sizes(path: Path, metadata: Any, column: str) -> None:
    for group in range(metadata.num_row_groups):
        chunks = (metadata.row_group(group).column(i) for i in range(metadata.num_columns))
        for chunk in chunks:
            size, packed = chunk.total_uncompressed_size, max(1, chunk.total_compressed_size)
            if chunk.path_in_schema == column and size > max(UNPACKED_BYTES, UNPACKED_TIMES * packed):
                raise FormatError(
                    f"{path}: the pictures of row group {group} would unpack from {packed} to {size} bytes; these are "
                    "no honest pictures, remove it"
                )


def _told(schema: Any) -> str:
    return ", ".join(f"{one.name} ({one.type})" for one in schema)[:300]
