"""Parquet shards with an image column, as Hugging Face datasets and its hub read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.arrow import pyarrow
from celebahq_builder.formats.classes import class_numbers
from celebahq_builder.formats.exporting import Export
from celebahq_builder.formats.level_pictures import LevelPictures
from celebahq_builder.formats.names import file_names
from celebahq_builder.formats.records import own_labels, records
from celebahq_builder.formats.shards import Shard, write_shards
from celebahq_builder.formats.staging import Staging
from celebahq_builder.imaging.codec import encode_png

GROUP = 32
"""Pictures of a row group, which is held in memory; fewer where they are large."""

WRITTEN = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
"""PNG is compressed already, and each different."""

GROUP_BYTES = 256 * 2**20


def write(export: Export, stage: Staging) -> Iterator[int]:
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


def _schema(pa: ModuleType, level: LevelPictures) -> Any:
    """Return the same schema for all shards: it follows from the whole file, not from a shard's pictures."""
    fields = [pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    metadata = level.metadata
    taken = sorted({"image", "label", "labels", "label_name"} & metadata.columns.keys())
    if taken:
        raise FormatError(
            f"{level.path} has a column {taken[0]}, a name that Parquet needs for the pictures or their labels; "
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
