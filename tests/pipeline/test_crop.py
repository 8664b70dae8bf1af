import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.imaging.geometry import crop_from_landmarks
from celebahq_builder.limits import MAX_IMAGE_FILE_BYTES
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.pipeline.stages.crop import GRID_PX, CropRecord, CropSettings
from celebahq_builder.sources.official import ImageListRow
from celebahq_builder.sources.photo import Photo, in_column_order
from tests.pipeline.faces import crop_of


def landmarks(x: float, y: float, eyes: float) -> tuple[float, ...]:
    """An upright face whose eyes are centred at (x, y), `eyes` px apart."""
    half = eyes / 2
    return (x - half, y, x + half, y, x, y + half, x - half * 0.8, y + eyes, x + half * 0.8, y + eyes)


def write(folder: Path, pixels: np.ndarray, row: tuple[float, ...]) -> Photo:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    (folder / "a.png").write_bytes(buffer.getvalue())
    return Photo("a", "a.png", row)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_are_a_slice_of_the_photo_and_the_quad_is_moved(tmp_path: Path) -> None:
    pixels = noise(400, 500)
    photo = write(tmp_path, pixels, landmarks(250, 180, 30))
    face = crop_of(photo, tmp_path, CropSettings(context_px=20), 64)
    crop = crop_from_landmarks(np.reshape(photo.landmarks, (5, 2)))
    left, top = (crop.quad - face.quad)[0].round().astype(int)
    assert np.allclose(crop.quad - face.quad, (left, top))
    assert left % GRID_PX == top % GRID_PX == 0
    height, width = face.pixels.shape[1:]
    assert np.array_equal(face.pixels.permute(1, 2, 0).numpy(), pixels[top : top + height, left : left + width])
    assert face.record[CropRecord].size == (500, 400)
    assert face.record[CropRecord].zoom == pytest.approx(64 / crop.side)


def test_margin_is_beyond_the_border(tmp_path: Path) -> None:
    photo = write(tmp_path, noise(400, 500), landmarks(250, 180, 30))
    face = crop_of(photo, tmp_path, CropSettings(context_px=20), 64)
    left, top, right, bottom = face.margin
    low, high = face.quad.min(axis=0), face.quad.max(axis=0)
    height, width = face.pixels.shape[1:]
    assert 0 <= low[0] - face.border - left < 1
    assert 0 <= low[1] - face.border - top < 1
    assert 0 <= (width - right) - (high[0] + face.border) < 1
    assert 0 <= (height - bottom) - (high[1] + face.border) < 1
    assert 20 <= left < 20 + GRID_PX
    assert right == bottom == 20


def test_crop_ends_at_the_edges_of_the_photo(tmp_path: Path) -> None:
    photo = write(tmp_path, noise(120, 120), landmarks(60, 45, 30))
    face = crop_of(photo, tmp_path, CropSettings(), 64)
    assert face.pixels.shape == (3, 120, 120)
    assert face.margin == (0, 0, 0, 0)


def test_far_too_large_photos_are_shrunk_by_a_box(tmp_path: Path) -> None:
    pixels = noise(900, 1000)
    photo = write(tmp_path, pixels, landmarks(500, 400, 110))
    face = crop_of(photo, tmp_path, CropSettings(context_px=0), 64)
    side = crop_from_landmarks(np.reshape(photo.landmarks, (5, 2))).side
    shrink = int(side / 128)
    assert face.record[CropRecord].shrink == shrink == 3
    assert face.side == pytest.approx(side / shrink)
    left, top = np.round(crop_from_landmarks(np.reshape(photo.landmarks, (5, 2))).quad / shrink - face.quad)[0].astype(
        int
    )
    height, width = face.pixels.shape[1:]
    boxes = pixels[top * 3 : (top + height) * 3, left * 3 : (left + width) * 3].astype(float)
    mean = boxes.reshape(height, 3, width, 3, 3).mean(axis=(1, 3))
    assert np.abs(face.pixels.permute(1, 2, 0).numpy() - mean).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (landmarks(-30, 100, 40), Reason.LANDMARKS_OUTSIDE),
        (landmarks(100, 100, 5), Reason.CROP_TOO_SMALL),
        (landmarks(32, 2, 60), Reason.CROP_OUTSIDE),
        ((50.0, 50.0) * 5, Reason.DEGENERATE_LANDMARKS),
    ],
)
def test_reasons_of_rejected_crops(row: tuple[float, ...], reason: Reason, tmp_path: Path) -> None:
    photo = write(tmp_path, noise(200, 200), row)
    with pytest.raises(Rejection) as refused:
        crop_of(photo, tmp_path, CropSettings(inside_min=0.6), 64)
    assert refused.value.reason == reason


