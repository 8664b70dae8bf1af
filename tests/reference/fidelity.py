"""Peak signal-to-noise ratio, pixel by pixel."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def psnr(image: Iterable[float], truth: Iterable[float]) -> float:
    """PSNR in dB of two sequences of levels in [0, 255]."""
    squares = [(float(a) - float(b)) ** 2 for a, b in zip(image, truth, strict=True)]
    return 20 * math.log10(255) - 10 * math.log10(math.fsum(squares) / len(squares))


def luma(rgb: Iterable[int]) -> float:
    """Studio-range luma of one colour (ITU-R BT.601, as MATLAB's rgb2ycbcr has it)."""
    r, g, b = rgb
    return 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255


def psnr_y(image: NDArray[np.uint8], truth: NDArray[np.uint8], border: int) -> float:
    """PSNR of the luma of two images [3, H, W] within a border."""
    _, height, width = image.shape
    inner = [(i, j) for i in range(border, height - border) for j in range(border, width - border)]
    return psnr(*([luma(pixels[:, i, j].tolist()) for i, j in inner] for pixels in (image, truth)))


def radial_spectrum_db(image: NDArray[np.uint8]) -> list[float]:
    """Mean power of the windowed luma of [3, S, S] on rings one cycle per image wide, from S/8 up to S/2, in dB."""
    side = image.shape[-1]
    y = np.array([[luma(image[:, i, j].tolist()) for j in range(side)] for i in range(side)])
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * i / (side - 1)) for i in range(side)])
    power = np.abs(np.fft.fft2((y - y.mean()) * np.outer(window, window))) ** 2
    rings: dict[int, list[float]] = {}
    for i in range(side):
        for j in range(side):
            frequency = math.hypot(min(i, side - i), min(j, side - j))
            rings.setdefault(round(frequency), []).append(float(power[i, j]))
    return [10 * math.log10(math.fsum(rings[k]) / len(rings[k])) for k in range(side // 8, side // 2)]
