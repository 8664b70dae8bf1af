"""WebDataset: tar shards of PNG and JSON."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder import parallel
from celebahq_builder.formats.exporting import Export
from celebahq_builder.formats.level_pictures import LevelPictures
from celebahq_builder.formats.names import file_names
from celebahq_builder.formats.records import records
from celebahq_builder.formats.staging import Staging
from celebahq_builder.imaging.codec import encode_png


@dataclass(frozen=True)
class _Job:
    source: Path
    resolution: int
    path: Path
    numbers: range
    names: list[str]
    png_level: int


def write(export: Export, stage: Staging) -> Iterator[int]:
    """Write ``<name>-000000.tar`` ...: for each picture ``<key>.png``, ``<key>.json``, and ``<key>.cls`` of its class.

    A key is the source's id, or a number where an id has a dot in it: readers take the first dot for the beginning of
    the ending. Headers bear no time and no owner. A killed export goes on by shard: those that are there are whole.

    Source: https://github.com/webdataset/webdataset#the-webdataset-format
    """
    level = export.level
    stage.data.mkdir(exist_ok=True)
    keys = file_names(level, export.source, without=".")
    jobs, done = [], 0
    for shard, part in enumerate(export.parts(export.settings.shard)):
        path = stage.data / f"{export.name}-{shard:06d}.tar"
        if path.exists():
            done += len(part)
        else:
            some = keys[part.start : part.stop]
            jobs.append(_Job(export.source, level.resolution, path, part, some, export.settings.png_level))
    yield done
    yield from parallel.run(_write_shard, jobs, workers=export.workers)


def _write_shard(job: _Job) -> int:
    partial = job.path.with_name(job.path.name + ".partial")
    with LevelPictures(job.source, job.resolution) as level, partial.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            known = records(level, job.numbers)
            for key, record, pixels in zip(job.names, known, level.pixels(job.numbers), strict=True):
                _add(tar, f"{key}.png", encode_png(pixels, job.png_level))
                _add(tar, f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
                if "label" in record:
                    _add(tar, f"{key}.cls", str(record["label"]).encode())
        file.flush()
        os.fsync(file.fileno())
    partial.rename(job.path)
    return len(job.numbers)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))
