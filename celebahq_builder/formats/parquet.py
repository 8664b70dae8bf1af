"""Parquet files with an image column, as Hugging Face datasets stores them.

The files are read with pyarrow, in a child process. `datasets` itself ignores the checksums of pages, and does not
notice that a file of the set is missing.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import logging
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats import Format
from celebahq_builder.formats.export_job import ExportJob, ShardFile, write_shards
from celebahq_builder.formats.hdf5 import LevelImageSet
from celebahq_builder.formats.image_file import Encoded, common_size, encoded_images, read_header
from celebahq_builder.formats.isolated import run_isolated
from celebahq_builder.formats.parquet_rows import ParquetFacts, parquet_columns, parquet_facts, parquet_images
from celebahq_builder.formats.records import (
    check_key,
    class_numbers,
    file_names,
    has_own_labels,
    parse_records,
    with_boolean_labels,
)
from celebahq_builder.formats.shards import shard_files
from celebahq_builder.image_set import DataSet, Described, Metadata
from celebahq_builder.limits import MAX_CHUNK_BYTES
from celebahq_builder.storage import Staging

log = logging.getLogger(__name__)

LABEL_COLUMNS = ("label", "labels", "label_name")
"""Columns that are not metadata; see `records.parse_records`."""


def import_pyarrow() -> ModuleType:
    """Return pyarrow with its Parquet module.

    Raises:
        FormatError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise FormatError(
            "Parquet needs pyarrow, which is not installed: pip install '.[parquet]' in the folder of the project"
        ) from None
    module: ModuleType = pyarrow
    return module


# --- Import

METADATA_BYTES, METADATA_RATIO = MAX_CHUNK_BYTES, 4
"""Metadata that takes more bytes, and more than so many times the size of the files, is a decompression bomb."""


def read(path: Path, resize: int | None = None, split: str | None = None) -> DataSet:
    """Open Parquet files of square images of one size.

    The images are the column ``image``, or the only one that is a struct with ``bytes``. The labels are ``label``,
    class numbers or words, or ``labels``, lists of numbers; without them, all columns of true and false are labels. All
    columns but these two are metadata and keep their types, but columns of bytes are ignored, and named in the log. The
    files are read twice, because only the images have their sizes.

    Args:
        path: folder of the files of one set, or one of them.
        resize: side length in px to which images are cropped and resized; see `image_file.decode`.
        split: see `shards.shard_files`.

    Raises:
        FormatError: a file is missing, damaged, or has other columns than the rest; a row has no image; HDF5 cannot
            store a column; pyarrow is not installed; or as `image_file.read_header` and `image_file.common_size` do.

    Source: https://huggingface.co/docs/datasets/about_dataset_features#image-feature
    """
    import_pyarrow()
    files = shard_files(path, (".parquet",), split)
    facts = next(run_isolated(files[0], parquet_facts, files))
    count = sum(facts.counts)
    if not count:
        raise FormatError(f"{files[0]} has no rows; get or make it again")
    if facts.ignored:
        log.info("%s: ignored columns of bytes: %s", files[0], ", ".join(facts.ignored))

    def read_files(_: Sequence[int]) -> Iterator[Encoded]:
        return run_isolated(path, parquet_images, files, facts.counts, facts.image, memory_bytes=facts.memory_bytes)

    table, names = _read_columns(path, files, facts)
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < count:
        names = [f"{number:08d}" for number in range(count)]
    described = dataclasses.replace(_parse_columns(table, facts.class_names, path), names=list(map(str, names)))
    headers = (read_header(io.BytesIO(data), where, len(data)) for where, data in read_files(range(count)))
    return encoded_images(described, common_size(headers, resize), read_files, resize)


Table = dict[str, NDArray[np.generic] | list[object]]


