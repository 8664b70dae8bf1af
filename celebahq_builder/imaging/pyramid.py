"""An image at all powers of two down to a single pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

INTEGER_STEPS = 8
"""Halvings whose sums of bytes, 255 * 4^8 at most, a float32 holds exactly; integers give the same in less time."""


def levels(resolution: int) -> tuple[int, ...]:
    """Return the resolutions of a pyramid, largest first: 1024, 512, ..., 2, 1.

    Raises:
        ValueError: `resolution` is not a power of two.
    """
    if resolution < 1 or resolution & (resolution - 1):
        raise ValueError(f"resolution {resolution} is not a power of two")
    return tuple(resolution >> k for k in range(resolution.bit_length()))


def build_pyramid(pixels: Pixels) -> list[Pixels]:
    """Return an image at all levels, largest first.

    Args:
        pixels: uint8 [..., R, R], R a power of two; leading axes are channels or images.

    Returns:
        uint8 [..., r, r] for r = R, R/2, ..., 1. Each level is the 2x2 mean of the one above; means are carried
        on in float32 and rounded to the nearest even level only for storage, as the ProGAN authors' tool does.

    Raises:
        ValueError: the image is not square, or its side not a power of two.
    """
    if pixels.ndim < 2 or pixels.shape[-1] != pixels.shape[-2]:
        raise ValueError(f"a pyramid needs a square image, got shape {pixels.shape}")
    levels(pixels.shape[-1])
    pyramid, total, steps = [pixels], pixels, 0
    while total.shape[-1] > 1 and steps < INTEGER_STEPS:
        steps += 1
        total = _sums_of_four(total, np.uint16 if steps <= 4 else np.uint32)
        pyramid.append(_rounded(total, 2 * steps))
    carried = total.astype(np.float32) * np.float32(0.25**steps)
    while carried.shape[-1] > 1:
        carried = _sums_of_four(carried, np.float32) * np.float32(0.25)
        pyramid.append(np.rint(carried).astype(np.uint8))
    return pyramid


def _sums_of_four(values: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    rows = np.add(values[..., 0::2, :], values[..., 1::2, :], dtype=dtype)
    return np.asarray(rows[..., 0::2] + rows[..., 1::2])


def _rounded(total: NDArray[Any], bits: int) -> Pixels:
    """Return total / 2^bits, rounded to the nearest, halves to even."""
    one = total.dtype.type(1)
    half_less = total.dtype.type((1 << (bits - 1)) - 1)
    return np.asarray((total + half_less + ((total >> bits) & one)) >> bits).astype(np.uint8)
