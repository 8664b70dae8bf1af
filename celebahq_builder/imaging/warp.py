"""Resampling of an oriented square of an image to an upright one."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from celebahq_builder.imaging.geometry import Points

TILE_PX = 512
"""Side length of the result's tiles that are computed at a time on a GPU, in about 100 MB; it bounds the memory."""

CPU_TILE_PX = 256
"""Side length of the tiles on a CPU."""


def warp_quad(pixels: Tensor, quad: Points, resolution: int, supersampling: int = 4) -> Tensor:
    """Return an oriented square of an image as an upright image.

    The square is sampled bilinearly at `supersampling` times the resolution and reduced by a box filter. This is done
    tile by tile, so no image of the supersampled size is ever held.

    Args:
        pixels: uint8 [3, H, W].
        quad: corners [4, 2] in pixel-edge coordinates: top left, bottom left, bottom right, top right of the result.
            Samples outside the image take the nearest pixel.
        resolution: side length of the result in px.
        supersampling: samples per result pixel, in each direction.

    Returns:
        uint8 [3, resolution, resolution], rounded to the nearest integer, on the device of `pixels`. OpenCV samples on
        a CPU and torch elsewhere; they agree within 1 grey level.

    References:
        Karras et al. 2018, "Progressive Growing of GANs", appendix C: 4096x4096 by bilinear filtering, then 1024x1024
        by a box filter.

    Examples:
        A quarter turn at the same size, with one sample per pixel, copies pixels.

        >>> image = torch.arange(12, dtype=torch.uint8).view(3, 2, 2)
        >>> turned = warp_quad(image, np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 2.0], [2.0, 2.0]]), 2, supersampling=1)
        >>> torch.equal(turned, torch.rot90(image, 1, dims=(1, 2)))
        True
    """
    result = torch.empty((3, resolution, resolution), dtype=torch.uint8, device=pixels.device)
    down, right = (quad[1] - quad[0]) / resolution, (quad[3] - quad[0]) / resolution
    sample, side = (_sample_by_cv2, CPU_TILE_PX) if pixels.device.type == "cpu" else (_sample_by_torch, TILE_PX)
    for top in range(0, resolution, side):
        for left in range(0, resolution, side):
            rows, columns = min(side, resolution - top), min(side, resolution - left)
            corner = quad[0] + top * down + left * right
            part, low = _seen(pixels, corner, down * rows, right * columns)
            tile = sample(part, corner - low, down, right, rows, columns, supersampling)
            result[:, top : top + rows, left : left + columns] = tile
    return result


def _seen(pixels: Tensor, corner: Points, down: Points, right: Points) -> tuple[Tensor, Points]:
    """Return the part of an image that a tile needs, and the part's top left pixel.

    The tile begins at `corner` and spans the vectors `down` and `right`.
    """
    reach = corner + np.stack([np.zeros(2), down, right, down + right])
    size = np.array([pixels.shape[2], pixels.shape[1]])
    low = np.clip(np.floor(reach.min(axis=0)).astype(int) - 1, 0, size - 1)
    high = np.maximum(np.clip(np.ceil(reach.max(axis=0)).astype(int) + 1, 1, size), low + 1)
    return pixels[:, low[1] : high[1], low[0] : high[0]], low


def _sample_by_cv2(
    part: Tensor, corner: Points, down: Points, right: Points, rows: int, columns: int, supersampling: int
) -> Tensor:
    """Return one tile, float [3, rows, columns], rounded; OpenCV takes two thirds of torch's time."""
    v, u = down / supersampling, right / supersampling
    start = corner + (v + u) / 2 - 0.5  # OpenCV's pixel centres are whole numbers
    matrix = np.stack([u, v, start], axis=1)
    source = cv2.merge([plane.numpy() for plane in part]).astype(np.float32)  # faster than a transposed copy
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (columns * supersampling, rows * supersampling)
    fine = cv2.warpAffine(source, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    tile = cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(tile).permute(2, 0, 1).round_()


def _sample_by_torch(
    part: Tensor, corner: Points, down: Points, right: Points, rows: int, columns: int, supersampling: int
) -> Tensor:
    """Return one tile, float [3, rows, columns], rounded."""
    # Positions are float64 so far; within a tile float32 is exact to 1e-5 px, however large the photo is.
    to_unit = 2.0 / np.array([part.shape[2], part.shape[1]])
    along_v = _axis(rows, supersampling, np.zeros(2), down * to_unit, part.device)
    along_u = _axis(columns, supersampling, corner * to_unit - 1.0, right * to_unit, part.device)
    grid = along_v[:, None, :] + along_u[None, :, :]
    sampled = F.grid_sample(part[None].float(), grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, supersampling)[0].round_()


def _axis(count: int, supersampling: int, start: Points, step: Points, device: torch.device) -> Tensor:
    """Return the points start + step (i + 0.5) / supersampling, computed on the device without a copy from the host.

    Shapes: float32 [count * supersampling, 2]; i counts them from 0.
    """
    place = (torch.arange(count * supersampling, dtype=torch.float64, device=device) + 0.5) / supersampling
    x, y = ((place * float(step[k])).add_(float(start[k])) for k in (0, 1))
    return torch.stack([x, y], dim=1).float()
