"""Hashes, pairs and groups of duplicates agree with slow references."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.inspect import duplicates
from celebahq_builder.inspect.duplicates import (
    BITS,
    MIRROR,
    Hashes,
    bits,
    copies,
    distances,
    grey,
    likeness,
    near_groups,
    near_pairs,
    perceptual_hashes,
)
from tests.hdf5.pyramids import theano_file
from tests.inspect.audit_images import recoded, smooth

# --- Perceptual hashes -------------------------------------------------------------------------------------------


def by_definition(image: np.ndarray) -> list[float]:
    """Return the bits of a hash, one DCT coefficient after the other."""
    side = len(image)
    at = np.arange(side) + 0.5
    signs = []
    for down in range(16):
        for right in range(16):
            wave = np.outer(np.cos(np.pi * down * at / side), np.cos(np.pi * right * at / side))
            signs.append(1.0 if (image * wave).sum() > 0 else -1.0)
    return signs[1:]


@pytest.mark.parametrize("side", [16, 32])
def test_hashes_equal_the_definition(side: int) -> None:
    images = grey(smooth(3, side))
    found = bits(perceptual_hashes(images))
    assert found.shape == (3, BITS + 1)
    for image, own in zip(images, found, strict=True):
        assert list(own[:BITS]) == by_definition(image.astype(float))
        assert own[BITS] == -1


def test_hash_of_the_mirror_image() -> None:
    images = grey(smooth(20, 32))
    assert np.array_equal(bits(perceptual_hashes(images[:, :, ::-1])), bits(perceptual_hashes(images)) * MIRROR)
    assert (MIRROR == -1).sum() == 128


def test_hashes_do_not_depend_on_brightness_and_contrast() -> None:
    images = grey(smooth(10, 32))
    assert np.array_equal(perceptual_hashes(images), perceptual_hashes(images * 0.5 + 90))


def test_distances_are_numbers_of_different_bits() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (6, 32), dtype=np.uint8)
    for i, one in enumerate(hashes):
        for j, other in enumerate(hashes):
            by_hand = sum(int(a ^ b).bit_count() for a, b in zip(one.tolist(), other.tolist(), strict=True))
            assert distances(bits(hashes[[i]]), bits(hashes[[j]]))[0, 0] == by_hand


def test_copies_are_nearer_than_other_images() -> None:
    images = smooth(30, 32)
    copies = np.stack([recoded(image, 95) for image in images])
    some, others = (bits(perceptual_hashes(grey(each))) for each in (images, copies))
    apart = distances(some, others)
    assert np.diag(apart).max() < 30
    assert apart[~np.eye(30, dtype=bool)].min() > 70


def test_grey() -> None:
    colour = np.array([255, 0, 0, 0, 255, 0, 0, 0, 255], np.uint8).reshape(3, 3, 1, 1)
    assert grey(colour).ravel() == pytest.approx([76.245, 149.685, 29.07])
    assert grey(colour[:, :1]).ravel().tolist() == [255, 0, 0]


def test_likeness_is_the_correlation_at_the_best_shift() -> None:
    one, other = grey(smooth(2, 32))
    middle = one[2:-2, 2:-2].ravel()
    shifts = [other[y : y + 28, x : x + 28].ravel() for y in range(5) for x in range(5)]
    assert likeness(one, other) == pytest.approx(max(np.corrcoef(middle, each)[0, 1] for each in shifts), abs=1e-5)
    assert likeness(one, np.roll(one, (2, -1), (0, 1))) == pytest.approx(1, abs=1e-5)
    assert likeness(one, 255 - one) < 0.6
    assert likeness(one, np.full_like(one, 7)) == likeness(np.full_like(one, 7), one) == 0


# --- Pairs and groups --------------------------------------------------------------------------------------------


def hashes_of(images: np.ndarray) -> Hashes:
    return perceptual_hashes(grey(images))


def test_near_pairs_equal_a_comparison_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert len(expected) > 20  # some pairs are near by chance
    assert sum(counted) == 30


def test_near_groups_need_a_high_correlation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = smooth(12, 32)
    images[7] = recoded(images[1], 95)
    images[9] = recoded(images[7][:, :, ::-1], 95)
    level = LevelReader(theano_file(tmp_path / "a.h5", images))
    hashes, numbers = hashes_of(images), np.arange(12)
    assert near_groups(hashes, numbers, level) == [[1, 7, 9]]
    some = np.array([0, 7, 9, 11])
    assert near_groups(hashes[some], some, level) == [[7, 9]]
    compared = copies([7, 1, 9], level, hashes)
    assert [one.number for one in compared] == [7, 1, 9]
    assert [one.mirrored for one in compared] == [False, False, True]
    assert compared[0].distance == 0
    assert compared[0].likeness == 1
    assert all(one.distance < 40 and one.likeness > 0.95 for one in compared)
    assert compared[2].words.startswith("mirrored, ")
    monkeypatch.setattr(duplicates, "DISTANCE", 255)
    assert near_groups(hashes, numbers, level) == [[1, 7, 9]]  # all pairs are candidates
    monkeypatch.setattr(duplicates, "LIKENESS", 1.01)
    assert near_groups(hashes, numbers, level) == []


def test_pairs_within_a_group_are_not_compared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 copies of one image make 4 million pairs; only about 3,000 of them are compared."""
    images = np.repeat(smooth(1, 32), 3000, axis=0)
    level, compared = LevelReader(theano_file(tmp_path / "a.h5", images)), []
    original = duplicates._either_likeness
    monkeypatch.setattr(duplicates, "_either_likeness", lambda a, b: compared.append(1) or original(a, b))
    assert near_groups(hashes_of(images), np.arange(3000), level) == [list(range(3000))]
    assert 2999 <= len(compared) < 4000
