"""The image of a spectrum shows a frequency where it is, and how strong it is."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from celebahq_builder.imaging.quality_score import RANGE_DB, spectrum_image


def photo_like(size: int = 128, seed: int = 0) -> Tensor:
    """Return grey [3, S, S] whose amplitude falls as 1 / f, as that of photos does."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(size, size))) / np.maximum(f, 1 / size)
    noise[0, 0] = 0
    grey = np.fft.ifft2(noise).real
    pixels = np.clip(128 + 40 * grey / grey.std(), 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels).expand(3, -1, -1).contiguous()


def test_a_photo_is_evenly_grey_at_zero_db() -> None:
    shown = spectrum_image(photo_like(), 32).astype(float)
    zero_db = 255 * -RANGE_DB[0] / (RANGE_DB[1] - RANGE_DB[0])
    assert np.median(shown) == pytest.approx(zero_db, abs=25)
    ring = np.hypot(*(np.mgrid[:32, :32] - 16))
    inner, outer = shown[(ring > 3) & (ring < 8)].mean(), shown[(ring > 8) & (ring < 15)].mean()
    assert abs(inner - outer) < 15


def test_blur_is_dark_at_the_edges() -> None:
    sharp = photo_like()
    blurred = torch.from_numpy(cv2.GaussianBlur(sharp.numpy().transpose(1, 2, 0), (0, 0), 2).transpose(2, 0, 1).copy())
    shown = spectrum_image(blurred, 32)
    assert shown[0].max() < 40 < shown[12:20, 12:20].mean()
    assert spectrum_image(sharp, 32)[0].mean() > 120


@pytest.mark.parametrize(("across", "down"), [(32, 0), (0, 32), (16, -24)])
def test_stripes_are_two_dots(across: int, down: int) -> None:
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


def test_one_colour_is_black() -> None:
    assert not spectrum_image(torch.full((3, 64, 64), 77, dtype=torch.uint8), 16).any()
