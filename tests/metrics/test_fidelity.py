"""PSNR and spectra equal slow references and values computed by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from celebahq_builder.metrics.fidelity import luma, psnr, psnr_y, radial_spectrum_db, spectrum_error_db
from tests.reference import fidelity as reference

IMAGES = arrays(np.uint8, (3, 11, 12), elements=st.integers(0, 255), fill=st.nothing())


def test_psnr_by_hand() -> None:
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    assert psnr(image, image + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(image + 1, image) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 255.0)) == pytest.approx(0)
    assert psnr(image, image) == math.inf


def test_psnr_of_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"got \(3, 8, 8\) and \(3, 8, 9\)"):
        psnr(torch.zeros(3, 8, 8), torch.zeros(3, 8, 9))
    with pytest.raises(ValueError, match="one shape"):
        psnr(torch.zeros(3, 8, 8), torch.zeros(1, 8, 8))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(IMAGES, IMAGES, st.integers(0, 4))
def test_equals_the_reference(image: NDArray[np.uint8], truth: NDArray[np.uint8], border: int) -> None:
    image[:, 5, 5], truth[:, 5, 5] = (0, 90, 255), (255, 90, 1)  # never equal
    found = psnr(torch.from_numpy(image), torch.from_numpy(truth))
    assert found == pytest.approx(reference.psnr(image.ravel(), truth.ravel()), abs=1e-9)
    found = psnr_y(torch.from_numpy(image), torch.from_numpy(truth), border)
    assert found == pytest.approx(reference.psnr_y(image, truth, border), abs=1e-9)


def test_luma_is_studio_range() -> None:
    colours = torch.tensor([[255, 0, 255], [255, 0, 0], [255, 0, 0]])[:, None]
    assert luma(colours)[0].tolist() == pytest.approx([235, 16, 81.481])


def test_border_does_not_count() -> None:
    truth = torch.full((3, 20, 20), 50.0)
    image = truth + 1
    image[:, :4], image[:, -4:], image[:, :, :4], image[:, :, -4:] = 250, 250, 250, 250
    assert psnr_y(image, truth) == pytest.approx(psnr_y(truth + 1, truth))
    assert psnr_y(image, truth, border_px=3) < 30


def noise(side: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(64, 192, (3, side, side), dtype=np.uint8)


@pytest.mark.parametrize("side", [16, 33])
def test_radial_spectrum_equals_the_reference(side: int) -> None:
    found = radial_spectrum_db(torch.from_numpy(noise(side)))
    assert found.tolist() == pytest.approx(reference.radial_spectrum_db(noise(side)), abs=1e-6)


def test_spectrum_error() -> None:
    """Twice the contrast is 6.02 dB at all frequencies; a blurred image lacks texture, a mirrored image does not."""
    truth = torch.from_numpy(noise(64)).float()
    assert spectrum_error_db(truth, truth) == 0
    assert spectrum_error_db((truth - 128) * 2 + 128, truth) == pytest.approx(6.0206, abs=1e-3)
    assert spectrum_error_db(truth.flip(2), truth) == pytest.approx(0, abs=1e-6)
    blurred = torch.nn.functional.avg_pool2d(truth, 3, stride=1, padding=1, count_include_pad=False)
    assert spectrum_error_db(blurred, truth) > 6
    assert spectrum_error_db(torch.from_numpy(noise(64, seed=1)).float(), truth) < 3
