"""Training pictures as tensors, and the reduction that an upscaler learns to undo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from celebahq_builder.training.photos import Pixels


def to_tensor(pictures: Sequence[Pixels], device: torch.device) -> Tensor:
    """Return pictures uint8 [H, W, 3] of one size as a batch, float [N, 3, H, W] in [0, 1]."""
    stacked = torch.from_numpy(np.stack(pictures)).to(device)
    return stacked.permute(0, 3, 1, 2).float().div_(255)  # channels-last in memory, as the networks are


def to_pixels(pictures: Tensor) -> list[Pixels]:
    """Return a batch, float [N, 3, H, W] in [0, 1], clipped and rounded, as uint8 [H, W, 3] each."""
    levels = pictures.detach().mul(255).round().clamp(0, 255).to(torch.uint8)
    return [np.ascontiguousarray(p) for p in levels.permute(0, 2, 3, 1).cpu().numpy()]


def quarter(photos: Tensor) -> Tensor:
    """Return photos at a quarter of their size by antialiased bicubic filtering.

    Shapes: float [N, 3, 4H, 4W] -> [N, 3, H, W]. The filter is MATLAB's imresize (a = -0.5), which made the
    low-resolution images of the super-resolution benchmarks.
    """
    return F.interpolate(photos, scale_factor=0.25, mode="bicubic", antialias=True, align_corners=False)


def shrink4(photos: Tensor) -> Tensor:
    """Return photos in [0, 1] at a quarter of their size, rounded to 8 bits: what an upscaler gets as input."""
    return quarter(photos).mul(255).round_().clamp_(0, 255).div_(255)


def corner(photo: Pixels, size_px: int = 384) -> Pixels:
    """Return a photo's top left corner, of sides that divide by 8: what is validated on."""
    height, width = (min(side, size_px) // 8 * 8 for side in photo.shape[:2])
    return np.ascontiguousarray(photo[:height, :width])
