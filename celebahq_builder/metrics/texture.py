"""Texture of restored images, compared with that of their true images: its strength, and its shape.

Texture is compared as in `swd` (Karras et al. 2018, section 5): by sliced Wasserstein distances of 7x7 patches of
Laplacian pyramid levels. Here the patches come from a restored image and its true image instead of two data sets. The
local autocorrelation shows a lattice, which an enlargement can leave.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from celebahq_builder.metrics.descriptors import PATCH_PX, PATCHES_PER_IMAGE, laplacian_level, pyramid_down
from celebahq_builder.metrics.fidelity import LUMA_BT601, luma
from celebahq_builder.metrics.sliced import random_directions, sliced_wasserstein

LAGS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (0, 4), (4, 0))
"""Shifts of `local_autocorrelation`: rows and columns, in px of a Laplacian level."""

LATTICE_PX = 4
"""Period of the lattice that an enlargement by 4 can leave."""

WINDOW_PX = 16
"""Width and height of the windows of `local_autocorrelation`, in px of a Laplacian level."""

ENERGY_FLOOR = (1 / 255) ** 2
"""Mean square below which texture hardly counts in `local_autocorrelation`: that of one grey level."""


def random_patches(level: Tensor, rng: np.random.Generator, count: int = PATCHES_PER_IMAGE) -> Tensor:
    """Return random patches of each image of a level, uniform and fully inside.

    Shapes: [N, C, H, W] -> [N * count, C, 7, 7]. The draws depend only on `rng`, N, H, W and `count`.

    Raises:
        ValueError: the level is smaller than a patch.
    """
    n, _, height, width = level.shape
    if min(height, width) < PATCH_PX:
        raise ValueError(f"a level of {height}x{width} has no patch of {PATCH_PX}x{PATCH_PX}")
    tops = torch.from_numpy(rng.integers(height - PATCH_PX + 1, size=(n, count)))
    lefts = torch.from_numpy(rng.integers(width - PATCH_PX + 1, size=(n, count)))
    windows = level.unfold(2, PATCH_PX, 1).unfold(3, PATCH_PX, 1)  # a view: [N, C, H - 6, W - 6, 7, 7]
    image = torch.arange(n)[:, None].expand(n, count)
    return windows[image, :, tops, lefts].flatten(0, 1)


def normalize_patches(patches: Tensor, reference: Tensor) -> Tensor:
    """Normalize patches by the mean and standard deviation of each channel of the reference.

    Shapes: [M, C, 7, 7] each -> vectors [M, 49 C].
    """
    dims = (0, 2, 3)
    mean, std = reference.mean(dim=dims, keepdim=True)[0], reference.std(dim=dims, correction=0, keepdim=True)[0]
    return ((patches - mean) / std).flatten(1)


def draw_quarter_patches(
    rngs: Sequence[np.random.Generator], height_px: int, width_px: int, patches: int = 128
) -> tuple[Tensor, Tensor]:
    """Draw the positions of the patches that `texture_loss` compares.

    Args:
        rngs: one random generator for each image. The positions of an image depend only on its generator.
        height_px: of the images; a multiple of 4 and at least 28.
        width_px: as `height_px`.
        patches: patches per quarter of the finest level; the next level has half as many.

    Returns:
        For each of the two levels, the index of the top left pixel of each patch in the flattened level, int64
        [N, 4 * count], quarter by quarter. They are on the CPU, so that they can be drawn before a training step.

    Raises:
        ValueError: a quarter of a level is smaller than a patch.
    """
    if min(height_px, width_px) < 4 * PATCH_PX:
        raise ValueError(f"a quarter of {height_px}x{width_px} at half size has no patch of {PATCH_PX}x{PATCH_PX}")
    drawn: tuple[list[NDArray[np.int64]], ...] = ([], [])
    for rng in rngs:
        for level, positions in enumerate(drawn):
            width, half, shape = (
                width_px >> level,
                (height_px >> level + 1, width_px >> level + 1),
                (4, patches >> level),
            )
            tops, lefts = (rng.integers(side - PATCH_PX + 1, size=shape) for side in half)
            quarter = np.arange(4)[:, None]
            positions.append(((tops + quarter // 2 * half[0]) * width + lefts + quarter % 2 * half[1]).reshape(-1))
    finest, next_level = (torch.from_numpy(np.stack(positions)) for positions in drawn)
    return finest, next_level


def texture_loss(results: Tensor, truths: Tensor, positions: Sequence[Tensor], directions: Tensor) -> Tensor:
    """Return the sliced Wasserstein distance of the two finest Laplacian levels, for each quarter of each image.

    Quarters are compared separately, so that texture appears where it belongs. Unlike `texture_distance`, the loss is
    not divided by the standard deviation: strong texture, which a pixel loss in the same unit suppresses most, has the
    largest weight.

    Args:
        results: restored images [N, C, H, W], float, H and W multiples of 4 and at least 28.
        truths: true images, as `results`.
        positions: of the patches, from `draw_quarter_patches`, on the images' device.
        directions: unit vectors [49 C, K].

    Returns:
        The sum over the levels of the mean over images and quarters: a scalar in the images' unit, differentiable with
        respect to `results`.

    References:
        Heitz et al. 2021, "A Sliced Wasserstein Loss for Neural Texture Synthesis".

    Examples:
        >>> truths = torch.rand(1, 3, 32, 32)
        >>> positions = draw_quarter_patches([np.random.default_rng(0)], 32, 32)
        >>> directions = random_directions(147, np.random.default_rng(0), count=8)
        >>> float(texture_loss(truths, truths, positions, directions))
        0.0
    """
    total = results.new_zeros(())
    for starts in positions:
        found, true = (_sorted_quarters(laplacian_level(images), starts, directions) for images in (results, truths))
        total = total + F.l1_loss(found, true)
        results, truths = pyramid_down(results), pyramid_down(truths)
    return total


def _sorted_quarters(level: Tensor, starts: Tensor, directions: Tensor) -> Tensor:
    """Return the sorted projections of the patches of each quarter: [N, C, H, W] -> [N, 4, count, K].

    All images are gathered at once: a GPU would wait for the host if each image were a step of its own.
    """
    n, channels, _, width = level.shape
    axis = torch.arange(PATCH_PX, device=level.device)
    index = (starts[:, :, None] + (axis[:, None] * width + axis).flatten()).flatten(1)
    patches = level.flatten(2).gather(2, index[:, None].expand(-1, channels, -1))
    vectors = patches.view(n, channels, -1, PATCH_PX**2).transpose(1, 2).flatten(2)
    return (vectors @ directions).view(n, 4, -1, directions.shape[1]).sort(dim=2).values


def texture_distance(
    results: Sequence[Tensor], truths: Sequence[Tensor], patches: int = PATCHES_PER_IMAGE, seed: int = 0
) -> float:
    """Return the sliced Wasserstein distance of the finest Laplacian level between restored and true images.

    Unlike the distance between data sets, patches come from the same positions on both sides, and both sides are
    normalized by the true patches, so that a lack of texture increases the distance.

    Args:
        results: restored images [C, H, W] of any sizes, float or uint8 in one range.
        truths: the true image of each, as `results`.

    Examples:
        >>> truth = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
        >>> texture_distance([truth], [truth]), round(texture_distance([truth * 0], [truth]), 1)
        (0.0, 0.8)
    """
    drawn = []
    for images in (truths, results):
        rng = np.random.default_rng(seed)
        levels = (laplacian_level(image[None].float()) for image in images)
        drawn.append(torch.cat([random_patches(level, rng, patches) for level in levels]))
    true, restored = (normalize_patches(some, reference=drawn[0]) for some in drawn)
    return sliced_wasserstein(restored, true, random_directions(true.shape[1], np.random.default_rng(seed)))


# --- Autocorrelation ------------------------------------------------------------------------------------------------


def local_autocorrelation(images: Tensor) -> Tensor:
    """Return the autocorrelation of the finest Laplacian level, in windows of 16x16 px.

    It depends on the scale and direction of texture, and not on its strength. A lattice with a period of 4 px, which
    an enlargement by 4 can leave, has a high autocorrelation at the lag of 4 px.

    Args:
        images: [N, 1, H, W] in [0, 1], H and W at least 16.

    Returns:
        [N, lags, H // 16, W // 16], in [-1, 1], in the order of `LAGS`; near 0 where there is almost no texture.

    Examples:
        >>> lattice = torch.eye(4).repeat(8, 8)[None, None]
        >>> at_4_px = local_autocorrelation(lattice)[:, LAGS.index((0, 4))]
        >>> at_4_px.shape, bool((at_4_px > 0.9).all())
        (torch.Size([1, 2, 2]), True)
    """
    level = laplacian_level(images)
    products = torch.cat([level * level.roll(lag, dims=(2, 3)) for lag in ((0, 0), *LAGS)], dim=1)
    means = F.avg_pool2d(products, WINDOW_PX)
    return means[:, 1:] / (means[:, :1] + ENERGY_FLOOR)


def autocorrelation_loss(results: Tensor, truths: Tensor) -> Tensor:
    """Return the mean absolute difference of the local autocorrelation of the luma, at the two finest Laplacian levels.

    Args:
        results: restored images [N, 3, H, W] in [0, 1], H and W at least 32.
        truths: true images, as `results`.

    Returns:
        The sum over the levels: a scalar, differentiable with respect to `results`.

    Examples:
        >>> truths = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> lattice = truths[..., :4, :4].repeat(1, 1, 8, 8)
        >>> float(autocorrelation_loss(truths, truths)), float(autocorrelation_loss(lattice, truths)) > 0.5
        (0.0, True)
    """
    weights = results.new_tensor(LUMA_BT601)[None, :, None, None]
    images = torch.cat([results, truths]).mul(weights).sum(dim=1, keepdim=True)
    total = results.new_zeros(())
    for _ in range(2):
        found, true = local_autocorrelation(images).chunk(2)
        total = total + F.l1_loss(found, true)
        images = pyramid_down(images)
    return total


def lattice(image: Tensor, truth: Tensor) -> float:
    """Return how much more a restored image repeats itself after 4 px than the true image: 0 without a lattice.

    It is the mean difference of `local_autocorrelation` at 4 px.

    Shapes: RGB [3, H, W] in [0, 255] each, H and W at least 16.
    """
    found, true = (local_autocorrelation(luma(one)[None, None] / 255).mean(dim=(0, 2, 3)) for one in (image, truth))
    return float(torch.stack([found[k] - true[k] for k, lag in enumerate(LAGS) if sum(lag) == LATTICE_PX]).mean())
