"""What every data set is to the others, whatever format it lies in: square pictures of one size, in an order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """A picture and where it comes from."""

    pixels: Pixels
    """uint8 [C, R, R]: 3 channels in the order R, G, B, or 1 of grey."""

    name: str
    """Of its file or entry, with `/` between folders, as users know it; unique in its set."""


class PictureSet(Protocol):
    """Pictures of a data set, read one after another; memory does not depend on how many they are.

    Readers check what can be known beforehand (counts, sizes, names) when they are made, and the rest as they go.
    Whatever is wrong with the data is a `FormatError`.
    """

    @property
    def count(self) -> int:
        """How many pictures there are."""

    @property
    def resolution(self) -> int:
        """R, a power of two."""

    @property
    def channels(self) -> int:
        """C: 3, or 1 for grey."""

    @property
    def labels(self) -> Labels | None:
        """float32 [N, classes], one row per picture: one-hot classes or attributes of 0 and 1; None without."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """One for each column of the labels, or empty where the format does not say."""

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Yield the pictures from number `start` on, in their order; may be called again."""
