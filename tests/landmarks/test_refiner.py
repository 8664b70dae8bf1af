"""The geometry of the crop is exact, and the refiner keeps its promises about points and confidence."""

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from celebahq_builder.errors import WeightsError
from celebahq_builder.imaging.orientation import MIRRORED
from celebahq_builder.landmarks import crops
from celebahq_builder.landmarks.crops import inverse, sample_crop, transform
from celebahq_builder.landmarks.refiner import CROP_PX, CROP_SHARE, Refiner, within
from celebahq_builder.models.landmark_network import LandmarkNetwork

crop_matrix = functools.partial(crops.crop_matrix, size_px=CROP_PX, share=CROP_SHARE)

FACE = np.array([[40.0, 50], [60, 50], [50, 65], [42, 80], [58, 80]])


def placed(x: float, y: float, zoom: float, rotation_deg: float) -> NDArray[np.float64]:
    """Return the points of a face anywhere, in any size and direction."""
    t = np.radians(rotation_deg)
    return zoom * FACE @ np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]) + (x, y)


FACES = st.builds(placed, st.floats(-300, 300), st.floats(-300, 300), st.floats(0.1, 30), st.floats(-180, 180))


# --- Geometry ---------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(FACES, st.booleans())
def test_points_return_from_the_crop(points: NDArray[np.float64], mirror: bool) -> None:
    matrix = crop_matrix(points, mirror=mirror)
    np.testing.assert_allclose(transform(inverse(matrix), transform(matrix, points)), points, rtol=0, atol=1e-9)


@settings(deadline=None, derandomize=True)
@given(FACES)
def test_crop_is_upright_and_has_its_size(points: NDArray[np.float64]) -> None:
    """The eyes are half of the crop's share apart, wherever the face is and however it is rotated."""
    found = transform(crop_matrix(points), points)
    expected = transform(crop_matrix(FACE), FACE)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    side = 1.8 * 30 * 2  # of CelebA-HQ's crop
    assert expected[1, 0] - expected[0, 0] == pytest.approx(20 / side / CROP_SHARE * CROP_PX)
    assert expected[0, 1] == pytest.approx(expected[1, 1])


@settings(deadline=None, derandomize=True)
@given(FACES)
def test_mirrored_crop_exchanges_left_and_right(points: NDArray[np.float64]) -> None:
    """This face is symmetric: its points in the mirrored crop are those of the plain one, exchanged."""
    plain = transform(crop_matrix(points), points)
    mirrored = transform(crop_matrix(points, mirror=True), points)
    np.testing.assert_allclose(mirrored[MIRRORED], plain, atol=1e-6)


@pytest.mark.parametrize("zoom", [0.4, 1.0, 7.0])
@pytest.mark.parametrize("mirror", [False, True])
def test_pixels_lie_where_the_matrix_says(zoom: float, mirror: bool) -> None:
    """Spots of light at the landmarks of a photo are found at their positions in the crop."""
    points = zoom * FACE + 20
    image = np.zeros((int(zoom * 130) + 40, int(zoom * 110) + 40, 3), np.uint8)
    grid_y, grid_x = np.mgrid[: image.shape[0], : image.shape[1]]
    matrix = crop_matrix(points, mirror=mirror)
    for x, y in points:
        spot = 255 * np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * (2 * zoom) ** 2))
        crop = sample_crop(np.repeat(spot[..., None], 3, axis=2).astype(np.uint8), matrix, CROP_PX).astype(float)
        weights = crop[..., 0]
        crop_y, crop_x = np.mgrid[:CROP_PX, :CROP_PX]
        centre = [(weights * crop_x).sum() / weights.sum(), (weights * crop_y).sum() / weights.sum()]
        np.testing.assert_allclose(centre, transform(matrix, np.array([[x, y]]))[0], atol=0.1)


