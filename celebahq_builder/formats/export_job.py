"""The export job that each writer of a format gets, its files under temporary names, and shards."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from celebahq_builder import parallel
from celebahq_builder.formats.hdf5 import LevelImageSet
from celebahq_builder.formats.records import image_records
from celebahq_builder.image_set import Record
from celebahq_builder.imaging.image_io import PNG_LEVEL, QUALITY, ImageFormat, encode_png
from celebahq_builder.storage import Staging

JOB_IMAGES = 32
"""Images that a worker writes at a time, where the format does not decide it."""


@dataclass(frozen=True)
class ExportJob:
    """One export, as a writer and its worker processes receive it."""

    level: LevelImageSet
    name: str
    """Name of the target, with which the names of its files begin."""
    workers: int
    shuffle: bool = False
    shard: int = 1000
    """Images per shard."""
    png_level: int = PNG_LEVEL
    """PNG compression, 0 to 9."""
    image_format: ImageFormat = "png"
    quality: int = QUALITY
    """Quality of JPEG and WebP files, 1 to 100."""

    def parts(self, size: int = JOB_IMAGES) -> list[range]:
        """Return the image numbers, cut into ranges of `size`."""
        count = self.level.count
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


@contextmanager
def open_new(path: Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name, and give it its own when it is complete."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


# --- Shards


@dataclass(frozen=True)
class ShardFile:
    """A file to be written, and its images."""

    export: ExportJob
    path: Path
    numbers: range
    names: list[str]
    """Names of these images."""

    def samples(self) -> Iterator[tuple[str, bytes, Record]]:
        """Yield the name, the PNG file, and the metadata and labels of each image."""
        level = self.export.level
        records = image_records(level, self.numbers)
        for name, record, pixels in zip(self.names, records, level.pixels(self.numbers), strict=True):
            yield name, encode_png(pixels, self.export.png_level), record


def write_shards(
    export: ExportJob,
    stage: Staging,
    names: list[str],
    file_name: Callable[[int, int], str],
    write: Callable[[ShardFile, BinaryIO], None],
) -> Iterator[int]:
    """Write all shards that do not exist yet; yields what `Format.write` yields.

    Args:
        stage: folder of the unfinished export.
        file_name: function of a shard's number and the number of shards.
        write: function that writes one shard to a file; importable by name.
    """
    stage.data.mkdir(exist_ok=True)
    parts = export.parts(export.shard)
    paths = [stage.data / file_name(number, len(parts)) for number in range(len(parts))]
    jobs, done = [], 0
    for part, path in zip(parts, paths, strict=True):
        if path.exists():
            done += len(part)
        else:
            jobs.append(ShardFile(export, path, part, names[part.start : part.stop]))
    yield done
    yield from parallel.run(functools.partial(_write_shard, write), jobs, workers=export.workers)
    stage.check(paths)


def _write_shard(write: Callable[[ShardFile, BinaryIO], None], shard: ShardFile) -> int:
    """Write a shard, and return the number of its images."""
    with open_new(shard.path) as file:
        write(shard, file)
    return len(shard.numbers)
