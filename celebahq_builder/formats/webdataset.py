"""WebDataset: tar shards of image files and JSON.

Hugging Face `datasets` also reads such shards, but it takes a missing shard, a tar that is cut short between two
members, and a damaged header for the end of the data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import logging
import re
import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats import Format, image_file
from celebahq_builder.formats.export_job import ExportJob, ShardFile, write_shards
from celebahq_builder.formats.image_file import Encoded, Header, encoded_images
from celebahq_builder.formats.records import file_names, parse_records
from celebahq_builder.formats.shards import shard_files
from celebahq_builder.formats.tar import Member, members, open_tar
from celebahq_builder.image_set import IMAGE_SUFFIXES, DataSet, Record
from celebahq_builder.storage import Staging, parse_json

log = logging.getLogger(__name__)

# --- Import

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""Endings of shards; those that gzip has not compressed are refused, see `tar.COMPRESSIONS`."""

RECORD_MAX_BYTES = 2**24
"""Maximum size of a ``.json`` or ``.cls`` member."""


def read(path: Path, resize: int | None = None, split: str | None = None) -> DataSet:
    """Open shards of square images of one size: of each sample the image, its ``.json`` and its ``.cls``.

    The order is that of the shards' numbers, and of the samples in them. Nothing is unpacked to the disk. Images of
    equal names in several shards get the names of their shards before theirs. The log counts members of other kinds.

    Args:
        path: folder of the shards, tar archives, plain or compressed by gzip, or one of them.
        resize: side length in px to which images are cropped and resized; see `image_file.decode`.
        split: see `shards.shard_files`.

    Raises:
        FormatError: a shard is missing, or damaged (see `tar.members`); a sample has not one image, or the name of
            another one in its shard; a ``.json`` is not an object; or as `image_file.read_header` and
            `image_file.common_size` do.

    Source: https://github.com/webdataset/webdataset#the-webdataset-format
    """
    images = _Images(shard_files(path, ENDINGS, split), [], array("q"))
    described = parse_records(_scan(path, images), path)
    names = images.names
    if len(set(names)) < len(names):
        names = [f"{images.shard(number).stem}/{name}" for number, name in enumerate(names)]
    headers = map(images.header, range(len(names)))
    described = dataclasses.replace(described, names=names)
    return encoded_images(described, image_file.common_size(headers, resize), images.read, resize)


@dataclass(frozen=True)
class _Images:
    """Places and headers of the images in some shards; they need 100 to 200 bytes of memory each."""

    shards: list[Path]
    names: list[str]
    """Names of the members."""
    facts: array[int]
    """For each image: number of the shard, offset and size in bytes, width, height and channels."""

    def add(self, shard: int, member: Member, header: Header) -> None:
        self.names.append(member.name)
        self.facts.extend((shard, member.offset, member.size_bytes, header.width, header.height, header.channels))

    def shard(self, number: int) -> Path:
        return self.shards[self.facts[6 * number]]

    def header(self, number: int) -> Header:
        return Header(f"{self.shard(number)}: {self.names[number]}", *self.facts[6 * number + 3 : 6 * number + 6])

    def read(self, numbers: Sequence[int]) -> Iterator[Encoded]:
        for shard, group in itertools.groupby(numbers, self.shard):
            with open_tar(shard) as file:
                for number in group:
                    offset, size = self.facts[6 * number + 1 : 6 * number + 3]
                    file.seek(offset)
                    data = file.read(size)
                    if len(data) < size:
                        raise FormatError(f"{shard} was changed while it was read; run the same command again")
                    yield f"{shard}: {self.names[number]}", data


