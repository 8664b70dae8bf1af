"""WebDataset: tar shards of image files and JSON."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.export import ExportJob
from celebahq_builder.formats.image_file import (
    Header,
    check_bytes,
    check_resize,
    common_size,
    decode,
    decoded,
    read_header,
)
from celebahq_builder.formats.records import check_name, described, file_names, records
from celebahq_builder.formats.shards import Shard, shard_files, write_shards
from celebahq_builder.hdf5.metadata import Metadata, Record
from celebahq_builder.image_set import IMAGE_SUFFIXES, Labels, NamedImage, Pixels
from celebahq_builder.imaging.image_io import encode_png
from celebahq_builder.storage import Staging

REMEDY = "get or make it again"

BLOCK_BYTES = tarfile.BLOCKSIZE

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}
"""First two bytes of what a tar may be packed by."""


class Member(NamedTuple):
    """A file in a tar, and where its contents lie; they are not read."""

    name: str
    """Relative, with ``/`` between folders."""
    offset: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """Yield the files of a tar in their order; folders and hidden files are left out.

    Memory does not depend on how many there are.

    Raises:
        FormatError: no tar, a compressed or damaged one, or one that is cut short, even between two members; a
            member that is neither file nor folder, or whose name leads out of a folder.
    """
    try:
        with path.open("rb") as file:
            yield from _members(path, file)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None


def _members(path: Path, file: BinaryIO) -> Iterator[Member]:
    packed = COMPRESSED.get(file.read(2))
    if packed:
        raise FormatError(f"{path} is compressed by {packed}; unpack it to a plain tar first")
    size = file.seek(0, 2)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if entry.isdir():
                    continue
                name = check_name(entry.name.removeprefix("./"), path)
                if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise FormatError(f"{path}: {name} is no plain file, but a link or the like; {REMEDY}")
                if entry.offset_data + entry.size > size:
                    raise FormatError(f"{path} is cut short: {name} ends after the file; {REMEDY}")
                if not name.rpartition("/")[2].startswith("."):
                    yield Member(name, entry.offset_data, entry.size)
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise FormatError(f"{path} is not a readable tar, or cut short: {error}; {REMEDY}") from None
    _check_end(path, file, end)


def _check_end(path: Path, file: BinaryIO, end: int) -> None:
    """Raise if what follows the last member is not what ends an archive: zeros, two blocks of them at least."""
    file.seek(end)
    ending = file.read(2 * BLOCK_BYTES)
    if any(ending[:BLOCK_BYTES]):
        raise FormatError(f"{path} is damaged: what begins at byte {end} is no member; {REMEDY}")
    if len(ending) < 2 * BLOCK_BYTES:
        raise FormatError(f"{path} is cut short: it lacks the blocks of zeros that end a tar; {REMEDY}")
    while ending:
        if any(ending):
            raise FormatError(f"{path} goes on after its end, as archives put one after another do; take them apart")
        ending = file.read(1 << 20)


log = logging.getLogger(__name__)

PARTS = ("image", "json", "cls")
"""What a sample is made of, as far as it is read: an image, what is known of it, and the number of its class."""

KNOWN_BYTES = 2**24
"""More than this is known of no image."""


@dataclass(frozen=True)
class Samples:
    """The samples of some shards; memory is 100 to 200 bytes for each."""

    shards: list[Path]
    names: list[str]
    """Of the images' members; behind their shard's name where several shards have the same ones."""
    places: NDArray[np.int64]
    """[N, 7]: number of the shard, then of each of `PARTS` where it begins and its bytes; -1 where there is none."""

    def read(self, part: str, start: int = 0, at_most: int | None = None) -> Iterator[tuple[str, bytes | None]]:
        """Yield where it is, as an error has it, and the contents of one part of each sample; None without.

        Args:
            part: one of `PARTS`.
            start: number of the first sample.
            at_most: bytes, from the beginning of each; None for all.

        Raises:
            FormatError: a shard is gone or got shorter.
        """
        column = 1 + 2 * PARTS.index(part)
        for number, shard, file in self._opened(start):
            offset, size = self.places[number, column : column + 2].tolist()
            if offset < 0:
                yield "", None
                continue
            where = self.where(number) + ("" if part == "image" else f" (.{part})")
            wanted = size if at_most is None else min(size, at_most)
            file.seek(offset)
            data = file.read(wanted)
            if len(data) < wanted:
                raise FormatError(f"{where} was changed while {shard.name} was read; run it again")
            yield where, data

    def where(self, number: int) -> str:
        """Return shard and member of an image, for an error."""
        shard = self.shards[self.places[number, 0]]
        return f"{shard}: {self.names[number].removeprefix(f'{shard.stem}/')}"

    def _opened(self, start: int) -> Iterator[tuple[int, Path, BinaryIO]]:
        """Yield the number of each sample, its shard, and the open file of that."""
        number, owners = start, self.places[:, 0]
        while number < len(owners):
            owner = int(owners[number])
            try:
                with self.shards[owner].open("rb") as file:
                    while number < len(owners) and owners[number] == owner:
                        yield number, self.shards[owner], file
                        number += 1
            except OSError as error:
                raise FormatError(f"{self.shards[owner]} cannot be read: {error.strerror}") from None


def find_samples(path: Path, shards: list[Path]) -> Samples:
    """Return the samples of some shards, whose contents are not read; members of other kinds are counted in the log.

    Raises:
        FormatError: as `tar_members.members` does; no samples at all; one without an image, with several, or with a
            name that another one of its shard has.
    """
    names: list[str] = []
    places = array("q")
    others: Counter[str] = Counter()
    for number, shard in enumerate(shards):
        first = len(names)
        for parts in _grouped(shard, others):
            names.append(parts["image"].name)
            places.append(number)
            for part in PARTS:
                places.extend(parts[part][1:] if part in parts else (-1, -1))
        name, times = max(Counter(names[first:]).items(), key=lambda item: item[1], default=("", 1))
        if times > 1:
            raise FormatError(f"{shard} holds {times} images named {name}; make it again")
    if others:
        some = ", ".join(f"{times} {ending}" for ending, times in others.most_common(5))
        log.info("%s: passed over %d members that are no images, .json or .cls: %s", path, others.total(), some)
    if not names:
        raise FormatError(f"{path} holds no images; expected members ending in {', '.join(IMAGE_SUFFIXES)}")
    table = np.array(places, np.int64).reshape(len(names), 1 + 2 * len(PARTS))
    if len(set(names)) < len(names):
        names = [f"{shards[owner].stem}/{name}" for owner, name in zip(table[:, 0].tolist(), names, strict=True)]
    return Samples(shards, names, table)


def _grouped(shard: Path, others: Counter[str]) -> Iterator[dict[str, Member]]:
    """Yield the parts of each sample."""
    key: str | None = None
    parts: dict[str, Member] = {}
    for member in members(shard):
        folder, slash, file = member.name.rpartition("/")
        stem, dot, ending = file.partition(".")
        if not dot:
            others["no ending"] += 1
            continue
        if key is not None and folder + slash + stem != key:
            yield _checked(shard, key, parts)
            parts = {}
        key, ending = folder + slash + stem, f".{ending.lower()}"
        part = "image" if ending in IMAGE_SUFFIXES else ending[1:]
        if part not in PARTS:
            others[ending] += 1
        elif part in parts:
            raise FormatError(
                f"{shard}: sample {key} has both {parts[part].name} and {member.name}; remove one of them"
            )
        else:
            parts[part] = member
    if key is not None:
        yield _checked(shard, key, parts)


def _checked(shard: Path, key: str, parts: dict[str, Member]) -> dict[str, Member]:
    if "image" not in parts:
        raise FormatError(
            f"{shard}: sample {key} has no image; expected {key}.png or the like next to its other members: make the "
            "shard again"
        )
    for part in PARTS[1:]:
        if part in parts and parts[part].size > KNOWN_BYTES:
            raise FormatError(
                f"{shard}: {parts[part].name} has {parts[part].size} bytes, expected at most {KNOWN_BYTES}; remove it"
            )
    return parts


BEGINNING = 2**16
"""Bytes of an image in which its header usually is."""


@dataclass(frozen=True)
class WebDataset:
    """Images of the shards, a `ImageSet`; nothing is ever unpacked to the disk."""

    samples: Samples
    resolution: int
    channels: int
    resized: bool
    metadata: Metadata
    labels: Labels | None
    label_names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.samples.names)

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images, named by the files that they are known to come from, or else by their members.

        Raises:
            FormatError: an image cannot be read or decoded.
        """
        names = self.metadata.columns.get("file", self.samples.names)
        coded = self.samples.read("image", start)
        for number, pixels in enumerate(decoded(coded, self._decode), start):
            yield NamedImage(pixels, str(names[number]))

    def _decode(self, coded: tuple[str, bytes | None]) -> Pixels:
        where, data = coded
        return decode(data or b"", where, self.resolution, self.channels, self.resized)