def _read_columns(path: Path, files: list[Path], facts: ParquetFacts) -> tuple[Table, list[object]]:
    """Return all other columns (arrays of N numbers or N rows of numbers, lists of values), and the images' paths."""
    parts: dict[str, list[NDArray[np.generic] | list[object]]] = {}
    left = max(METADATA_BYTES, METADATA_RATIO * sum(file.stat().st_size for file in files))
    columns = [*facts.others, *([f"{facts.image}.path"] if facts.has_paths else [])]
    for batch in run_isolated(path, parquet_columns, files, columns) if columns else ():
        for name, values in batch.items():
            parts.setdefault(name, []).append(values)
            left -= values.nbytes if isinstance(values, np.ndarray) else len(pickle.dumps(values))
        if left < 0:
            bomb = "metadata that unpacks to many times the size of the file"
            raise FormatError(f"{path} has {bomb}; it looks like a decompression bomb, delete it")
    paths = [row.get("path") if isinstance(row, dict) else None for part in parts.pop(facts.image, ()) for row in part]
    return {name: _joined(several) for name, several in parts.items()}, paths


def _joined(parts: list[NDArray[np.generic] | list[object]]) -> NDArray[np.generic] | list[object]:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({part.shape[1:] for part in arrays}) == 1:
        return np.concatenate(arrays)
    return [value for part in parts for value in (part.tolist() if isinstance(part, np.ndarray) else part)]


def _parse_columns(table: Table, class_names: tuple[str, ...], where: Path) -> Described:
    """Return metadata and labels; numbers keep their types, other columns are parsed as records."""
    arrays = {name: column for name, column in table.items() if isinstance(column, np.ndarray)}
    arrays = {name: column for name, column in arrays.items() if name not in LABEL_COLUMNS}
    for name in arrays:
        check_key(name, where)
    rest = {
        name: column.tolist() if isinstance(column, np.ndarray) else column
        for name, column in table.items()
        if name not in arrays
    }
    if "sha256" in rest and "file" in arrays:  # so that it is recognized as ours or not by the other column
        rest["file"] = list(map(str, arrays.pop("file")))
    rows = (dict(zip(rest, row, strict=True)) for row in zip(*rest.values(), strict=True))
    described = parse_records(rows, where)
    labels, label_names = described.labels, described.label_names
    if "label" in rest and labels is not None and len(class_names) >= labels.shape[1]:
        labels = np.pad(labels, ((0, 0), (0, len(class_names) - labels.shape[1])))  # classes without images
        label_names = class_names
    found = {**described.metadata.columns, **arrays}
    ordered = {name: found.pop(name) for name in table if name in found} | found
    metadata = Metadata(ordered, described.metadata.attribute_names)
    if labels is None:
        return with_boolean_labels(metadata, [name for name in arrays if arrays[name].dtype == bool])
    return Described(metadata, labels, label_names)


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
    import_pyarrow()
    names = [f"{name}.png" for name in file_names(export.level)]
    yield from write_shards(
        export, stage, names, lambda shard, of: f"train-{shard:05d}-of-{of:05d}.parquet", _write_shard
    )


def _write_shard(shard: ShardFile, file: BinaryIO) -> None:
    pa, level = import_pyarrow(), shard.export.level
    schema = _schema(pa, level)
    group = max(1, min(GROUP_IMAGES, GROUP_BYTES // (level.channels * level.resolution**2)))
    rows = ({"image": {"bytes": png, "path": name}, **record} for name, png, record in shard.samples())
    how = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}  # PNG is compressed
    with pa.parquet.ParquetWriter(file, schema, **how) as table:
        while some := list(itertools.islice(rows, group)):
            table.write_table(pa.Table.from_pylist(some, schema), row_group_size=group)


def _schema(pa: ModuleType, level: LevelImageSet) -> object:
    """Return the schema of all shards, which follows from the whole HDF5 file, not from the images of a shard."""
    fields = [pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    features: dict[str, object] = {"image": {"_type": "Image"}}
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


FORMAT = Format(
    "parquet", read, write, names=("*.parquet",), beside_images=False, options=("resize", "split", "shard", "png_level")
)
