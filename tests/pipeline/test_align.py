import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from celebahq_builder.imaging.geometry import crop_from_landmarks, plan_padding
from celebahq_builder.imaging.padding import pad_photo
from celebahq_builder.imaging.warp import warp_quad
from celebahq_builder.pipeline.stages.align import AlignRecord
from celebahq_builder.pipeline.stages.crop import CropSettings
from celebahq_builder.pipeline.stages.denoise import DenoiseSettings
from celebahq_builder.pipeline.stages.upscale import UpscaleRecord, UpscaleSettings
from celebahq_builder.sources.photo import Photo
from tests.conftest import SAMPLE, TINY, build_tiny
from tests.pipeline.faces import aligned, crop_of, upscaled


def tilted(x: float, y: float, eyes: float, degrees: float) -> np.ndarray:
    """Landmarks of a face that is turned by some degrees, with eyes centred at (x, y)."""
    points = np.array([[-0.5, 0], [0.5, 0], [0, 0.5], [-0.4, 1.05], [0.4, 1.05]]) * eyes
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return points @ matrix + (x, y)


def photo_with_dots(folder: Path, points: np.ndarray, width: int = 300, height: int = 280) -> Photo:
    """A grey photo with a white dot at each landmark."""
    big = Image.new("RGB", (width * 8, height * 8), (100, 100, 100))
    draw = ImageDraw.Draw(big)
    for x, y in (points + 0.5) * 8:
        draw.ellipse((x - 16, y - 16, x + 16, y + 16), fill=(255, 255, 255))
    buffer = io.BytesIO()
    big.resize((width, height), Image.Resampling.BOX).save(buffer, "PNG")
    (folder / "dots.png").write_bytes(buffer.getvalue())
    return Photo("dots", "dots.png", tuple(points.flatten()))


@pytest.mark.parametrize(
    ("degrees", "x", "y"), [(0, 150, 120), (25, 150, 120), (-70, 150, 130), (180, 150, 150), (12, 70, 60)]
)
@pytest.mark.parametrize("resolution", [64, 256])
def test_landmarks_have_their_positions_in_the_result(
    degrees: float, x: float, y: float, resolution: int, tmp_path: Path
) -> None:
    points = tilted(x, y, 40, degrees)
    photo = photo_with_dots(tmp_path, points)
    face = crop_of(photo, tmp_path, CropSettings(), resolution)
    result = aligned(face, resolution)
    assert result.pixels.shape == (3, resolution, resolution)
    quad = crop_from_landmarks(points).quad
    basis = np.stack([quad[3] - quad[0], quad[1] - quad[0]])
    expected = (points + 0.5 - quad[0]) @ np.linalg.inv(basis) * resolution
    bright = result.pixels[0].numpy().astype(float) - 100
    for index in (0, 1, 3, 4):
        at = expected[index]
        rows, columns = np.mgrid[:resolution, :resolution]
        near = np.hypot(columns + 0.5 - at[0], rows + 0.5 - at[1]) < 5 * resolution / 160
        found = ndimage.center_of_mass(np.where(near, np.clip(bright, 0, None), 0))
        assert np.hypot(found[1] + 0.5 - at[0], found[0] + 0.5 - at[1]) < 0.5


def textured_photo(folder: Path, name: str, pixels: np.ndarray) -> None:
    """Store pixels [H, W, 3] as a photo."""
    Image.fromarray(pixels).save(folder / name)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("change", ["90", "180", "270", "mirrored"])
def test_rotated_or_mirrored_photos_give_equal_faces_up_to_rounding(change: str, padded: bool, tmp_path: Path) -> None:
    """The face does not depend on the orientation of the stored photo, and is mirrored with it."""
    rng = np.random.default_rng(7)
    height, width = 260, 320
    pixels = ndimage.gaussian_filter(rng.normal(128, 900, (height, width, 3)), (4, 4, 0)).clip(0, 255).astype(np.uint8)
    points = tilted(70, 80, 42, 17) if padded else tilted(160, 115, 34, 17)
    if change == "mirrored":
        changed = pixels[:, ::-1]
        moved = (np.array([width - 1, 0]) + points * (-1, 1))[[1, 0, 2, 4, 3]]
    else:
        turns = int(change) // 90
        changed, moved, size = pixels, points, (width, height)
        for _ in range(turns):  # a quarter turn to the left takes (x, y) to (y, W - 1 - x)
            moved = np.stack([moved[:, 1], size[0] - 1 - moved[:, 0]], axis=1)
            changed, size = np.rot90(changed), size[::-1]
    results = []
    for name, photo, marks in (("a.png", pixels, points), ("b.png", changed, moved)):
        textured_photo(tmp_path, name, np.ascontiguousarray(photo))
        face = crop_of(Photo(name, name, tuple(marks.flatten())), tmp_path, CropSettings(), 128)
        result = aligned(face, 128)
        assert result.record[AlignRecord].padded is padded
        results.append(result.pixels.float())
    first, second = results
    difference = (first - (second.flip(2) if change == "mirrored" else second)).abs()
    assert difference.max() <= (2 if padded else 1)  # the median of the padding comes from a regular grid of samples
    assert difference.mean() < 0.1
    assert first.std() > 20