def read(path: Path, resize: int | None = None) -> WebDataset:
    """Read shards of square images of one size: of each sample the image, its ``.json`` and its ``.cls``.

    The order is that of the shards' numbers, and of the samples in them.

    Args:
        path: the folder of the shards, plain tar archives, or one of them.
        resize: cut the middle of each image to this size instead; see `image_file.decode`.

    Raises:
        FormatError: no shards, one that is missing, damaged or cut short; members whose names lead out of a folder; a
            sample without an image, or with several; images that are not 8-bit RGB or grey, not of one size or of
            none that is a power of two; a ``.json`` that is no object, a ``.cls`` that is no number.

    Source: https://github.com/webdataset/webdataset#the-webdataset-format
    """
    check_resize(resize)
    samples = find_samples(path, shard_files(path, ".tar"))
    metadata, labels, label_names = described(_records(samples), path)
    resolution, channels = common_size(_headers(samples), resize)
    return WebDataset(samples, resolution, channels, resize is not None, metadata, labels, label_names)


def _headers(samples: Samples) -> Iterator[Header]:
    for number, (where, beginning) in enumerate(samples.read("image", at_most=BEGINNING)):
        size = int(samples.places[number, 2])
        try:
            header = read_header(io.BytesIO(beginning or b""), where)
        except FormatError:
            if size <= BEGINNING:
                raise
            _, whole = next(samples.read("image", number))
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


def write(export: ExportJob, stage: Staging) -> Iterator[int]:
    """Write ``<name>-000000.tar`` ...: for each image ``<key>.png``, ``<key>.json``, and ``<key>.cls`` of its class.

    A key is the source's id, or a number where an id has a dot in it: readers take the first dot for the beginning of
    the ending. Headers bear no time and no owner. A killed export goes on by shard: those that are there are whole.

    Source: https://github.com/webdataset/webdataset#the-webdataset-format
    """
    keys = file_names(export.level, export.source, without=".")
    yield from write_shards(export, stage, keys, lambda shard, _: f"{export.name}-{shard:06d}.tar", _write_shard)


def _write_shard(shard: Shard) -> None:
    with shard.open() as (level, file), tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        known = records(level, shard.numbers)
        for key, record, pixels in zip(shard.names, known, level.pixels(shard.numbers), strict=True):
            _add(tar, f"{key}.png", encode_png(pixels, shard.png_level))
            _add(tar, f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
            if "label" in record:
                _add(tar, f"{key}.cls", str(record["label"]).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))
