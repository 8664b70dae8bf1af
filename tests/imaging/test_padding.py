"""Padding equals that of the public tool, whatever strips and boxes it is computed in."""

import math

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from celebahq_builder.imaging import padding
from celebahq_builder.imaging.geometry import PaddingPlan
from celebahq_builder.imaging.padding import gaussian_blur, pad_photo
from tests.reference.padding import pad


def smooth(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """An image [H, W, 3] of smooth noise over the whole range."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    return np.clip(gaussian_filter(noise, (2, 2, 0), mode="wrap") * 500 + 128, 0, 255).astype(np.uint8)


def padded(photo: NDArray[np.uint8], sides: tuple[int, int, int, int], sigma: float) -> NDArray[np.uint8]:
    pixels = torch.from_numpy(photo).permute(2, 0, 1)
    return pad_photo(pixels, PaddingPlan(*sides), sigma).permute(1, 2, 0).numpy()


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.abs(a.astype(np.int64) - b)


@settings(max_examples=20, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(
    st.integers(36, 64),
    st.integers(36, 64),
    st.floats(0.3, 2.4),
    st.tuples(*[st.integers(0, 30)] * 4),
    st.integers(0, 9),
)
def test_equals_the_public_tool(
    height: int, width: int, sigma: float, more: tuple[int, int, int, int], seed: int
) -> None:
    """Paddings are at least 15 sigma wide, 0.3 of the crop's side length, as in `plan_padding`."""
    least = math.ceil(15 * sigma)
    left, top, right, bottom = (least + m for m in more)
    photo = smooth(height, width, seed)
    found = padded(photo, (left, top, right, bottom), sigma)
    assert difference(found, pad(photo, (left, top, right, bottom), sigma)).max() <= 1


@pytest.mark.parametrize(
    ("size", "sides", "sigma"),
    [
        ((12, 48), (80, 95, 70, 71), 4.5),
        ((39, 19), (80, 79, 72, 92), 3.5),
        ((30, 40), (135, 140, 136, 150), 9.0),
        ((40, 12), (200, 190, 210, 230), 12.5),
    ],
)
def test_paddings_much_larger_than_the_photo(
    size: tuple[int, int], sides: tuple[int, int, int, int], sigma: float
) -> None:
    """With several reflections the pixels beyond the rim matter to the blur; they repeat the colour of the rim."""
    photo = smooth(*size)
    assert difference(padded(photo, sides, sigma), pad(photo, sides, sigma, edge="nearest")).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 1), (2, 2)])
def test_tiny_photos(size: tuple[int, int]) -> None:
    """They have one colour, because the median of two colours depends on its definition."""
    photo = np.full((*size, 3), (255, 0, 90), np.uint8)
    assert (padded(photo, (40, 31, 55, 62), 2.0) == photo[0, 0]).all()


@pytest.mark.parametrize("sigma", [3.0, 9.0])
def test_noise(sigma: float) -> None:
    photo = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    least = math.ceil(15 * sigma)
    sides = (least, least + 9, least + 40, least)
    assert difference(padded(photo, sides, sigma), pad(photo, sides, sigma)).max() <= 1


def test_wide_blur_on_a_reduced_image() -> None:
    """Sigma 17 is computed on a quarter of the image."""
    photo = smooth(50, 60)
    sides = (255, 261, 266, 255)
    found = padded(photo, sides, 17.0)
    assert difference(found, pad(photo, sides, 17.0, edge="nearest")).max() <= 1


def test_blur_of_a_reduced_image_is_as_wide() -> None:
    """Reducing and enlarging blur the image as well; without the correction an edge would be 1 % wider."""
    photo = np.zeros((60, 240, 3), np.uint8)
    photo[:, 160:] = 255
    sides = (255, 255, 255, 255)
    outside = slice(0, 40)
    found, expected = padded(photo, sides, 17.0)[outside], pad(photo, sides, 17.0, edge="nearest")[outside]
    assert difference(found, expected).mean() < 0.008


@pytest.mark.parametrize("sigma", [1.5, 9.0])
@pytest.mark.parametrize("rows", [1, 7, 32])
def test_strips_do_not_show(sigma: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither do they where the blur is computed on a reduced image, as for sigma 9."""
    photo, sides = smooth(30, 20), (40, 53, 45, 42)
    whole = padded(photo, sides, sigma)
    monkeypatch.setitem(padding.STRIP_ROWS, "cpu", rows)
    np.testing.assert_array_equal(padded(photo, sides, sigma), whole)


def test_inside_is_unchanged() -> None:
    """The blur begins a third of the padding inside the photo."""
    photo = smooth(120, 100)
    found = padded(photo, (30, 30, 30, 30), 2.0)[30:-30, 30:-30]
    deep, rim = (slice(10, -10),) * 2, (slice(8, -8),) * 2
    np.testing.assert_array_equal(found[deep], photo[deep])
    assert (found[rim] != photo[rim]).any()


def test_outermost_pixels_have_the_median_colour() -> None:
    photo = smooth(40, 50)
    sides = (60, 50, 70, 55)
    found = padded(photo, sides, 2.0)
    rim = np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]])
    assert (rim == rim[0]).all()
    mirrored = np.pad(photo, ((50, 55), (60, 70), (0, 0)), "reflect")
    assert np.abs(np.median(mirrored, axis=(0, 1)) - rim[0]).max() < 8


def test_median_of_a_grid_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = smooth(60, 40)
    whole = padded(photo, (150,) * 4, 5.0)
    monkeypatch.setattr(padding, "MEDIAN_SAMPLES", 5000)
    assert difference(padded(photo, (150,) * 4, 5.0), whole).max() <= 2


def test_mirrors_as_often_as_needed() -> None:
    """With a very small blur, the mirrored photo is visible next to the photo's edge."""
    photo = smooth(5, 4)
    found = padded(photo, (300, 300, 300, 300), 0.3)
    mirrored = np.pad(photo, ((9, 9), (9, 9), (0, 0)), "reflect")
    assert difference(found[291:-291, 291:-291], mirrored).max() <= 5


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("sigma", "size"), [(0.4, (9, 14)), (1.0, (1, 1)), (2.5, (40, 31)), (6.0, (5, 60))])
def test_gaussian_blur(sigma: float, size: tuple[int, int], device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both implementations are computed on the CPU."""
    if device == "cuda":
        monkeypatch.setattr(padding, "_correlate_by_conv2d", padding._correlate_by_matrices)
    image = np.random.default_rng(0).uniform(0, 255, (3, *size))
    radius = math.ceil(4 * sigma)
    expected = gaussian_filter(image, (0, sigma, sigma), mode="nearest", radius=(0, radius, radius))
    found: Tensor = gaussian_blur(torch.from_numpy(image.astype(np.float32)), sigma)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


@settings(max_examples=40, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(st.data(), st.tuples(*[st.integers(15, 60)] * 4))
def test_a_box_equals_that_part_of_the_whole(data: st.DataObject, sides: tuple[int, int, int, int]) -> None:
    photo = torch.from_numpy(smooth(90, 110)).permute(2, 0, 1)
    whole = pad_photo(photo, PaddingPlan(*sides), 1.0)
    left = data.draw(st.integers(0, whole.shape[2] - 1))
    top = data.draw(st.integers(0, whole.shape[1] - 1))
    right = data.draw(st.integers(left + 1, whole.shape[2]))
    bottom = data.draw(st.integers(top + 1, whole.shape[1]))
    part = pad_photo(photo, PaddingPlan(*sides), 1.0, (left, top, right, bottom))
    assert torch.equal(part, whole[:, top:bottom, left:right])
