"""Fidelity of restored images to their true images: PSNR, power spectrum and JPEG blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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


# --- JPEG blocks ------------------------------------------------------------------------------------------------


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
