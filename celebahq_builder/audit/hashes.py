"""Perceptual hashes: 255 bits of a picture that survive coding, scaling and small shifts (Zauner 2010, "pHash").

The signs of the 16x16 lowest coefficients of the discrete cosine transform of a picture of 32x32 grey levels, without
the mean. Of faces that are all aligned, the customary 64 bits are too few: those of different people come as near to
each other as those of a picture and its copy shifted by a hundredth (benchmarks/audit.py).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from celebahq_builder.formats.pictures import Pixels

SIDE_PX = 32
"""Of the level that is hashed."""

SIDE_PX_MIN = 16
"""Of the smallest pictures that have as many coefficients."""

KEPT = 16
"""Coefficients of each axis."""

BITS = KEPT * KEPT - 1

Hashes = NDArray[np.uint8]
"""Packed bits, [N, 32]; the last bit is 0."""

Bits = NDArray[np.float32]
"""1 and -1, [N, 256]; the last is -1."""

MIRROR = np.append(np.tile([1.0, -1.0], KEPT * KEPT // 2)[1:], 1.0).astype(np.float32)
"""What makes a picture's bits those of its mirror image: every odd coefficient along a row changes its sign."""


def grey(pixels: Pixels) -> NDArray[np.float32]:
    """Return the grey levels [n, r, r], in [0, 255], of pictures [n, 3 or 1, r, r] (ITU-R BT.601, as JPEG's)."""
    if pixels.shape[1] == 1:
        return pixels[:, 0].astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(np.tensordot(pixels.astype(np.float32), weights, axes=(1, 0)), np.float32)


def perceptual_hashes(pictures: NDArray[np.float32]) -> Hashes:
    """Return the hashes of grey pictures [n, r, r], r 16 or more."""
    coefficients = dctn(pictures, axes=(1, 2), norm="ortho")[:, :KEPT, :KEPT].reshape(len(pictures), -1)[:, 1:]
    return np.packbits(coefficients > 0, axis=1)


def bits(hashes: Hashes) -> Bits:
    """Return the bits of hashes one by one."""
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def distances(some: Bits, others: Bits) -> NDArray[np.int64]:
    """Return the number of bits [n, m] in which each of some hashes differs from each of the others."""
    return np.asarray((some.shape[1] - some @ others.T) / 2, np.int64)


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation of two grey pictures [r, r], at the best shift of up to a sixteenth of their side.

    From -1 to 1; brightness and contrast do not count. 0 where one of them is plain.
    """
    margin = max(one.shape[0] // 16, 1)
    middle = np.ascontiguousarray(one[margin:-margin, margin:-margin])
    if min(middle.std(), other[margin:-margin, margin:-margin].std()) < 1:
        return 0.0
    found = cv2.matchTemplate(np.ascontiguousarray(other), middle, cv2.TM_CCOEFF_NORMED)
    return float(found.max())
