"""Parquet files with a column of pictures, as Hugging Face datasets has them, as a set of pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.formats.arrow import pyarrow
from celebahq_builder.formats.image_file import (
    Header,
    check_bytes,
    check_resize,
    common_size,
    decode,
    decoded,
    read_header,
)
from celebahq_builder.formats.metadata import Metadata, Record, check_key
from celebahq_builder.formats.parquet_table import Table, read_table
from celebahq_builder.formats.pictures import Labels, Picture, Pixels
from celebahq_builder.formats.records import described
from celebahq_builder.formats.shard_files import shard_files

ROWS = 1024
"""Of the other columns that become Python's own values at once."""

LABELS = ("label", "labels", "label_name")
"""Columns that are no metadata; see `records.described`."""


@dataclass(frozen=True)
class ParquetPictures:
    """Pictures of a table, a `PictureSet`."""

    table: Table
    names: list[str]
    resolution: int
    channels: int
    resized: bool
    metadata: Metadata
    labels: Labels | None
    label_names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return self.table.count

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the pictures, named by the files that they are known to come from, their paths, or their numbers.

        Raises:
            FormatError: a picture cannot be read or decoded.
        """
        names = self.metadata.columns.get("file", self.names)
        for number, pixels in enumerate(decoded(self.table.pictures(start), self._decode), start):
            yield Picture(pixels, str(names[number]))

    def _decode(self, coded: tuple[str, bytes]) -> Pixels:
        where, data = coded
        return decode(data, where, self.resolution, self.channels, self.resized)


def read(path: Path, resize: int | None = None) -> ParquetPictures:
    """Read Parquet files of square pictures of one size.

    The pictures are the column ``image``, or the only one that is a struct with ``bytes``. ``label``, numbers of
    classes, and ``labels``, lists of numbers, are the labels. All other columns are what is known of the pictures,
    with their types; those of bytes are named in the log. Files are read twice, for the sizes of all pictures are
    only in themselves.

    Args:
        path: the folder of the files of one set, or one of them.
        resize: cut the middle of each picture to this size instead; see `image_file.decode`.

    Raises:
        FormatError: no files, one that is missing, damaged or of other columns than the rest; a row without a picture;
            pictures that are not 8-bit RGB or grey, not of one size or of none that is a power of two; labels or
            columns that HDF5 has no place for; or pyarrow is not installed.

    Source: https://huggingface.co/docs/datasets/about_dataset_features#image-feature
    """
    check_resize(resize)
    table = read_table(shard_files(path, ".parquet"))
    metadata, labels, label_names = _described(table, path)
    resolution, channels = common_size(_headers(table), resize)
    return ParquetPictures(
        table, _names(table), resolution, channels, resize is not None, metadata, labels, label_names
    )


def _headers(table: Table) -> Iterator[Header]:
    for where, data in table.pictures():
        header = read_header(io.BytesIO(data), where)
        check_bytes(header, len(data))
        yield header


def _names(table: Table) -> list[str]:
    """Return the paths that the pictures have in their column, or numbers where they are missing or alike."""
    parts = [part.name for part in table.schema.field(table.image).type]
    paths = table.column(f"{table.image}.path").to_pylist() if "path" in parts else []
    if len(set(paths)) == table.count and all(isinstance(path, str) and path for path in paths):
        return paths
    return [f"{number:08d}" for number in range(table.count)]


def _described(table: Table, where: Path) -> tuple[Metadata, Labels | None, tuple[str, ...]]:
    """Return metadata and labels; columns of numbers as Arrow has them, all others by way of records."""
    arrays: dict[str, NDArray[Any]] = {}
    rest: dict[str, Any] = {}
    for name in table.others:
        column = table.column(name)
        array = None if name in LABELS else _array(column)
        if array is None:
            rest[name] = column
        else:
            check_key(name, where)
            arrays[name] = array
    metadata, labels, label_names = described(_records(rest, table.count), where)
    found = {**metadata.columns, **arrays}
    names = table.class_names("label") if "label" in rest else ()
    if labels is not None and len(names) >= labels.shape[1]:
        labels = np.pad(labels, ((0, 0), (0, len(names) - labels.shape[1])))  # classes that no picture has
        label_names = names
    ordered = {name: found[name] for name in table.others if name in found}
    return Metadata(ordered, metadata.attribute_names), labels, label_names


def _records(columns: dict[str, Any], count: int) -> Iterator[Record]:
    for start in range(0, count, ROWS):
        values = [column.slice(start, ROWS).to_pylist() for column in columns.values()]
        for row in range(min(ROWS, count - start)):
            yield {name: column[row] for name, column in zip(columns, values, strict=True)}


def _array(column: Any) -> NDArray[Any] | None:
    """Return a column of numbers, or of lists of equally many, as an array of N rows; None for all others.

    Numbers that are missing are NaN where their type has it.
    """
    types = pyarrow().types
    shape = [len(column)]
    array = column.combine_chunks()
    while types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        inner = array.flatten()
        lengths = set(array.value_lengths().unique().to_pylist())
        if array.null_count or len(lengths) != 1:
            return None
        shape.append(lengths.pop())
        array = inner
    whole = types.is_integer(array.type) or types.is_boolean(array.type)
    if not types.is_floating(array.type) and (not whole or array.null_count):
        return None
    numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return numbers.reshape(shape)
