"""Parquet files with an image column, as Hugging Face datasets stores them.

The files are read with pyarrow. `datasets` itself ignores the checksums of pages, and does not notice that a file of
the set is missing.
"""

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
from celebahq_builder.formats.format import ExportJob, Format, Option
from celebahq_builder.formats.image_file import (
    Encoded,
    EncodedImages,
    Header,
    check_bytes,
    common_size,
    read_header,
)
from celebahq_builder.formats.records import (
    class_numbers,
    file_names,
    has_own_labels,
    image_records,
    parse_records,
)
from celebahq_builder.formats.shards import Shard, shard_files, write_shards
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.hdf5.metadata import Metadata, Record, check_key
from celebahq_builder.image_set import Labels
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.storage import Staging

log = logging.getLogger(__name__)

LABEL_COLUMNS = ("label", "labels", "label_name")
"""Columns that are not metadata; see `records.parse_records`."""


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


# --- Tables of several files

BUFFER_BYTES = 2**20
"""Size of reads within a column. Without a buffer, pyarrow reads the column of a whole row group at once."""

BATCH_IMAGES = 16
"""Images that are read together."""

UNPACKED_BYTES, UNPACKED_RATIO = 2**26, 1000
"""Images are compressed: a row group that unpacks to more bytes and by a larger ratio is a decompression bomb."""


@dataclass(frozen=True)
class Table:
    """The rows of some files, in their order."""

    files: list[Path]
    counts: list[int]
    """Number of rows of each file."""
    schema: Any
    """Schema of Arrow, the same for all files."""
    image: str
    """Name of the image column, a struct of ``bytes`` and perhaps ``path``."""

    @property
    def others(self) -> list[str]:
        """Names of the columns without bytes."""
        return [one.name for one in self.schema if not _holds_bytes(one.type)]

    def images(self, numbers: range) -> Iterator[Encoded]:
        """Yield the image files of successive rows up to the last.

        Raises:
            FormatError: a file is damaged, or a row has no image.
        """
        first = 0
        for path, count in zip(self.files, self.counts, strict=True):
            if numbers.start < first + count:
                yield from self._images_of_file(path, max(numbers.start - first, 0))
            first += count

    def _images_of_file(self, path: Path, start: int) -> Iterator[Encoded]:
        with opened(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            group, first = 0, 0
            while first + sizes[group] <= start:
                first, group = first + sizes[group], group + 1
            groups, column = list(range(group, len(sizes))), f"{self.image}.bytes"
            for batch in file.iter_batches(BATCH_IMAGES, row_groups=groups, columns=[column], use_threads=False):
                (images,) = batch.column(0).flatten()
                for row in range(max(first, start), first + len(images)):
                    data = images[row - first].as_py()
                    if data is None:
                        raise FormatError(
                            f"{path}: row {row} has no bytes in its column {self.image}; embed the images"
                        )
                    yield f"{path}: row {row}", data
                first += len(images)

    def column(self, name: str) -> Any:
        """Return a column of all rows, or one field of a struct (``image.path``), as a chunked array of Arrow.

        Raises:
            FormatError: a file is damaged.
        """
        chunks: list[Any] = []
        for path in self.files:
            with opened(path) as file:
                chunks += file.read(columns=[name], use_threads=False).column(0).chunks
        found = pyarrow().chunked_array(chunks)
        for _ in name.split(".")[1:] if name not in self.schema.names else ():
            (found,) = found.flatten()
        return found

    def class_names(self, name: str) -> tuple[str, ...]:
        """Return the names of the classes in a column if `datasets` has stored them in the schema."""
        try:
            features = json.loads(self.schema.metadata[b"huggingface"])["info"]["features"]
            return tuple(map(str, features[name]["names"]))
        except (KeyError, TypeError, ValueError):
            return ()


def open_table(files: list[Path]) -> Table:
    """Return the table of some files with the same columns without reading a row.

    Raises:
        FormatError: a file is not Parquet, damaged, or cut short; it has no image column, or several; its columns are
            not those of the first file; pyarrow is not installed.
    """
    schemas, counts, image = [], [], ""
    for path in files:
        with opened(path) as file:
            schemas.append(file.schema_arrow)
            counts.append(file.metadata.num_rows)
            if not schemas[0].equals(schemas[-1]):
                raise FormatError(
                    f"{path} has the columns {_columns_text(schemas[-1])}, {files[0].name} "
                    f"{_columns_text(schemas[0])}; expected the same in all files: give a folder of one set alone"
                )
            image = image or _image_column(files[0], schemas[0])
            _check_sizes(path, file.metadata, f"{image}.bytes")
    table = Table(files, counts, schemas[0], image)
    if not sum(counts):
        raise FormatError(f"{files[0]} has no rows; get or make it again")
    ignored = [one.name for one in table.schema if one.name not in (*table.others, image)]
    if ignored:
        log.info("%s: ignored columns of bytes: %s", files[0], ", ".join(ignored))
    return table


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file, and report every error of pyarrow.

    Raises:
        FormatError: it is not Parquet, or damaged.
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
        str(one.name)
        for one in schema
        if types.is_struct(one.type) and any(part.name == "bytes" and _holds_bytes(part.type) for part in one.type)
    ]
    if "image" in found:
        return "image"
    if len(found) == 1:
        return found[0]
    has = f"several image columns, {', '.join(found)}" if found else f"the columns {_columns_text(schema)}"
    raise FormatError(
        f"{path} has {has}; expected one image column, image: struct<bytes: binary, path: string>, as Hugging Face "
        "datasets writes it"
    )


