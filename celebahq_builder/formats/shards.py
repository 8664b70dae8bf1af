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
        FormatError: the path does not exist, the folder has no files of that ending or several sets, or a file of the
            set is missing.
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
    return _by_number(path, {one: match for one, match in matches.items() if match}, ending)


def _by_number(folder: Path, matches: dict[Path, re.Match[str]], ending: str) -> list[Path]:
    """Return the files of one set in the order of their numbers, and raise if one is missing."""
    numbers = {int(match["number"]): one for one, match in matches.items()}
    counts = {match["count"] for match in matches.values()}
    if len(numbers) < len(matches) or len(counts) > 1:
        raise FormatError(f"{folder} holds files of different numberings; give a folder of one set alone")
    count = counts.pop()
    expected = range(int(count)) if count else range(min(numbers), max(numbers) + 1)
    for number in expected:
        if number not in numbers:
            like = next(iter(matches.values()))
            digits = f"{number:0{len(like['number'])}d}"
            missing = f"{like['name']}{digits}{f'-of-{count}' if count else ''}{ending}"
            raise FormatError(f"{folder} lacks {missing}; get or make it again, or number the files without a gap")
    if len(numbers) > len(expected):
        raise FormatError(f"{folder} holds {len(numbers)} files of a set of {count}; remove those of another set")
    return [numbers[number] for number in expected]


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