def _scan(path: Path, images: _Images) -> Iterator[Record]:
    """Yield the record of each sample, and add its image to `images`."""
    others: Counter[str] = Counter()
    for number, shard in enumerate(images.shards):
        first = len(images.names)
        with contextlib.closing(members(shard)) as files:  # so that an error closes the shard
            for key, group in itertools.groupby(files, _key):
                if key is None:
                    others["no ending"] += len(list(group))
                else:
                    yield _read_sample(images, number, key, group, others)
        name, times = max(Counter(images.names[first:]).items(), key=lambda item: item[1], default=("", 1))
        if times > 1:
            raise FormatError(f"{shard} holds {times} images named {name}; make it again")
    if others:
        some = ", ".join(f"{times} {ending}" for ending, times in others.most_common(5))
        log.info("%s: ignored %d members that are not images, .json or .cls: %s", path, others.total(), some)
    if not images.names:
        raise FormatError(f"{path} holds no images; expected members ending in {', '.join(IMAGE_SUFFIXES)}")


def _read_sample(images: _Images, shard_number: int, key: str, group: Iterator[Member], others: Counter[str]) -> Record:
    """Return the record of a sample, add its image to `images`, and count its other members by their endings."""
    shard, first = images.shards[shard_number], len(images.names)
    parts: dict[str, bytes] = {}
    for member in group:
        where, ending = f"{shard}: {member.name}", member.name.removeprefix(key).lower()
        if ending in IMAGE_SUFFIXES:
            images.add(shard_number, member, image_file.read_header(member.file, where, member.size_bytes))
        elif ending in parts:
            raise FormatError(f"{where} occurs twice in sample {key}; remove one of them")
        elif ending not in (".json", ".cls"):
            others[ending] += 1
        elif member.size_bytes > RECORD_MAX_BYTES:
            size = f"{member.size_bytes} bytes, expected at most {RECORD_MAX_BYTES}"
            raise FormatError(f"{where} has {size}; remove it")
        else:
            parts[ending] = member.file.read()
    names = images.names[first:]
    if len(names) != 1:
        has = f"the images {', '.join(names)}" if names else "no image"
        raise FormatError(f"{shard}: sample {key} has {has}; expected one, as {key}.png: make the shard again")
    return _parse_record(f"{shard}: {names[0]}", parts)


def _key(member: Member) -> str | None:
    """Return the path up to the first dot of the file name, which successive members of a sample share."""
    folder, slash, file = member.name.rpartition("/")
    return folder + slash + file.partition(".")[0] if "." in file else None


def _parse_record(where: str, parts: dict[str, bytes]) -> Record:
    """Return the contents of ``.json``, and the label from ``.cls``, a class number or a word."""
    try:
        record = parse_json(parts.get(".json", b"{}"))
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise FormatError(f"{where} (.json) is not a JSON object; correct or remove it")
    number = parts.get(".cls")
    if number is not None:
        text = number.decode("utf-8", "replace").strip()
        value = int(text) if re.fullmatch(r"-?\d{1,9}", text) else text
        if record.setdefault("label", value) != value:
            found = printable(f"is {str(value)[:40]}, the label in its .json {str(record['label'])[:40]}")
            raise FormatError(f"{where} (.cls) {found}; correct one of them")
    return record


# --- Export


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write ``<name>-000000.tar`` ...: for each image ``<key>.png``, ``<key>.json``, and ``<key>.cls`` with its class.

    The key is the source's id, or a number if an id contains a dot: for readers, the ending begins at the first dot.
    An interrupted export is resumed by shard: existing shards are complete.

    `webdataset.ShardWriter` is not used: it sorts the members of a sample by their endings, which would change the
    bytes, and writes the shards one after another under their final names.

    Source: https://github.com/webdataset/webdataset#the-webdataset-format
    """
    keys = file_names(export.level, without=".")
    yield from write_shards(export, stage, keys, lambda shard, _: f"{export.name}-{shard:06d}.tar", _write_shard)


def _write_shard(shard: ShardFile, file: BinaryIO) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, png, record in shard.samples():
            _add(tar, f"{key}.png", png)
            _add(tar, f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
            if "label" in record:
                _add(tar, f"{key}.cls", str(record["label"]).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


FORMAT = Format(
    "webdataset",
    read,
    write,
    names=tuple(f"*{ending}" for ending in ENDINGS),
    beside_images=False,
    options=("resize", "split", "shard", "png_level"),
)
