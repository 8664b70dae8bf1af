"""The public tool's steps: equal bytes on real photos, and each step against a slow reference."""

import hashlib
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from celebahq_builder.imaging import official_align
from celebahq_builder.imaging.official_align import OfficialImage
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import Photo
from tests.conftest import SAMPLE
from tests.reference import crop as crop_reference
from tests.reference import exact as reference
from tests.reference import padding as padding_reference

PINNED = {"pillow": "13.0.0", "numpy": "2.4.6", "scipy": "1.17.1"}
"""Versions that the MD5s were made with; others may round differently."""

REFERENCE_PHOTOS = [f"{i:06d}.jpg" for i in range(1, 17)]


def made(folder: Path, photo: Photo, resolution: int) -> tuple[np.ndarray, OfficialImage, tuple[int, int, bool]]:
    """Run all steps: the result uint8 [3, R, R], the padded image, and the results of shrink, enlarge and pad."""
    image = Image.open(folder / photo.file).convert("RGB")
    quad, zoom = official_align.crop_quad(np.reshape(photo.landmarks, (5, 2)), resolution)
    pixels, shrink = official_align.shrink(OfficialImage(image, quad, zoom, resolution))
    pixels, factor = official_align.enlarge(official_align.crop_region(pixels))
    pixels, padded = official_align.pad(pixels)
    return np.asarray(official_align.resample(pixels)).transpose(2, 0, 1), pixels, (shrink, factor, padded)


def md5(pixels: np.ndarray) -> str:
    return hashlib.md5(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def pinned_versions() -> bool:
    return all(version(name) == number for name, number in PINNED.items())


@pytest.mark.slow
@pytest.mark.parametrize("file", REFERENCE_PHOTOS)
def test_bytes_are_those_of_the_public_tool(file: str, shared: Path) -> None:
    expected = json.loads((shared / "reference" / "proc_reference.json").read_text())
    if not pinned_versions():
        pytest.skip(f"the reference MD5s hold only for {PINNED}")
    root = shared / "data" / "faces"
    photo = next(photo for photo in read_celeba(root).photos if photo.file == file)
    pixels, _, _ = made(root / "img_celeba", photo, 1024)
    assert md5(pixels) == expected["images"][file]["proc_md5"]


SAMPLE_MD5 = {
    ("000001", 128): ("f0b9861bf59023464e8049bd9cfa455a", [164.8, 129.0, 112.9], (1, 1, False)),
    ("000002", 128): ("3a95b81797c64a6383f271d1286002d0", [159.0, 140.5, 121.0], (1, 2, False)),
    ("000003", 128): ("d16a128a52698ec7f8b684d72470bccb", [137.7, 112.6, 100.8], (1, 1, True)),
    ("000005", 128): ("e452f6e7d3bd64b8272498432aa84255", [179.5, 151.0, 132.8], (2, 1, False)),
    ("000007", 128): ("034e9a14cf79717c0a88de254849b12d", [93.8, 93.8, 93.8], (1, 1, True)),
    ("000011", 128): ("1b6066be6edd33cf4d544e5c51c8d467", [155.8, 111.1, 99.9], (1, 1, True)),
    ("000014", 128): ("c8e6b73ce579c975f8b552f13f8ab18a", [123.4, 94.6, 90.4], (1, 1, True)),
    ("000001", 1024): ("1e427cd920dbc1fdf6f519592efbe201", [165.0, 129.2, 113.1], (1, 4, False)),
    ("000002", 1024): ("3f7b5a3f08e385b83ebeeb64aad44e56", [159.4, 140.9, 121.3], (1, 16, False)),
}
"""MD5, mean colour and results of the steps, of code that gave the public tool's bytes on all reference photos."""


@pytest.mark.parametrize(("name", "resolution"), SAMPLE_MD5)
def test_bytes_of_the_sample_do_not_change(name: str, resolution: int) -> None:
    photo = next(photo for photo in read_celeba(SAMPLE).photos if photo.id == name)
    pixels, _, steps = made(SAMPLE / "img_celeba", photo, resolution)
    expected, mean, expected_steps = SAMPLE_MD5[name, resolution]
    assert steps == expected_steps
    assert pixels.mean(axis=(1, 2)) == pytest.approx(mean, abs=0.1)
    if pinned_versions() and platform.machine() == "x86_64":
        assert md5(pixels) == expected


def landmarks(x: float, y: float, eyes: float, degrees: float) -> np.ndarray:
    points = np.array([[-0.5, 0], [0.5, 0], [0, 0.5], [-0.4, 1.05], [0.4, 1.05]]) * eyes
    turn = np.deg2rad(degrees)
    return points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + (x, y)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(0, 3000), st.floats(0, 3000), st.floats(5, 900), st.floats(-180, 180))
