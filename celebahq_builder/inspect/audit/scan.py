"""The passes of an audit over a file, and their findings."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.hdf5.metadata import read_numbers, read_text
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.image_set import Pixels
from celebahq_builder.imaging.geometry import share_inside
from celebahq_builder.inspect.audit import borders, duplicates
from celebahq_builder.inspect.audit.borders import BorderBar
from celebahq_builder.inspect.audit.duplicates import Copy, copies, near_groups, same, same_images
from celebahq_builder.inspect.contact_sheet import Tile, tiles
from celebahq_builder.progress import MOMENT_S, Progress

WORST = 24
"""Images that are named, of those with most padding."""

BEYOND_PX = 1 << 30
"""Of a photo whose size is not known: larger than any."""


@dataclass(frozen=True)
class PaddingShare:
    """The share of each image, in [0, 1], that is padding; NaN where it is not known."""

    shares: NDArray[np.float64]
    """[N]"""
    exact: bool
    """Whether these are the shares; else the least they can be."""

    @property
    def known(self) -> NDArray[np.float64]:
        """Those that are known."""
        return self.shares[np.isfinite(self.shares)]

    def worst(self) -> list[int]:
        """Return the numbers of the images with most padding, most first; only such as have any."""
        shares = np.nan_to_num(self.shares)
        order = np.argsort(-shares, kind="stable")[:WORST]
        return [int(number) for number in order if shares[number] > 0]


def read_padding(pyramid: PyramidFile) -> PaddingShare | None:
    """Return the padding of all images, or None where the file tells nothing of it.

    ``photos/inside`` says what share of the crop lay inside the photo. Where a file has but ``photos/quad``, the
    crop's corners, the photo's size is not known: what lies left of or above its first pixel is outside for sure, what
    may lie beyond its right and its lower edge is not counted.

    Raises:
        FormatError: columns that do not belong to these images.
    """
    inside = read_numbers(pyramid, "inside")
    if inside is not None and inside.ndim == 1:
        return PaddingShare(1 - inside, exact=True)
    quads = read_numbers(pyramid, "quad")
    if quads is None or quads.shape[1:] != (4, 2):
        return None
    shares = np.zeros(len(quads))
    shares[~np.isfinite(quads).all(axis=(1, 2))] = np.nan
    for number in np.flatnonzero((quads < 0).any(axis=(1, 2)) & np.isfinite(shares)):
        shares[number] = 1 - share_inside(quads[number], BEYOND_PX, BEYOND_PX)
    return PaddingShare(shares, exact=False)


@dataclass(frozen=True)
class Limits:
    """From where two images count as nearly the same."""

    distance: int
    """Most bits of 255 in which their hashes differ."""
    likeness: float
    """Their least correlation."""


@dataclass(frozen=True)
class Findings:
    """What an audit found in a file."""

    file: str
    count: int
    resolution: int
    channels: int
    limits: Limits
    hashes_recorded: bool
    """Whether images were taken for the same by the SHA-256 that the file has of them, without being read."""
    same: list[list[int]]
    """Groups of images that are the same in every byte."""
    near: list[list[Copy]] | None
    """Groups of images that are nearly the same, the first of each of `same` among them; None: too small to say."""
    bars: dict[int, list[BorderBar]] | None
    """By the image's number; None: too small to say."""
    one_colour: list[int]
    padding: PaddingShare | None
    scores: NDArray[np.float64] | None
    """[N], NaN where there is none."""
    tiles: dict[int, Tile]
    """Names and scores of the images named here."""

    @property
    def known_scores(self) -> NDArray[np.float64]:
        """The scores that there are."""
        scores = np.empty(0) if self.scores is None else self.scores
        return scores[np.isfinite(scores)]

    @property
    def same_extra(self) -> int:
        """Images that could go without losing one: all but the first of each group."""
        return sum(len(group) - 1 for group in self.same)

    @property
    def near_extra(self) -> int:
        """As `same_extra`, of images that are nearly the same."""
        return sum(len(group) - 1 for group in self.near or ())

    def mapping(self) -> dict[str, Any]:
        """Return all of it as JSON has it; images are their numbers, with what the file calls them."""
        return {
            "file": self.file,
            "images": self.count,
            "resolution": self.resolution,
            "channels": self.channels,
            "limits": dataclasses.asdict(self.limits),
            "same": [[self._named(number) for number in group] for group in self.same],
            "same_by": "recorded SHA-256" if self.hashes_recorded else "pixels",
            "near": None
            if self.near is None
            else [[self._named(copy.number) | _without_number(copy) for copy in group] for group in self.near],
            "bars": None
            if self.bars is None
            else [
                self._named(number) | {"bars": list(map(dataclasses.asdict, bars))}
                for number, bars in self.bars.items()
            ],
            "one_colour": list(map(self._named, self.one_colour)),
            "padding": self._padding(),
            "scores": self._scores(),
        }

    def _named(self, number: int) -> dict[str, Any]:
        tile = self.tiles[number]
        return {"number": number, "name": tile.name, "score": tile.score}

    def _padding(self) -> dict[str, Any] | None:
        if self.padding is None:
            return None
        shares = [None if np.isnan(share) else round(share, 4) for share in self.padding.shares.tolist()]
        return {"exact": self.padding.exact, "shares": shares}

    def _scores(self) -> dict[str, float] | None:
        known = self.known_scores
        if not len(known):
            return None
        low, middle, high = np.percentile(known, [0, 50, 100]).tolist()
        return {"images": len(known), "least": low, "median": middle, "greatest": high}


