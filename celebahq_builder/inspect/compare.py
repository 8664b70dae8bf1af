"""Comparison of the images of two HDF5 files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5.reader import read_text
from celebahq_builder.image_set import ImagePyramid, Pixels
from celebahq_builder.progress import aligned, image_progress

BLOCK_BYTES = 16 << 20
"""Largest size of the images of a file that are read together."""

BLOCK_IMAGES = 1024
"""Largest number of images of a file that are read together."""

NAMES_SHOWN = 5
"""Images without a partner that the report names."""


# --- Pairs ------------------------------------------------------------------------------------------------------

By = Literal["id", "file", "position"]


@dataclass(frozen=True)
class Match:
    """Pairs of images in the order of the first file, and the images without a partner."""

    by: By
    a: NDArray[np.int64]
    """Numbers in the first file."""
    b: NDArray[np.int64]
    """Numbers of the partners in the second file."""
    only_a: tuple[str, ...]
    """Names (or numbers) of the images that only the first file has."""
    only_b: tuple[str, ...]
    names: Sequence[str] | None
    """Names of all images of the first file; None for pairs by position."""

    @property
    def moved(self) -> int:
        """Number of pairs whose images have different numbers in the two files."""
        return int((self.a != self.b).sum())

    def name(self, pair: int) -> str:
        """Return the name of a pair; empty for pairs by position."""
        return self.names[self.a[pair]] if self.names else ""


def match(a: ImagePyramid, b: ImagePyramid, by: By | None = None) -> Match:
    """Pair the images of two files.

    Args:
        by: ``id``, ``file`` (the source file) or ``position``. Default: the first of ``id`` and ``file`` that is
            unique in both files and has values in common, else ``position``. (Other formats rename images.)

    Raises:
        FormatError: the ids or source files asked for are missing or not unique in one of the files.
    """
    columns: tuple[By, ...] = ("id", "file")
    for column in columns:
        if by not in (None, column):
            continue
        ours, theirs = read_text(a, column), read_text(b, column)
        if _unique(ours) and _unique(theirs):
            if by is not None or not set(ours or ()).isdisjoint(theirs or ()):
                return _match_names(column, ours or [], theirs or [])
        elif by is not None:
            raise FormatError(
                f"{a.path} and {b.path} cannot be matched by {column}: in {b.path if _unique(ours) else a.path} not "
                "every image has its own; use position as `by`"
            )
    both = np.arange(min(a.count, b.count))
    only_a, only_b = (tuple(map(str, range(len(both), file.count))) for file in (a, b))
    return Match("position", both, both, only_a, only_b, None)


def _unique(names: list[str] | None) -> bool:
    return names is not None and len(set(names)) == len(names)


def _match_names(by: By, a: list[str], b: list[str]) -> Match:
    places = {name: number for number, name in enumerate(b)}
    pairs = np.array([(i, places[name]) for i, name in enumerate(a) if name in places], np.int64).reshape(-1, 2)
    known = set(a)
    only_a = tuple(name for name in a if name not in places)
    only_b = tuple(name for name in b if name not in known)
    return Match(by, pairs[:, 0], pairs[:, 1], only_a, only_b, a)


# --- Differences ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """The difference of two images or of two sets of images, in grey levels of 0 to 255."""

    largest: int = 0
    """Largest absolute difference."""
    total: int = 0
    """Sum of the absolute differences."""
    squares: int = 0
    """Sum of the squared differences."""
    values: int = 0
    """Number of compared values: channels times pixels."""

    @property
    def mean(self) -> float:
        """Mean absolute difference."""
        return self.total / self.values if self.values else 0.0

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio, 10 log10(255^2 / mean squared difference); infinite for equal images."""
        return 10 * math.log10(255**2 * self.values / self.squares) if self.squares else math.inf

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            max(self.largest, other.largest),
            self.total + other.total,
            self.squares + other.squares,
            self.values + other.values,
        )


