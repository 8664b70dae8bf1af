"""MS-SSIM (Wang et al. 2003) in plain numpy and scipy, float64, whole windows at once."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve
from scipy.signal import fftconvolve

WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])


def ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the MS-SSIM of pairs of images [N, C, H, W], float64 [N]."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    product = np.ones(len(x))
    for scale, weight in enumerate(WEIGHTS):
        whole, contrast = ssim(x, y)
        product *= np.maximum(whole if scale == len(WEIGHTS) - 1 else contrast, 0) ** weight
        x, y = (convolve(p, np.full((1, 1, 2, 2), 0.25), mode="reflect")[:, :, ::2, ::2] for p in (x, y))
    return product


def ssim(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    size = min(11, *x.shape[2:])
    at = np.arange(size) - (size - 1) / 2
    window = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * (1.5 * size / 11) ** 2))
    window = (window / window.sum())[None, None]
    mean_x, mean_y = fftconvolve(x, window, mode="valid"), fftconvolve(y, window, mode="valid")
    var_x = fftconvolve(x * x, window, mode="valid") - mean_x**2
    var_y = fftconvolve(y * y, window, mode="valid") - mean_y**2
    covariance = fftconvolve(x * y, window, mode="valid") - mean_x * mean_y
    c1, c2 = 2.55**2, 7.65**2
    contrast = (2 * covariance + c2) / (var_x + var_y + c2)
    whole = contrast * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return whole.mean(axis=(1, 2, 3)), contrast.mean(axis=(1, 2, 3))
