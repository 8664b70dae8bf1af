"""Where two HDF5 files differ in their pictures, and by how much."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.formats.matching import By, Match, match
from celebahq_builder.formats.metadata import read_text
from celebahq_builder.formats.pictures import Pixels
from celebahq_builder.progress import MOMENT_S, Progress

BLOCK_BYTES = 16 << 20
"""Pictures of a file that are read together take up to so much."""

BLOCK_PICTURES = 1024


@dataclass(frozen=True)
class Difference:
    """Two pictures, or two sets of them, that were compared; in levels of 0 to 255."""

    largest: int
    total: int
    """Sum of the absolute differences."""
    squares: int
    """Sum of their squares."""
    values: int
    """How many were compared: channels times pixels."""

    @property
    def mean(self) -> float:
        """Mean absolute difference."""
        return self.total / self.values if self.values else 0.0

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio, 10 log10(255^2 / mean square); infinite for equal ones."""
        return 10 * math.log10(255**2 * self.values / self.squares) if self.squares else math.inf

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            max(self.largest, other.largest),
            self.total + other.total,
            self.squares + other.squares,
            self.values + other.values,
        )


@dataclass(frozen=True)
class LevelDifference:
    """What became of a level."""

    resolution: int
    compared: int
    different: int
    difference: Difference
    """Of all that was compared."""


@dataclass(frozen=True)
class PictureDifference:
    """A pair that differs, at the largest level where it does."""

    a: int
    b: int
    name: str
    resolution: int
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """What became of two files."""

    match: Match
    levels: tuple[LevelDifference, ...]
    """Those that both have, or the one asked for; largest first."""
    only_levels: tuple[tuple[int, ...], tuple[int, ...]]
    """Resolutions that only the first file has, and only the second."""
    different: int
    """Pairs that differ at any level."""
    unread: int
    """Pairs that were taken for equal because the SHA-256 recorded for them are."""
    worst: tuple[PictureDifference, ...]
    """By falling mean square error."""

    @property
    def equal(self) -> bool:
        """Whether both files have the same pictures at the same levels, in whatever order."""
        return not (self.different or self.match.only_a or self.match.only_b or any(self.only_levels))


def difference(a: Pixels, b: Pixels) -> Difference:
    """Return how two pictures uint8 of one shape differ."""
    one, other = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    norms = [round(cv2.norm(one, other, kind)) for kind in (cv2.NORM_INF, cv2.NORM_L1, cv2.NORM_L2SQR)]
    return Difference(norms[0], norms[1], norms[2], a.size)


def compare(
    a: PyramidFile,
    b: PyramidFile,
    *,
    by: By | None = None,
    resolution: int | None = None,
    full: bool = False,
    worst: int = 10,
) -> Comparison:
    """Compare the pictures of two files, level by level, in blocks of bounded size.

    Args:
        by: see `matching.match`.
        resolution: only this level; default all that both have.
        full: read pictures too whose SHA-256, as recorded in both files, are equal.
        worst: how many pairs to name.

    Raises:
        FormatError: one is grey and the other is not, there is no such level, or a picture cannot be read.
    """
    if a.channels != b.channels:
        raise FormatError(f"{a.path} has {a.channels} channels, {b.path} has {b.channels}: they cannot be compared")
    for pyramid in (a, b) if resolution else ():
        pyramid.check_resolution(resolution or 0)
    matched = match(a, b, by)
    read = np.ones(len(matched.a), bool) if full else _unlike(a, b, matched)
    common = [r for r in a.resolutions if r in b.resolutions and resolution in (None, r)]
    if not common:
        raise FormatError(f"{a.path} and {b.path} have no level in common; compare files of the same kind")
    differs = np.zeros(len(matched.a), bool)
    named: list[tuple[float, int, PictureDifference]] = []
    levels = []
    pairs = np.flatnonzero(read)
    for r in common:
        total, different = Difference(0, 0, 0, 0), 0
        for pair, found in _pairs(a, b, matched, pairs, r):
            total += found
            if found.largest:
                different += 1
                if not differs[pair]:
                    differs[pair] = True
                    number = int(matched.a[pair])
                    name = matched.names[number] if matched.names else ""
                    one = PictureDifference(number, int(matched.b[pair]), name, r, found)
                    heapq.heappush(named, (found.squares / found.values, -pair, one))
                    if len(named) > worst:
                        heapq.heappop(named)
        levels.append(LevelDifference(r, int(read.sum()), different, total))
    only = [tuple(r for r in x.resolutions if r not in y.resolutions) for x, y in ((a, b), (b, a))]
    return Comparison(
        matched,
        tuple(levels),
        ((), ()) if resolution else (only[0], only[1]),
        int(differs.sum()),
        int((~read).sum()),
        tuple(one for _, _, one in sorted(named, key=lambda item: (-item[0], -item[1]))),
    )


def _unlike(a: PyramidFile, b: PyramidFile, matched: Match) -> NDArray[np.bool_]:
    """Return which pairs have to be read: those whose recorded hashes differ, or are not there."""
    one, other = read_text(a, "sha256"), read_text(b, "sha256")
    if one is None or other is None or a.resolutions != b.resolutions:
        return np.ones(len(matched.a), np.bool_)
    return np.array([one[i] != other[j] for i, j in zip(matched.a, matched.b, strict=True)], np.bool_)


def _pairs(
    a: PyramidFile,
    b: PyramidFile,
    matched: Match,
    pairs: NDArray[np.int64],
    resolution: int,
) -> Iterator[tuple[int, Difference]]:
    """Yield the number of each pair and how its pictures differ at a level."""
    size = min(max(BLOCK_BYTES // (a.channels * resolution * resolution), 1), BLOCK_PICTURES)
    name = f"compare {resolution}x{resolution}"
    progress = Progress(name, len(pairs), unit="picture", judged=False, silent_s=MOMENT_S)
    try:
        for start in range(0, len(pairs), size):
            block = pairs[start : start + size]
            one, other = a.read(matched.a[block], resolution), b.read(matched.b[block], resolution)
            for i, pair in enumerate(block):
                yield int(pair), difference(one[i], other[i])
            progress.advance(len(block))
    finally:
        progress.close()
