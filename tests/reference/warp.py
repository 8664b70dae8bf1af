"""An oriented square made upright: one sample after another, in double precision."""

import math

import numpy as np
from numpy.typing import NDArray


def bilinear(photo: NDArray[np.uint8], x: float, y: float) -> NDArray[np.float64]:
    """Colour at a point in pixel-edge coordinates of uint8 [3, H, W]; outside, the nearest pixel's."""
    _, height, width = photo.shape
    x, y = x - 0.5, y - 0.5
    left, top = math.floor(x), math.floor(y)
    colour = np.zeros(3)
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        weight = (1 - abs(x - column)) * (1 - abs(y - row))
        colour += weight * photo[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
    return colour


def warp(
    photo: NDArray[np.uint8], quad: NDArray[np.float64], resolution: int, supersampling: int
) -> NDArray[np.float64]:
    """The square as float [3, resolution, resolution]: the mean of supersampling^2 samples per pixel."""
    result = np.zeros((3, resolution, resolution))
    fine = resolution * supersampling
    for i in range(fine):
        for j in range(fine):
            v, u = (i + 0.5) / fine, (j + 0.5) / fine
            x, y = quad[0] + v * (quad[1] - quad[0]) + u * (quad[3] - quad[0])
            result[:, i // supersampling, j // supersampling] += bilinear(photo, float(x), float(y))
    return result / supersampling**2
