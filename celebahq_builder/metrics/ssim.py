"""Structural similarity of two pictures (Wang et al. 2004)."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW_PX, SIGMA_PX = 11, 1.5
"""Gaussian window; it shrinks to pictures smaller than itself, and its width with it."""

K1, K2 = 0.01, 0.03
RANGE = 255.0


def ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the structural similarity of pictures, and its contrast-structure part, which MS-SSIM needs.

    Args:
        a: [N, C, H, W], uint8 or float in [0, 255].
        b: as `a`.

    Returns:
        Means over channels and over all places where the window lies inside: two float64 [N], at most 1.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"SSIM needs pictures of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    taps = _window(min(WINDOW_PX, *a.shape[-2:])).to(a.device)
    mean_a, mean_b = _blur(a, taps), _blur(b, taps)
    var_a = _blur(a * a, taps) - mean_a * mean_a
    var_b = _blur(b * b, taps) - mean_b * mean_b
    covariance = _blur(a * b, taps) - mean_a * mean_b
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    return (luminance * contrast).mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))


def _window(size: int) -> Tensor:
    sigma = SIGMA_PX * size / WINDOW_PX
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    taps = torch.exp(-at.square() / (2 * sigma**2))
    return taps / taps.sum()


def _blur(images: Tensor, taps: Tensor) -> Tensor:
    """Filter along both axes, where the window lies inside: shifted sums, five times as fast as conv2d in float64."""
    for axis in (3, 2):
        length = images.shape[axis] - len(taps) + 1
        total = images.narrow(axis, 0, length) * taps[0]
        for k in range(1, len(taps)):
            total.add_(images.narrow(axis, k, length), alpha=float(taps[k]))
        images = total
    return images
