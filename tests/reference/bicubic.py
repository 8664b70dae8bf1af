"""Enlargement by cubic convolution (Keys 1981), one result pixel after another."""

import math

import numpy as np
from numpy.typing import NDArray

A = -0.75
"""The kernel's free parameter, as torch has it."""


def weight(distance: float) -> float:
    """Keys' kernel."""
    d = abs(distance)
    if d < 1:
        return (A + 2) * d**3 - (A + 3) * d**2 + 1
    return A * d**3 - 5 * A * d**2 + 8 * A * d - 4 * A if d < 2 else 0.0


def enlarge(image: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    """Float [C, H, W] at `scale` times the size; pixels beyond the edge repeat the outermost ones."""
    return _along_rows(_along_rows(image, scale).transpose(0, 2, 1), scale).transpose(0, 2, 1)


def _along_rows(image: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    channels, height, width = image.shape
    result = np.zeros((channels, height * scale, width))
    for i in range(height * scale):
        place = (i + 0.5) / scale - 0.5
        for k in range(math.floor(place) - 1, math.floor(place) + 3):
            result[:, i] += weight(place - k) * image[:, min(max(k, 0), height - 1)]
    return result
