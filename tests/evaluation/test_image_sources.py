"""Which images are taken follows from the seed alone; what is kept in memory and how they come changes nothing."""

import hashlib

import numpy as np
import pytest
import torch

from celebahq_builder.evaluation.image_sources import SourceImages
from tests.evaluation.sources import Held, noise

PIXELS = noise(50, 8)


def drawn(images: SourceImages, start: int, stop: int) -> np.ndarray:
    return torch.cat(list(images.batches(start, stop)())).numpy()


def test_a_random_subset_without_replacement() -> None:
    images = SourceImages(Held(PIXELS), 3)
    first, second = drawn(images, 0, 20), drawn(images, 20, 50)
    both = {one.tobytes() for one in np.concatenate([first, second])}
    assert both == {one.tobytes() for one in PIXELS}
    assert not np.array_equal(first, PIXELS[:20])
    assert np.array_equal(first, drawn(SourceImages(Held(PIXELS), 3), 0, 20))
    assert not np.array_equal(first, drawn(SourceImages(Held(PIXELS), 4), 0, 20))


def test_every_image_is_as_likely_as_any_other() -> None:
    counts = np.zeros(10)
    for seed in range(2000):
        held = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
        counts[drawn(SourceImages(Held(held), seed), 0, 3).ravel()] += 1
    expected = 2000 * 3 / 10
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected * 0.7)


def test_a_generators_images_come_in_their_order() -> None:
    assert np.array_equal(drawn(SourceImages(Held(PIXELS, generated=True), 3), 5, 20), PIXELS[5:20])


@pytest.mark.parametrize("memory_bytes", [0, 30 * 192, 2**30])
@pytest.mark.parametrize("batch_bytes", [1, 7 * 192, 2**30])
def test_memory_and_batches_change_nothing(memory_bytes: int, batch_bytes: int) -> None:
    order = np.random.default_rng(1).permutation(50)
    images = SourceImages(Held(PIXELS), 1, memory_bytes=memory_bytes, batch_bytes=batch_bytes)
    images.will_need(40, {13, 30})
    for start, stop in ((0, 13), (20, 40), (0, 30), (5, 40), (0, 40), (30, 50)):
        assert np.array_equal(drawn(images, start, stop), PIXELS[order[start:stop]])
    for count in (13, 30, 21, 50):
        assert images.sha256(count) == hashlib.sha256(PIXELS[order[:count]].tobytes()).hexdigest()


def test_images_that_fit_are_read_once() -> None:
    fits, does_not = Held(PIXELS), Held(PIXELS)
    for held, memory_bytes in ((fits, 40 * 192), (does_not, 40 * 192 - 1)):
        images = SourceImages(held, 0, memory_bytes=memory_bytes)
        images.will_need(40, {40})
        for _ in range(3):
            drawn(images, 0, 40)
        assert images.sha256(40)
    assert (fits.read_images, does_not.read_images) == (40, 120)


def test_more_may_be_needed_later() -> None:
    held = Held(PIXELS)
    images = SourceImages(held, 0)
    images.will_need(10, {10})
    drawn(images, 0, 10)
    images.will_need(30, {30})
    assert len(drawn(images, 0, 30)) == 30
    assert held.read_images == 30
    assert images.sha256(10) != images.sha256(30)


def test_a_pass_that_is_left_early_does_no_harm() -> None:
    images = SourceImages(Held(PIXELS), 0, batch_bytes=4 * 192)
    images.will_need(40, {40})
    next(iter(images.batches(0, 40)()))
    order = np.random.default_rng(0).permutation(50)
    assert np.array_equal(drawn(images, 0, 40), PIXELS[order[:40]])
    assert images.sha256(40) == hashlib.sha256(PIXELS[order[:40]].tobytes()).hexdigest()
