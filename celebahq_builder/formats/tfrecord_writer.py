"""TFRecord as the TensorFlow versions of ProGAN and StyleGAN read it: a file per level, all pictures uncompressed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.files import write_atomic
from celebahq_builder.formats.exporting import Export
from celebahq_builder.formats.labels import labels_file
from celebahq_builder.formats.level_pictures import LevelPictures
from celebahq_builder.formats.staging import Staging
from celebahq_builder.formats.tfrecord import encode_example, frame
from celebahq_builder.imaging.pyramid import levels

SMALLEST = 4
"""Those readers want levels down to 4x4, and none below."""

ORDER_SEED = 123


@dataclass(frozen=True)
class _Job:
    source: Path
    resolution: int
    prefix: Path
    """Folder and beginning of the files' names."""
    start: int
    """Number of the first record."""
    numbers: range | list[int]
    """Pictures of the records, in their order."""


def write(export: Export, stage: Staging) -> Iterator[int]:
    """Write ``<name>-r02.tfrecords`` (4x4) to ``<name>-r10.tfrecords`` (1024x1024), and ``<name>-rxx.labels``.

    All records of a level are equally long, so that workers write theirs where they belong. A killed export goes on
    by parts of 32 pictures: ``done`` has a line for each that is on the disk. The pictures are in the file's order,
    so that numbers stay what they are; shuffled, they are in the order of the ProGAN authors' tool.

    Source: the data set tools of tkarras/progressive_growing_of_gans and NVlabs/stylegan.

    Raises:
        FormatError: the level is smaller than 4x4.
    """
    level, count = export.level, export.level.count
    if level.resolution < SMALLEST:
        raise FormatError(f"TFRecord files begin at 4x4, the level asked for is {level.resolution}x{level.resolution}")
    prefix = stage.data / export.name
    order: range | list[int] = range(count)
    if export.settings.shuffle:
        shuffled = np.arange(count)
        np.random.RandomState(ORDER_SEED).shuffle(shuffled)
        order = shuffled.tolist()
    done = _begun(level, prefix, stage)
    parts = export.parts()
    yield sum(len(part) for part in parts if part.start in done)
    jobs = (
        _Job(export.source, level.resolution, prefix, part.start, order[part.start : part.stop])
        for part in parts
        if part.start not in done
    )
    with (stage.root / "done").open("a", encoding="ascii") as notes:
        for start, written in parallel.run(_write_records, jobs, workers=export.workers):
            notes.write(f"{start}\n")
            notes.flush()
            yield written
    if level.labels is not None:
        write_atomic(prefix.with_name(f"{export.name}-rxx.labels"), labels_file(level.labels[np.array(order)]))


def path_of(prefix: Path, resolution: int) -> Path:
    """Return the file of a level: ``<name>-r10.tfrecords`` is 1024x1024."""
    return prefix.with_name(f"{prefix.name}-r{resolution.bit_length() - 1:02d}.tfrecords")


def _sides(resolution: int) -> list[int]:
    return [r for r in levels(resolution) if r >= SMALLEST]


def _begun(level: LevelPictures, prefix: Path, stage: Staging) -> set[int]:
    """Make the files as long as they will be; return the first records of the parts that they hold already."""
    notes = stage.root / "done"
    if not notes.exists():
        stage.data.mkdir(exist_ok=True)
        for r in _sides(level.resolution):
            size = level.count * len(frame(encode_example(np.zeros((level.channels, r, r), np.uint8))))
            with path_of(prefix, r).open("ab") as file:
                _reserve(file.fileno(), size)
    lines = notes.read_text(encoding="ascii").split("\n")[:-1] if notes.exists() else []
    return {int(line) for line in lines if line.isdigit()}


def _reserve(file: int, size: int) -> None:
    """Take the space now, where the system can: a full disk shows before an hour's work, not after."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def _write_records(job: _Job) -> tuple[int, int]:
    with LevelPictures(job.source, job.resolution) as level:
        for r in _sides(job.resolution):
            with path_of(job.prefix, r).open("rb+") as file:
                for number, pixels in enumerate(level.pixels(job.numbers, r), job.start):
                    record = frame(encode_example(pixels))
                    file.seek(number * len(record))
                    file.write(record)
                file.flush()
                os.fsync(file.fileno())
    return job.start, len(job.numbers)
