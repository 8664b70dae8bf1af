"""Duplicate and near-duplicate images, found by hashes and correlation."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.image_set import Pixels

SIDE_PX = 32
"""Of the level that is hashed."""

SIDE_PX_MIN = 16
"""Of the smallest images that have as many coefficients."""

KEPT = 16
"""Coefficients of each axis."""

BITS = KEPT * KEPT - 1

Hashes = NDArray[np.uint8]
"""Packed bits, [N, 32]; the last bit is 0."""

Bits = NDArray[np.float32]
"""1 and -1, [N, 256]; the last is -1."""

MIRROR = np.append(np.tile([1.0, -1.0], KEPT * KEPT // 2)[1:], 1.0).astype(np.float32)
"""What makes an image's bits those of its mirror image: every odd coefficient along a row changes its sign."""


def grey(pixels: Pixels) -> NDArray[np.float32]:
    """Return the grey levels [n, r, r], in [0, 255], of images [n, 3 or 1, r, r] (ITU-R BT.601, as JPEG's)."""
    if pixels.shape[1] == 1:
        return pixels[:, 0].astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(np.tensordot(pixels.astype(np.float32), weights, axes=(1, 0)), np.float32)


def perceptual_hashes(images: NDArray[np.float32]) -> Hashes:
    """Return the hashes of grey images [n, r, r], r 16 or more."""
    coefficients = dctn(images, axes=(1, 2), norm="ortho")[:, :KEPT, :KEPT].reshape(len(images), -1)[:, 1:]
    return np.packbits(coefficients > 0, axis=1)


def bits(hashes: Hashes) -> Bits:
    """Return the bits of hashes one by one."""
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def distances(some: Bits, others: Bits) -> NDArray[np.int64]:
    """Return the number of bits [n, m] in which each of some hashes differs from each of the others."""
    return np.asarray((some.shape[1] - some @ others.T) / 2, np.int64)


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation of two grey images [r, r], at the best shift of up to a sixteenth of their side.

    From -1 to 1; brightness and contrast do not count. 0 where one of them is plain.
    """
    margin = max(one.shape[0] // 16, 1)
    middle = np.ascontiguousarray(one[margin:-margin, margin:-margin])
    if min(middle.std(), other[margin:-margin, margin:-margin].std()) < 1:
        return 0.0
    found = cv2.matchTemplate(np.ascontiguousarray(other), middle, cv2.TM_CCOEFF_NORMED)
    return float(found.max())


class Groups:
    """Numbers 0 to N - 1, each a group of its own until groups are joined.

    Args:
        count: N.
    """

    def __init__(self, count: int) -> None:
        self._of = np.arange(count)

    def apart(self, some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each pair of numbers whether they are in different groups."""
        return np.asarray(self._of[some] != self._of[others])

    def join(self, one: int, other: int) -> None:
        """Make the groups of two numbers one."""
        low, high = sorted((self._of[one], self._of[other]))
        self._of[self._of == high] = low

    def several(self) -> list[list[int]]:
        """Return the groups of more than one, in the order of their first numbers, which come in order too."""
        order = np.argsort(self._of, kind="stable")
        ends = np.flatnonzero(np.diff(self._of[order])) + 1
        return [part.tolist() for part in np.split(order, ends) if len(part) > 1]


DISTANCE = 48
"""Bits of 255 in which the hashes of two images that are nearly the same may differ.

Of a million pairs of 1,000 aligned CelebA faces and their mirror images, the nearest two differ in 59 bits; copies that
were coded as JPEG, halved, greyed or shifted by a hundredth of their side, in at most 35 (benchmarks/audit.py).
"""

LIKENESS = 0.93
"""Least correlation of two such images; those faces whose hashes are nearest reach 0.73."""

ROWS = 2048
"""Hashes that are compared with as many others at once: 16 MB of distances."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Copy:
    """An image of a group, compared with the group's first."""

    number: int
    distance: int
    """Bits in which their hashes differ."""
    likeness: float
    """Their correlation."""
    mirrored: bool
    """Whether it is nearer to the first's mirror image."""

    @property
    def words(self) -> str:
        """How it compares with the first."""
        bits = f"{self.distance} bit{'s' * (self.distance != 1)}"
        return f"{'mirrored, ' if self.mirrored else ''}{bits}, likeness {self.likeness:.3f}"


def same(names: Iterable[bytes | str]) -> list[list[int]]:
    """Return the groups of numbers that have one name."""
    found: dict[bytes | str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        found[name].append(number)
    return [group for group in found.values() if len(group) > 1]


def same_images(candidates: Sequence[Sequence[int]], top: LevelReader) -> list[list[int]]:
    """Return the groups of images that are the same in every byte of the largest level.

    Args:
        candidates: groups of numbers whose smaller levels are the same.
        top: the largest level, of which one image is read at a time.
    """
    groups = []
    for group in candidates:
        names = [hashlib.sha256(top.read([number]).tobytes()).digest() for number in group]
        groups += [[group[i] for i in each] for each in same(names)]
    return groups


def near_pairs(
    hashes: Hashes, distance: int = DISTANCE, advance: Callable[[int], None] | None = None
) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield all pairs of hashes that differ in at most so many bits, or one of which does so mirrored.

    Memory is that of `ROWS` squared, and of the pairs found among them.

    Args:
        advance: called with the number of hashes that are compared with all after them.

    Yields:
        Numbers of the first and the second of some pairs; the first is the smaller one, and no pair comes twice.
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
    distance: int = DISTANCE,
    least: float = LIKENESS,
    advance: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Return groups of images that are nearly the same, mirrored or not, each like some other of its group.

    Pairs that are in one group already are not looked at, so that a set of nothing but copies takes no longer.

    Args:
        hashes: of the images that are compared.
        numbers: of these in the level, as many.
        level: that was hashed.
        distance: bits in which hashes may differ.
        least: correlation that two images must have besides.
    """
    groups = Groups(len(hashes))
    for first, second in near_pairs(hashes, distance, advance):
        at_once = 64
        while len(first):
            apart = groups.apart(first, second)
            first, second = first[apart], second[apart]
            _join_alike(groups, first[:at_once], second[:at_once], numbers, level, least)
            first, second = first[at_once:], second[at_once:]
            at_once = min(2 * at_once, 4096)
    return [numbers[group].tolist() for group in groups.several()]


def _join_alike(
    groups: Groups, first: Numbers, second: Numbers, numbers: Numbers, level: LevelReader, least: float
) -> None:
    wanted, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    if not len(wanted):
        return
    images = grey(level.read(numbers[wanted]))
    for a, b, one, other in zip(first, second, *np.split(places, 2), strict=True):
        if groups.apart(a[None], b[None])[0] and _either_likeness(images[one], images[other]) >= least:
            groups.join(int(a), int(b))


def _either_likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return max(likeness(one, other), likeness(one, other[:, ::-1]))


def copies(group: Sequence[int], level: LevelReader, hashes: Hashes) -> list[Copy]:
    """Return the images of a group, each compared with the first of them.

    Args:
        group: numbers of images.
        hashes: of all images of the level.
    """
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
