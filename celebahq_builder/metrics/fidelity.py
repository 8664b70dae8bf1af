"""Fidelity of restored images: PSNR and the error of the radial power spectrum."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA_BT601 = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""Weights of R, G and B in studio-range luma (ITU-R BT.601), the luma of super-resolution papers."""


def psnr(image: Tensor, truth: Tensor) -> float:
    """Return the peak signal-to-noise ratio of an image in dB: 10 log10(255^2 / mean squared error).

    Args:
        image: of any shape, uint8 or float in [0, 255].
        truth: the true image, as `image`.

    Returns:
        Infinity for equal images.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> round(psnr(torch.full((3, 8, 8), 100), torch.full((3, 8, 8), 101)), 2)
        48.13
    """
    if image.shape != truth.shape:
        raise ValueError(f"PSNR needs two images of one shape, got {tuple(image.shape)} and {tuple(truth.shape)}")
    error = (image.double() - truth.double()).square().mean()
    return float(10 * torch.log10(255.0**2 / error))


def luma(image: Tensor) -> Tensor:
    """Return BT.601 studio-range luma [H, W] in [16, 235] of an RGB image [3, H, W] in [0, 255]."""
    weights = torch.tensor(LUMA_BT601, dtype=torch.float64, device=image.device)
    return 16 + torch.einsum("c,chw->hw", weights, image.double())


def psnr_y(image: Tensor, truth: Tensor, border_px: int = 4) -> float:
    """Return the PSNR of the luma in dB, without a border, as super-resolution papers report it.

    Shapes: RGB [3, H, W] in [0, 255] each.
    """
    inner = slice(border_px, -border_px) if border_px else slice(None)
    return psnr(luma(image)[inner, inner], luma(truth)[inner, inner])


def spectrum_error_db(image: Tensor, truth: Tensor) -> float:
    """Return the mean absolute difference of two radial power spectra in dB; it is large if texture is missing.

    Args:
        image: [3, S, S], RGB in [0, 255].
        truth: as `image`.
    """
    return float((radial_spectrum_db(image) - radial_spectrum_db(truth)).abs().mean())


def radial_spectrum_db(image: Tensor) -> Tensor:
    """Return the mean power of the luma over rings of frequencies, in dB.

    Shapes: RGB [3, S, S] in [0, 255] -> float64, one value for each ring of one cycle per image, from S/8 to S/2.
    """
    y = luma(image)
    y = y - y.mean()
    size = min(y.shape)
    y = y[:size, :size]
    window = torch.hann_window(size, periodic=False, dtype=y.dtype, device=y.device)
    power = torch.fft.fft2(y * window[:, None] * window[None, :]).abs().square()
    axis = torch.fft.fftfreq(size, 1 / size, dtype=y.dtype, device=y.device)
    ring = torch.hypot(axis[:, None], axis[None, :]).round().long()
    sums = torch.bincount(ring.flatten(), power.flatten())
    counts = torch.bincount(ring.flatten())
    return 10 * torch.log10((sums / counts)[size // 8 : size // 2].clamp(min=1e-12))