def _holds_bytes(kind: Any) -> bool:
    types = pyarrow().types
    if types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _check_sizes(path: Path, metadata: Any, column: str) -> None:
    for group in range(metadata.num_row_groups):
        for chunk in (metadata.row_group(group).column(i) for i in range(metadata.num_columns)):
            size, packed = chunk.total_uncompressed_size, max(1, chunk.total_compressed_size)
            if chunk.path_in_schema == column and size > max(UNPACKED_BYTES, UNPACKED_RATIO * packed):
                raise FormatError(
                    f"{path}: the images of row group {group} would unpack from {packed} to {size} bytes; it looks "
                    "like a decompression bomb, delete it"
                )


def _columns_text(schema: Any) -> str:
    return ", ".join(f"{one.name} ({one.type})" for one in schema)[:300]


# --- Import

BATCH_ROWS = 1024
"""Rows of the other columns that are converted to Python values at a time."""


def read(path: Path, resize: int | None = None) -> EncodedImages:
    """Open Parquet files of square images of one size.

    The images are the column ``image``, or the only one that is a struct with ``bytes``. The labels are ``label``,
    class numbers, or ``labels``, lists of numbers. All other columns are metadata and keep their types, but columns of
    bytes are ignored, and named in the log. The files are read twice, because only the images have their sizes.

    Args:
        path: folder of the files of one set, or one of them.
        resize: side length in px to which images are cropped and resized; see `image_file.decode`.

    Raises:
        FormatError: a file is missing, damaged, or has other columns than the rest; a row has no image; an image is not
            8-bit RGB or grey, or does not have the size of the others, a power of two; HDF5 cannot store the labels or
            a column; pyarrow is not installed.

    Source: https://huggingface.co/docs/datasets/about_dataset_features#image-feature
    """
    table = open_table(shard_files(path, ".parquet"))
    rows = range(sum(table.counts))
    metadata, labels, label_names = _read_metadata(table, rows, path)
    resolution, channels = common_size(_headers(table, rows), resize)
    names = _image_names(table, rows)
    return EncodedImages(names, table.images, resolution, channels, resize is not None, metadata, labels, label_names)


def _headers(table: Table, rows: range) -> Iterator[Header]:
    for where, data in table.images(rows):
        header = read_header(io.BytesIO(data), where)
        check_bytes(header, len(data))
        yield header


