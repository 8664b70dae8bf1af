"""The score is in [0, 1], falls with damage, and is invariant to brightness, contrast and orientation."""

import io
import math
from collections.abc import Callable
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter1d, zoom
from torch import Tensor

from celebahq_builder.imaging.geometry import crop_from_landmarks
from celebahq_builder.imaging.quality_score import RANGE_DB, quality_score, quality_scores, spectrum_image
from celebahq_builder.imaging.warp import warp_quad

SAMPLE = Path(__file__).parents[1] / "sample" / "celeba"

Pixels = NDArray[np.uint8]


def levels(image: NDArray[np.floating] | Pixels) -> torch.Tensor:
    return torch.from_numpy(np.clip(np.rint(image), 0, 255).astype(np.uint8))


def score(image: NDArray[np.floating] | Pixels) -> float:
    return quality_score(levels(image)).score


def face(name: str) -> Pixels:
    """A photo of the sample, aligned at 256 x 256."""
    lines = (SAMPLE / "Anno" / "list_landmarks_celeba.txt").read_text().splitlines()
    row = next(line for line in lines if line.startswith(name)).split()[1:]
    with Image.open(SAMPLE / "img_celeba" / name) as image:
        pixels = torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())
    return warp_quad(pixels, crop_from_landmarks(np.array(row, float).reshape(5, 2)).quad, 256).numpy()