def test_margin_does_not_influence_the_result(tmp_path: Path) -> None:
    points = tilted(150, 120, 30, 10)
    photo = photo_with_dots(tmp_path, points)
    plain = crop_of(photo, tmp_path, CropSettings(context_px=0), 64)
    wide = crop_of(photo, tmp_path, CropSettings(context_px=40), 64)
    spoilt = wide.pixels.clone()
    left, top, right, bottom = wide.margin
    spoilt[:, :top] = spoilt[:, spoilt.shape[1] - bottom :] = 255
    spoilt[:, :, :left] = spoilt[:, :, spoilt.shape[2] - right :] = 255
    a = aligned(plain, 64).pixels
    b = aligned(replace(wide, pixels=spoilt), 64).pixels
    assert torch.equal(a, b)


def test_padding_is_recorded(tmp_path: Path) -> None:
    inside = crop_of(photo_with_dots(tmp_path, tilted(150, 130, 30, 0)), tmp_path, CropSettings(), 64)
    assert aligned(inside, 64).record[AlignRecord].padded is False
    cut_off = crop_of(photo_with_dots(tmp_path, tilted(40, 60, 30, 0)), tmp_path, CropSettings(), 64)
    assert aligned(cut_off, 64).record[AlignRecord].padded is True


@pytest.mark.parametrize("eyes", [60, 90])
def test_padding_blurs_by_a_share_of_the_crop(eyes: int, tmp_path: Path) -> None:
    """The blur is measured in px of the photo, not of the result, and half of the crop lies outside."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    textured_photo(tmp_path, "a.png", pixels)
    face = crop_of(Photo("a", "a.png", tuple(tilted(eyes, eyes, eyes, 0).flatten())), tmp_path, CropSettings(), 64)
    left, top, right, bottom = face.margin
    inner = face.pixels[:, top : face.pixels.shape[1] - bottom, left : face.pixels.shape[2] - right]
    quad = face.quad - (left, top)
    plan = plan_padding(quad, inner.shape[2], inner.shape[1], face.border, round(0.3 * face.side))
    assert plan is not None
    padded = pad_photo(inner, plan, 0.02 * face.side)
    expected = warp_quad(padded, quad + (plan.left, plan.top), 64, 4).float()
    assert (aligned(face, 64).pixels - expected).abs().max() <= 1
    wrong = warp_quad(pad_photo(inner, plan, 0.02 * 64), quad + (plan.left, plan.top), 64, 4).float()
    assert (wrong - expected).abs().max() > 2


def test_upscaling_happens_where_pixels_are_missing(tmp_path: Path) -> None:
    face = crop_of(photo_with_dots(tmp_path, tilted(150, 130, 20, 0)), tmp_path, CropSettings(), 64)
    assert face.side > 64
    assert upscaled(face, UpscaleSettings(), 64) is not face
    assert upscaled(face, UpscaleSettings(), 64).record[UpscaleRecord].factor == 1
    grown = upscaled(face, UpscaleSettings(when="always"), 64)
    assert grown.record[UpscaleRecord].factor == 4
    assert grown.pixels.shape[1:] == tuple(4 * s for s in face.pixels.shape[1:])
    same = aligned(face, 64).pixels.float()
    fine = aligned(grown, 64).pixels.float()
    assert (same - fine).abs().mean() < 1.5


def test_golden_faces(tmp_path: Path) -> None:
    """Mean colours of three faces of the sample at 64x64 with the bundled networks, to half a grey level."""
    recipe = replace(TINY, denoise=DenoiseSettings(), upscale=UpscaleSettings(when="always"))
    build_tiny(tmp_path / "run", SAMPLE, recipe=recipe, limit=3, until="align")
    images = sorted((tmp_path / "run" / "stages" / "align" / "images").rglob("*.png"))
    means = {path.stem: np.asarray(Image.open(path)).mean(axis=(0, 1)).round(1).tolist() for path in images}
    assert means.keys() == GOLDEN.keys()
    for name, mean in means.items():
        assert mean == pytest.approx(GOLDEN[name], abs=0.5)


GOLDEN = {"000001": [165.5, 129.7, 113.5], "000002": [159.8, 141.2, 121.5], "000003": [138.3, 113.1, 101.2]}
