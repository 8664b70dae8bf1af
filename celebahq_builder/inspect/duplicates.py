"""Duplicate and near-duplicate images, found by hashes and correlation."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.image_set import Numbers, Pixels
from celebahq_builder.outcome import counted

Grey = NDArray[np.float32]

# --- Duplicates -------------------------------------------------------------------------------------------------


def equal_groups(keys: Iterable[Hashable]) -> list[list[int]]:
    """Return the groups of positions that have the same key, in the order of their first positions.

    >>> equal_groups("abcbad")
    [[0, 4], [1, 3]]
    """
    found: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        found[key].append(number)
    return [group for group in found.values() if len(group) > 1]


def same_images(candidates: Sequence[Sequence[int]], top: LevelReader) -> list[list[int]]:
    """Return the groups of images that are equal in every byte of the largest level.

    Args:
        candidates: groups of numbers of images that are equal at a smaller level.
        top: the largest level; one image is read at a time.
    """
    groups = []
    for group in candidates:
        digests = [hashlib.sha256(top.read([number]).tobytes()).digest() for number in group]
        groups += [[group[i] for i in equal] for equal in equal_groups(digests)]
    return groups


# --- Perceptual hashes ------------------------------------------------------------------------------------------

SIDE_PX = 32
"""Resolution of the level that is hashed."""

SIDE_PX_MIN = 16
"""Resolution of the smallest images that have enough coefficients."""

KEPT = 16
"""Number of DCT coefficients along each axis."""

BITS = KEPT * KEPT - 1
"""Number of bits of a hash: the mean has none."""

Hashes = NDArray[np.uint8]
"""Packed bits, [N, 32]; the last bit is 0."""

Bits = NDArray[np.float32]
"""Bits as 1 and -1, [N, 256]; the last one is -1."""

MIRROR = np.append(np.tile([1.0, -1.0], KEPT * KEPT // 2)[1:], 1.0).astype(np.float32)
"""Factors that turn the bits of an image into those of its mirror image: odd coefficients along a row change sign."""


def grey(pixels: Pixels) -> Grey:
    """Return the luma [n, r, r] in [0, 255] of images [n, 3 or 1, r, r] (ITU-R BT.601, as in JPEG)."""
    if pixels.shape[1] == 1:
        return pixels[:, 0].astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(np.tensordot(pixels.astype(np.float32), weights, axes=(1, 0)), np.float32)


def perceptual_hashes(images: Grey) -> Hashes:
    """Return the signs of the lowest DCT coefficients of grey images [n, r, r], r at least 16."""
    coefficients = dctn(images, axes=(1, 2), norm="ortho")[:, :KEPT, :KEPT].reshape(len(images), -1)[:, 1:]
    return np.packbits(coefficients > 0, axis=1)


def bits(hashes: Hashes) -> Bits:
    """Return the unpacked bits of hashes."""
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def distances(some: Bits, others: Bits) -> Numbers:
    """Return the number of different bits [n, m] between each of n hashes and each of m others."""
    return np.asarray((some.shape[1] - some @ others.T) / 2, np.int64)


def likeness(one: Grey, other: Grey) -> float:
    """Return the correlation of two grey images [r, r] at the best shift of up to a sixteenth of the side length.

    From -1 to 1, independent of brightness and contrast; 0 if one of the images is plain.
    """
    margin = max(one.shape[0] // 16, 1)
    middle = np.ascontiguousarray(one[margin:-margin, margin:-margin])
    if min(middle.std(), other[margin:-margin, margin:-margin].std()) < 1:
        return 0.0
    return float(cv2.matchTemplate(np.ascontiguousarray(other), middle, cv2.TM_CCOEFF_NORMED).max())


# --- Near-duplicates --------------------------------------------------------------------------------------------

DISTANCE = 48
"""Largest number of different bits, of 255, in the hashes of two near-duplicates.

