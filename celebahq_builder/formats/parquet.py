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
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import image_file
from celebahq_builder.formats.format import ExportJob, Format, Option
from celebahq_builder.formats.image_file import Encoded, EncodedImages
from celebahq_builder.formats.records import class_numbers, file_names, has_own_labels, image_records, parse_records
from celebahq_builder.formats.shards import Shard, shard_files, write_shards
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.hdf5.metadata import Metadata, check_key
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


# --- Import

BUFFER_BYTES = 2**20
"""Size of reads within a column. Without a buffer, pyarrow reads the column of a whole row group at once."""

BATCH_IMAGES, BATCH_ROWS = 16, 1024
"""Images that are read together; rows of the other columns that become Python values together."""

UNPACKED_BYTES, UNPACKED_RATIO = 2**26, 1000
"""Images are compressed: a row group that unpacks to more bytes and by a larger ratio is a decompression bomb."""


def read(path: Path, resize: int | None = None) -> EncodedImages:
    """Open Parquet files of square images of one size.

    The images are the column ``image``, or the only one that is a struct with ``bytes``. The labels are ``label``,
    class numbers, or ``labels``, lists of numbers. All other columns are metadata and keep their types, but columns of
    bytes are ignored, and named in the log. The files are read twice, because only the images have their sizes.

    Args:
        path: folder of the files of one set, or one of them.
        resize: side length in px to which images are cropped and resized; see `image_file.decode`.

    Raises:
        FormatError: a file is missing, damaged, or has other columns than the rest; a row has no image; HDF5 cannot
            store a column; pyarrow is not installed; or as `image_file.read_header` and `image_file.common_size` do.

    Source: https://huggingface.co/docs/datasets/about_dataset_features#image-feature
    """
    files = shard_files(path, ".parquet")
    schema, image, counts = _check_files(files)
    rows = range(sum(counts))
    if not rows:
        raise FormatError(f"{files[0]} has no rows; get or make it again")

    def read_files(numbers: range) -> Iterator[Encoded]:
        first = 0
        for file, count in zip(files, counts, strict=True):
            if numbers.start < first + count:
                yield from _images(file, image, max(numbers.start - first, 0))
            first += count

    paths = [f"{image}.path"] if "path" in [field.name for field in schema.field(image).type] else []
    others = [field.name for field in schema if not _holds_bytes(field.type)]
    ignored = [field.name for field in schema if field.name not in (*others, image)]
    if ignored:
        log.info("%s: ignored columns of bytes: %s", files[0], ", ".join(ignored))
    tables = []
    for file in files:
        with _opened(file) as opened:
            tables.append(opened.read(columns=[*others, *paths], use_threads=False))
    table = pyarrow().concat_tables(tables)
    names = table[image].flatten()[0].to_pylist() if paths else []
    if len(set(names)) < len(rows) or not all(isinstance(name, str) and name for name in names):
        names = [f"{number:08d}" for number in rows]
    metadata, labels, label_names = _read_metadata(table.select(others), path)
    headers = (image_file.read_header(io.BytesIO(data), where, len(data)) for where, data in read_files(rows))
    resolution, channels = image_file.common_size(headers, resize)
    return EncodedImages(names, read_files, resolution, channels, resize is not None, metadata, labels, label_names)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file, and turn every error of pyarrow into a FormatError."""
    package = pyarrow()
    try:
        with package.parquet.ParquetFile(
            path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            yield file
    except (package.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise FormatError(f"{path} is not readable Parquet, or damaged: {reason}; get or make it again") from None


def _check_files(files: list[Path]) -> tuple[Any, str, list[int]]:
    """Return Arrow's schema of some files, the name of their image column, and the rows of each; no row is read."""
    schema, image, counts = None, "", []
    for path in files:
        with _opened(path) as file:
            schema = schema or file.schema_arrow
            if not schema.equals(file.schema_arrow):
                raise FormatError(
                    f"{path} has the columns {_columns(file.schema_arrow)}, {files[0].name} {_columns(schema)}; "
                    "expected the same in all files: give a folder of one set"
                )
            image = image or _image_column(path, schema)
            counts.append(file.metadata.num_rows)
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            for chunk in (group.column(i) for group in groups for i in range(group.num_columns)):
                size, packed = chunk.total_uncompressed_size, max(1, chunk.total_compressed_size)
                is_image = chunk.path_in_schema == f"{image}.bytes"
                if is_image and size > max(UNPACKED_BYTES, UNPACKED_RATIO * packed):
                    bomb = f"the images of a row group would unpack from {packed} to {size} bytes"
                    raise FormatError(f"{path}: {bomb}; it looks like a decompression bomb, delete it")
    return schema, image, counts


def _image_column(path: Path, schema: Any) -> str:
    types = pyarrow().types
    structs = [field for field in schema if types.is_struct(field.type)]
    found = [
        str(field.name)
        for field in structs
        if any(part.name == "bytes" and _holds_bytes(part.type) for part in field.type)
    ]
    if "image" in found or len(found) == 1:
        return "image" if "image" in found else found[0]
    has = f"several image columns, {', '.join(found)}" if found else f"the columns {_columns(schema)}"
    raise FormatError(
        f"{path} has {has}; expected one image column, image: struct<bytes: binary, path: string>, as Hugging Face "
        "datasets writes it"
    )


def _holds_bytes(kind: Any) -> bool:
    types = pyarrow().types
    if types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _columns(schema: Any) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)[:300]


def _images(path: Path, image: str, start: int) -> Iterator[Encoded]:
    """Yield the image files of a Parquet file from row `start` on."""
    with _opened(path) as file:
        first = 0
        for batch in file.iter_batches(BATCH_IMAGES, columns=[f"{image}.bytes"], use_threads=False):
            (images,) = batch.column(0).flatten()
            for row in range(max(first, start), first + len(images)):
                data = images[row - first].as_py()
                if data is None:
                    raise FormatError(f"{path}: row {row} has no bytes in its column {image}; embed the images")
                yield f"{path}: row {row}", data
            first += len(images)


def _read_metadata(table: Any, where: Path) -> tuple[Metadata, Labels | None, tuple[str, ...]]:
    """Return metadata, labels and label names; numbers keep their types, other columns are parsed as records."""
    arrays: dict[str, NDArray[Any]] = {}
    for name in table.column_names:
        array = None if name in LABEL_COLUMNS else _array(table[name])
        if array is not None:
            check_key(name, where)
            arrays[name] = array
    rest = table.drop_columns(list(arrays))
    batches = rest.to_batches(max_chunksize=BATCH_ROWS)
    rows = (row for batch in batches for row in batch.to_pylist()) if rest.num_columns else iter(())
    metadata, labels, label_names = parse_records(rows, where)
    found = {**metadata.columns, **arrays}
    names = _class_names(table.schema) if "label" in rest.column_names else ()
    if labels is not None and len(names) >= labels.shape[1]:
        labels = np.pad(labels, ((0, 0), (0, len(names) - labels.shape[1])))  # classes without images
        label_names = names
    ordered = {name: found[name] for name in table.column_names if name in found}
    return Metadata(ordered, metadata.attribute_names), labels, label_names


def _class_names(schema: Any) -> tuple[str, ...]:
    """Return the class names of the column ``label`` if `datasets` has stored them in the schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features["label"]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


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
        how = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}  # PNG is compressed
        with pa.parquet.ParquetWriter(file, schema, **how) as table:
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
        use = "a name that Parquet needs for the images or their labels"
        raise FormatError(f"{level.path} has a column {taken[0]}, {use}; export to another format")
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
