"""TensorFlow 1's resize_bilinear with align_corners = False, pixel by pixel."""

import numpy as np


def resize_bilinear(image: np.ndarray, side: int) -> np.ndarray:
    """[C, H, W] -> float64 [C, side, side]: result pixel i is taken at i * H / side, the corner of its area."""
    channels, height, width = image.shape
    result = np.empty((channels, side, side))
    for i in range(side):
        y = i * height / side
        top, bottom = int(y), min(int(y) + 1, height - 1)
        for j in range(side):
            x = j * width / side
            left, right = int(x), min(int(x) + 1, width - 1)
            above = image[:, top, left] + (image[:, top, right] - image[:, top, left]) * (x - left)
            below = image[:, bottom, left] + (image[:, bottom, right] - image[:, bottom, left]) * (x - left)
            result[:, i, j] = above + (below - above) * (y - top)
    return result
