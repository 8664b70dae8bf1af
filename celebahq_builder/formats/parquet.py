"""Parquet files with an image column, as Hugging Face datasets stores them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.export import ExportJob
from celebahq_builder.formats.image_file import (
    Header,
    check_bytes,
    check_resize,
    common_size,
    decode,
    decoded,
    read_header,
)
from celebahq_builder.formats.records import class_numbers, described, file_names, own_labels, records
from celebahq_builder.formats.shards import Shard, shard_files, write_shards
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.hdf5.metadata import Metadata, Record, check_key
from celebahq_builder.image_set import Labels, NamedImage, Pixels
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.storage import Staging


def pyarrow() -> ModuleType:
    """Return pyarrow with its Parquet module.

    Raises:
        FormatError: it is not installed.
    """
    try:
        import pyarrow as package
        import pyarrow.parquet
    except ImportError:
        raise FormatError(
            "Parquet needs pyarrow, which is not installed: pip install 'celebahq-builder[parquet]'"
        ) from None
    return package  # type: ignore[no-any-return]


log = logging.getLogger(__name__)

BUFFER_BYTES = 2**20
"""Read ahead of a column; without it, all that a row group has of one would be in memory, now it is a page."""

BATCH = 16
"""Images that are read together."""

UNPACKED_BYTES, UNPACKED_TIMES = 2**26, 1000
"""A row group whose images, which are compressed already, unpack to more, and to so many times as much, is a bomb."""


@dataclass(frozen=True)
class Table:
    """The rows of some files, in their order."""

    files: list[Path]
    counts: list[int]
    """Rows of each."""
    schema: Any
    """Arrow's, of all of them."""
    image: str
    """Name of the column of images, a struct of ``bytes`` and perhaps ``path``."""

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(self.counts)

    @property
    def others(self) -> list[str]:
        """Names of the columns that are no images, and no bytes of anything else."""
        return [one.name for one in self.schema if not _holds_bytes(one.type)]

    def images(self, start: int = 0) -> Iterator[tuple[str, bytes]]:
        """Yield where each image is, as an error has it, and its file.

        Raises:
            FormatError: a file is damaged, or a row has no image.
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
                (images,) = batch.column(0).flatten()
                for image in images:
                    where = f"{path}: row {row}"
                    if row >= start:
                        data = image.as_py()
                        if data is None:
                            raise FormatError(f"{where} has no bytes in its column {self.image}; embed the images")
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
        FormatError: no Parquet, damaged or cut short, without or with several columns of images, with other
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
    has = f"several columns of images, {', '.join(found)}" if found else f"the columns {_told(schema)}"
    raise FormatError(
        f"{path} has {has}; expected one of images, image: struct<bytes: binary, path: string>, as Hugging Face "
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
                    f"{path}: the images of row group {group} would unpack from {packed} to {size} bytes; these are "
                    "no honest images, remove it"
                )


def _told(schema: Any) -> str:
    return ", ".join(f"{one.name} ({one.type})" for one in schema)[:300]


ROWS = 1024
"""Of the other columns that become Python's own values at once."""

LABELS = ("label", "labels", "label_name")
"""Columns that are no metadata; see `records.described`."""