def _image_names(table: Table, rows: range) -> list[str]:
    """Return the paths in the image column, or numbers if a path is missing or two are equal."""
    parts = [part.name for part in table.schema.field(table.image).type]
    paths = table.column(f"{table.image}.path").to_pylist() if "path" in parts else []
    if len(set(paths)) == len(rows) and all(isinstance(path, str) and path for path in paths):
        return paths
    return [f"{number:08d}" for number in rows]


def _read_metadata(table: Table, rows: range, where: Path) -> tuple[Metadata, Labels | None, tuple[str, ...]]:
    """Return metadata, labels and label names; numbers keep their types, other columns are parsed as records."""
    arrays: dict[str, NDArray[Any]] = {}
    rest: dict[str, Any] = {}
    for name in table.others:
        column = table.column(name)
        array = None if name in LABEL_COLUMNS else _array(column)
        if array is None:
            rest[name] = column
        else:
            check_key(name, where)
            arrays[name] = array
    metadata, labels, label_names = parse_records(_records(rest, rows), where)
    found = {**metadata.columns, **arrays}
    names = table.class_names("label") if "label" in rest else ()
    if labels is not None and len(names) >= labels.shape[1]:
        labels = np.pad(labels, ((0, 0), (0, len(names) - labels.shape[1])))  # classes without images
        label_names = names
    ordered = {name: found[name] for name in table.others if name in found}
    return Metadata(ordered, metadata.attribute_names), labels, label_names


def _records(columns: dict[str, Any], rows: range) -> Iterator[Record]:
    for start in rows[::BATCH_ROWS]:
        values = [column.slice(start, BATCH_ROWS).to_pylist() for column in columns.values()]
        for row in range(len(rows[start : start + BATCH_ROWS])):
            yield {name: column[row] for name, column in zip(columns, values, strict=True)}


def _array(column: Any) -> NDArray[Any] | None:
    """Return a column of numbers, or of lists of equal lengths, as an array of N rows; None for other columns.

    Missing floating-point numbers become NaN.
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


# --- Export

GROUP_IMAGES, GROUP_BYTES = 32, 256 * 2**20
"""Maximum size of a row group, which is held in memory."""


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write ``train-00000-of-00030.parquet`` ...: a column ``image`` of PNG files, and one for each kind of metadata.

    An interrupted export is resumed by shard: existing shards are complete.

    Source: https://huggingface.co/docs/datasets/about_dataset_features#image-feature; the entry ``huggingface`` in the
    schema's metadata is the one that `datasets` writes.

    Raises:
        FormatError: pyarrow is not installed, or a column has a name that Parquet needs for the images.
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
        group = max(1, min(GROUP_IMAGES, GROUP_BYTES // (level.channels * level.resolution**2)))
        records = image_records(level, shard.numbers)
        with pa.parquet.ParquetWriter(
            file,
            schema,
            compression="none",  # PNG is compressed
            use_dictionary=False,
            write_page_checksum=True,
        ) as table:
            for start in range(0, len(records), group):
                rows = []
                for at, pixels in enumerate(level.pixels(shard.numbers[start : start + group]), start):
                    image = {"bytes": encode_png(pixels, shard.png_level), "path": shard.names[at]}
                    rows.append({"image": image, **records[at]})
                table.write_table(pa.Table.from_pylist(rows, schema), row_group_size=group)


def _schema(pa: ModuleType, level: LevelImageSet) -> Any:
    """Return the schema of all shards, which follows from the whole HDF5 file, not from the images of a shard."""
    fields = [pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    metadata = level.metadata
    taken = sorted({"image", *LABEL_COLUMNS} & metadata.columns.keys())
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
    if level.labels is not None and has_own_labels(level):
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


OPTIONS = frozenset[Option]({"resize", "shard", "png_level"})

FORMAT = Format("parquet", read, write, names=("*.parquet",), beside_images=False, options=OPTIONS)