Among a million pairs of 1,000 aligned CelebA faces and their mirror images, the nearest two differ in 59 bits. Copies
that were compressed as JPEG, halved, turned to grey or shifted by a hundredth of their side length differ in at most 35
(benchmarks/audit.py).
"""

LIKENESS = 0.93
"""Smallest correlation of two near-duplicates; those faces with the nearest hashes reach 0.73."""

ROWS = 2048
"""Hashes that are compared with as many others at once: 16 MB of distances."""


@dataclass(frozen=True)
class Copy:
    """An image of a group of near-duplicates, compared with the first image of the group."""

    number: int
    distance: int
    """Number of different bits of the two hashes."""
    likeness: float
    """Correlation of the two images."""
    mirrored: bool
    """True if the image is closer to the mirrored first image; the values above then refer to the mirrored one."""

    @property
    def words(self) -> str:
        """The comparison as text."""
        return f"{'mirrored, ' * self.mirrored}{counted(self.distance, 'bit')}, likeness {self.likeness:.3f}"


def near_pairs(
    hashes: Hashes, distance: int = DISTANCE, advance: Callable[[int], None] | None = None
) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield all pairs of hashes that differ in at most `distance` bits, directly or with one of them mirrored.

    The memory is that of `ROWS` squared distances and of the pairs found among them.

    Args:
        advance: called with the number of hashes that have been compared with all after them.

    Yields:
        First and second numbers of some pairs, the first is the smaller one; no pair is yielded twice.
    """
    alike = 8 * hashes.shape[1] - 2 * distance
    for top in range(0, len(hashes), ROWS):
        some = bits(hashes[top : top + ROWS])
        mirrored = some * MIRROR
        for left in range(top, len(hashes), ROWS):
            others = bits(hashes[left : left + ROWS])
            near = some @ others.T >= alike  # sums of 256 ones are exact in float32
            near |= mirrored @ others.T >= alike
            first, second = np.nonzero(near)
            first, second = first + top, second + left
            ordered = first < second
            if ordered.any():
                yield first[ordered], second[ordered]
        if advance:
            advance(len(some))


def near_groups(
    hashes: Hashes,
    numbers: Numbers,
    level: LevelReader,
    advance: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Return groups of near-duplicates: each image is like some other image of its group, or like its mirror image.

    Pairs within one group are not compared again, so many copies of one image do not take longer.

    Args:
        numbers: numbers in the level of the images with these hashes.
        advance: see `near_pairs`.
    """
    group_of = np.arange(len(hashes))
    for first, second in near_pairs(hashes, DISTANCE, advance):
        at_once = 64
        while len(first):
            apart = group_of[first] != group_of[second]
            first, second = first[apart], second[apart]
            _join_alike(group_of, first[:at_once], second[:at_once], numbers, level)
            first, second = first[at_once:], second[at_once:]
            at_once = min(2 * at_once, 4096)
    return [numbers[group].tolist() for group in equal_groups(group_of.tolist())]


def _join_alike(group_of: Numbers, first: Numbers, second: Numbers, numbers: Numbers, level: LevelReader) -> None:
    """Join the groups of those pairs whose images are alike."""
    wanted, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    if not len(wanted):
        return
    images = grey(level.read(numbers[wanted]))
    for a, b, one, other in zip(first, second, *np.split(places, 2), strict=True):
        if group_of[a] != group_of[b] and _either_likeness(images[one], images[other]) >= LIKENESS:
            low, high = sorted((group_of[a], group_of[b]))
            group_of[group_of == high] = low


def _either_likeness(one: Grey, other: Grey) -> float:
    return max(likeness(one, other), likeness(one, other[:, ::-1]))


def copies(group: Sequence[int], level: LevelReader, hashes: Hashes) -> list[Copy]:
    """Return the images of a group, each compared with the first one; `hashes` belong to all images of the level."""
    first, first_bits = grey(level.read([group[0]]))[0], bits(hashes[[group[0]]])
    compared = []
    for number in group:
        other, own = grey(level.read([number]))[0], bits(hashes[[number]])
        plain = likeness(first, other), int(distances(first_bits, own)[0, 0])
        turned = likeness(first, other[:, ::-1]), int(distances(first_bits * MIRROR, own)[0, 0])
        mirrored = number != group[0] and (-turned[1], turned[0]) > (-plain[1], plain[0])
        alike, distance = turned if mirrored else plain
        compared.append(Copy(number, distance, round(alike, 4), mirrored))
    return compared
