"""Laplacian pyramid (Burt and Adelson 1983, "The Laplacian Pyramid as a Compact Image Code"), with OpenCV's filter."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Filter of the pyramid along each axis, as in cv2.pyrDown (Burt and Adelson's with a = 3/8)."""


def pyramid_down(images: Tensor) -> Tensor:
    """Halve images as cv2.pyrDown does: binomial filter, mirrored border, every second pixel.

    Shapes: float [N, C, H, W] -> [N, C, ceil(H / 2), ceil(W / 2)], H and W at least 3.
    """
    for axis, border in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        padded = F.pad(images, border, mode="reflect")
        length = images.shape[axis]
        taps = (_every_second(padded, axis, k, length) * weight for k, weight in enumerate(BINOMIAL))
        images = sum(taps, start=images.new_zeros(()))
    return images


def pyramid_up(images: Tensor) -> Tensor:
    """Double images as cv2.pyrUp does: zeros between the pixels, then the binomial filter times 4.

    Shapes: float [N, C, H, W] -> [N, C, 2H, 2W], H and W at least 2.
    """
    for axis, before, after in ((3, (1, 0, 0, 0), (0, 1, 0, 0)), (2, (0, 0, 1, 0), (0, 0, 0, 1))):
        # OpenCV mirrors after inserting the zeros, so beyond the last pixel it sees that pixel again.
        padded = F.pad(F.pad(images, before, mode="reflect"), after, mode="replicate")
        length = images.shape[axis]
        left, middle, right = (padded.narrow(axis, k, length) for k in range(3))
        pair = torch.stack([(left + 6 * middle + right) / 8, (middle + right) / 2], dim=axis + 1)
        images = pair.flatten(axis, axis + 1)
    return images


def laplacian_level(images: Tensor) -> Tensor:
    """Return the finest level of the Laplacian pyramid: images minus themselves halved and doubled again.

    Shapes: float [N, C, H, W] -> the same.

    Examples:
        >>> float(laplacian_level(torch.full((1, 3, 16, 16), 7.0)).abs().max())
        0.0
    """
    height, width = images.shape[-2:]
    return images - pyramid_up(pyramid_down(images))[..., :height, :width]


def laplacian_pyramid(images: Tensor, smallest: int) -> Iterator[Tensor]:
    """Yield the levels of the Laplacian pyramid, finest first; the last level is the low pass, the reduced images.

    On a CPU OpenCV filters the images one by one in the calling thread; elsewhere torch filters them together. Both
    agree within 1e-3 grey levels.

    Args:
        images: [N, C, H, W], uint8 or float, C 1 or 3.
        smallest: images are halved until a side is at most this many px long.

    Yields:
        float32 [N, h, w, C] in the images' unit, channels last, on the images' device.

    Examples:
        >>> [tuple(level.shape) for level in laplacian_pyramid(torch.zeros(2, 3, 64, 64), smallest=16)]
        [(2, 64, 64, 3), (2, 32, 32, 3), (2, 16, 16, 3)]
    """
    on_cpu = images.device.type == "cpu"
    return _by_opencv(images, smallest) if on_cpu else _by_torch(images, smallest)


def _by_torch(images: Tensor, smallest: int) -> Iterator[Tensor]:
    current = images.float()
    while min(current.shape[2:]) > smallest:
        half = pyramid_down(current)
        height, width = current.shape[2:]
        yield (current - pyramid_up(half)[..., :height, :width]).permute(0, 2, 3, 1).contiguous()
        current = half
    yield current.permute(0, 2, 3, 1).contiguous()


def _by_opencv(images: Tensor, smallest: int) -> Iterator[Tensor]:
    n, channels = images.shape[:2]
    current = [cv2.merge(list(image)).astype(np.float32) for image in images.contiguous().numpy()]
    while min(current[0].shape[:2]) > smallest:
        height, width = current[0].shape[:2]
        level = np.empty((n, *current[0].shape), dtype=np.float32)
        halves = [cv2.pyrDown(image) for image in current]
        for image, half, difference in zip(current, halves, level, strict=True):
            np.subtract(image, cv2.pyrUp(half, dstsize=(width, height)), out=difference)
        yield torch.from_numpy(level.reshape(n, height, width, channels))
        current = halves
    height, width = current[0].shape[:2]
    yield torch.from_numpy(np.stack(current).reshape(n, height, width, channels))


def _every_second(images: Tensor, axis: int, start: int, length: int) -> Tensor:
    return images.narrow(axis, start, length)[(..., slice(None, None, 2)) + (slice(None),) * (3 - axis)]
