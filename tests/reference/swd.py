"""SWD as its paper describes it, in plain numpy and scipy: every picture, neighbourhood and projection in memory."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve

Floats = NDArray[np.float32]

BINOMIAL = np.array([1, 4, 6, 4, 1], dtype=np.float32)
FILTER = (BINOMIAL[:, None] * BINOMIAL[None, :] / 256)[None, None]


def down(images: Floats) -> Floats:
    return convolve(images, FILTER, mode="mirror")[:, :, ::2, ::2]


def up(images: Floats) -> Floats:
    n, channels, height, width = images.shape
    spread = np.zeros((n, channels, 2 * height, 2 * width), dtype=images.dtype)
    spread[:, :, ::2, ::2] = images
    return convolve(spread, 4 * FILTER, mode="mirror")


def laplacian_pyramid(images: Floats) -> list[Floats]:
    levels = []
    while images.shape[-1] > 16:
        half = down(images)
        levels.append(images - up(half))
        images = half
    return [*levels, images]


def neighbourhoods(level: Floats, random: np.random.RandomState) -> Floats:
    """128 of every picture, as [N * 128, C, 7, 7]."""
    n, channels, height, width = level.shape
    number = np.repeat(np.arange(n), 128)[:, None, None, None]
    top = random.randint(0, height - 6, size=(n * 128, 1, 1, 1))
    left = random.randint(0, width - 6, size=(n * 128, 1, 1, 1))
    channel, row, column = np.ogrid[:channels, :7, :7]
    return level[number, channel, top + row, left + column]


def normalised(points: Floats) -> Floats:
    points = points - points.mean(axis=(0, 2, 3), keepdims=True)
    return (points / points.std(axis=(0, 2, 3), keepdims=True)).reshape(len(points), -1)


def sliced_wasserstein(a: Floats, b: Floats, random: np.random.RandomState) -> float:
    distances = []
    for _ in range(4):
        directions = random.randn(a.shape[1], 128)
        directions = (directions / np.sqrt(np.square(directions).sum(axis=0))).astype(np.float32)
        first, second = (np.sort(np.dot(points, directions), axis=0) for points in (a, b))
        distances.append(np.abs(first - second).mean())
    return float(np.mean(distances))


def swd(a: NDArray[np.uint8], b: NDArray[np.uint8], seed: int) -> dict[int, float]:
    random = np.random.RandomState(seed)
    clouds: list[list[Floats]] = []
    for images in (a, b):
        parts = []
        for start in range(0, len(images), 64):
            pyramid = laplacian_pyramid(images[start : start + 64].astype(np.float32))
            parts.append([neighbourhoods(level, random) for level in pyramid])
        clouds.append([normalised(np.concatenate(level)) for level in zip(*parts, strict=True)])
    resolutions = [a.shape[-1] >> k for k in range(len(clouds[0]))]
    return {r: 1000 * sliced_wasserstein(*pair, random) for r, *pair in zip(resolutions, *clouds, strict=True)}
