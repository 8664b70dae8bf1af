"""Resampling an oriented square of a picture to an upright one."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from celebahq_builder.imaging.geometry import Points

TILE_PX = 128
"""Side of the result tiles computed at a time: what bounds the memory."""


def warp_quad(pixels: Tensor, quad: Points, resolution: int, supersampling: int = 4) -> Tensor:
    """Return the square `quad` of a picture, upright, at `resolution` x `resolution`.

    The square is sampled bilinearly at `supersampling` times the resolution and reduced by a box filter (Karras
    et al. 2018, appendix C: 4096x4096 by bilinear filtering, 1024x1024 by a box filter). It is done tile by
    tile, so nothing of the supersampled size is ever held.

    Args:
        pixels: uint8 [3, H, W].
        quad: corners [4, 2] in pixel-edge coordinates: top left, bottom left, bottom right, top right. Samples
            outside the picture take the nearest pixel.
        resolution: side of the result in px.
        supersampling: samples per result pixel, in each direction.

    Returns:
        uint8 [3, resolution, resolution], rounded to the nearest level.
    """
    result = torch.empty((3, resolution, resolution), dtype=torch.uint8, device=pixels.device)
    down, right = (quad[1] - quad[0]) / resolution, (quad[3] - quad[0]) / resolution
    for top in range(0, resolution, TILE_PX):
        for left in range(0, resolution, TILE_PX):
            rows, columns = min(TILE_PX, resolution - top), min(TILE_PX, resolution - left)
            corner = quad[0] + top * down + left * right
            tile = _sample(pixels, corner, down, right, rows, columns, supersampling)
            result[:, top : top + rows, left : left + columns] = tile.round_()
    return result


def _sample(
    pixels: Tensor, corner: Points, down: Points, right: Points, rows: int, columns: int, supersampling: int
) -> Tensor:
    """Return one tile, float [3, rows, columns] in [0, 255]."""
    far = corner + np.stack([rows * down, columns * right, rows * down + columns * right])
    reach = np.concatenate([corner[None], far])
    size = np.array([pixels.shape[2], pixels.shape[1]])
    low = np.clip(np.floor(reach.min(axis=0)).astype(int) - 1, 0, size - 1)
    high = np.maximum(np.clip(np.ceil(reach.max(axis=0)).astype(int) + 1, 1, size), low + 1)
    part = pixels[None, :, low[1] : high[1], low[0] : high[0]].float()
    # In double up to here; within a tile float32 is exact to 1e-5 px, however large the photo.
    to_unit = 2.0 / (high - low)
    start = (corner - low) * to_unit - 1.0
    v = (np.arange(rows * supersampling) + 0.5)[:, None] / supersampling * (down * to_unit)
    u = (np.arange(columns * supersampling) + 0.5)[:, None] / supersampling * (right * to_unit) + start
    along_v = torch.from_numpy(v.astype(np.float32)).to(pixels.device)
    along_u = torch.from_numpy(u.astype(np.float32)).to(pixels.device)
    grid = along_v[:, None, :] + along_u[None, :, :]
    sampled = F.grid_sample(part, grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, supersampling)[0]
