"""Data sets of several files of equally many images."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from celebahq_builder import parallel
from celebahq_builder.errors import FormatError
from celebahq_builder.formats.format import ExportJob
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.storage import Staging

NUMBERED = re.compile(r"(?P<name>.*?)(?P<number>\d+)(?:-of-(?P<count>\d+))?")
"""``NAME-000000``, ``000000``, ``train-00000-of-00030``."""


def shard_files(path: Path, ending: str) -> list[Path]:
    """Return the files of a set in the order of their numbers, or of their names if these have no numbers.

    Args:
        path: a single file, or the folder of one set.
        ending: of the files, with its dot.

    Raises:
        FormatError: there are no such files, a file of the set is missing, or one is not of the set.
    """
    if not path.is_dir():
        if not path.is_file():
            raise FormatError(f"{path} does not exist")
        return [path]
    files = sorted(one for one in path.iterdir() if one.name.endswith(ending) and not one.name.startswith("."))
    if not files:
        raise FormatError(f"{path} holds no files ending in {ending}; give their folder, or one of them")
    matches = {one: NUMBERED.fullmatch(one.name.removesuffix(ending)) for one in files}
    numbered = [match for match in matches.values() if match]
    if not numbered or (len(files) == 1 and not numbered[0]["count"]):
        return files
    name, count = numbered[0]["name"], numbered[0]["count"]
    numbers = [one["number"] for one in numbered if (one["name"], one["count"]) == (name, count)]
    digits, present = min(map(len, numbers)), {int(number) for number in numbers}
    expected = range(int(count)) if count else range(min(present), max(present) + 1)

    def file_of(number: int) -> Path:
        return path / f"{name}{number:0{digits}d}{f'-of-{count}' if count else ''}{ending}"

    for one, match in matches.items():
        if not match or int(match["number"]) not in expected or one != file_of(int(match["number"])):
            like = file_of(expected[0]).name
            raise FormatError(f"{path} holds {one.name}, which is not of the set of {like}; give a folder of one set")
    missing = next((number for number in expected if number not in present), None)
    if missing is not None:
        name = file_of(missing).name
        raise FormatError(f"{path} lacks {name}; get or make it again, or number the files without a gap")
    return [file_of(number) for number in expected]


@dataclass(frozen=True)
class Shard:
    """A file to be written, and its images."""

    source: Path
    resolution: int
    path: Path
    numbers: range
    names: list[str]
    """Names of these images."""
    png_level: int

    @contextmanager
    def open(self) -> Iterator[tuple[LevelImageSet, BinaryIO]]:
        """Open the images, and the file under a temporary name that is removed when the file is complete."""
        partial = self.path.with_name(self.path.name + ".partial")
        with LevelImageSet(self.source, self.resolution) as level, partial.open("wb") as file:
            yield level, file
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.path)


def write_shards(
    export: ExportJob,
    stage: Staging,
    names: list[str],
    file_name: Callable[[int, int], str],
    write: Callable[[Shard], None],
) -> Iterator[int]:
    """Write all shards that do not exist yet; yields what a writer yields.

    Args:
        export: the export.
        stage: folder of the unfinished export.
        names: names of all images.
        file_name: function of a shard's number and the number of shards.
        write: function that writes one shard; importable by name.
    """
    stage.data.mkdir(exist_ok=True)
    parts = export.parts(export.shard)
    paths = [stage.data / file_name(number, len(parts)) for number in range(len(parts))]
    jobs, done = [], 0
    for part, path in zip(parts, paths, strict=True):
        if path.exists():
            done += len(part)
        else:
            some = names[part.start : part.stop]
            jobs.append(Shard(export.source, export.level.resolution, path, part, some, export.png_level))
    yield done
    yield from parallel.run(functools.partial(_write, write), jobs, workers=export.workers)
    stage.check(paths)


def _write(write: Callable[[Shard], None], shard: Shard) -> int:
    write(shard)
    return len(shard.numbers)
