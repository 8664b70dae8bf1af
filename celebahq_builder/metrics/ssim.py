"""Structural similarity of two pictures (Wang et al. 2004)."""

from __future__ import annotations

import functools

import cv2
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
    contrast, product, squares = _contrast(a, b)
    c1 = (K1 * RANGE) ** 2
    luminance = product.mul_(2).add_(c1).div_(squares.add_(c1))
    return (luminance * contrast).mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))


def contrast_structure(a: Tensor, b: Tensor) -> Tensor:
    """Return the second of `ssim`'s results in less time: the contrast-structure part."""
    return _contrast(a, b)[0].mean(dim=(1, 2, 3))


def _contrast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the contrast-structure part, the product of the local means, and the sum of their squares, everywhere.

    In place where it can be: memory that is asked for anew takes longer than the arithmetic.
    """
    if a.shape != b.shape:
        raise ValueError(f"SSIM needs pictures of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    taps = _window(min(WINDOW_PX, *a.shape[-2:])).to(a.device)
    mean_a, mean_b = _blur(a, taps), _blur(b, taps)
    product = mean_a * mean_b
    squares = mean_a.square_().addcmul_(mean_b, mean_b)
    covariance = _blur(a * b, taps).sub_(product)
    variances = _blur((a * a).addcmul_(b, b), taps).sub_(squares)
    c2 = (K2 * RANGE) ** 2
    return covariance.mul_(2).add_(c2).div_(variances.add_(c2)), product, squares


@functools.lru_cache
def _window(size: int) -> Tensor:
    sigma = SIGMA_PX * size / WINDOW_PX
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    taps = torch.exp(-at.square() / (2 * sigma**2))
    return taps / taps.sum()


def _blur(images: Tensor, taps: Tensor) -> Tensor:
    """Filter along both axes, where the window lies inside."""
    return _by_opencv(images, taps) if images.device.type == "cpu" else _by_torch(images, taps)


def _by_opencv(images: Tensor, taps: Tensor) -> Tensor:
    """Filter all pictures as one, below each other: where they meet, no window lies inside."""
    height, width = (side - len(taps) + 1 for side in images.shape[-2:])
    plane, window = images.reshape(-1, images.shape[-1]).numpy(), taps.numpy()
    blurred = torch.from_numpy(cv2.sepFilter2D(plane, cv2.CV_64F, window, window, anchor=(0, 0)))
    return blurred.view(images.shape)[..., :height, :width]


def _by_torch(images: Tensor, taps: Tensor) -> Tensor:
    """Add shifted pictures, which takes a fifth of the time of conv2d in float64."""
    for axis in (3, 2):
        length = images.shape[axis] - len(taps) + 1
        total = images.narrow(axis, 0, length) * taps[0]
        for k in range(1, len(taps)):
            total.add_(images.narrow(axis, k, length), alpha=float(taps[k]))
        images = total
    return images