def test_crop_is_the_papers_to_float32(x: float, y: float, eyes: float, degrees: float) -> None:
    points = landmarks(x, y, eyes, degrees)
    quad, zoom = official_align.crop_quad(points, 1024)
    expected = np.array(crop_reference.crop_quad([(float(a), float(b)) for a, b in points]))
    assert quad.dtype == zoom.dtype == np.float32
    np.testing.assert_allclose(quad, expected, atol=0.005)
    # A float32 of 3000 px is exact to 1e-4 px, and the eyes may be 5 px apart.
    assert float(zoom) == pytest.approx(1024 / np.hypot(*(expected[3] - expected[0])), rel=2e-4)


def noise(height: int, width: int) -> Image.Image:
    rough = np.random.default_rng(3).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def planned(image: Image.Image, points: np.ndarray, resolution: int) -> OfficialImage:
    quad, zoom = official_align.crop_quad(points, resolution)
    return OfficialImage(image, quad, zoom, resolution)


@pytest.mark.parametrize(
    ("eyes", "shrink", "factor"), [(5, 1, 4), (9, 1, 2), (17, 1, 1), (30, 1, 1), (75, 2, 1), (130, 4, 1)]
)
def test_factors_of_shrink_and_enlarge(eyes: float, shrink: int, factor: int) -> None:
    """The crop is four eye distances wide."""
    image = planned(noise(900, 900), landmarks(450, 400, eyes, 0), 64)
    small, by = official_align.shrink(image)
    assert by == max(1, math.floor(0.5 / float(image.zoom))) == shrink
    assert small.image.size == (round(900 / shrink), round(900 / shrink))
    large, grown = official_align.enlarge(official_align.crop_region(small))
    assert grown == factor
    assert float(large.zoom) == pytest.approx(float(image.zoom) * shrink / factor, rel=1e-6)
    assert float(large.zoom) <= 1 or factor == 1


def test_crop_region_has_a_border() -> None:
    image = planned(noise(300, 400), landmarks(200, 130, 25, 10), 64)
    part = official_align.crop_region(image)
    assert part.border == round(0.1 * 64 / float(image.zoom))
    left, top = (image.quad - part.quad)[0].round().astype(int)
    assert (left, top) == tuple(np.floor(image.quad.min(axis=0)).astype(int) - part.border)
    whole = np.asarray(image.image)
    height, width = np.asarray(part.image).shape[:2]
    np.testing.assert_array_equal(np.asarray(part.image), whole[top : top + height, left : left + width])


@pytest.mark.parametrize(("x", "y", "degrees"), [(60, 50, 0), (150, 20, 20), (5, 195, -50)])
def test_padding_equals_the_reference(x: float, y: float, degrees: float) -> None:
    part = official_align.crop_region(planned(noise(200, 200), landmarks(x, y, 30, degrees), 128))
    padded, done = official_align.pad(part)
    assert done
    left, top = (padded.quad - part.quad)[0].round().astype(int)
    right, bottom = np.array(padded.image.size) - part.image.size - (left, top)
    assert min(left, top, right, bottom) >= round(0.3 * 128 / float(part.zoom))
    sigma = 0.02 * 128 / float(part.zoom)
    expected = padding_reference.pad(np.asarray(part.image), (left, top, right, bottom), sigma)
    off = np.abs(np.asarray(padded.image).astype(int) - expected)
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


def test_crop_well_inside_is_not_padded() -> None:
    part = official_align.crop_region(planned(noise(400, 400), landmarks(200, 180, 30, 5), 64))
    same, done = official_align.pad(part)
    assert not done
    assert same is part


@pytest.mark.parametrize("degrees", [0, 33, -120])
def test_resample_is_bilinear_then_lanczos(degrees: float) -> None:
    image = planned(noise(120, 120), landmarks(60, 50, 15, degrees), 16)
    found = np.asarray(official_align.resample(image)).astype(int)
    expected = reference.upright(np.asarray(image.image), image.quad.astype(float), 16)
    off = np.abs(found - expected)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.02
