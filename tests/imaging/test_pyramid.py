"""Each level is the mean of blocks of the image, rounded once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from celebahq_builder.imaging.pyramid import build_pyramid, levels
from tests.reference.pyramid import level

IMAGES = st.sampled_from([1, 2, 4, 8, 16]).flatmap(lambda side: arrays(np.uint8, (3, side, side)))


def one_pixel(blocks: list[list[int]]) -> int:
    return int(build_pyramid(np.array([blocks], np.uint8))[-1][0, 0, 0])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(IMAGES)
def test_equals_the_reference(image: NDArray[np.uint8]) -> None:
    pyramid = build_pyramid(image)
    assert [p.shape for p in pyramid] == [(3, r, r) for r in levels(image.shape[-1])]
    for pixels in pyramid:
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, level(image, pixels.shape[-1]))


def test_a_large_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 256, 256), dtype=np.uint8)
    for pixels in build_pyramid(image)[3:]:
        np.testing.assert_array_equal(pixels, level(image, pixels.shape[-1]))


def carried_in_float32(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The definition in plain NumPy."""
    carried, pyramid = image.astype(np.float32), [image]
    while carried.shape[-1] > 1:
        a, b = carried[..., 0::2, 0::2], carried[..., 0::2, 1::2]
        c, d = carried[..., 1::2, 0::2], carried[..., 1::2, 1::2]
        carried = (a + b + c + d) * np.float32(0.25)
        pyramid.append(np.clip(np.rint(carried), 0, 255).astype(np.uint8))
    return pyramid


@pytest.mark.parametrize("side", [256, 512, 1024, 2048])
@pytest.mark.parametrize("brightest", [2, 256])
def test_integers_give_what_float32_does(side: int, brightest: int) -> None:
    image = np.random.default_rng(side).integers(0, brightest, (1, side, side), dtype=np.uint8)
    pyramid, definition = build_pyramid(image), carried_in_float32(image)
    assert len(pyramid) == len(definition)
    for found, expected in zip(pyramid, definition, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert build_pyramid(np.full((1, side, side), 255, np.uint8))[-1].tolist() == [[[255]]]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_every_sum_is_rounded_as_float32_is(steps: int) -> None:
    """One image for each possible sum of its pixels."""
    pixels = 4**steps
    sums = np.arange(0, 255 * pixels + 1)
    flat = sums[:, None] // pixels + (np.arange(pixels) < (sums % pixels)[:, None])
    images = flat.astype(np.uint8).reshape(-1, 2**steps, 2**steps)
    expected = np.rint(sums.astype(np.float32) * np.float32(1 / pixels))
    np.testing.assert_array_equal(build_pyramid(images)[-1].reshape(-1), expected)


def test_halves_go_to_the_even_level() -> None:
    assert one_pixel([[0, 1], [0, 1]]) == 0
    assert one_pixel([[1, 2], [1, 2]]) == 2
    assert one_pixel([[2, 3], [2, 3]]) == 2
    assert one_pixel([[255, 255], [255, 255]]) == 255


def test_batches_and_single_images_alike() -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    together = build_pyramid(images)
    for i, image in enumerate(images):
        for all_of_level, alone in zip(together, build_pyramid(image), strict=True):
            np.testing.assert_array_equal(all_of_level[i], alone)


@pytest.mark.parametrize("resolution", [0, -1, -4, 3, 6, 100, 1023])
def test_only_powers_of_two(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"^resolution {resolution} is not a power of two"):
        levels(resolution)


@pytest.mark.parametrize("shape", [(3, 6, 6), (3, 3, 3), (3, 4, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """Broadcasting must not turn them into images."""
    with pytest.raises(ValueError, match="power of two|square"):
        build_pyramid(np.zeros(shape, np.uint8))
