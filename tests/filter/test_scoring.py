"""Score of images of any size: sizes are comparable, types agree, and other arrays are refused."""

import doctest

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from celebahq_builder.filter import scoring
from celebahq_builder.filter.scoring import score_image
from celebahq_builder.filter.store import SIDE_PX
from celebahq_builder.imaging.quality_score import QualityScore, quality_score
from tests.conftest import SAMPLE

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def portrait() -> Pixels:
    """The sharpest photo of the sample, cut to a square of 1024 px."""
    with Image.open(SAMPLE / "img_celeba" / "000001.jpg") as image:
        pixels = np.asarray(image.convert("RGB"))
    side = min(pixels.shape[:2])
    return cv2.resize(pixels[:side, :side], (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def noise(side: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def textured(side: int) -> Pixels:
    """Return an image with detail at every frequency, like a photo: power falls with the square of frequency."""
    rng = np.random.default_rng(3)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    radius[0, 0] = 1
    values = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) / radius).real
    values = (values - values.mean()) / values.std() * 40 + 128
    return np.stack([np.clip(values, 0, 255).astype(np.uint8)] * 3, axis=-1)


def reduced(pixels: Pixels, side: int) -> Pixels:
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def test_an_image_of_1024_px_has_the_score_of_a_build(portrait: Pixels) -> None:
    assert score_image(portrait) == quality_score(torch.from_numpy(portrait.transpose(2, 0, 1).copy()))


def test_fewer_pixels_score_less_and_surplus_pixels_do_not_count() -> None:
    sharp = textured(2 * SIDE_PX)
    scores = [score_image(reduced(sharp, side)).score for side in (64, 128, 256, 512, 1024)]
    assert scores == sorted(scores)
    assert scores[-1] > 1.2 * scores[0]
    assert score_image(sharp) == score_image(reduced(sharp, SIDE_PX))  # half of 2048 is the mean of 2x2 px


def test_a_blurred_image_scores_less(portrait: Pixels) -> None:
    for side in (300, 1024, 1500):
        sharp = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA if side < 1024 else cv2.INTER_CUBIC)
        blurred = cv2.GaussianBlur(sharp, (0, 0), side / 150)
        assert score_image(blurred).score < score_image(sharp).score


def test_enlarging_adds_no_frequency() -> None:
    """A wave on the small grid is the same wave on the large one, computed as a sum of cosines."""
    small, large = ((np.arange(n) + 0.5) / n for n in (24, SIDE_PX))
    waves = [(30, 3), (20, 11), (10, 23)]
    row = 128 + sum(height * np.cos(np.pi * k * small) for height, k in waves)
    true = 128 + sum(height * np.cos(np.pi * k * large) for height, k in waves)
    found = scoring._enlarge(np.tile(row, (24, 1)))
    assert found.shape == (SIDE_PX, SIDE_PX)
    assert np.abs(found - true).max() < 1e-3


def test_only_the_centred_square_counts(portrait: Pixels) -> None:
    wide = np.concatenate([noise(SIDE_PX)[:, :201], portrait, noise(SIDE_PX, 1)[:, :202]], axis=1)
    assert score_image(wide) == score_image(portrait)
    assert score_image(wide.transpose(1, 0, 2)) == score_image(portrait.transpose(1, 0, 2))


def test_types_and_grey_agree(portrait: Pixels) -> None:
    grey = portrait[..., 1]
    assert score_image(grey) == score_image(np.stack([grey] * 3, axis=-1))
    for small in (portrait[:300, :300], portrait):
        as_float = score_image(small / 255)
        assert as_float == score_image((small / 255).astype(np.float32))
        assert as_float.score == pytest.approx(score_image(small).score, abs=1e-4)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(1, 90), st.integers(1, 90), st.booleans())
def test_any_size_has_a_score(height: int, width: int, grey: bool) -> None:
    pixels = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = score_image(pixels[..., 0] if grey else pixels)
    assert isinstance(found, QualityScore)
    assert 0 <= found.score <= 1


def test_a_plain_colour_scores_zero() -> None:
    for side in (1, 7, 1024, 1100):
        assert score_image(np.full((side, side), 77, dtype=np.uint8)).score == 0


@pytest.mark.parametrize(
    ("image", "error", "says"),
    [
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"\[H, W, 3\] or \[H, W\], got \[3, 8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), ValueError, r"got \[8, 8, 4\]"),
        (np.zeros((0, 8), np.uint8), ValueError, r"got \[0, 8\]"),
        (np.zeros(8, np.uint8), ValueError, r"got \[8\]"),
        (np.zeros((8, 8), np.int64), TypeError, r"expected uint8, or float in \[0, 1\], got int64"),
        (np.full((8, 8), 255.0), ValueError, r"expected floats in \[0, 1\], got 255 to 255"),
        (np.full((8, 8), np.nan), ValueError, "got nan to nan"),
    ],
)
def test_other_arrays_are_refused(image: NDArray[np.generic], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        score_image(image)


def test_the_examples_hold() -> None:
    assert doctest.testmod(scoring).failed == 0
    assert doctest.testmod(scoring).attempted > 0
