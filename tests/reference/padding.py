"""Padding beyond the edge of a photo as by the authors' public tool, over the whole image at once."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter


def pad(
    photo: NDArray[np.uint8], sides: tuple[int, int, int, int], sigma: float, edge: str = "reflect"
) -> NDArray[np.uint8]:
    """Pad uint8 [H, W, 3] by (left, top, right, bottom) px.

    `edge` is the mode of the Gaussian beyond the padded image: "reflect" is scipy's default, which the public tool
    uses; "nearest" repeats the outermost pixels.
    """
    left, top, right, bottom = sides
    image = np.pad(photo.astype(np.float32), ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width, _ = image.shape
    y, x, _ = np.ogrid[:height, :width, :1]
    x, y = x.astype(np.float32), y.astype(np.float32)
    depth = np.minimum(np.minimum(x / left, y / top), np.minimum((width - 1 - x) / right, (height - 1 - y) / bottom))
    mask = 1 - depth
    soft = gaussian_filter(image, [sigma, sigma, 0], mode=edge)
    image += (soft - image) * np.clip(mask * 3 + 1, 0, 1)
    image += (np.median(image, axis=(0, 1)) - image) * np.clip(mask, 0, 1)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
