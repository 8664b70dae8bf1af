"""A folder of PNG files and ``metadata.jsonl``, as Hugging Face datasets' imagefolder reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder import parallel
from celebahq_builder.files import write_atomic
from celebahq_builder.formats.exporting import Export
from celebahq_builder.formats.level_pictures import LevelPictures
from celebahq_builder.formats.names import file_names
from celebahq_builder.formats.records import records
from celebahq_builder.formats.staging import Staging
from celebahq_builder.imaging.codec import encode_png

METADATA = "metadata.jsonl"
"""One line of JSON per picture: ``file_name``, and what is known of it. Absent where nothing is.

Source: https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""


@dataclass(frozen=True)
class _Job:
    source: Path
    resolution: int
    folder: Path
    numbers: range
    names: list[str]
    png_level: int


def write(export: Export, stage: Staging) -> Iterator[int]:
    """Write one PNG per picture, named by its source's id where the file knows it.

    A killed export goes on by file: those that are there are whole, and are not made again.
    """
    level = export.level
    names = [f"{name}.png" for name in file_names(level, export.source)]
    yield sum((stage.data / name).exists() for name in names)
    jobs = []
    for part in export.parts():
        left = [number for number in part if not (stage.data / names[number]).exists()]
        if left:
            some = range(left[0], part.stop)  # written in order: what is there is the beginning
            png_level = export.png_level
            some_names = names[some.start : some.stop]
            jobs.append(_Job(export.source, level.resolution, stage.data, some, some_names, png_level))
    yield from parallel.run(_write_pictures, jobs, workers=export.workers)
    _write_metadata(level, names, stage.data)


def _write_pictures(job: _Job) -> int:
    with LevelPictures(job.source, job.resolution) as level:
        for name, pixels in zip(job.names, level.pixels(job.numbers), strict=True):
            write_atomic(job.folder / name, encode_png(pixels, job.png_level))
    return len(job.numbers)


def _write_metadata(level: LevelPictures, names: list[str], folder: Path) -> None:
    if not level.metadata.columns and level.labels is None:
        return
    partial = folder / f"{METADATA}.partial"
    with partial.open("w", encoding="utf-8") as file:
        for start in range(0, len(names), 1000):
            numbers = range(start, min(start + 1000, len(names)))
            for number, record in zip(numbers, records(level, numbers), strict=True):
                line = {"file_name": names[number], **record}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / METADATA)
