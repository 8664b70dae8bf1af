"""Comparison of the images of two HDF5 files."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5.metadata import read_text
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.image_set import Pixels
from celebahq_builder.progress import MOMENT_S, Progress

By = Literal["id", "file", "position"]


@dataclass(frozen=True)
class Match:
    """Pairs of images, in the order of the first file, and those that have no partner."""

    by: By
    a: NDArray[np.int64]
    """Numbers in the first file."""
    b: NDArray[np.int64]
    """Numbers of their partners in the second."""
    only_a: tuple[str, ...]
    """Names, or numbers, of those that only the first file has."""
    only_b: tuple[str, ...]
    names: Sequence[str] | None
    """Of all images of the first file, where they are matched by them."""

    @property
    def moved(self) -> int:
        """How many pairs are at different places."""
        return int((self.a != self.b).sum())


def match(a: PyramidFile, b: PyramidFile, by: By | None = None) -> Match:
    """Pair the images of two files.

    Args:
        by: ``id`` or ``file``, the source file, or ``position``; default the first of these that both files have,
            with a different one for each image, and some in common: other formats give images other names.

    Raises:
        FormatError: one of the files does not have what is asked for.
    """
    for column in ("id", "file"):
        if by in (None, column):
            names = read_text(a, column), read_text(b, column)
            common = not set(names[0] or []).isdisjoint(names[1] or [])
            if _usable(names[0]) and _usable(names[1]) and (common or by is not None):
                return _by_name("id" if column == "id" else "file", names[0] or [], names[1] or [])
            if by is not None:
                raise FormatError(
                    f"{a.path} and {b.path} cannot be matched by {column}: in "
                    f"{b.path if _usable(names[0]) else a.path} not every image has its own; take --by position"
                )
    both = np.arange(min(a.count, b.count))
    only_a, only_b = range(len(both), a.count), range(len(both), b.count)
    return Match("position", both, both, tuple(map(str, only_a)), tuple(map(str, only_b)), None)


def _usable(names: list[str] | None) -> bool:
    return names is not None and len(set(names)) == len(names)


def _by_name(by: By, a: list[str], b: list[str]) -> Match:
    places = {name: number for number, name in enumerate(b)}
    pairs = [(number, places[name]) for number, name in enumerate(a) if name in places]
    found = np.array(pairs, np.int64).reshape(-1, 2)
    known = set(a)
    only_a = tuple(name for name in a if name not in places)
    only_b = tuple(name for name in b if name not in known)
    return Match(by, found[:, 0], found[:, 1], only_a, only_b, a)


BLOCK_BYTES = 16 << 20
"""Images of a file that are read together take up to so much."""

BLOCK_IMAGES = 1024


@dataclass(frozen=True)
class Difference:
    """Two images, or two sets of them, that were compared; in levels of 0 to 255."""

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
class ImageDifference:
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
    worst: tuple[ImageDifference, ...]
    """By falling mean square error."""

    @property
    def equal(self) -> bool:
        """Whether both files have the same images at the same levels, in whatever order."""
        return not (self.different or self.match.only_a or self.match.only_b or any(self.only_levels))


def difference(a: Pixels, b: Pixels) -> Difference:
    """Return how two images uint8 of one shape differ."""
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
    """Compare the images of two files, level by level, in blocks of bounded size.

    Args:
        by: see `matching.match`.
        resolution: only this level; default all that both have.
        full: read images too whose SHA-256, as recorded in both files, are equal.
        worst: how many pairs to name.

    Raises:
        FormatError: one is grey and the other is not, there is no such level, or an image cannot be read.
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
    named: list[tuple[float, int, ImageDifference]] = []
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
                    one = ImageDifference(number, int(matched.b[pair]), name, r, found)
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
    """Yield the number of each pair and how its images differ at a level."""
    size = min(max(BLOCK_BYTES // (a.channels * resolution * resolution), 1), BLOCK_IMAGES)
    name = f"compare {resolution}x{resolution}"
    progress = Progress(name, len(pairs), unit="image", judged=False, silent_s=MOMENT_S)
    try:
        for start in range(0, len(pairs), size):
            block = pairs[start : start + size]
            one, other = a.read(matched.a[block], resolution), b.read(matched.b[block], resolution)
            for i, pair in enumerate(block):
                yield int(pair), difference(one[i], other[i])
            progress.advance(len(block))
    finally:
        progress.close()


NAMED = 5
"""Images without a partner that are named."""


def lines(a: PyramidFile, b: PyramidFile, result: Comparison) -> Iterator[str]:
    """Yield files, pairs, levels, the worst pairs, and in the last line whether all is equal."""
    for mark, pyramid in (("A", a), ("B", b)):
        r = pyramid.resolution
        colour = "grey" if pyramid.channels == 1 else "RGB"
        yield f"{mark}: {pyramid.path}: {pyramid.count:,} images of {r}x{r}, {colour}"
    yield from _matched(result)
    for mark, only in zip("AB", result.only_levels, strict=True):
        if only:
            yield f"levels that only {mark} has: {', '.join(map(str, only))}"
    if result.unread:
        yield f"{result.unread:,} pairs not read: the SHA-256 recorded for them are equal (--full reads them too)"
    if any(one.compared for one in result.levels):
        yield from _levels(result)
    if result.worst:
        yield f"worst {len(result.worst)}, each at its largest level that differs:"
        yield from _table(
            ("A", "B", "level", "largest", "mean", "PSNR", result.match.by if result.match.names else ""),
            [
                (
                    str(one.a),
                    str(one.b),
                    f"{one.resolution}x{one.resolution}",
                    str(one.difference.largest),
                    f"{one.difference.mean:.4f}",
                    _decibels(one.difference.psnr_db),
                    printable(one.name),
                )
                for one in result.worst
            ],
        )
    yield _verdict(result)


def _levels(result: Comparison) -> Iterator[str]:
    yield from _table(
        ("level", "compared", "different", "largest", "mean", "PSNR"),
        [
            (
                f"{one.resolution}x{one.resolution}",
                f"{one.compared:,}",
                f"{one.different:,}",
                str(one.difference.largest),
                f"{one.difference.mean:.4f}",
                _decibels(one.difference.psnr_db),
            )
            for one in result.levels
        ],
    )


def _matched(result: Comparison) -> Iterator[str]:
    match = result.match
    by = {"id": "id", "file": "source file", "position": "place"}[match.by]
    moved = f", {match.moved:,} of them at another place" if match.moved else ""
    yield f"paired by {by}: {len(match.a):,}{moved}"
    for mark, only in (("A", match.only_a), ("B", match.only_b)):
        if only:
            names = ", ".join(map(printable, only[:NAMED])) + (", ..." if len(only) > NAMED else "")
            yield f"only in {mark}: {len(only):,} ({names})"


def _verdict(result: Comparison) -> str:
    if result.equal:
        trust = (
            "" if not result.unread else f", {result.unread:,} of them by their recorded SHA-256 (--full reads them)"
        )
        return f"equal: {len(result.match.a):,} images{trust}"
    without = len(result.match.only_a) + len(result.match.only_b)
    parts = [f"{result.different:,} of {len(result.match.a):,} pairs differ"]
    parts += [f"{without:,} images have no partner"] if without else []
    parts += ["not the same levels"] if any(result.only_levels) else []
    return "different: " + ", ".join(parts)


def _decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.2f} dB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows under a head, right-aligned but for a name at the end."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [text.rjust(width) for text, width in zip(row, widths, strict=True)]
        cells[-1] = row[-1].ljust(widths[-1]) if len(row) == 7 else cells[-1]
        yield ("  " + "  ".join(cells)).rstrip()
