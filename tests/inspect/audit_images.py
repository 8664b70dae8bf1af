"""Test images that differ from each other, and altered copies of them."""

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def smooth(count: int, side: int = 64, channels: int = 3, seed: int = 0) -> Pixels:
    """Return images uint8 [count, channels, side, side] of spots; larger spots are stronger, as in photos."""
    rng = np.random.default_rng(seed)
    drawn = np.full((count, side, side, channels), 128.0)
    for spots, strength in ((3, 50), (6, 30), (12, 16), (24, 9)):
        coarse = rng.normal(0, strength, (count, spots, spots, channels)).astype(np.float32)
        for one, own in zip(drawn, coarse, strict=True):
            one += cv2.resize(own, (side, side), interpolation=cv2.INTER_CUBIC).reshape(side, side, channels)
    return np.ascontiguousarray(np.clip(drawn, 0, 255).astype(np.uint8).transpose(0, 3, 1, 2))


def recoded(pixels: Pixels, quality: int) -> Pixels:
    """Return an image [C, H, W] after JPEG compression."""
    image = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    return decoded.reshape(image.shape).transpose(2, 0, 1)


def with_bar(image: Pixels, edge: str, width: int, level: int = 0) -> Pixels:
    """Return an image [C, H, W] with a bar along an edge."""
    barred = image.copy()
    place = {
        "top": np.s_[:, :width],
        "bottom": np.s_[:, -width:],
        "left": np.s_[:, :, :width],
        "right": np.s_[:, :, -width:],
    }[edge]
    barred[place] = level
    return barred
