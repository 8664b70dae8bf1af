"""A picture at all powers of two down to a single pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def levels(resolution: int) -> tuple[int, ...]:
    """Return the resolutions of a pyramid, largest first: 1024, 512, ..., 2, 1.

    Raises:
        ValueError: `resolution` is not a power of two.
    """
    if resolution < 1 or resolution & (resolution - 1):
        raise ValueError(f"resolution {resolution} is not a power of two")
    return tuple(resolution >> k for k in range(resolution.bit_length()))


def build_pyramid(pixels: Pixels) -> list[Pixels]:
    """Return a picture at all levels, largest first.

    Args:
        pixels: uint8 [..., R, R], R a power of two; leading axes are channels or pictures.

    Returns:
        uint8 [..., r, r] for r = R, R/2, ..., 1. Each level is the 2x2 mean of the one above; means are carried
        on in float32 and rounded to the nearest even level only for storage, as the ProGAN authors' tool does.

    Raises:
        ValueError: the picture is not square, or its side not a power of two.
    """
    if pixels.ndim < 2 or pixels.shape[-1] != pixels.shape[-2]:
        raise ValueError(f"a pyramid needs a square picture, got shape {pixels.shape}")
    levels(pixels.shape[-1])
    carried = pixels.astype(np.float32)
    pyramid = [pixels]
    while carried.shape[-1] > 1:
        carried = (
            carried[..., 0::2, 0::2] + carried[..., 0::2, 1::2] + carried[..., 1::2, 0::2] + carried[..., 1::2, 1::2]
        ) * np.float32(0.25)
        pyramid.append(np.clip(np.rint(carried), 0, 255).astype(np.uint8))
    return pyramid
