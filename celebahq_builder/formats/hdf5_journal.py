"""What an HDF5 file in the making holds, noted beside it: HDF5 itself knows that only once the file is closed.

A line is appended for each job, once its chunks are in the file, and says where they lie. Pictures of levels whose
chunks more than one job shares are in the line itself. Everything has a checksum, so that what a kill or a power cut
leaves behind the last whole line is not taken for more than it is.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from celebahq_builder.formats.hdf5_datasets import LevelDataset
from celebahq_builder.formats.packing import Packed
from celebahq_builder.imaging.pyramid import levels

Texts = dict[str, list[str]]
"""Columns of text known of some pictures."""


class Journal:
    """Notes what is written to a file; opened anew for each.

    Args:
        path: of the journal.
    """

    def __init__(self, path: Path) -> None:
        self.file: BinaryIO = path.open("wb", buffering=0)

    def add(self, packed: Packed, texts: Texts, datasets: Sequence[LevelDataset]) -> None:
        """Note a job that is in the file already."""
        noted: list[Any] = []
        for content, dataset in zip(packed.levels, datasets, strict=True):
            if isinstance(content, list):
                places = dataset.last(len(content))
                noted.append([[p.offset, p.size, zlib.crc32(c)] for p, c in zip(places, content, strict=True)])
            else:
                noted.append(base64.b64encode(content.tobytes()).decode())
        line = json.dumps({"levels": noted, "sha256": packed.sha256, "texts": texts}).encode()
        self.file.write(b"%08x %s\n" % (zlib.crc32(line), line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def recover(journal: Path, pictures: Path, resolution: int, channels: int) -> Iterator[tuple[Packed, Texts]]:
    """Yield the jobs of an unfinished file, from the first to the last that is whole.

    Args:
        journal: of the file.
        pictures: the unfinished HDF5 file; not read by HDF5.
        resolution: of its largest level.
        channels: of its pictures.
    """
    with journal.open("rb") as lines, pictures.open("rb", buffering=0) as file:
        for line in lines:
            sound = line[:-1].split(b" ", 1)
            if len(sound) != 2 or not line.endswith(b"\n") or b"%08x" % zlib.crc32(sound[1]) != sound[0]:
                return
            noted = json.loads(sound[1])
            try:
                contents = [
                    np.frombuffer(base64.b64decode(level), np.uint8).reshape(-1, channels, r, r)
                    if isinstance(level, str)
                    else [_chunk(file, *place) for place in level]
                    for r, level in zip(levels(resolution), noted["levels"], strict=True)
                ]
            except _NotTheNotedError:
                return
            yield Packed(tuple(contents), noted["sha256"]), noted["texts"]


class _NotTheNotedError(Exception):
    """A chunk that never reached the disk."""


def _chunk(file: BinaryIO, offset: int, size: int, checksum: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if zlib.crc32(data) != checksum:
        raise _NotTheNotedError
    return data
