"""The passes over a file: small levels of all pictures, larger ones only of those that call for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.audit import borders, hashes
from celebahq_builder.audit.borders import Bar
from celebahq_builder.audit.duplicates import Copy, copies, near_groups, same, same_pictures
from celebahq_builder.audit.findings import Findings, Limits
from celebahq_builder.audit.padding import read_padding
from celebahq_builder.formats.contact_sheet import tiles
from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.formats.level import Level
from celebahq_builder.formats.metadata import read_numbers, read_text
from celebahq_builder.formats.pictures import Pixels
from celebahq_builder.progress import MOMENT_S, Progress

BATCH_BYTES = 8 << 20
"""Of pictures that are read at once."""


def scan(path: Path, pyramid: PyramidFile, limits: Limits, threads: int | None = None) -> Findings:
    """Return what is to be found in a file.

    Memory is a few times `BATCH_BYTES`, 100 MB for pairs of hashes, and some 200 bytes a picture.

    Args:
        path: of the file.
        pyramid: the file, open.
        limits: from where pictures count as nearly the same.
        threads: that decompress; None for one per core.

    Raises:
        FormatError: the file is damaged.
    """
    top = Level(path, None, threads)
    small = Level(path, min(hashes.SIDE_PX, top.resolution), threads)
    of_hash, digests, even = _hashed(small)
    recorded = read_text(pyramid, "sha256")
    groups = same(recorded) if recorded else same_pictures(same(digests), top)
    one_colour = [number for number in even if borders.one_colour(top.read([number])[0])]
    padding, scores = read_padding(pyramid), read_numbers(pyramid, "score")
    if scores is not None and scores.ndim != 1:
        scores = None
    near = None
    if of_hash is not None:
        left_out = np.array([n for group in groups for n in group[1:]] + one_colour, np.int64)
        near = _near(of_hash, np.setdiff1d(np.arange(len(small)), left_out), small, limits, scores)
    bars = _bars(Level(path, min(borders.SIDE_PX, top.resolution), threads), set(one_colour))
    named = [n for group in groups for n in group] + [copy.number for group in near or () for copy in group]
    named += [*(bars or ()), *one_colour, *(padding.worst() if padding else ())]
    return Findings(
        file=path.name,
        count=pyramid.count,
        resolution=pyramid.resolution,
        channels=pyramid.channels,
        limits=limits,
        hashes_recorded=recorded is not None,
        same=groups,
        near=near,
        bars=bars,
        one_colour=one_colour,
        padding=padding,
        scores=scores,
        tiles={tile.number: tile for tile in tiles(pyramid, sorted(set(named)))},
    )


def _batches(level: Level, what: str) -> Iterator[tuple[NDArray[np.int64], Pixels]]:
    """Yield numbers and pixels of all pictures of a level."""
    progress = Progress(what, len(level), unit="picture", judged=False, silent_s=MOMENT_S)
    at_once = max(BATCH_BYTES * len(level) // level.nbytes, 1)
    try:
        for start in range(0, len(level), at_once):
            numbers = np.arange(start, min(start + at_once, len(level)))
            yield numbers, level.read(numbers)
            progress.advance(len(numbers))
    finally:
        progress.close()


def _hashed(level: Level) -> tuple[hashes.Hashes | None, list[bytes], list[int]]:
    """Return perceptual hashes (None: pictures too small), digests of the pixels, and which may be of one colour."""
    large_enough = level.resolution >= hashes.SIDE_PX_MIN
    found: list[hashes.Hashes] = []
    digests: list[bytes] = []
    even: list[int] = []
    for numbers, pixels in _batches(level, "hashes"):
        digests += [hashlib.blake2b(picture, digest_size=16).digest() for picture in pixels]
        even += [int(n) for n, picture in zip(numbers, pixels, strict=True) if borders.one_colour(picture)]
        if large_enough:
            found.append(hashes.perceptual_hashes(hashes.grey(pixels)))
    return np.concatenate(found) if large_enough else None, digests, even


def _near(
    of_hash: hashes.Hashes,
    numbers: NDArray[np.int64],
    level: Level,
    limits: Limits,
    scores: NDArray[np.float64] | None,
) -> list[list[Copy]]:
    progress = Progress("near-duplicates", len(numbers), unit="picture", judged=False, silent_s=MOMENT_S)
    try:
        groups = near_groups(
            of_hash[numbers], numbers, level, limits.distance, limits.likeness, advance=progress.advance
        )
    finally:
        progress.close()
    return [copies(_best_first(group, scores), level, of_hash) for group in groups]


def _best_first(group: Sequence[int], scores: NDArray[np.float64] | None) -> list[int]:
    if scores is None:
        return list(group)
    return sorted(group, key=lambda number: (-np.nan_to_num(scores[number], nan=-np.inf), number))


def _bars(level: Level, passed_over: set[int]) -> dict[int, list[Bar]] | None:
    if level.resolution < borders.SIDE_PX_MIN:
        return None
    found: dict[int, list[Bar]] = {}
    for numbers, pixels in _batches(level, "bars"):
        for i in np.flatnonzero(borders.suspects(pixels)):
            bars = borders.bars(pixels[i]) if int(numbers[i]) not in passed_over else []
            if bars:
                found[int(numbers[i])] = bars
    return found
