"""Resolution pyramid of an image: all powers of two down to a single pixel."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.image_set import Pixels

Number = TypeVar("Number", bound=np.number)

INTEGER_STEPS = 8
"""Number of halvings that are computed with integers. float32 holds the same sums exactly (at most 255 * 4^8), but is
slower."""


def is_power_of_two(number: int) -> bool:
    """Return whether a number is 1, 2, 4, ...

    >>> [number for number in range(-8, 9) if is_power_of_two(number)]
    [1, 2, 4, 8]
    """
    return number > 0 and number & (number - 1) == 0


def levels(resolution: int) -> tuple[int, ...]:
    """Return the resolutions of a pyramid, largest first.

    Raises:
        ValueError: `resolution` is not a power of two.

    Examples:
        >>> levels(16)
        (16, 8, 4, 2, 1)
    """
    if not is_power_of_two(resolution):
        raise ValueError(f"resolution {resolution} is not a power of two")
    return tuple(resolution >> k for k in range(resolution.bit_length()))


def build_pyramid(pixels: Pixels) -> list[Pixels]:
    """Return an image at all levels, largest first, as the ProGAN authors' tool computes them.

    Each level is the 2x2 box mean of the level above. Means are carried in float32 from level to level and are
    rounded only for storage: to the nearest integer, halves to the even one.

    Args:
        pixels: uint8 [..., R, R], R a power of two; leading axes are channels or images.

    Returns:
        uint8 [..., r, r] for r = R, R/2, ..., 1.

    Raises:
        ValueError: the image is not square, or its side length is not a power of two.

    Examples:
        Blocks with the means 1/2, 1/2, 1/2, 1 are stored as 0, 0, 0, 1; the mean of all pixels, 5/8, is stored as 1.

        >>> image = np.array([[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]], np.uint8)
        >>> [level.tolist() for level in build_pyramid(image)[1:]]
        [[[0, 0], [0, 1]], [[1]]]
    """
    if pixels.ndim < 2 or pixels.shape[-1] != pixels.shape[-2]:
        raise ValueError(f"a pyramid needs a square image, got shape {pixels.shape}")
    levels(pixels.shape[-1])  # raises ValueError
    pyramid, steps = [pixels], 0
    sums: NDArray[np.integer] = pixels
    while sums.shape[-1] > 1 and steps < INTEGER_STEPS:
        steps += 1
        sums = _sums_of_four(sums, np.uint16 if steps <= 4 else np.uint32)
        pyramid.append(_round_shift(sums, 2 * steps))
    means = sums.astype(np.float32) * np.float32(0.25**steps)
    while means.shape[-1] > 1:
        means = _sums_of_four(means, np.float32) * np.float32(0.25)
        pyramid.append(np.rint(means).astype(np.uint8))
    return pyramid


def _sums_of_four(values: NDArray[np.number], dtype: type[Number]) -> NDArray[Number]:
    rows = np.add(values[..., 0::2, :], values[..., 1::2, :], dtype=dtype)
    return np.asarray(rows[..., 0::2] + rows[..., 1::2])


def _round_shift(sums: NDArray[np.integer], bits: int) -> Pixels:
    """Return sums / 2^bits, rounded to the nearest integer, halves to the even one."""
    one = sums.dtype.type(1)
    half_less = sums.dtype.type((1 << (bits - 1)) - 1)
    return np.asarray((sums + half_less + ((sums >> bits) & one)) >> bits).astype(np.uint8)
