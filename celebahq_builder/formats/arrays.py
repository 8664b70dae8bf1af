"""Data sets of small labelled images that are held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.image_set import Labels, NamedImage, Pixels


@dataclass(frozen=True)
class LabelledArrays:
    """An `ImageSet` of arrays."""

    pixels: Pixels
    """uint8 [N, C, R, R]."""
    classes: NDArray[np.uint8]
    """Class number of each image, [N]."""
    label_names: tuple[str, ...]
    """Names of all classes."""
    name_of: Callable[[int], str]
    """Returns the name of an image."""

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.pixels)

    @property
    def resolution(self) -> int:
        """Side length in px."""
        return int(self.pixels.shape[3])

    @property
    def channels(self) -> int:
        """3, or 1 for grey."""
        return int(self.pixels.shape[1])

    @property
    def labels(self) -> Labels:
        """One-hot, float32 [N, classes]."""
        return np.asarray(np.eye(len(self.label_names), dtype=np.float32)[self.classes])

    def images(self, start: int = 0) -> Iterator[NamedImage]:
        """Yield the images from number `start` on."""
        for number in range(start, self.count):
            yield NamedImage(self.pixels[number], self.name_of(number))