def test_crop_of_a_part_is_that_of_the_whole_photo() -> None:
    """Only a part of a large photo is read; an independent warp of all of it gives the same pixels."""
    image = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    matrix = crop_matrix(FACE * 0.8 + (250, 200))
    whole = cv2.warpAffine(image, matrix, (CROP_PX, CROP_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(sample_crop(image, matrix, CROP_PX).astype(int) - whole).max() <= 2


def test_crop_of_a_very_wide_photo() -> None:
    """OpenCV takes at most 32767 px."""
    image = np.zeros((60, 33000, 3), np.uint8)
    image[:, 32950:] = 200
    crop = sample_crop(image, crop_matrix(FACE + (32900, -40)), CROP_PX)
    assert crop.min() == 0
    assert crop.max() == 200


@settings(max_examples=20, deadline=None, derandomize=True)
@given(FACES)
def test_crop_outside_of_the_photo(points: NDArray[np.float64]) -> None:
    crop = sample_crop(np.full((30, 20, 3), 77, np.uint8), crop_matrix(points), CROP_PX)
    assert crop.shape == (CROP_PX, CROP_PX, 3)
    assert (crop == 77).all()


# --- Refinement -------------------------------------------------------------------------------------------------


class Constant(LandmarkNetwork):
    """Finds the same shares of the crop in every image, mirrored ones exchanged."""

    def __init__(self, shares: NDArray[np.float64], log_scale: float) -> None:
        super().__init__((4, 4, 4), (1, 1, 1))
        self.shares, self.log_scale = torch.from_numpy(shares).float(), log_scale
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mirrored = self.shares[MIRRORED] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
        return torch.stack([self.shares, mirrored]), torch.full((2, 5), self.log_scale), torch.zeros(2, 5, 24, 24)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(FACES)
def test_right_points_stay(points: NDArray[np.float64]) -> None:
    """A network that finds the points where they are does not move them: crop, mirror and back are exact."""
    shares = (transform(crop_matrix(points), points) + 0.5) / CROP_PX
    refined, _ = Refiner(Constant(shares, -5.0)).refine(np.zeros((10, 10, 3), np.uint8), points)
    scale = np.hypot(*(points[1] - points[0]))
    np.testing.assert_allclose(refined, points, atol=1e-4 * max(scale, 1))


def test_confidence_falls_with_the_expected_error() -> None:
    shares = (transform(crop_matrix(FACE), FACE) + 0.5) / CROP_PX
    image = np.zeros((10, 10, 3), np.uint8)
    found = [Refiner(Constant(shares, scale)).refine(image, FACE)[1] for scale in (-7.0, -4.0, -2.0)]
    assert 1 >= found[0] > 0.99
    assert found[0] > found[1] > found[2] > 0


def test_confidence_is_the_probability_of_its_density() -> None:
    """Errors are drawn from the density exp(-r / s) / (2 pi s^2): r is the sum of two exponential numbers."""
    r = np.random.default_rng(0).exponential(0.3, (200_000, 2)).sum(axis=1)
    for distance in (0.1, 0.5, 1.5):
        expected = (r < distance).mean()
        assert within(torch.tensor(distance), torch.tensor(0.3)).item() == pytest.approx(expected, abs=0.005)


def test_network_that_finds_no_face() -> None:
    """Points that coincide are no face; the first points stay, without confidence."""
    refined, confidence = Refiner(Constant(np.full((5, 2), 0.5), -5.0)).refine(np.zeros((9, 9, 3), np.uint8), FACE)
    assert np.array_equal(refined, FACE)
    assert confidence == 0


def test_refiner_is_deterministic_and_does_not_change_its_arguments() -> None:
    torch.manual_seed(0)
    refiner = Refiner(LandmarkNetwork((8, 8, 8), (1, 1, 1)))
    image = np.random.default_rng(1).integers(0, 256, (120, 100, 3), dtype=np.uint8)
    before, points = image.copy(), FACE.copy()
    first, second = refiner.refine(image, points), refiner.refine(image, points)
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]
    assert first[0].dtype == np.float64
    assert np.array_equal(image, before)
    assert np.array_equal(points, FACE)


@pytest.mark.parametrize(
    ("image", "points", "message"),
    [
        (np.zeros((9, 9), np.uint8), FACE, r"image must be uint8 \[H, W, 3\], got uint8 \[9, 9\]"),
        (np.zeros((9, 9, 3), np.float32), FACE, "image must be uint8.*float32"),
        (np.zeros((0, 9, 3), np.uint8), FACE, r"image must be uint8.*\[0, 9, 3\]"),
        (np.zeros((9, 9, 3), np.uint8), FACE[:4], r"points must have shape \[5, 2\], got \[4, 2\]"),
        (np.zeros((9, 9, 3), np.uint8), np.zeros((5, 2)), "the eyes are 0.0 px apart"),
        (np.zeros((9, 9, 3), np.uint8), np.full((5, 2), np.nan), "the eyes are nan px apart"),
    ],
)
def test_unusable_arguments(image: NDArray[np.uint8], points: NDArray[np.float64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Refiner(LandmarkNetwork((4, 4, 4), (1, 1, 1))).refine(image, points)


@pytest.mark.parametrize("name", ["denoiser", "nothing"])
def test_weights_that_are_not_of_landmarks(name: str) -> None:
    with pytest.raises(WeightsError, match="weights of another network|no weights are called 'nothing'"):
        Refiner.load(name)


def test_places_without_weights(tmp_path: Path) -> None:
    """A folder is that of a run; anything else is an entry of a registry."""
    with pytest.raises(WeightsError, match=r"registry\.toml, which does not exist"):
        Refiner.load(tmp_path / "run")
    with pytest.raises(WeightsError, match=r"weights\.safetensors cannot be read: No such file.*has validated"):
        Refiner.load(tmp_path)