def _without_number(copy: Copy) -> dict[str, Any]:
    return {"distance": copy.distance, "likeness": copy.likeness, "mirrored": copy.mirrored}


BATCH_BYTES = 8 << 20
"""Of images that are read at once."""


def scan(path: Path, pyramid: PyramidFile, limits: Limits, threads: int | None = None) -> Findings:
    """Return what is to be found in a file.

    Memory is a few times `BATCH_BYTES`, 100 MB for pairs of hashes, and some 200 bytes an image.

    Args:
        path: of the file.
        pyramid: the file, open.
        limits: from where images count as nearly the same.
        threads: that decompress; None for one per core.

    Raises:
        FormatError: the file is damaged.
    """
    top = LevelReader(path, None, threads)
    small = LevelReader(path, min(duplicates.SIDE_PX, top.resolution), threads)
    of_hash, digests, even = _hashed(small)
    recorded = read_text(pyramid, "sha256")
    groups = same(recorded) if recorded else same_images(same(digests), top)
    one_colour = [number for number in even if borders.one_colour(top.read([number])[0])]
    padding, scores = read_padding(pyramid), read_numbers(pyramid, "score")
    if scores is not None and scores.ndim != 1:
        scores = None
    near = None
    if of_hash is not None:
        left_out = np.array([n for group in groups for n in group[1:]] + one_colour, np.int64)
        near = _near(of_hash, np.setdiff1d(np.arange(len(small)), left_out), small, limits, scores)
    bars = _bars(LevelReader(path, min(borders.SIDE_PX, top.resolution), threads), set(one_colour))
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


def _batches(level: LevelReader, what: str) -> Iterator[tuple[NDArray[np.int64], Pixels]]:
    """Yield numbers and pixels of all images of a level."""
    progress = Progress(what, len(level), unit="image", judged=False, silent_s=MOMENT_S)
    at_once = max(BATCH_BYTES * len(level) // level.nbytes, 1)
    try:
        for start in range(0, len(level), at_once):
            numbers = np.arange(start, min(start + at_once, len(level)))
            yield numbers, level.read(numbers)
            progress.advance(len(numbers))
    finally:
        progress.close()


def _hashed(level: LevelReader) -> tuple[duplicates.Hashes | None, list[bytes], list[int]]:
    """Return perceptual hashes (None: images too small), digests of the pixels, and which may be of one colour."""
    large_enough = level.resolution >= duplicates.SIDE_PX_MIN
    found: list[duplicates.Hashes] = []
    digests: list[bytes] = []
    even: list[int] = []
    for numbers, pixels in _batches(level, "hashes"):
        digests += [hashlib.blake2b(image, digest_size=16).digest() for image in pixels]
        even += [int(n) for n, image in zip(numbers, pixels, strict=True) if borders.one_colour(image)]
        if large_enough:
            found.append(duplicates.perceptual_hashes(duplicates.grey(pixels)))
    return np.concatenate(found) if large_enough else None, digests, even


def _near(
    of_hash: duplicates.Hashes,
    numbers: NDArray[np.int64],
    level: LevelReader,
    limits: Limits,
    scores: NDArray[np.float64] | None,
) -> list[list[Copy]]:
    progress = Progress("near-duplicates", len(numbers), unit="image", judged=False, silent_s=MOMENT_S)
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


def _bars(level: LevelReader, passed_over: set[int]) -> dict[int, list[BorderBar]] | None:
    if level.resolution < borders.SIDE_PX_MIN:
        return None
    found: dict[int, list[BorderBar]] = {}
    for numbers, pixels in _batches(level, "bars"):
        for i in np.flatnonzero(borders.suspects(pixels)):
            bars = borders.bars(pixels[i]) if int(numbers[i]) not in passed_over else []
            if bars:
                found[int(numbers[i])] = bars
    return found