def natural(seed: int, side: int = 256) -> Pixels:
    """Noise whose amplitude falls as 1 / f, as in photos."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = 1
    white = np.random.default_rng(seed).normal(size=(3, side, side))
    image = np.fft.ifft2(np.fft.fft2(white) / frequency).real
    return np.clip(image / image.std() * 35 + 128, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["000001.jpg", "000005.jpg", "000006.jpg", "noise 0", "noise 1"])
def image(request: pytest.FixtureRequest) -> Pixels:
    name: str = request.param
    return face(name) if name.endswith(".jpg") else natural(int(name.split()[1]))


def blurred(image: Pixels, sigma: float) -> NDArray[np.float64]:
    return gaussian_filter(image.astype(float), (0, sigma, sigma))


def down_and_up(image: Pixels) -> NDArray[np.float64]:
    small = image.reshape(3, 64, 4, 64, 4).mean(axis=(2, 4))
    return zoom(small, (1, 4, 4), order=3, mode="nearest", grid_mode=True)


def odd_lines_shifted(image: Pixels) -> Pixels:
    """As in interlaced video of a moving object."""
    shifted = image.copy()
    shifted[:, 1::2] = np.roll(image[:, 1::2], 4, axis=2)
    return shifted


def noisy(image: Pixels) -> NDArray[np.float64]:
    return image + np.random.default_rng(0).normal(scale=25, size=image.shape)


DAMAGE: dict[str, Callable[[Pixels], NDArray[np.floating] | Pixels]] = {
    "blur 1": lambda p: blurred(p, 1),
    "blur 2": lambda p: blurred(p, 2),
    "blur 4": lambda p: blurred(p, 4),
    "down and up": down_and_up,
    "motion blur": lambda p: uniform_filter1d(p.astype(float), 15, axis=2),
    "motion blur down": lambda p: uniform_filter1d(p.astype(float), 15, axis=1),
    "odd lines shifted": odd_lines_shifted,
    "noise 25": noisy,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_lowers_the_score(kind: str, image: Pixels) -> None:
    assert score(DAMAGE[kind](image)) < score(image)


def test_more_blur_never_scores_higher(image: Pixels) -> None:
    scores = [score(image), *(score(blurred(image, sigma)) for sigma in (1, 1.5, 2, 3, 4, 6, 8))]
    assert scores == sorted(scores, reverse=True)


def test_strong_damage_costs_most_of_the_score(image: Pixels) -> None:
    whole = score(image)
    for kind in ("blur 4", "motion blur", "odd lines shifted"):
        assert score(DAMAGE[kind](image)) < 0.55 * whole, kind


def test_natural_images_score_well(image: Pixels) -> None:
    assert score(image) > 0.3


def test_mirrored_and_turned(image: Pixels) -> None:
    changed = [np.flip(image, axis) for axis in (1, 2)] + [np.rot90(image, turns, axes=(1, 2)) for turns in (1, 2, 3)]
    for other in changed:
        assert score(other.copy()) == pytest.approx(score(image), rel=0.001)


def test_brightness_and_contrast_do_not_matter(image: Pixels) -> None:
    dim = image // 2
    assert score(dim + 127) == pytest.approx(score(dim), rel=0.01)
    assert score(dim * 2) == pytest.approx(score(dim), rel=0.01)
    assert score(255 - image) == pytest.approx(score(image), rel=0.01)


@pytest.mark.parametrize("name", ["000001.jpg", "000005.jpg", "000006.jpg"])
def test_errors_of_jpeg_in_a_murky_image_are_not_detail(name: str) -> None:
    """A dark, soft image, saved at low quality and enlarged, has a broad spectrum without detail."""
    small = zoom(blurred(face(name), 4), (1, 0.25, 0.25), order=1) / 16 + 20
    buffer = io.BytesIO()
    Image.fromarray(levels(small).permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=50)
    murky = np.asarray(Image.open(buffer)).transpose(2, 0, 1).astype(float)
    assert score(zoom(murky, (1, 4, 4), order=3)) < 0.25 * score(face(name))


@pytest.mark.parametrize("side", [64, 128, 256])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (3, 3, 3), (10, 20, 30), (255, 0, 0), (200, 100, 77)])
def test_one_colour_scores_nothing(side: int, colour: tuple[int, int, int]) -> None:
    pixels = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, side, side).contiguous()
    assert quality_score(pixels).score == 0


def stripes(side: int = 128) -> Pixels:
    return np.broadcast_to((np.arange(side) % 8 < 4) * np.uint8(255), (3, side, side)).copy()


def one_pixel(side: int = 128) -> Pixels:
    image = np.zeros((3, side, side), np.uint8)
    image[:, side // 2, side // 2] = 255
    return image


@settings(max_examples=50, deadline=None, derandomize=True)
@given(arrays(np.uint8, (3, 64, 64)) | st.sampled_from([stripes(), one_pixel(), natural(3, 64)]))
def test_all_components_are_in_the_unit_interval(image: Pixels) -> None:
    quality = quality_score(torch.from_numpy(image))
    for part in astuple(quality):
        assert 0 <= part <= 1
    clean = (1 - 0.175 * (1 - quality.purity)) * (1 - 0.08 * (1 - quality.blockfree))
    assert quality.score == pytest.approx(quality.breadth * quality.symmetry**0.5 * clean, rel=1e-6)


def test_stripes_are_not_symmetric() -> None:
    quality, whole = quality_score(torch.from_numpy(stripes())), quality_score(torch.from_numpy(natural(0, 128)))
    assert quality.symmetry < 0.1 * whole.symmetry
    assert quality.score < 0.2 * whole.score


def test_noise_lowers_purity(image: Pixels) -> None:
    def purity(image: NDArray[np.floating] | Pixels) -> float:
        return quality_score(levels(image)).purity

    assert purity(noisy(image)) <= purity(image) < 1.01
    assert purity(blurred(image, 2)) > purity(noisy(blurred(image, 2)))


def test_blocks_lower_blockfree() -> None:
    rng = np.random.default_rng(0)
    smooth = blurred(natural(0, 256), 1.0)
    steps = np.kron(rng.normal(scale=6, size=(1, 32, 32)), np.ones((1, 8, 8)))
    assert quality_score(levels(smooth)).blockfree > 0.95
    assert quality_score(levels(smooth + steps)).blockfree < 0.4


def test_batches_do_not_matter() -> None:
    images = torch.from_numpy(np.stack([natural(seed) for seed in range(3)] + [np.zeros((3, 256, 256), np.uint8)]))
    for together, alone in zip(quality_scores(images), map(quality_score, images), strict=True):
        assert astuple(together) == pytest.approx(astuple(alone), rel=1e-6, abs=1e-9)


def slow_score(image: Pixels) -> tuple[float, ...]:
    """The formula of the docstring, ring by ring in NumPy."""
    size = image.shape[-1]
    luma = np.tensordot([0.299, 0.587, 0.114], image.astype(float), 1)
    place = (np.arange(size) + 0.5) / size * 2 - 1
    window = 0.5 + 0.5 * np.cos(np.pi * np.minimum(np.hypot(place[:, None], place[None]), 1))
    power = np.abs(np.fft.fft2((luma - np.average(luma, weights=window)) * window)) ** 2
    cycles = np.fft.fftfreq(size, 1 / size)
    radius, nyquist = np.hypot(cycles[:, None], cycles[None]), size / 2
    edges = nyquist * 2.0 ** np.arange(-5, 0.001, 1 / 8)
    rings = [power[(radius >= low) & (radius < high)] for low, high in pairwise(edges)]
    centre = np.sqrt(edges[:-1] * edges[1:])
    mean = np.array([ring.mean() for ring in rings])
    energy = centre**2 * mean
    plateau = energy[centre < 0.1 * nyquist].mean()
    floor = power[(radius > 0.9 * nyquist) & (radius <= nyquist)].mean()
    fall = (0.95 / 0.47) ** 1.5
    before = mean[(centre > 0.4 * nyquist) & (centre < 0.55 * nyquist)].mean()
    noise = max((fall * floor - before) / (fall - 1), 0.6 * floor)
    detail = (centre > nyquist / 16) & (centre < 0.92 * nyquist)
    contrast = max(plateau, 2.4**2 * size**2 * (window**2).sum() / (2 * np.pi * np.log(2)))
    decibels = 10 * np.log10(np.maximum(centre**2 * (mean - 3 * noise), 1e-9) / contrast)
    onset = np.maximum(decibels, -16)[(centre > nyquist / 12) & (centre < nyquist / 8)].mean()
    breadth = np.clip(1 + decibels / 16, 0, 1)[detail].mean() * np.exp(min(0, onset + 6) / 3)
    flatness = [min(1, math.exp(np.euler_gamma) * math.exp(np.log(r).mean()) / r.mean()) for r in rings]
    symmetry = math.exp(np.log(flatness)[detail].mean())
    purity = 1 - np.clip((10 * np.log10(nyquist**2 * floor / plateau) + 24) / 16.8, 0, 1)
    return float(breadth), symmetry, float(purity)


def test_equals_the_formula(image: Pixels) -> None:
    quality = quality_score(torch.from_numpy(image))
    assert (quality.breadth, quality.symmetry, quality.purity) == pytest.approx(slow_score(image), rel=1e-4)


# The image of the spectrum


def photo_like(size: int = 128, seed: int = 0) -> Tensor:
    """A grey image [3, S, S] whose amplitude falls as 1 / f, as in photos."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(size, size))) / np.maximum(f, 1 / size)
    noise[0, 0] = 0
    grey = np.fft.ifft2(noise).real
    pixels = np.clip(128 + 40 * grey / grey.std(), 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels).expand(3, -1, -1).contiguous()