def rejected(photo: Photo, folder: Path, **limits: float) -> Reason | None:
    try:
        crop_of(photo, folder, CropSettings(**limits), 64)
    except Rejection as rejection:
        return rejection.reason
    return None


def test_pillows_own_limit_of_pixels_does_not_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = write(tmp_path, noise(200, 200), landmarks(100, 90, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert rejected(photo, tmp_path) is None


def test_boundaries_of_the_limits(tmp_path: Path) -> None:
    """A value that equals its limit is accepted."""
    row = (40.0, 50.0, 60.0, 50.0, 50.0, 65.0, 42.0, 80.0, 58.0, 80.0)  # the crop has 108 px
    photo = write(tmp_path, noise(200, 200), row)
    assert rejected(photo, tmp_path, crop_min_px=108) is None
    assert rejected(photo, tmp_path, crop_min_px=109) is Reason.CROP_TOO_SMALL
    assert rejected(photo, tmp_path, pixels_max=40_000) is None
    assert rejected(photo, tmp_path, pixels_max=39_999) is Reason.TOO_LARGE
    inside = crop_of(photo, tmp_path, CropSettings(), 64).record[CropRecord].inside
    assert 0.9 < inside < 1
    assert rejected(photo, tmp_path, inside_min=inside) is None
    assert rejected(photo, tmp_path, inside_min=np.nextafter(inside, 1)) is Reason.CROP_OUTSIDE


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("at_end", [False, True])
def test_boundary_of_landmarks_outside(axis: int, at_end: bool, tmp_path: Path) -> None:
    """A landmark may lie on the edge of the photo, half a pixel beyond the centre of the outermost one."""
    size = (300, 200)
    row = np.reshape(landmarks(100, 100, 40), (5, 2))
    row[2, axis] = size[axis] - 0.5 if at_end else -0.5  # the nose, which the crop does not use
    step = 0.01 if at_end else -0.01
    assert rejected(write(tmp_path, noise(*size[::-1]), tuple(row.ravel())), tmp_path) is None
    row[2, axis] += step
    photo = write(tmp_path, noise(*size[::-1]), tuple(row.ravel()))
    assert rejected(photo, tmp_path) is Reason.LANDMARKS_OUTSIDE
    side = crop_from_landmarks(row).side
    assert rejected(photo, tmp_path, landmarks_outside_max=0.0101 / side) is None
    assert rejected(photo, tmp_path, landmarks_outside_max=0.0099 / side) is Reason.LANDMARKS_OUTSIDE


def test_mirrored_face_is_rejected(tmp_path: Path) -> None:
    row = tuple(value + 10 * (i in (7, 9)) for i, value in enumerate(landmarks(100, 90, 40)))
    photo = write(tmp_path, noise(200, 200), in_column_order(row, "subject"))
    assert rejected(photo, tmp_path) is Reason.MIRRORED_LANDMARKS
    assert rejected(write(tmp_path, noise(200, 200), row), tmp_path) is None
    listed = replace(photo, listed=ImageListRow(0, "a.png", "0" * 32, "0" * 32))
    assert rejected(listed, tmp_path) is None  # its official image exists


def test_files_that_are_rejected_unread(tmp_path: Path) -> None:
    photo = write(tmp_path, noise(200, 200), landmarks(100, 90, 40))
    with (tmp_path / "a.png").open("ab") as file:
        file.truncate(MAX_IMAGE_FILE_BYTES + 1)
    assert rejected(photo, tmp_path) is Reason.UNREADABLE
    assert rejected(replace(photo, file="b.png"), tmp_path) is Reason.FILE_MISSING
    assert rejected(replace(photo, file="a.png/b.png"), tmp_path) is Reason.FILE_MISSING
    assert rejected(replace(photo, file="x" * 300), tmp_path) is Reason.UNREADABLE


def test_limits_can_be_set(tmp_path: Path) -> None:
    photo = write(tmp_path, noise(200, 200), landmarks(-5, 100, 40))
    loose = CropSettings(landmarks_outside_max=0.5, inside_min=0.1)
    assert crop_of(photo, tmp_path, loose, 64).record[CropRecord].inside < 0.6
    with pytest.raises(ValueError, match="inside_min"):
        CropSettings(inside_min=1.5)
