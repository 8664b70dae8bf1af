"""Augmented crops and their landmarks stay together."""

import numpy as np
import pytest

from celebahq_builder.landmarks.faces import AugmentationSettings, jittered_points, random_crop
from celebahq_builder.landmarks.refiner import CROP_PX
from tests.landmarks.test_refiner import FACE, placed

ONLY_GEOMETRY = AugmentationSettings(
    colour_share=0, grey_share=0, blur_share=0, coarse_share=0, noise_share=0, jpeg_share=0, occlusion_share=0
)


def test_landmarks_follow_the_pixels_and_are_exchanged_by_a_mirror() -> None:
    """Each landmark of the photo has its own colour; the crop shows at each landmark the colour of its own side.

    The left points are dark and the right ones bright, so an exchange that were forgotten would show.
    """
    points = placed(60, 40, 2.0, 12)
    levels = (60, 240, 150, 60, 240)
    image = np.zeros((320, 320, 3), np.uint8)
    y, x = np.mgrid[:320, :320]
    for level, (px, py) in zip(levels, points, strict=True):
        image[np.hypot(x - px, y - py) < 9] = level
    seen = set()
    for seed in range(40):
        settings = AugmentationSettings(**{**vars(ONLY_GEOMETRY), "mirror_share": 0.5})
        crop, found = random_crop(image, points, settings, np.random.default_rng(seed))
        assert crop.shape == (CROP_PX, CROP_PX, 3)
        assert found[0, 0] < found[1, 0]
        assert found[3, 0] < found[4, 0]
        levels_found = [int(crop[round(row), round(column), 0]) for column, row in found]
        seen.add(levels_found[0] < levels_found[1])
        expected = levels if levels_found[0] < levels_found[1] else (240, 60, 150, 240, 60)
        assert levels_found == pytest.approx(expected, abs=12)
    assert seen == {True, False}


def test_jitter_stays_within_its_limits_and_reaches_them() -> None:
    settings = AugmentationSettings(shift=0.1, scale=0.15, rotation_deg=20)
    moved = np.array([jittered_points(FACE, settings, np.random.default_rng(seed)) for seed in range(500)])
    eyes = moved[:, 1] - moved[:, 0]
    angles = np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))
    zooms = np.log(np.hypot(*eyes.T) / 20)
    assert 19 < np.abs(angles).max() <= 20
    assert 0.14 < np.abs(zooms).max() <= 0.15


def test_seed_decides_everything() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    a, b, other = (
        random_crop(image, FACE + 40, AugmentationSettings(), np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(a[1], b[1])
    assert not np.array_equal(a[1], other[1])


@pytest.mark.parametrize(
    "part", [name for name in vars(AugmentationSettings()) if name.endswith("_share") and name != "mirror_share"]
)
def test_each_change_changes_the_crop_but_not_the_landmarks(part: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    still = {**vars(ONLY_GEOMETRY), "shift": 0.0, "scale": 0.0, "rotation_deg": 0.0, "mirror_share": 0.0}
    often = AugmentationSettings(**still | {part: 1.0})
    plain, before = random_crop(image, FACE + 40, AugmentationSettings(**still), np.random.default_rng(3))
    changed, after = random_crop(image, FACE + 40, often, np.random.default_rng(3))
    assert not np.array_equal(plain, changed)
    assert np.array_equal(before, after)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"jpeg_share": 1.5}, "jpeg_share = 1.5 must be a share, 0 to 1"),
        ({"shift": -0.1}, "shift = -0.1 must be from 0 to 0.2"),
        ({"rotation_deg": 90.0}, "rotation_deg = 90.0 must be from 0 to 45"),
    ],
)
def test_settings_out_of_range(changed: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentationSettings(**changed)
