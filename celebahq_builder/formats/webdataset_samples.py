"""Where the samples of WebDataset shards lie: members that follow each other, alike up to the first dot."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.tar_members import Member, members
from celebahq_builder.source.listing import IMAGE_SUFFIXES

log = logging.getLogger(__name__)

PARTS = ("picture", "json", "cls")
"""What a sample is made of, as far as it is read: a picture, what is known of it, and the number of its class."""

KNOWN_BYTES = 2**24
"""More than this is known of no picture."""


@dataclass(frozen=True)
class Samples:
    """The samples of some shards; memory is 100 to 200 bytes for each."""

    shards: list[Path]
    names: list[str]
    """Of the pictures' members; behind their shard's name where several shards have the same ones."""
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
            where = self.where(number) + ("" if part == "picture" else f" (.{part})")
            wanted = size if at_most is None else min(size, at_most)
            file.seek(offset)
            data = file.read(wanted)
            if len(data) < wanted:
                raise FormatError(f"{where} was changed while {shard.name} was read; run it again")
            yield where, data

    def where(self, number: int) -> str:
        """Return shard and member of a picture, for an error."""
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
        FormatError: as `tar_members.members` does; no samples at all; one without a picture, with several, or with a
            name that another one of its shard has.
    """
    names: list[str] = []
    places = array("q")
    others: Counter[str] = Counter()
    for number, shard in enumerate(shards):
        first = len(names)
        for parts in _grouped(shard, others):
            names.append(parts["picture"].name)
            places.append(number)
            for part in PARTS:
                places.extend(parts[part][1:] if part in parts else (-1, -1))
        name, times = max(Counter(names[first:]).items(), key=lambda item: item[1], default=("", 1))
        if times > 1:
            raise FormatError(f"{shard} holds {times} pictures named {name}; make it again")
    if others:
        some = ", ".join(f"{times} {ending}" for ending, times in others.most_common(5))
        log.info("%s: passed over %d members that are no pictures, .json or .cls: %s", path, others.total(), some)
    if not names:
        raise FormatError(f"{path} holds no pictures; expected members ending in {', '.join(IMAGE_SUFFIXES)}")
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
        part = "picture" if ending in IMAGE_SUFFIXES else ending[1:]
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
    if "picture" not in parts:
        raise FormatError(
            f"{shard}: sample {key} has no picture; expected {key}.png or the like next to its other members: make the "
            "shard again"
        )
    for part in PARTS[1:]:
        if part in parts and parts[part].size > KNOWN_BYTES:
            raise FormatError(
                f"{shard}: {parts[part].name} has {parts[part].size} bytes, expected at most {KNOWN_BYTES}; remove it"
            )
    return parts
