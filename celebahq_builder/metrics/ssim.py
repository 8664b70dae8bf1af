"""Structural similarity, SSIM (Wang et al. 2004), and multi-scale structural similarity, MS-SSIM (Wang et al. 2003)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from celebahq_builder.errors import RecipeError
from celebahq_builder.metrics.batches import Batches, map_in_threads, take_images

WINDOW_PX, SIGMA_PX = 11, 1.5
"""Gaussian window; on smaller images, window and sigma shrink in proportion."""

K1, K2 = 0.01, 0.03
RANGE = 255.0

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the scales of MS-SSIM, finest first."""

PAIRS_PER_JOB = 16
"""Pairs that a thread compares."""

PIECE_VALUES = 1 << 16
"""Pixels that are compared at once: in float64, all intermediate results stay in the cache."""


def ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the structural similarity of pairs of images, and its contrast-structure term.

    Args:
        a: [N, C, H, W], uint8 or float in [0, 255].
        b: as `a`.

    Returns:
        Means over channels and over all positions where the window lies inside the image: two float64 [N], at most 1.

    Raises:
        ValueError: the shapes differ.

    References:
        Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", equation 13; the
        second result is the product of the contrast and structure terms, equations 9 and 10.

    Examples:
        >>> image = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
        >>> similarity, contrast_structure = ssim(image, image / 2 + 20)
        >>> bool(similarity < contrast_structure)
        True
    """
    contrast, product, squares = _contrast(a, b)
    c1 = (K1 * RANGE) ** 2
    luminance = product.mul_(2).add_(c1).div_(squares.add_(c1))
    return (luminance * contrast).mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))


def contrast_structure(a: Tensor, b: Tensor) -> Tensor:
    """Return only the second result of `ssim`, in less time."""
    return _contrast(a, b)[0].mean(dim=(1, 2, 3))


def _contrast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the contrast-structure term, the product of the local means and the sum of their squares, as maps.

    Operations are in place where possible, because allocation takes longer than the arithmetic.
    """
    if a.shape != b.shape:
        raise ValueError(f"SSIM needs images of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    taps = _window(min(WINDOW_PX, *a.shape[-2:]))
    mean_a, mean_b = _blur(a, taps), _blur(b, taps)
    product = mean_a * mean_b
    squares = mean_a.square_().addcmul_(mean_b, mean_b)
    covariance = _blur(a * b, taps).sub_(product)
    variances = _blur((a * a).addcmul_(b, b), taps).sub_(squares)
    c2 = (K2 * RANGE) ** 2
    return covariance.mul_(2).add_(c2).div_(variances.add_(c2)), product, squares


@functools.lru_cache
def _window(size: int) -> Tensor:
    sigma = SIGMA_PX * size / WINDOW_PX
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    taps = torch.exp(-at.square() / (2 * sigma**2))
    return taps / taps.sum()


def _blur(images: Tensor, taps: Tensor) -> Tensor:
    """Filter along both axes; positions where the window leaves the image are dropped."""
    return _by_opencv(images, taps) if images.device.type == "cpu" else _by_torch(images, taps)


def _by_opencv(images: Tensor, taps: Tensor) -> Tensor:
    """Filter all images as one tall image; positions whose window spans two images are dropped."""
    height, width = (side - len(taps) + 1 for side in images.shape[-2:])
    plane, window = images.reshape(-1, images.shape[-1]).numpy(), taps.numpy()
    blurred = torch.from_numpy(cv2.sepFilter2D(plane, cv2.CV_64F, window, window, anchor=(0, 0)))
    return blurred.view(images.shape)[..., :height, :width]


def _by_torch(images: Tensor, taps: Tensor) -> Tensor:
    """Add shifted images, in a fifth of the time of conv2d in float64; the host reads no value of a GPU."""
    first, *others = taps.tolist()
    for axis in (3, 2):
        length = images.shape[axis] - len(taps) + 1
        total = images.narrow(axis, 0, length) * first
        for k, tap in enumerate(others, 1):
            total.add_(images.narrow(axis, k, length), alpha=tap)
        images = total
    return images


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the multi-scale structural similarity of pairs of images.

    It multiplies the contrast-structure terms of five scales and the luminance term of the coarsest, each to the power
    of its weight. Between scales, 2x2 pixels are averaged (an odd last row or column is repeated); the window shrinks
    to scales that are smaller. A negative mean of an image counts as 0, as in the authors' code.

    Args:
        a: [N, C, H, W], uint8 or float in [0, 255].
        b: as `a`.

    Returns:
        float64 [N], from 0 to 1.

    Raises:
        ValueError: the shapes differ.

    References:
        Wang et al. 2003, "Multi-scale Structural Similarity for Image Quality Assessment", equation 7 and section 3.

    Examples:
        >>> image = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
        >>> round(float(ms_ssim(image, image)), 6)
        1.0
    """
    if a.shape != b.shape:
        raise ValueError(f"MS-SSIM needs images of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if not len(a):
        return torch.zeros(0, dtype=torch.float64)
    pairs = zip(torch.split(a, PAIRS_PER_JOB), torch.split(b, PAIRS_PER_JOB), strict=True)
    return torch.cat([*map_in_threads(_ms_ssim_of_pairs, pairs, a.device)])


def mean_ms_ssim(
    images: Batches, pairs: int, *, name: str = "the set", advance: Callable[[int], None] = lambda _: None
) -> float:
    """Return the mean MS-SSIM of pairs of images of one set; a lower value means a more varied set.

    The first image is compared with the second, the third with the fourth, and so on. Karras et al. 2018, section 6.1,
    compare 10,000 pairs of generated images in this way, after Odena et al. 2017. Shuffle a data set that is sorted.

    Args:
        images: uint8 [n, C, R, R] batches, or float in [0, 255]; only the first 2 `pairs` images are read.
        pairs: number of pairs, at least 1.
        name: of the set, in error messages.
        advance: called with numbers of images done.

    Raises:
        FormatError: there are fewer than 2 `pairs` images, or they have different shapes.
        RecipeError: `pairs` is less than 1.

    Examples:
        >>> from celebahq_builder.metrics.batches import array_batches
        >>> one_image = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
        >>> round(mean_ms_ssim(array_batches(one_image.to(torch.uint8).expand(6, -1, -1, -1)), pairs=3), 6)
        1.0
    """
    if pairs < 1:
        raise RecipeError(f"{pairs} pairs have no MS-SSIM; expected at least 1, the paper takes 10000")
    found = []
    for even in _even_batches(take_images(images, 2 * pairs, name=name)):
        found.append(ms_ssim(even[0::2], even[1::2]).cpu())
        advance(len(even))
    return float(torch.cat(found).mean())


def _even_batches(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield batches of even length; a last image without a partner moves to the next batch."""
    single: Tensor | None = None
    for batch in batches:
        whole = batch if single is None else torch.cat([single, batch])
        even = len(whole) // 2 * 2
        single = whole[even:] if even < len(whole) else None
        if even:
            yield whole[:even]


def _ms_ssim_of_pairs(pair: tuple[Tensor, Tensor]) -> Tensor:
    n, channels = pair[0].shape[:2]
    a, b = (images.flatten(0, 1)[:, None] for images in pair)
    product = torch.ones(n, dtype=torch.float64, device=a.device)
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            a, b = _half(a), _half(b)
        size = max(1, PIECE_VALUES // a[0].numel()) if a.device.type == "cpu" else len(a)
        few = zip(torch.split(a, size), torch.split(b, size), strict=True)
        last = scale == len(WEIGHTS) - 1
        found = torch.cat([ssim(*planes)[0] if last else contrast_structure(*planes) for planes in few])
        product *= found.view(n, channels).mean(dim=1).clamp_(min=0) ** weight
    return product


def _half(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    images = images.double()
    if height % 2 or width % 2:
        images = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
    return F.avg_pool2d(images, 2)
