"""Pictures of a data set that are the same, and those that are nearly so."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.audit.groups import Groups
from celebahq_builder.audit.hashes import MIRROR, Hashes, bits, distances, grey, likeness
from celebahq_builder.formats.level import Level

DISTANCE = 48
"""Bits of 255 in which the hashes of two pictures that are nearly the same may differ.

Of a million pairs of 1,000 aligned CelebA faces and their mirror images, the nearest two differ in 59 bits; copies that
were coded as JPEG, halved, greyed or shifted by a hundredth of their side, in at most 35 (benchmarks/audit.py).
"""

LIKENESS = 0.93
"""Least correlation of two such pictures; those faces whose hashes are nearest reach 0.73."""

ROWS = 2048
"""Hashes that are compared with as many others at once: 16 MB of distances."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Copy:
    """A picture of a group, compared with the group's first."""

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


def same_pictures(candidates: Sequence[Sequence[int]], top: Level) -> list[list[int]]:
    """Return the groups of pictures that are the same in every byte of the largest level.

    Args:
        candidates: groups of numbers whose smaller levels are the same.
        top: the largest level, of which one picture is read at a time.
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
    level: Level,
    distance: int = DISTANCE,
    least: float = LIKENESS,
    advance: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Return groups of pictures that are nearly the same, mirrored or not, each like some other of its group.

    Pairs that are in one group already are not looked at, so that a set of nothing but copies takes no longer.

    Args:
        hashes: of the pictures that are compared.
        numbers: of these in the level, as many.
        level: that was hashed.
        distance: bits in which hashes may differ.
        least: correlation that two pictures must have besides.
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


def _join_alike(groups: Groups, first: Numbers, second: Numbers, numbers: Numbers, level: Level, least: float) -> None:
    wanted, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    if not len(wanted):
        return
    pictures = grey(level.read(numbers[wanted]))
    for a, b, one, other in zip(first, second, *np.split(places, 2), strict=True):
        if groups.apart(a[None], b[None])[0] and _either_likeness(pictures[one], pictures[other]) >= least:
            groups.join(int(a), int(b))


def _either_likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return max(likeness(one, other), likeness(one, other[:, ::-1]))


def copies(group: Sequence[int], level: Level, hashes: Hashes) -> list[Copy]:
    """Return the pictures of a group, each compared with the first of them.

    Args:
        group: numbers of pictures.
        hashes: of all pictures of the level.
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
