"""Data sets that consist of several files."""

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
from celebahq_builder.formats.export import ExportJob
from celebahq_builder.hdf5.level_images import LevelImageSet
from celebahq_builder.storage import Staging

NUMBERED = re.compile(r"(?P<name>.*?)(?P<number>\d+)(?:-of-(?P<count>\d+))?")
"""``NAME-000000``, ``000000``, ``train-00000-of-00030``."""


def shard_files(path: Path, ending: str) -> list[Path]:
    """Return the files of a set by their numbers, or by their names where they have none; a file is its only one.

    Args:
        path: a file, or the folder of one set.
        ending: of the files, with its dot.

    Raises:
        FormatError: neither, none of that ending, several sets, or a file is missing among them.
    """
    if not path.is_dir():
        if not path.is_file():
            raise FormatError(f"{path} does not exist")
        return [path]
    files = sorted(one for one in path.iterdir() if one.name.endswith(ending) and not one.name.startswith("."))
    if not files:
        raise FormatError(f"{path} holds no files ending in {ending}; give their folder, or one of them")
    if len(files) == 1 and "-of-" not in files[0].name:
        return files
    matches = {one: NUMBERED.fullmatch(one.name.removesuffix(ending)) for one in files}
    if not any(matches.values()):
        return files
    sets = sorted({match["name"] if match else one.name for one, match in matches.items()})
    if len(sets) > 1:
        raise FormatError(f"{path} holds several sets ({', '.join(sets)}); give a file, or a folder of one set alone")
    return _complete(path, {one: match for one, match in matches.items() if match}, ending)


def _complete(folder: Path, matches: dict[Path, re.Match[str]], ending: str) -> list[Path]:
    """Return the files in the order of their numbers, of which none is missing."""
    numbers = {int(match["number"]): one for one, match in matches.items()}
    counts = {match["count"] for match in matches.values()}
    if len(numbers) < len(matches) or len(counts) > 1:
        raise FormatError(f"{folder} holds files of different numberings; give a folder of one set alone")
    count = counts.pop()
    wanted = range(int(count)) if count else range(min(numbers), max(numbers) + 1)
    for number in wanted:
        if number not in numbers:
            like = next(iter(matches.values()))
            digits = f"{number:0{len(like['number'])}d}"
            missing = f"{like['name']}{digits}{f'-of-{count}' if count else ''}{ending}"
            raise FormatError(f"{folder} lacks {missing}; get or make it again, or number the files without a gap")
    if len(numbers) > len(wanted):
        raise FormatError(f"{folder} holds {len(numbers)} files of a set of {count}; remove those of another")
    return [numbers[number] for number in wanted]


@dataclass(frozen=True)
class Shard:
    """One of the files, and what goes into it."""

    source: Path
    resolution: int
    path: Path
    numbers: range
    names: list[str]
    """Of the images of those numbers."""
    png_level: int

    @contextmanager
    def open(self) -> Iterator[tuple[LevelImageSet, BinaryIO]]:
        """Open the images, and the file under a name that it loses when it is whole."""
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
    """Write all shards that are not there yet; yields as an export's writer does.

    Args:
        names: of all images.
        file_name: of a shard, from its number and how many there are.
        write: of one; importable by name.
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
