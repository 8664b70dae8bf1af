"""Degradations of 1024x1024 images; each takes RGB uint8 [S, S, 3] and a generator."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Damage = Callable[[Pixels, np.random.Generator], Pixels]

HALFTONE_PX = 6.0
"""Distance of the halftone's dots."""


def blur(sigma: float) -> Damage:
    """Gaussian blur of `sigma` px."""
    return lambda image, _: cv2.GaussianBlur(image, (0, 0), sigma)


def down_up(factor: int) -> Damage:
    """Reduced by the area filter, enlarged again by the bicubic one."""

    def damage(image: Pixels, _: np.random.Generator) -> Pixels:
        side = image.shape[0]
        small = cv2.resize(image, (side // factor, side // factor), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)

    return damage


def motion_blur(image: Pixels, _: np.random.Generator) -> Pixels:
    """15 px along the rows."""
    return cv2.blur(image, (15, 1))


def halftone(image: Pixels, _: np.random.Generator) -> Pixels:
    """A screen of dots at 45 degrees, of amplitude 30."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] * (2 * np.pi / HALFTONE_PX * np.sqrt(0.5))
    return rounded(image + (15 * (np.cos(x + y) + np.cos(x - y)))[..., None])


def interlaced(image: Pixels, _: np.random.Generator) -> Pixels:
    """Odd lines shifted by 4 px."""
    shifted = image.copy()
    shifted[1::2] = np.roll(image[1::2], 4, axis=1)
    return shifted


def jpeg(quality: int) -> Damage:
    """One compression by OpenCV."""

    def damage(image: Pixels, _: np.random.Generator) -> Pixels:
        _, coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]

    return damage


def noise(sigma: float) -> Damage:
    """White Gaussian noise, of each channel its own."""
    return lambda image, rng: rounded(image + rng.normal(scale=sigma, size=image.shape))


def posterised(image: Pixels, _: np.random.Generator) -> Pixels:
    """16 levels."""
    return image // 16 * 16 + 8


def rounded(values: NDArray[np.floating]) -> Pixels:
    """Clip and round to 8 bits."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


DAMAGES: dict[str, tuple[Damage, float]] = {
    "blur 1 px": (blur(1), 0.97),
    "blur 2 px": (blur(2), 0.97),
    "blur 4 px": (blur(4), 0.97),
    "down and up by 2": (down_up(2), 0.97),
    "down and up by 4": (down_up(4), 0.97),
    "motion blur 15 px": (motion_blur, 0.97),
    "halftone of amplitude 30": (halftone, 0.97),
    "odd lines shifted by 4": (interlaced, 0.97),
    "JPEG 10": (jpeg(10), 0.97),
    "JPEG 30": (jpeg(30), 0.9),
    "noise 10": (noise(10), 0.9),
    "noise 25": (noise(25), 0.97),
    "16 levels": (posterised, 0.97),
}
"""Name -> damage, and the least share of images whose score it must lower."""

WORSE = (
    ("blur 1 px", "blur 2 px"),
    ("blur 2 px", "blur 4 px"),
    ("down and up by 2", "down and up by 4"),
    ("JPEG 30", "JPEG 10"),
    ("noise 10", "noise 25"),
)
"""Pairs of which the second is the stronger damage."""
