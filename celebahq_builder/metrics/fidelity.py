"""Fidelity of restored images to their true images: PSNR, power spectrum, texture and JPEG blocks.

Texture is compared as in `swd` (Karras et al. 2018, section 5): by sliced Wasserstein distances of 7x7 patches of
Laplacian pyramid levels. Here the patches come from a restored image and its true image instead of two data sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from celebahq_builder.metrics.descriptors import PATCH_PX, PATCHES_PER_IMAGE, laplacian_level, pyramid_down
from celebahq_builder.metrics.sliced import random_directions, sliced_wasserstein

LUMA_BT601 = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""Weights of R, G and B in studio-range luma (ITU-R BT.601), the luma of super-resolution papers."""

BLOCK_PX = 8
"""Width and height of JPEG's blocks."""

FLAT_GRADIENT = 1.5
"""Largest gradient in the flat areas of an image, grey levels per px, after smoothing with a 5x5 mean."""


def psnr(image: Tensor, truth: Tensor) -> float:
    """Return the peak signal-to-noise ratio of an image in dB: 10 log10(255^2 / mean squared error).

    Args:
        image: of any shape, uint8 or float in [0, 255].
        truth: the true image, as `image`.

    Returns:
        Infinity for equal images.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> round(psnr(torch.full((3, 8, 8), 100), torch.full((3, 8, 8), 101)), 2)
        48.13
    """
    if image.shape != truth.shape:
        raise ValueError(f"PSNR needs two images of one shape, got {tuple(image.shape)} and {tuple(truth.shape)}")
    error = (image.double() - truth.double()).square().mean()
    return float(10 * torch.log10(255.0**2 / error))


def luma(image: Tensor) -> Tensor:
    """Return BT.601 studio-range luma [H, W] in [16, 235] of an RGB image [3, H, W] in [0, 255]."""
    weights = torch.tensor(LUMA_BT601, dtype=torch.float64, device=image.device)
    return 16 + torch.einsum("c,chw->hw", weights, image.double())


def psnr_y(image: Tensor, truth: Tensor, border_px: int = 4) -> float:
    """Return the PSNR of the luma in dB, without a border, as super-resolution papers report it.

    Shapes: RGB [3, H, W] in [0, 255] each.
    """
    inner = slice(border_px, -border_px) if border_px else slice(None)
    return psnr(luma(image)[inner, inner], luma(truth)[inner, inner])


def spectrum_error_db(image: Tensor, truth: Tensor) -> float:
    """Return the mean absolute difference of two radial power spectra in dB; it is large if texture is missing.

    Args:
        image: [3, S, S], RGB in [0, 255].
        truth: as `image`.
    """
    return float((radial_spectrum_db(image) - radial_spectrum_db(truth)).abs().mean())


def radial_spectrum_db(image: Tensor) -> Tensor:
    """Return the mean power of the luma over rings of frequencies, in dB.

    Shapes: RGB [3, S, S] in [0, 255] -> float64, one value for each ring of one cycle per image, from S/8 to S/2.
    """
    y = luma(image)
    y = y - y.mean()
    size = min(y.shape)
    y = y[:size, :size]
    window = torch.hann_window(size, periodic=False, dtype=y.dtype, device=y.device)
    power = torch.fft.fft2(y * window[:, None] * window[None, :]).abs().square()
    axis = torch.fft.fftfreq(size, 1 / size, dtype=y.dtype, device=y.device)
    ring = torch.hypot(axis[:, None], axis[None, :]).round().long()
    sums = torch.bincount(ring.flatten(), power.flatten())
    counts = torch.bincount(ring.flatten())
    return 10 * torch.log10((sums / counts)[size // 8 : size // 2].clamp(min=1e-12))


# --- Texture ---------------------------------------------------------------------------------------------------------


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


def normalise_patches(patches: Tensor, reference: Tensor) -> Tensor:
    """Normalise patches by the mean and standard deviation of each channel of the reference.

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
    normalised by the true patches, so that a lack of texture increases the distance.

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
    true, restored = (normalise_patches(some, reference=drawn[0]) for some in drawn)
    return sliced_wasserstein(restored, true, random_directions(true.shape[1], np.random.default_rng(seed)))


def block_profile(images: Tensor, truths: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels at each position of JPEG's block grid.

    Pixels count where their true surroundings are flat, such as skin: in texture, block edges are not visible.

    Args:
        images: [N, 3, H, W] in [0, 255], with JPEG's block grid at the top left corner.
        truths: the true images, of the same shape; they determine the flat areas.

    Returns:
        [8], in grey levels, of rows and columns together: between the first and second pixel of a block, and so on; the
        last value is that across an edge of two blocks. Positions without flat areas have 0.

    Examples:
        >>> truth = torch.full((1, 3, 32, 32), 100.0)
        >>> blocks = truth + 2 * (torch.arange(32) // 8 % 2)  # columns of blocks that differ by 2 grey levels
        >>> block_profile(blocks, truth).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """
    flat = _flat_areas(truths)
    sums, counts = [], []
    for dim in (2, 3):
        difference = images.diff(dim=dim).abs().mean(dim=1, keepdim=True)
        length = difference.shape[dim]
        counted = flat.narrow(dim, 0, length) & flat.narrow(dim, 1, length)
        for position in range(BLOCK_PX):
            places = torch.arange(position, length, BLOCK_PX, device=images.device)
            at_position = counted.index_select(dim, places)
            sums.append((difference.index_select(dim, places) * at_position).sum())
            counts.append(at_position.sum())
    both = (len(sums) // BLOCK_PX, BLOCK_PX)
    return torch.stack(sums).view(both).sum(dim=0) / torch.stack(counts).view(both).sum(dim=0).clamp(min=1)


def blocking(profile: Tensor) -> float:
    """Return how visible JPEG's blocks are in flat areas, in grey levels: 0 for images without blocks.

    This is the largest value of a `block_profile` minus the mean of the seven others. So neither the edges of blocks
    nor any other pattern of their period is smaller than it is seen.
    """
    largest = profile.max()
    return float(largest - (profile.sum() - largest) / (BLOCK_PX - 1))


def blocking_loss(profile: Tensor) -> Tensor:
    """Return the last value of a `block_profile`, that at block edges, minus the mean of the others; 0 if it is less.

    Its gradient reduces the differences at the edges only. If it also increased the others, a training would add grain
    to all flat areas; if it reduced all that are above the mean, a training would remove their grain.
    """
    return F.relu(profile[-1] - profile[:-1].detach().mean())


def _flat_areas(images: Tensor) -> Tensor:
    """Return where images [N, 3, H, W] in [0, 255] are flat within 2 px: bool [N, 1, H, W]."""
    smooth = F.avg_pool2d(images.mean(dim=1, keepdim=True), 5, stride=1, padding=2, count_include_pad=False)
    wide = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    down, right = wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1], wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]
    steep = (torch.hypot(down, right) / 2 > FLAT_GRADIENT).float()
    return F.max_pool2d(steep, 5, stride=1, padding=2) == 0
