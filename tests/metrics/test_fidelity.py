"""PSNR and spectra equal slow references and values computed by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from celebahq_builder.metrics.fidelity import (
    block_profile,
    blocking,
    blocking_loss,
    luma,
    psnr,
    psnr_y,
    radial_spectrum_db,
    spectrum_error_db,
)
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


# --- JPEG blocks ------------------------------------------------------------------------------------------------


def grainy(count: int = 4, side: int = 96) -> torch.Tensor:
    """Flat images with grain of 2 grey levels."""
    grain = np.random.default_rng(0).normal(0, 2, (count, 3, side, side))
    return torch.from_numpy(120 + grain).float()


def test_profile_of_grain_and_shading_is_even() -> None:
    shading = torch.linspace(0, 96, 96)  # 1 level per px
    assert blocking(block_profile(grainy() + shading, grainy() * 0 + shading)) < 0.1


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("shift", [0, 3])
def test_profile_has_the_steps_between_blocks(dim: int, shift: int) -> None:
    """Half of the counted edges are in the other direction, in which there is no step."""
    shape = [1, 1, 1, 1]
    shape[dim] = 96
    steps = (torch.arange(96) // 8 % 2).roll(shift).view(shape)
    flat = torch.full((1, 3, 96, 96), 100.0)
    for height in (1, 3):
        profile = block_profile(flat + height * steps, flat)
        expected = torch.zeros(8)
        expected[(7 + shift) % 8] = height / 2
        assert torch.allclose(profile, expected, atol=height * 0.05 if shift else 1e-6)
        assert blocking(profile) == pytest.approx(float(profile.max()))
        assert float(blocking_loss(profile)) == pytest.approx(0 if shift else height / 2)


def test_profile_does_not_count_textured_areas() -> None:
    flat = torch.full((1, 3, 96, 96), 100.0)
    texture = flat + 30 * (torch.arange(96) // 3 % 2)
    assert block_profile(flat + 4.0 * (torch.arange(96) // 8 % 2), texture).tolist() == [0.0] * 8


def test_pattern_that_repeats_twice_in_a_block_is_blocking() -> None:
    """A network that hides block edges among more edges of its own does not have less of it."""
    flat = torch.full((1, 3, 96, 96), 100.0)
    twice = block_profile(flat + 4.0 * (torch.arange(96) // 4 % 2), flat)
    assert blocking(twice) == pytest.approx(2 - 2 / 7)


def test_gradient_of_the_loss_is_that_of_the_edges() -> None:
    for edge, expected in ((0.8, 1.0), (0.3, 0.0)):
        profile = torch.tensor([0.4] * 7 + [edge], requires_grad=True)
        blocking_loss(profile).backward()
        assert profile.grad.tolist() == [0.0] * 7 + [expected]


def test_gradient_reaches_the_pixels_at_the_edges() -> None:
    steps = 100.0 + 4 * (torch.arange(32) // 8 % 2)
    image = (torch.zeros(1, 3, 32, 32) + steps).requires_grad_()
    blocking_loss(block_profile(image, torch.full((1, 3, 32, 32), 100.0))).backward()
    assert image.grad.sum(dim=(0, 1, 2)).nonzero().flatten().tolist() == [7, 8, 15, 16, 23, 24]
    assert float(image.grad[..., 7].sum()) < 0 < float(image.grad[..., 8].sum())
