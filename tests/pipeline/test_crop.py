import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.imaging.geometry import crop_from_landmarks
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.pipeline.stages.crop import GRID_PX, CropRecord, CropSettings
from celebahq_builder.sources.photo import Photo
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


def test_limits_can_be_set(tmp_path: Path) -> None:
    photo = write(tmp_path, noise(200, 200), landmarks(-5, 100, 40))
    loose = CropSettings(landmarks_outside_max=0.5, inside_min=0.1)
    assert crop_of(photo, tmp_path, loose, 64).record[CropRecord].inside < 0.6
    with pytest.raises(ValueError, match="inside_min"):
        CropSettings(inside_min=1.5)
