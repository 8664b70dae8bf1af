"""How much of each picture lies outside the photo that it was cut from, as far as a data set's file tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.formats.metadata import read_numbers
from celebahq_builder.imaging.geometry import share_inside

WORST = 24
"""Pictures that are named, of those with most padding."""

BEYOND_PX = 1 << 30
"""Of a photo whose size is not known: larger than any."""


@dataclass(frozen=True)
class Padding:
    """The share of each picture, in [0, 1], that is padding; NaN where it is not known."""

    shares: NDArray[np.float64]
    """[N]"""
    exact: bool
    """Whether these are the shares; else the least they can be."""

    @property
    def known(self) -> NDArray[np.float64]:
        """Those that are known."""
        return self.shares[np.isfinite(self.shares)]

    def worst(self) -> list[int]:
        """Return the numbers of the pictures with most padding, most first; only such as have any."""
        shares = np.nan_to_num(self.shares)
        order = np.argsort(-shares, kind="stable")[:WORST]
        return [int(number) for number in order if shares[number] > 0]


def read_padding(pyramid: PyramidFile) -> Padding | None:
    """Return the padding of all pictures, or None where the file tells nothing of it.

    ``photos/inside`` says what share of the crop lay inside the photo. Where a file has but ``photos/quad``, the
    crop's corners, the photo's size is not known: what lies left of or above its first pixel is outside for sure, what
    may lie beyond its right and its lower edge is not counted.

    Raises:
        FormatError: columns that do not belong to these pictures.
    """
    inside = read_numbers(pyramid, "inside")
    if inside is not None and inside.ndim == 1:
        return Padding(1 - inside, exact=True)
    quads = read_numbers(pyramid, "quad")
    if quads is None or quads.shape[1:] != (4, 2):
        return None
    shares = np.zeros(len(quads))
    shares[~np.isfinite(quads).all(axis=(1, 2))] = np.nan
    for number in np.flatnonzero((quads < 0).any(axis=(1, 2)) & np.isfinite(shares)):
        shares[number] = 1 - share_inside(quads[number], BEYOND_PX, BEYOND_PX)
    return Padding(shares, exact=False)
