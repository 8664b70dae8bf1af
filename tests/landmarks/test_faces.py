"""Faces of a folder: the split, what is left out, where landmarks lie in the crops; augmented crops."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import SourceError, TrainingError
from celebahq_builder.imaging.geometry import crop_from_landmarks
from celebahq_builder.landmarks.faces import (
    CONTEXT_PX,
    CONTEXT_SHARE,
    AugmentationSettings,
    LandmarkFaces,
    jittered_points,
    random_crop,
)
from celebahq_builder.landmarks.refiner import CROP_PX
from celebahq_builder.sources.photo import COLUMNS, Photo
from tests.landmarks.runs import SAMPLE
from tests.landmarks.test_refiner import FACE, placed

HEADER = " ".join(COLUMNS)
ROW = "40 50 60 50 50 65 42 80 58 80"


def folder_of(root: Path, count: int, row: str = ROW) -> Path:
    """Make a folder in CelebA's layout with equal grey photos."""
    (root / "img_celeba").mkdir(parents=True)
    (root / "Anno").mkdir()
    names = [f"{i:06d}.jpg" for i in range(count)]
    for name in names:
        Image.fromarray(np.full((120, 100, 3), 90, np.uint8)).save(root / "img_celeba" / name)
    table = [str(count), HEADER, *(f"{name} {row}" for name in names)]
    (root / "Anno" / "list_landmarks_celeba.txt").write_text("\n".join(table) + "\n")
    return root


def test_every_fifth_row_is_held_out(tmp_path: Path) -> None:
    faces = LandmarkFaces.read(folder_of(tmp_path, 20), held_out=4, in_memory_bytes=0)
    assert [photo.id for photo in faces.training if isinstance(photo, Photo)] == [
        f"{i:06d}" for i in range(20) if i % 5
    ]
    assert len(faces.held_out) == 4
    assert faces.summary == "16 photos, 4 held out"


def test_damaged_photo_of_the_sample_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        faces = LandmarkFaces.read(SAMPLE, held_out=3)
    assert faces.summary == "11 photos, 3 held out"
    assert "1 photos or rows are left out, the first is 000009.jpg: 12285 bytes" in caplog.text


def test_landmarks_lie_at_the_same_place_in_the_crop() -> None:
    """The centre of CelebA-HQ's crop is that of the crop, and its side is its share."""
    for image, points in LandmarkFaces.read(SAMPLE, held_out=3).held_out:
        assert image.shape == (CONTEXT_PX, CONTEXT_PX, 3)
        crop = crop_from_landmarks(points)
        np.testing.assert_allclose(crop.quad.mean(axis=0), CONTEXT_PX / 2, atol=1e-9)
        assert crop.side == pytest.approx(CONTEXT_PX / CONTEXT_SHARE)


def test_faces_do_not_depend_on_memory() -> None:
    kept, decoded = (LandmarkFaces.read(SAMPLE, held_out=3, in_memory_bytes=size) for size in (10**9, 3 * 208 * 208))
    assert [isinstance(face, Photo) for face in decoded.training][:2] == [False, True]
    assert decoded.digest == kept.digest
    for index in range(4):
        for a, b in zip(kept.face(index), decoded.face(index), strict=True):
            assert np.array_equal(a, b)


def test_damaged_photo_that_is_decoded_later() -> None:
    faces = LandmarkFaces.read(SAMPLE, held_out=3, in_memory_bytes=0)
    index = next(i for i, one in enumerate(faces.training) if isinstance(one, Photo) and one.id == "000009")
    with pytest.raises(
        TrainingError, match=r"training photo .*000009\.jpg cannot be read: 12285 bytes.*remove its row"
    ):
        faces.face(index)


def test_rows_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing file, a mirrored face and points that coincide are left out and counted."""
    root = folder_of(tmp_path, 9)
    table = root / "Anno" / "list_landmarks_celeba.txt"
    lines = table.read_text().splitlines()
    lines[3] = f"000001.jpg {'60 50 40 50 50 65 58 80 42 80'}"
    lines[4] = f"000002.jpg {'50 50 50 50 50 50 50 50 50 50'}"
    table.write_text("\n".join(lines) + "\n")
    (root / "img_celeba" / "000003.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        faces = LandmarkFaces.read(root, held_out=2)
    assert faces.summary == "4 photos, 2 held out"
    assert "3 photos or rows are left out, the first is 000001.jpg: the face is mirrored" in caplog.text


def test_too_few_rows(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"`celeba_root` .*: 5 of 5 photos can be used; training needs 6 or more"):
        LandmarkFaces.read(folder_of(tmp_path, 5), held_out=3)


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="lists no photos"):
        LandmarkFaces.read(folder_of(tmp_path, 0), held_out=3)


def test_folder_that_is_not_celeba(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the folder of in-the-wild photos is not in `celeba_root`"):
        LandmarkFaces.read(tmp_path, held_out=3)


def test_all_photos_damaged(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 6)
    for path in (root / "img_celeba").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(TrainingError, match="no photo can be decoded"):
        LandmarkFaces.read(root, held_out=2)


def test_digest_is_that_of_names_and_landmarks(tmp_path: Path) -> None:
    a = LandmarkFaces.read(folder_of(tmp_path / "a", 6), held_out=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert LandmarkFaces.read(tmp_path / "b", held_out=2).digest == a.digest
    other = folder_of(tmp_path / "c", 6, "40 50 60 50 50 65 42 80 58 81")
    assert LandmarkFaces.read(other, held_out=2).digest != a.digest


# --- Augmentation -----------------------------------------------------------------------------------------------

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