def difference(a: Pixels, b: Pixels) -> Difference:
    """Return the exact difference of two images, uint8 of one shape.

    >>> difference(np.uint8([[[1, 5]]]), np.uint8([[[1, 2]]]))
    Difference(largest=3, total=3, squares=9, values=2)
    """
    one, other = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    largest, total, squares = (
        round(cv2.norm(one, other, kind)) for kind in (cv2.NORM_INF, cv2.NORM_L1, cv2.NORM_L2SQR)
    )
    return Difference(largest, total, squares, a.size)


@dataclass(frozen=True)
class LevelDifference:
    """The result for one level."""

    resolution: int
    compared: int
    """Number of compared pairs."""
    different: int
    """Number of pairs that differ."""
    difference: Difference
    """The difference of all compared pairs together."""


@dataclass(frozen=True)
class ImageDifference:
    """A pair that differs, at the largest level where it does."""

    a: int
    b: int
    name: str
    """Id or source file; empty for pairs by position."""
    resolution: int
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison."""

    match: Match
    levels: tuple[LevelDifference, ...]
    """The compared levels, largest first."""
    only_levels: tuple[tuple[int, ...], tuple[int, ...]]
    """Resolutions that only the first file has, and those that only the second file has."""
    different: int
    """Number of pairs that differ at any level."""
    unread: int
    """Number of pairs that count as equal because their recorded SHA-256 are equal."""
    worst: tuple[ImageDifference, ...]
    """Pairs with the largest mean squared differences, the largest first."""

    @property
    def equal(self) -> bool:
        """True if both files have the same images at the same levels, in any order."""
        return not (self.different or self.match.only_a or self.match.only_b or any(self.only_levels))


def compare(
    a: ImagePyramid,
    b: ImagePyramid,
    *,
    by: By | None = None,
    resolution: int | None = None,
    full: bool = False,
    worst: int = 10,
) -> Comparison:
    """Compare the images of two files, level by level. Images are read in blocks of `BLOCK_BYTES`.

    Args:
        resolution: compare only this level; default all common levels.
        full: also read images whose recorded SHA-256 are equal.
        worst: number of pairs in `Comparison.worst`.

    Raises:
        FormatError: the files differ in channels, have no common level or not this one, or an image cannot be read.
    """
    if a.channels != b.channels:
        raise FormatError(f"{a.path} has {a.channels} channels, {b.path} has {b.channels}: they cannot be compared")
    if resolution is not None:
        a.check_resolution(resolution)
        b.check_resolution(resolution)
    common = [r for r in a.resolutions if r in b.resolutions and resolution in (None, r)]
    if not common:
        raise FormatError(f"{a.path} and {b.path} have no level in common; compare files of the same kind")
    matched = match(a, b, by)
    pairs = np.flatnonzero(np.ones(len(matched.a)) if full else _hashes_differ(a, b, matched))

    first: dict[int, tuple[int, Difference]] = {}  # by pair: its largest level that differs, and the difference there
    levels = []
    for r in common:
        total, different = Difference(), 0
        for pair, found in _pair_differences(a, b, matched, pairs, r):
            total += found
            if found.largest:
                different += 1
                first.setdefault(pair, (r, found))
        levels.append(LevelDifference(r, len(pairs), different, total))

    only_a, only_b = (tuple(r for r in x.resolutions if r not in y.resolutions) for x, y in ((a, b), (b, a)))
    ranked = sorted(first, key=lambda pair: (-first[pair][1].squares / first[pair][1].values, pair))
    return Comparison(
        match=matched,
        levels=tuple(levels),
        only_levels=((), ()) if resolution else (only_a, only_b),
        different=len(first),
        unread=len(matched.a) - len(pairs),
        worst=tuple(
            ImageDifference(int(matched.a[pair]), int(matched.b[pair]), matched.name(pair), *first[pair])
            for pair in ranked[:worst]
        ),
    )


def _hashes_differ(a: ImagePyramid, b: ImagePyramid, matched: Match) -> NDArray[np.bool_]:
    """Return for each pair whether its recorded SHA-256 differ or are not comparable."""
    one, other = read_text(a, "sha256"), read_text(b, "sha256")
    if one is None or other is None or a.resolutions != b.resolutions:
        return np.ones(len(matched.a), np.bool_)
    return np.array([one[i] != other[j] for i, j in zip(matched.a, matched.b, strict=True)], np.bool_)


def _pair_differences(
    a: ImagePyramid, b: ImagePyramid, matched: Match, pairs: NDArray[np.int64], resolution: int
) -> Iterator[tuple[int, Difference]]:
    """Yield the number of each pair, and the difference of its images at a level."""
    size = min(max(BLOCK_BYTES // (a.channels * resolution * resolution), 1), BLOCK_IMAGES)
    one_level, other_level = a.images(resolution), b.images(resolution)
    with image_progress(f"compare {resolution}x{resolution}", len(pairs)) as progress:
        for start in range(0, len(pairs), size):
            block = pairs[start : start + size]
            images = zip(one_level.read(matched.a[block]), other_level.read(matched.b[block]), strict=True)
            for pair, (one, other) in zip(block, images, strict=True):
                yield int(pair), difference(one, other)
            progress.advance(len(block))


# --- Report -----------------------------------------------------------------------------------------------------


def comparison_lines(a: ImagePyramid, b: ImagePyramid, result: Comparison) -> Iterator[str]:
    """Yield the files, pairs, levels and worst pairs; the last line has the verdict."""
    for mark, file in (("A", a), ("B", b)):
        colour = "grey" if file.channels == 1 else "RGB"
        size = f"{file.count:,} images of {file.resolution}x{file.resolution}, {colour}"
        yield printable(f"{mark}: {file.path}: {size}")
    pairs = result.match
    by = {"id": "id", "file": "source file", "position": "position"}[pairs.by]
    yield f"paired by {by}: {len(pairs.a):,}" + (f", {pairs.moved:,} at another position" if pairs.moved else "")
    for mark, only in (("A", pairs.only_a), ("B", pairs.only_b)):
        if only:
            names = ", ".join(map(printable, only[:NAMES_SHOWN])) + (", ..." if len(only) > NAMES_SHOWN else "")
            yield f"only in {mark}: {len(only):,} ({names})"
    for mark, levels in zip("AB", result.only_levels, strict=True):
        if levels:
            yield f"levels that only {mark} has: {', '.join(map(str, levels))}"
    if result.unread:
        yield f"{result.unread:,} pairs not read: their recorded SHA-256 are equal (`full` reads them, too)"
    if any(level.compared for level in result.levels):
        table = [["level", "compared", "different", *MEASURES]]
        for level in result.levels:
            counts = f"{level.compared:,}", f"{level.different:,}"
            table.append([_size(level.resolution), *counts, *_measures(level.difference)])
        yield from (f"  {line}" for line in aligned(table))
    if result.worst:
        yield f"worst {len(result.worst)}, each at its largest level that differs:"
        table = [["A", "B", "level", *MEASURES, pairs.by if pairs.names else ""]]
        for one in result.worst:
            place = str(one.a), str(one.b), _size(one.resolution)
            table.append([*place, *_measures(one.difference), printable(one.name)])
        yield from (f"  {line}" for line in aligned(table, left=[len(table[0]) - 1]))
    yield _verdict(result)


MEASURES = ("largest", "mean", "PSNR")


def _measures(found: Difference) -> tuple[str, str, str]:
    psnr = "equal" if math.isinf(found.psnr_db) else f"{found.psnr_db:.2f} dB"
    return str(found.largest), f"{found.mean:.4f}", psnr


def _size(resolution: int) -> str:
    return f"{resolution}x{resolution}"


def _verdict(result: Comparison) -> str:
    pairs = result.match
    if result.equal:
        unread = f", {result.unread:,} of them by their recorded SHA-256 (`full` reads them)" if result.unread else ""
        return f"equal: {len(pairs.a):,} images{unread}"
    parts = [f"{result.different:,} of {len(pairs.a):,} pairs differ"]
    if without := len(pairs.only_a) + len(pairs.only_b):
        parts.append(f"{without:,} images have no partner")
    if any(result.only_levels):
        parts.append("not the same levels")
    return "different: " + ", ".join(parts)
