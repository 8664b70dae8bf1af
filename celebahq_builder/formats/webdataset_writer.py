"""WebDataset: tar shards of PNG and JSON."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

from celebahq_builder.formats.exporting import Export
from celebahq_builder.formats.names import file_names
from celebahq_builder.formats.records import records
from celebahq_builder.formats.shards import Shard, write_shards
from celebahq_builder.formats.staging import Staging
from celebahq_builder.imaging.codec import encode_png


def write(export: Export, stage: Staging) -> Iterator[int]:
    """Write ``<name>-000000.tar`` ...: for each picture ``<key>.png``, ``<key>.json``, and ``<key>.cls`` of its class.

    A key is the source's id, or a number where an id has a dot in it: readers take the first dot for the beginning of
    the ending. Headers bear no time and no owner. A killed export goes on by shard: those that are there are whole.

    Source: https://github.com/webdataset/webdataset#the-webdataset-format
    """
    keys = file_names(export.level, export.source, without=".")
    yield from write_shards(export, stage, keys, lambda shard, _: f"{export.name}-{shard:06d}.tar", _write_shard)


def _write_shard(shard: Shard) -> None:
    with shard.open() as (level, file), tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        known = records(level, shard.numbers)
        for key, record, pixels in zip(shard.names, known, level.pixels(shard.numbers), strict=True):
            _add(tar, f"{key}.png", encode_png(pixels, shard.png_level))
            _add(tar, f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
            if "label" in record:
                _add(tar, f"{key}.cls", str(record["label"]).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))
