"""The last step of the authors' public tool in plain numpy, in double: slow, and rounded where Pillow rounds."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def upright(photo: NDArray[np.uint8], quad: Array, resolution: int) -> NDArray[np.uint8]:
    """Turn the crop of uint8 [H, W, 3] upright: bilinear to 4 times the side, cut to integers, then Lanczos.

    Pillow takes corners in pixel-edge coordinates; the tool adds half a pixel to them nonetheless, and so does this.
    """
    fine = bilinear(photo, quad + 0.5, 4 * resolution)
    return lanczos(lanczos(fine, resolution, axis=1), resolution, axis=0)


def bilinear(photo: NDArray[np.uint8], corners: Array, size: int) -> NDArray[np.uint8]:
    top_left, bottom_left, bottom_right, top_right = corners
    result = np.zeros((size, size, 3), np.uint8)
    for row in range(size):
        v = (row + 0.5) / size
        for column in range(size):
            u = (column + 0.5) / size
            x, y = (1 - u) * ((1 - v) * top_left + v * bottom_left) + u * ((1 - v) * top_right + v * bottom_right)
            if 0 <= x < photo.shape[1] and 0 <= y < photo.shape[0]:
                result[row, column] = np.floor(_between(photo, x - 0.5, y - 0.5))
    return result


def _between(photo: NDArray[np.uint8], x: float, y: float) -> Array:
    left, top = int(np.floor(x)), int(np.floor(y))
    across, down = x - left, y - top

    def at(column: int, row: int) -> Array:
        row, column = np.clip(row, 0, photo.shape[0] - 1), np.clip(column, 0, photo.shape[1] - 1)
        return photo[row, column].astype(float)

    upper = at(left, top) * (1 - across) + at(left + 1, top) * across
    lower = at(left, top + 1) * (1 - across) + at(left + 1, top + 1) * across
    return upper * (1 - down) + lower * down


def lanczos(photo: NDArray[np.uint8], size: int, axis: int) -> NDArray[np.uint8]:
    """Reduce one axis with a windowed sinc of 3 lobes, cut off and normalized at the edges."""
    scale = photo.shape[axis] / size
    sources = np.arange(photo.shape[axis]) + 0.5
    lines = []
    for i in range(size):
        distance = (sources - (i + 0.5) * scale) / scale
        weight = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
        lines.append(np.tensordot(weight / weight.sum(), photo.astype(float), ([0], [axis])))
    return np.clip(np.floor(np.stack(lines, axis=axis) + 0.5), 0, 255).astype(np.uint8)
