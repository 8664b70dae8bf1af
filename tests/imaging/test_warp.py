"""Resampling of an oriented square: equal to single samples, and exact where the result is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from celebahq_builder.imaging import warp
from celebahq_builder.imaging.warp import warp_quad
from tests.reference.warp import warp as slow_warp

Photo = NDArray[np.uint8]


def photo(height: int, width: int, seed: int = 0) -> Photo:
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


def square(x: float, y: float, side: float, degrees: float = 0.0) -> NDArray[np.float64]:
    """Corners of a square about (x, y): top left, bottom left, bottom right, top right when not turned."""
    angle = math.radians(degrees)
    right = np.array([math.cos(angle), math.sin(angle)]) * side / 2
    down = np.array([-right[1], right[0]])
    return np.array([x, y]) + np.stack([-right - down, -right + down, right + down, right - down])


def warped(pixels: Photo, quad: NDArray[np.float64], resolution: int, supersampling: int = 4) -> NDArray[np.int64]:
    return warp_quad(torch.from_numpy(pixels), quad, resolution, supersampling).numpy().astype(np.int64)


@pytest.fixture(params=["OpenCV", "torch"])
def sampler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both implementations, on a CPU."""
    if request.param == "torch":
        monkeypatch.setattr(warp, "_sample_by_cv2", warp._sample_by_torch)
    return str(request.param)


@settings(max_examples=15, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(
    st.tuples(st.floats(-10, 50), st.floats(-10, 40)),
    st.floats(3, 90),
    st.floats(0, 360),
    st.integers(1, 10),
    st.sampled_from([1, 2, 4]),
)
def test_equals_single_samples(
    centre: tuple[float, float], side: float, degrees: float, resolution: int, supersampling: int
) -> None:
    pixels, quad = photo(30, 41), square(*centre, side, degrees)
    expected = slow_warp(pixels, quad, resolution, supersampling)
    found = warped(pixels, quad, resolution, supersampling)
    assert np.abs(found - expected).max() <= 0.51
    assert np.abs(found - np.rint(expected)).mean() < 0.01


def test_equals_single_samples_in_a_large_photo(sampler: str) -> None:
    """Coordinates of thousands of px lose no precision."""
    pixels = photo(3, 9000)
    quad = square(8991.3, 1.4, 6, 20)
    found = warped(pixels, quad, 8)
    assert np.abs(found - slow_warp(pixels, quad, 8, 4)).max() <= 0.52


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_copy_pixels(turns: int, sampler: str) -> None:
    """One sample per pixel, at its centre: a copy."""
    pixels = photo(32, 32)
    found = warped(pixels, square(16, 16, 32, 90 * turns), 32, supersampling=1)
    np.testing.assert_array_equal(found, np.rot90(pixels, turns, axes=(1, 2)))


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_with_supersampling(turns: int, sampler: str) -> None:
    """Four bilinear samples per pixel and direction are a [1 6 1] / 8 filter; at the edge, [7 1] / 8."""
    pixels = photo(32, 32)
    wide = np.pad(pixels.astype(float), ((0, 0), (1, 1), (1, 1)), "edge")
    rows = (wide[:, :-2] + 6 * wide[:, 1:-1] + wide[:, 2:]) / 8
    expected = (rows[:, :, :-2] + 6 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 8
    found = warped(pixels, square(16, 16, 32, 90 * turns), 32)
    assert np.abs(found - np.rot90(expected, turns, axes=(1, 2))).max() <= 0.51


def test_same_size_is_near_lossless() -> None:
    ramp = np.add.outer(np.arange(48) * 2.0, np.arange(48) * 3.0)
    pixels = np.stack([ramp, ramp.T, 255 - ramp]).astype(np.uint8)
    inner = (slice(None), slice(1, -1), slice(1, -1))
    assert np.abs(warped(pixels, square(24, 24, 48), 48) - pixels)[inner].max() <= 1


def test_halving_is_a_box_filter(sampler: str) -> None:
    """Samples at pixel centres only: the mean of 2 x 2 pixels."""
    pixels = photo(32, 32)
    expected = pixels.reshape(3, 16, 2, 16, 2).mean(axis=(2, 4))
    assert np.abs(warped(pixels, square(16, 16, 32), 16, supersampling=2) - expected).max() <= 0.51


@pytest.mark.parametrize("tile", [3, 7, 16])
def test_tiles_do_not_show(tile: int, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, quad = photo(50, 60), square(33, 20, 47, 33)
    whole = warped(pixels, quad, 24)
    monkeypatch.setattr(warp, "CPU_TILE_PX", tile)
    found = warped(pixels, quad, 24)
    assert np.abs(found - whole).max() <= 1
    assert (found != whole).mean() < 0.002


@pytest.mark.parametrize("tile", [4, 128])
def test_outside_repeats_the_border(tile: int, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warp, "CPU_TILE_PX", tile)
    pixels = photo(8, 8)
    found = warped(pixels, square(4, 4, 24), 24, supersampling=1)
    np.testing.assert_array_equal(found, np.pad(pixels, ((0, 0), (8, 8), (8, 8)), "edge"))


def test_far_outside(sampler: str) -> None:
    pixels = photo(8, 8)
    found = warped(pixels, square(-500, 900, 10), 4)
    np.testing.assert_array_equal(found, np.broadcast_to(pixels[:, -1:, :1], (3, 4, 4)))


def test_one_colour_stays() -> None:
    pixels = np.full((3, 20, 20), 137, np.uint8)
    assert (warped(pixels, square(5, 9, 33, 17), 31) == 137).all()
