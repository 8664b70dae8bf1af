"""Distance of textures image by image: what the upscaler is trained by and judged by.

The sliced Wasserstein distance of local neighbourhoods of a Laplacian pyramid, as `swd` has it between data sets
(Karras et al. 2018, section 5), but of images in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.metrics.descriptors import PATCH_PX, PATCHES_PER_IMAGE
from celebahq_builder.metrics.laplacian import laplacian_level, pyramid_down
from celebahq_builder.metrics.sliced import random_directions, sliced_wasserstein

Moments = tuple[Tensor, Tensor]
"""Mean and standard deviation of each channel, [C] each."""


def random_patches(level: Tensor, rng: np.random.Generator, count: int = PATCHES_PER_IMAGE) -> Tensor:
    """Return `count` random 7x7 neighbourhoods of every image of a level, fully inside, uniformly placed.

    Shapes: [N, C, H, W] -> [N * count, C, 7, 7]. The draws depend on `rng`, N, H, W and `count` alone.
    """
    n, _, height, width = level.shape
    if min(height, width) < PATCH_PX:
        raise ValueError(f"a level of {height}x{width} has no neighbourhood of {PATCH_PX}x{PATCH_PX}")
    tops = torch.from_numpy(rng.integers(height - PATCH_PX + 1, size=(n, count)))
    lefts = torch.from_numpy(rng.integers(width - PATCH_PX + 1, size=(n, count)))
    windows = level.unfold(2, PATCH_PX, 1).unfold(3, PATCH_PX, 1)  # a view: [N, C, H - 6, W - 6, 7, 7]
    image = torch.arange(n)[:, None].expand(n, count)
    return windows[image, :, tops, lefts].flatten(0, 1)


def channel_moments(points: Tensor) -> Moments:
    """Return mean and standard deviation of each channel of neighbourhoods [M, C, 7, 7], each [C]."""
    dims = (0, 2, 3)
    return points.mean(dim=dims), points.std(dim=dims, correction=0)


def normalise_patches(points: Tensor, by: Moments) -> Tensor:
    """Return neighbourhoods [M, C, 7, 7] as vectors [M, 49 C], mean removed and divided by the standard deviation."""
    mean, std = (m[:, None, None] for m in by)
    return ((points - mean) / std).flatten(1)


def texture_loss(
    results: Tensor, truths: Tensor, rngs: Sequence[np.random.Generator], directions: Tensor, patches: int = 128
) -> Tensor:
    """Return the sliced Wasserstein distance of the two finest Laplacian levels, quarter by quarter of each image.

    Compared part by part, so that texture goes where it belongs (Heitz et al. 2021, "A Sliced Wasserstein Loss for
    Neural Texture Synthesis"). Unlike `texture_distance` it is not divided by the deviation: strong texture, which a
    pixel loss of the same unit suppresses most, weighs most.

    Args:
        results: images [N, C, H, W], float, H and W multiples of 4 and at least 28.
        truths: as `results`.
        rngs: one for each image, which says where its neighbourhoods lie.
        directions: unit vectors [49 C, K].
        patches: neighbourhoods per quarter of the finest level; of the next one, half as many.

    Returns:
        The sum over the levels of the mean over images and quarters; a scalar in the images' unit, with gradients
        for `results`.
    """
    both, n = torch.cat([results, truths]), len(truths)
    total = results.new_zeros(())
    for level, count in ((laplacian_level(both), patches), (laplacian_level(pyramid_down(both)), patches // 2)):
        distances = []
        for i, rng in enumerate(rngs):
            pair = level[[i, n + i]].permute(1, 0, 2, 3).flatten(0, 1)  # one draw of places for both
            quarters = torch.stack([part for half in pair.chunk(2, dim=1) for part in half.chunk(2, dim=2)])
            points = random_patches(quarters, rng, count).view(4, count, -1, 2, PATCH_PX**2)
            found, true = (points[:, :, :, j].flatten(2) @ directions for j in range(2))
            distances.append((found.sort(dim=1).values - true.sort(dim=1).values).abs().mean())
        total = total + torch.stack(distances).mean()
    return total


def texture_distance(
    results: Sequence[Tensor], truths: Sequence[Tensor], patches: int = PATCHES_PER_IMAGE, seed: int = 0
) -> float:
    """Return the sliced Wasserstein distance of the finest Laplacian level between results and the true images.

    Unlike the distance between data sets, it compares images in pairs: neighbourhoods come from the same places on
    both sides, and both are divided by the standard deviation of the true ones, so that too little texture costs.

    Args:
        results: images [C, H, W] of any sizes, float or uint8 in one range.
        truths: as `results`, one for each.
        patches: neighbourhoods per image.
        seed: of the places and the directions.
    """
    clouds = []
    for images in (truths, results):
        rng = np.random.default_rng(seed)
        levels = (laplacian_level(p[None].float()) for p in images)
        clouds.append(torch.cat([random_patches(level, rng, patches) for level in levels]))
    scale = channel_moments(clouds[0])
    true, found = (normalise_patches(cloud, scale) for cloud in clouds)
    return sliced_wasserstein(found, true, random_directions(true.shape[1], np.random.default_rng(seed)))
