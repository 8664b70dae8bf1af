"""The passes of an audit over an HDF5 file, and the findings."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.hdf5.reader import PyramidFile, read_numbers, read_text
from celebahq_builder.image_set import Numbers, Pixels
from celebahq_builder.inspect import borders, duplicates
from celebahq_builder.inspect.borders import BorderBar, PaddingShare, read_padding
from celebahq_builder.inspect.contact_sheet import Tile, tiles
from celebahq_builder.inspect.duplicates import Copy, Hashes, copies, equal_groups
from celebahq_builder.progress import image_progress

BATCH_BYTES = 8 << 20
"""Size of the images that are read together."""

# --- Findings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Findings:
    """The findings of an audit; images are given by their numbers in the file."""

    file: str
    count: int
    resolution: int
    channels: int
    hashes_recorded: bool
    """True if duplicates were found by the SHA-256 in the file, without reading the images."""
    same: list[list[int]]
    """Groups of images that are equal in every byte."""
    near: list[list[Copy]] | None
    """Groups of near-duplicates, with the first image of each group of `same`; None if the images are too small."""
    bars: dict[int, list[BorderBar]] | None
    """Bars by image number; None if the images are too small."""
    one_colour: list[int]
    padding: PaddingShare | None
    scores: NDArray[np.float64] | None
    """[N], NaN for images without a score."""
    tiles: dict[int, Tile]
    """Names and scores of all images in the findings."""

    @property
    def known_scores(self) -> NDArray[np.float64]:
        """The scores that are known."""
        return np.empty(0) if self.scores is None else self.scores[np.isfinite(self.scores)]

    @property
    def same_extra(self) -> int:
        """Number of duplicates: all images but the first one of each group."""
        return sum(len(group) - 1 for group in self.same)

    @property
    def near_extra(self) -> int:
        """Number of near-duplicates: all images but the first one of each group."""
        return sum(len(group) - 1 for group in self.near or ())

    def to_json(self) -> dict[str, object]:
        """Return all findings as JSON values; an image is its number, name and score."""

        def named(number: int, **more: object) -> dict[str, object]:
            return {"number": number, "name": self.tiles[number].name, "score": self.tiles[number].score, **more}

        def copied(copy: Copy) -> dict[str, object]:
            return named(copy.number, distance=copy.distance, likeness=copy.likeness, mirrored=copy.mirrored)

        bars, padding, scores = None, None, None
        if self.bars is not None:
            bars = [named(number, bars=list(map(dataclasses.asdict, found))) for number, found in self.bars.items()]
        if self.padding is not None:
            shares = [None if np.isnan(share) else round(share, 4) for share in self.padding.shares.tolist()]
            padding = {"exact": self.padding.exact, "shares": shares}
        if len(known := self.known_scores):
            low, middle, high = np.percentile(known, [0, 50, 100]).tolist()
            scores = {"images": len(known), "least": low, "median": middle, "greatest": high}
        return {
            "file": self.file,
            "images": self.count,
            "resolution": self.resolution,
            "channels": self.channels,
            "limits": {"distance": duplicates.DISTANCE, "likeness": duplicates.LIKENESS},
            "same": [list(map(named, group)) for group in self.same],
            "same_by": "recorded SHA-256" if self.hashes_recorded else "pixels",
            "near": None if self.near is None else [list(map(copied, group)) for group in self.near],
            "bars": bars,
            "one_colour": list(map(named, self.one_colour)),
            "padding": padding,
            "scores": scores,
        }


# --- Passes -----------------------------------------------------------------------------------------------------


def scan(path: Path, pyramid: PyramidFile) -> Findings:
    """Read all images and return the findings.

    The memory is a few times `BATCH_BYTES`, 100 MB for pairs of hashes, and about 200 bytes per image.

    Raises:
        FormatError: the file is damaged.
    """
    top = LevelReader(path)
    small = LevelReader(path, min(duplicates.SIDE_PX, top.resolution))
    hashes, digests, plain = _read_small(small)
    one_colour = [number for number in plain if borders.one_colour(top.read([number])[0])]
    recorded = read_text(pyramid, "sha256")
    same = equal_groups(recorded) if recorded else duplicates.same_images(equal_groups(digests), top)
    padding, scores = read_padding(pyramid), read_numbers(pyramid, "score")
    if scores is not None and scores.ndim != 1:
        scores = None
    near = None
    if hashes is not None:
        left_out = np.array([number for group in same for number in group[1:]] + one_colour, np.int64)
        numbers = np.setdiff1d(np.arange(len(small)), left_out)
        with image_progress("near-duplicates", len(numbers)) as progress:
            groups = duplicates.near_groups(hashes[numbers], numbers, small, progress.advance)
        if scores is not None:  # the image with the highest score first
            ranks = np.nan_to_num(-scores, nan=np.inf)
            groups = [sorted(group, key=lambda number: (ranks[number], number)) for group in groups]
        near = [copies(group, small, hashes) for group in groups]
    bars = _bars(LevelReader(path, min(borders.SIDE_PX, top.resolution)), set(one_colour))

    named = {number for group in same for number in group} | {copy.number for group in near or () for copy in group}
    named |= {*(bars or ()), *one_colour, *(padding.worst() if padding else ())}
    return Findings(
        file=path.name,
        count=pyramid.count,
        resolution=pyramid.resolution,
        channels=pyramid.channels,
        hashes_recorded=recorded is not None,
        same=same,
        near=near,
        bars=bars,
        one_colour=one_colour,
        padding=padding,
        scores=scores,
        tiles={tile.number: tile for tile in tiles(pyramid, sorted(named))},
    )


def _batches(level: LevelReader, title: str) -> Iterator[tuple[Numbers, Pixels]]:
    """Yield numbers and pixels of all images of a level."""
    at_once = max(BATCH_BYTES * len(level) // level.nbytes, 1)
    with image_progress(title, len(level)) as progress:
        for start in range(0, len(level), at_once):
            numbers = np.arange(start, min(start + at_once, len(level)))
            yield numbers, level.read(numbers)
            progress.advance(len(numbers))


def _read_small(level: LevelReader) -> tuple[Hashes | None, list[bytes], list[int]]:
    """Return perceptual hashes (None: images too small), digests, and the numbers of the images of one colour."""
    large_enough = level.resolution >= duplicates.SIDE_PX_MIN
    hashes: list[Hashes] = []
    digests: list[bytes] = []
    plain: list[int] = []
    for numbers, pixels in _batches(level, "hashes"):
        digests += [hashlib.blake2b(image, digest_size=16).digest() for image in pixels]
        plain += [int(n) for n, image in zip(numbers, pixels, strict=True) if borders.one_colour(image)]
        if large_enough:
            hashes.append(duplicates.perceptual_hashes(duplicates.grey(pixels)))
    return np.concatenate(hashes) if large_enough else None, digests, plain


def _bars(level: LevelReader, one_colour: set[int]) -> dict[int, list[BorderBar]] | None:
    """Return the bars of all images that are not of one colour; None if the images are too small."""
    if level.resolution < borders.SIDE_PX_MIN:
        return None
    found: dict[int, list[BorderBar]] = {}
    for numbers, pixels in _batches(level, "bars"):
        for i in np.flatnonzero(borders.suspects(pixels)):
            bars = [] if int(numbers[i]) in one_colour else borders.bars(pixels[i])
            if bars:
                found[int(numbers[i])] = bars
    return found
