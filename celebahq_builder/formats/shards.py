"""A data set in several files, each written by a worker of its own; a killed export goes on by file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from celebahq_builder import parallel
from celebahq_builder.formats.exporting import Export
from celebahq_builder.formats.level_pictures import LevelPictures
from celebahq_builder.formats.staging import Staging


@dataclass(frozen=True)
class Shard:
    """One of the files, and what goes into it."""

    source: Path
    resolution: int
    path: Path
    numbers: range
    names: list[str]
    """Of the pictures of those numbers."""
    png_level: int

    @contextmanager
    def open(self) -> Iterator[tuple[LevelPictures, BinaryIO]]:
        """Open the pictures, and the file under a name that it loses when it is whole."""
        partial = self.path.with_name(self.path.name + ".partial")
        with LevelPictures(self.source, self.resolution) as level, partial.open("wb") as file:
            yield level, file
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.path)


def write_shards(
    export: Export,
    stage: Staging,
    names: list[str],
    file_name: Callable[[int, int], str],
    write: Callable[[Shard], None],
) -> Iterator[int]:
    """Write all shards that are not there yet; yields as an export's writer does.

    Args:
        names: of all pictures.
        file_name: of a shard, from its number and how many there are.
        write: of one; importable by name.
    """
    stage.data.mkdir(exist_ok=True)
    parts = export.parts(export.shard)
    jobs, done = [], 0
    for number, part in enumerate(parts):
        path = stage.data / file_name(number, len(parts))
        if path.exists():
            done += len(part)
        else:
            some = names[part.start : part.stop]
            jobs.append(Shard(export.source, export.level.resolution, path, part, some, export.png_level))
    yield done
    yield from parallel.run(functools.partial(_write, write), jobs, workers=export.workers)


def _write(write: Callable[[Shard], None], shard: Shard) -> int:
    write(shard)
    return len(shard.numbers)