def test_spectrum_of_a_photo_is_uniform_at_0_db() -> None:
    shown = spectrum_image(photo_like(), 32).astype(float)
    zero_db = 255 * -RANGE_DB[0] / (RANGE_DB[1] - RANGE_DB[0])
    assert np.median(shown) == pytest.approx(zero_db, abs=25)
    ring = np.hypot(*(np.mgrid[:32, :32] - 16))
    inner, outer = shown[(ring > 3) & (ring < 8)].mean(), shown[(ring > 8) & (ring < 15)].mean()
    assert abs(inner - outer) < 15


def test_spectrum_of_a_blurred_photo_is_dark_at_the_edges() -> None:
    sharp = photo_like()
    blurred = torch.from_numpy(cv2.GaussianBlur(sharp.numpy().transpose(1, 2, 0), (0, 0), 2).transpose(2, 0, 1).copy())
    shown = spectrum_image(blurred, 32)
    assert shown[0].max() < 40 < shown[12:20, 12:20].mean()
    assert spectrum_image(sharp, 32)[0].mean() > 120


@pytest.mark.parametrize(("across", "down"), [(32, 0), (0, 32), (16, -24)])
def test_spectrum_of_stripes_has_two_dots(across: int, down: int) -> None:
    y, x = np.mgrid[:128, :128] / 128
    stripes = 20 * np.cos(2 * np.pi * (across * x + down * y))
    plain = photo_like().numpy() * 0.7 + 38
    without, found = (
        spectrum_image(torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8)), 128).astype(int)
        for pixels in (plain, plain + stripes)
    )
    for dot in ((64 + down, 64 + across), (64 - down, 64 - across)):
        assert without[dot] < 235
        assert found[dot] == 255
    assert np.median(np.abs(found - without)) < 12


def test_spectrum_of_one_colour_is_black() -> None:
    assert not spectrum_image(torch.full((3, 64, 64), 77, dtype=torch.uint8), 16).any()
