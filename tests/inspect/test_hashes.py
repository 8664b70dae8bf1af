"""Hashes are the signs of a cosine transform; mirroring, brightness and contrast do to them what they should."""

import numpy as np
import pytest

from celebahq_builder.inspect.audit.duplicates import BITS, MIRROR, bits, distances, grey, likeness, perceptual_hashes
from tests.inspect.audit_images import recoded, smooth


def by_definition(image: np.ndarray) -> list[float]:
    """One coefficient after the other."""
    side = len(image)
    at = np.arange(side) + 0.5
    signs = []
    for down in range(16):
        for right in range(16):
            wave = np.outer(np.cos(np.pi * down * at / side), np.cos(np.pi * right * at / side))
            signs.append(1.0 if (image * wave).sum() > 0 else -1.0)
    return signs[1:]


@pytest.mark.parametrize("side", [16, 32])
def test_equals_the_definition(side: int) -> None:
    images = grey(smooth(3, side))
    found = bits(perceptual_hashes(images))
    assert found.shape == (3, BITS + 1)
    for image, own in zip(images, found, strict=True):
        assert list(own[:BITS]) == by_definition(image.astype(float))
        assert own[BITS] == -1


def test_the_mirror_image_has_some_signs_changed() -> None:
    images = grey(smooth(20, 32))
    assert np.array_equal(bits(perceptual_hashes(images[:, :, ::-1])), bits(perceptual_hashes(images)) * MIRROR)
    assert (MIRROR == -1).sum() == 128


def test_brightness_and_contrast_do_not_count() -> None:
    images = grey(smooth(10, 32))
    assert np.array_equal(perceptual_hashes(images), perceptual_hashes(images * 0.5 + 90))


def test_distances_are_bits() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (6, 32), dtype=np.uint8)
    for i, one in enumerate(hashes):
        for j, other in enumerate(hashes):
            by_hand = sum(int(a ^ b).bit_count() for a, b in zip(one.tolist(), other.tolist(), strict=True))
            assert distances(bits(hashes[[i]]), bits(hashes[[j]]))[0, 0] == by_hand


def test_copies_are_near_and_others_far() -> None:
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
