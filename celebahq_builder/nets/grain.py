"""Noise that belongs to a picture: random to the eye, and the same whenever the picture is."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 9
"""Pixels that decide the noise of one: itself and those around it."""

_KEY = (0x5851F42D4C957F2D, 0x14057B7EF767814F)
"""Multiplier and increment of the generator that takes the neighbours in (Knuth's MMIX and Steele & Vigna 2021)."""
_STEP, _MIX1, _MIX2 = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB
"""Step from channel to channel and the two factors of the finisher, after SplitMix64 (Steele et al. 2014)."""


def grain(photos: Tensor, channels: int) -> Tensor:
    """Return uniform noise of mean 0 and variance 1, a hash of each pixel's 8-bit neighbourhood of 3x3.

    A network that is to make up texture needs something random to make it from, or it repeats what patterns it has
    (Karras et al. 2019, StyleGAN, section 3.2, give it noise of a generator). Noise that is hashed from the pixels
    needs no seed and no position: tiles of a photo meet without a seam, and a batch, a worker or a device changes
    nothing. Where a photo is of one colour, so is its noise.

    Args:
        photos: float [N, 3, H, W], RGB in [0, 1]; taken as rounded to 8 bits.
        channels: channels of noise.

    Returns:
        [N, channels, H, W], the dtype of `photos`, in [-sqrt 3, sqrt 3], without gradient. It depends on the pixel and
        the 8 around it; beyond the edge, on the edge's.
    """
    levels = photos.detach().float().mul(255).round_().long()
    colour = levels[:, 0] + 256 * levels[:, 1] + 65536 * levels[:, 2]
    height, width = colour.shape[-2:]
    wide = torch.cat([colour[:, :1], colour, colour[:, -1:]], dim=1)
    wide = torch.cat([wide[:, :, :1], wide, wide[:, :, -1:]], dim=2)
    key = torch.zeros_like(colour)
    for i in range(NEIGHBOURS):
        top, left = divmod(i, 3)
        key = (key ^ wide[:, top : top + height, left : left + width]) * _KEY[0] + _KEY[1]  # 64 bits, wrapping
        key = key ^ (key >> 29)
    noise = torch.stack([_finished(key + i * _STEP) for i in range(channels)], dim=1)
    return noise.to(photos.dtype).div_(65535 / 12**0.5).sub_(3**0.5)


def _finished(key: Tensor) -> Tensor:
    """Return 16 well mixed bits of 64."""
    key = (key ^ (key >> 30)) * _MIX1
    key = (key ^ (key >> 27)) * _MIX2
    return (key >> 31) & 0xFFFF
