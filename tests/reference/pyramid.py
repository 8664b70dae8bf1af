"""The levels of an image by exact fractions: means of whole blocks of the original, halves to even."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def level(image: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """The level of `resolution` of uint8 [C, R, R].

    Means carried in float32 are exact here: a sum of k squared bytes divided by a power of two needs at most
    8 + 2 log2(k) bits, which a float32 holds up to R / r = 256.
    """
    channels, side, _ = image.shape
    block = side // resolution
    result = np.zeros((channels, resolution, resolution), np.uint8)
    for c in range(channels):
        for i in range(resolution):
            for j in range(resolution):
                cell = image[c, i * block : (i + 1) * block, j * block : (j + 1) * block]
                result[c, i, j] = round(Fraction(int(cell.sum(dtype=np.int64)), block * block))
    return result