@dataclass(frozen=True)
class ParquetImages:
    """Images of a table, a `ImageSet`."""

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
        """How many images there are."""
        return self.table.count

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images, named by the files that they are known to come from, their paths, or their numbers.

        Raises:
            FormatError: an image cannot be read or decoded.
        """
        names = self.metadata.columns.get("file", self.names)
        for number, pixels in enumerate(decoded(self.table.images(start), self._decode), start):
            yield NamedImage(pixels, str(names[number]))

    def _decode(self, coded: tuple[str, bytes]) -> Pixels:
        where, data = coded
        return decode(data, where, self.resolution, self.channels, self.resized)


def read(path: Path, resize: int | None = None) -> ParquetImages:
    """Read Parquet files of square images of one size.

    The images are the column ``image``, or the only one that is a struct with ``bytes``. ``label``, numbers of
    classes, and ``labels``, lists of numbers, are the labels. All other columns are what is known of the images,
    with their types; those of bytes are named in the log. Files are read twice, for the sizes of all images are
    only in themselves.

    Args:
        path: the folder of the files of one set, or one of them.
        resize: cut the middle of each image to this size instead; see `image_file.decode`.

    Raises:
        FormatError: no files, one that is missing, damaged or of other columns than the rest; a row without an image;
            images that are not 8-bit RGB or grey, not of one size or of none that is a power of two; labels or
            columns that HDF5 has no place for; or pyarrow is not installed.

    Source: https://huggingface.co/docs/datasets/about_dataset_features#image-feature
    """
    check_resize(resize)
    table = read_table(shard_files(path, ".parquet"))
    metadata, labels, label_names = _described(table, path)
    resolution, channels = common_size(_headers(table), resize)
    return ParquetImages(table, _names(table), resolution, channels, resize is not None, metadata, labels, label_names)


def _headers(table: Table) -> Iterator[Header]:
    for where, data in table.images():
        header = read_header(io.BytesIO(data), where)
        check_bytes(header, len(data))
        yield header


def _names(table: Table) -> list[str]:
    """Return the paths that the images have in their column, or numbers where they are missing or alike."""
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
        labels = np.pad(labels, ((0, 0), (0, len(names) - labels.shape[1])))  # classes that no image has
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


GROUP = 32
"""Images of a row group, which is held in memory; fewer where they are large."""

WRITTEN = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
"""PNG is compressed already, and each different."""

GROUP_BYTES = 256 * 2**20


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write ``train-00000-of-00030.parquet`` ...: a column ``image`` of PNG files, and one for all else that is known.

    A killed export goes on by shard: those that are there are whole.

    Source: https://huggingface.co/docs/datasets/about_dataset_features#image-feature; ``huggingface`` in the schema's
    metadata is what `datasets` itself writes there.

    Raises:
        FormatError: pyarrow is not installed.
    """
    pyarrow()
    names = [f"{name}.png" for name in file_names(export.level, export.source)]
    yield from write_shards(
        export, stage, names, lambda shard, of: f"train-{shard:05d}-of-{of:05d}.parquet", _write_shard
    )


def _write_shard(shard: Shard) -> None:
    pa = pyarrow()
    with shard.open() as (level, file):
        schema = _schema(pa, level)
        group = max(1, min(GROUP, GROUP_BYTES // (level.channels * level.resolution**2)))
        known = records(level, shard.numbers)
        with pa.parquet.ParquetWriter(file, schema, **WRITTEN) as table:
            for start in range(0, len(known), group):
                rows = []
                some = shard.numbers[start : start + group]
                for at, pixels in enumerate(level.pixels(some), start):
                    image = {"bytes": encode_png(pixels, shard.png_level), "path": shard.names[at]}
                    rows.append({"image": image, **known[at]})
                table.write_table(pa.Table.from_pylist(rows, schema), row_group_size=group)


def _schema(pa: ModuleType, level: LevelImageSet) -> Any:
    """Return the same schema for all shards: it follows from the whole file, not from a shard's images."""
    fields = [pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    metadata = level.metadata
    taken = sorted({"image", "label", "labels", "label_name"} & metadata.columns.keys())
    if taken:
        raise FormatError(
            f"{level.path} has a column {taken[0]}, a name that Parquet needs for the images or their labels; "
            "export to another format"
        )
    for name, column in metadata.columns.items():
        if name == "attributes" and metadata.attribute_names:
            kind = pa.struct({key: pa.int8() for key in metadata.attribute_names})
        elif isinstance(column, list):
            kind = pa.string()
        else:
            kind = pa.from_numpy_dtype(column.dtype)
            for _ in range(np.ndim(column) - 1):
                kind = pa.list_(kind)
        fields.append(pa.field(name, kind))
    if level.labels is not None and own_labels(level):
        names = level.label_names
        if class_numbers(level.labels) is not None:
            fields.append(pa.field("label", pa.int64()))
            if names:
                features["label"] = {"_type": "ClassLabel", "names": list(names)}
                fields.append(pa.field("label_name", pa.string()))
        else:
            kind = pa.struct({key: pa.float32() for key in names}) if names else pa.list_(pa.float32())
            fields.append(pa.field("labels", kind))
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
