"""WebDataset shards as a set of pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.image_file import (
    Header,
    check_bytes,
    check_resize,
    common_size,
    decode,
    decoded,
    read_header,
)
from celebahq_builder.formats.metadata import Metadata, Record
from celebahq_builder.formats.pictures import Labels, Picture, Pixels
from celebahq_builder.formats.records import described
from celebahq_builder.formats.shard_files import shard_files
from celebahq_builder.formats.webdataset_samples import Samples, find_samples

BEGINNING = 2**16
"""Bytes of a picture in which its header usually is."""


@dataclass(frozen=True)
class WebDataset:
    """Pictures of the shards, a `PictureSet`; nothing is ever unpacked to the disk."""

    samples: Samples
    resolution: int
    channels: int
    resized: bool
    metadata: Metadata
    labels: Labels | None
    label_names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return len(self.samples.names)

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the pictures, named by the files that they are known to come from, or else by their members.

        Raises:
            FormatError: a picture cannot be read or decoded.
        """
        names = self.metadata.columns.get("file", self.samples.names)
        coded = self.samples.read("picture", start)
        for number, pixels in enumerate(decoded(coded, self._decode), start):
            yield Picture(pixels, str(names[number]))

    def _decode(self, coded: tuple[str, bytes | None]) -> Pixels:
        where, data = coded
        return decode(data or b"", where, self.resolution, self.channels, self.resized)


def read(path: Path, resize: int | None = None) -> WebDataset:
    """Read shards of square pictures of one size: of each sample the picture, its ``.json`` and its ``.cls``.

    The order is that of the shards' numbers, and of the samples in them.

    Args:
        path: the folder of the shards, plain tar archives, or one of them.
        resize: cut the middle of each picture to this size instead; see `image_file.decode`.

    Raises:
        FormatError: no shards, one that is missing, damaged or cut short; members whose names lead out of a folder; a
            sample without a picture, or with several; pictures that are not 8-bit RGB or grey, not of one size or of
            none that is a power of two; a ``.json`` that is no object, a ``.cls`` that is no number.

    Source: https://github.com/webdataset/webdataset#the-webdataset-format
    """
    check_resize(resize)
    samples = find_samples(path, shard_files(path, ".tar"))
    metadata, labels, label_names = described(_records(samples), path)
    resolution, channels = common_size(_headers(samples), resize)
    return WebDataset(samples, resolution, channels, resize is not None, metadata, labels, label_names)


def _headers(samples: Samples) -> Iterator[Header]:
    for number, (where, beginning) in enumerate(samples.read("picture", at_most=BEGINNING)):
        size = int(samples.places[number, 2])
        try:
            header = read_header(io.BytesIO(beginning or b""), where)
        except FormatError:
            if size <= BEGINNING:
                raise
            _, whole = next(samples.read("picture", number))
            header = read_header(io.BytesIO(whole or b""), where)
        check_bytes(header, size)
        yield header


def _records(samples: Samples) -> Iterator[Record]:
    for (where, text), (where_number, number) in zip(samples.read("json"), samples.read("cls"), strict=True):
        record: Any = {}
        if text is not None:
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise FormatError(f"{where} is no JSON object; mend or remove it")
        if number is not None:
            try:
                of_class = int(number)
            except ValueError:
                raise FormatError(
                    f"{where_number} is {number[:20]!r}, expected the number of a class; mend it"
                ) from None
            if record.setdefault("label", of_class) != of_class:
                raise FormatError(f"{where_number} is {of_class}, the label in its .json {record['label']}; mend one")
        yield record
