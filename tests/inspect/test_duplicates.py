"""All pairs are found, none twice, and groups are what hangs together."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.inspect.audit import duplicates
from celebahq_builder.inspect.audit.duplicates import (
    MIRROR,
    Groups,
    Hashes,
    bits,
    copies,
    distances,
    grey,
    near_groups,
    near_pairs,
    perceptual_hashes,
    same,
)
from tests.hdf5.pyramids import theano_file
from tests.inspect.audit_images import recoded, smooth


def hashes_of(images: np.ndarray) -> Hashes:
    return perceptual_hashes(grey(images))


def test_pairs_equal_those_of_all_compared_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "ROWS", 7)
    images = smooth(30, 32)
    images[[4, 11, 29]] = images[2]
    images[8], images[9] = images[25][:, :, ::-1], recoded(images[10], 20)
    hashes, expected = hashes_of(images), set()
    for i, j in itertools.combinations(range(30), 2):
        one, other = bits(hashes[[i]]), bits(hashes[[j]])
        if min(distances(one, other)[0, 0], distances(one * MIRROR, other)[0, 0]) <= 112:
            expected.add((i, j))
    counted: list[int] = []
    found = [
        pair
        for part in near_pairs(hashes, 112, counted.append)
        for pair in zip(*map(np.ndarray.tolist, part), strict=True)
    ]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert {(2, 4), (2, 11), (4, 29), (8, 25), (9, 10)} < expected
    assert len(expected) > 20  # and such that are near by chance
    assert sum(counted) == 30


def test_groups_are_what_hangs_together() -> None:
    groups = Groups(9)
    for one, other in [(7, 3), (1, 8), (3, 5), (5, 7)]:
        groups.join(one, other)
    assert groups.several() == [[1, 8], [3, 5, 7]]
    assert groups.apart(np.array([3, 1]), np.array([7, 3])).tolist() == [False, True]


def test_same() -> None:
    assert same("abcbad") == [[0, 4], [1, 3]]


def test_near_groups_need_likeness_besides(tmp_path: Path) -> None:
    images = smooth(12, 32)
    images[7] = recoded(images[1], 95)
    images[9] = recoded(images[7][:, :, ::-1], 95)
    level = LevelReader(theano_file(tmp_path / "a.h5", images))
    hashes, numbers = hashes_of(images), np.arange(12)
    assert near_groups(hashes, numbers, level) == [[1, 7, 9]]
    assert near_groups(hashes, numbers, level, distance=255) == [[1, 7, 9]]  # all pairs are looked at
    assert near_groups(hashes, numbers, level, least=1.01) == []
    some = np.array([0, 7, 9, 11])
    assert near_groups(hashes[some], some, level) == [[7, 9]]
    compared = copies([7, 1, 9], level, hashes)
    assert [one.number for one in compared] == [7, 1, 9]
    assert [one.mirrored for one in compared] == [False, False, True]
    assert compared[0].distance == 0
    assert compared[0].likeness == 1
    assert all(one.distance < 40 and one.likeness > 0.95 for one in compared)
    assert compared[2].words.startswith("mirrored, ")


def test_a_set_of_nothing_but_copies_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 million pairs, of which as many are looked at as there are images, or little more."""
    images = np.repeat(smooth(1, 32), 3000, axis=0)
    level, looked_at = LevelReader(theano_file(tmp_path / "a.h5", images)), []
    seen = duplicates._either_likeness
    monkeypatch.setattr(duplicates, "_either_likeness", lambda a, b: looked_at.append(1) or seen(a, b))
    assert near_groups(hashes_of(images), np.arange(3000), level) == [list(range(3000))]
    assert 2999 <= len(looked_at) < 4000
