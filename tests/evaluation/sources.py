"""Image sources in memory, which count how many images are read."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Held:
    """Images in memory, as a data set or as a generator."""

    def __init__(self, pixels: NDArray[np.uint8], generated: bool = False) -> None:
        self.pixels = pixels
        self.count = None if generated else len(pixels)
        self.channels, self.resolution = pixels.shape[1:3]
        self.where = "held"
        self.read_images = 0

    @property
    def facts(self) -> dict[str, Any]:
        return {"kind": "held", "path": "held", "images": self.count}

    def read(self, numbers: NDArray[np.int64], at_once: int) -> Iterator[Tensor]:
        for start in range(0, len(numbers), at_once):
            some = numbers[start : start + at_once]
            self.read_images += len(some)
            yield torch.from_numpy(self.pixels[some])


def noise(count: int, side: int, seed: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def smooth(count: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return images of random gradients with little noise, so that two sets differ moderately."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, side)
    slopes = rng.normal(0, 60, (2, count, 3, 1, 1))
    images = 128 + slopes[0] * ramp[:, None] + slopes[1] * ramp + rng.normal(0, 4, (count, 3, side, side))
    return images.clip(0, 255).astype(np.uint8)
