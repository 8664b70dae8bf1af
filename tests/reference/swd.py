"""SWD as its paper describes it, in plain numpy and scipy: every image, neighbourhood and projection in memory."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve

from celebahq_builder.metrics.descriptors import draw_positions
from celebahq_builder.metrics.sliced import random_directions
from celebahq_builder.metrics.swd import DIRECTIONS_STREAM

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

BINOMIAL = np.array([1, 4, 6, 4, 1], dtype=np.float32)
FILTER = (BINOMIAL[:, None] * BINOMIAL[None, :] / 256)[None, None]


class Draws:
    """Random numbers in the order in which the paper's public code draws them, for the same figures.

    It expects images in minibatches of 64. The code also compares the first side with itself; here only the draws of
    this comparison are made.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.RandomState(seed)
        self.sides_begun = 0
        self.levels_seen: set[int] = set()

    def places(self, side: int, level: int, start: int, stop: int) -> Integers:
        """Top and left pixel of 128 neighbourhoods of each image, [stop - start, 128, 2]."""
        if side > self.sides_begun:
            self.sides_begun = side
            for each in self.levels_seen:
                self.directions(each, 3)
        self.levels_seen.add(level)
        lefts, tops = (self.random.randint(3, level - 3, size=(stop - start, 128)) - 3 for _ in range(2))
        return np.stack([tops, lefts], axis=2)

    def directions(self, level: int, channels: int) -> Floats:
        """Unit vectors [channels * 49, 512]: four times 128, whose components are column by column in the code."""
        drawn = np.concatenate([self.random.randn(channels * 49, 128) for _ in range(4)], axis=1)
        drawn = drawn.reshape(channels, 7, 7, 512).transpose(0, 2, 1, 3).reshape(-1, 512)
        return (drawn / np.sqrt(np.square(drawn).sum(axis=0))).astype(np.float32)


class DrawsOfOurs(Draws):
    """The same as `metrics.swd` draws, so that results can be compared to the last digits."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def places(self, side: int, level: int, start: int, stop: int) -> Integers:
        return draw_positions((self.seed, side, level), level, start, stop)

    def directions(self, level: int, channels: int) -> Floats:
        drawn = random_directions(49 * channels, np.random.default_rng((self.seed, DIRECTIONS_STREAM, level))).numpy()
        return drawn.reshape(7, 7, channels, 512).transpose(2, 0, 1, 3).reshape(-1, 512)


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


def neighbourhoods(level: Floats, places: Integers) -> Floats:
    """Those at places [N, P, 2] of every image, as [N * P, C, 7, 7]."""
    n, channels = level.shape[:2]
    number = np.repeat(np.arange(n), places.shape[1])[:, None, None, None]
    top, left = (places[..., axis].reshape(-1, 1, 1, 1) for axis in range(2))
    channel, row, column = np.ogrid[:channels, :7, :7]
    return level[number, channel, top + row, left + column]


def normalized(points: Floats) -> Floats:
    points = points - points.mean(axis=(0, 2, 3), keepdims=True)
    return (points / points.std(axis=(0, 2, 3), keepdims=True)).reshape(len(points), -1)


def sliced_wasserstein(a: Floats, b: Floats, directions: Floats) -> float:
    """Along directions [49 C, 512], 128 at a time."""
    distances = []
    for some in np.split(directions, 4, axis=1):
        first, second = (
            np.sort(some.T @ points.T, axis=1) for points in (a, b)
        )  # along contiguous memory, twice as fast
        distances.append(np.abs(first - second).mean())
    return float(np.mean(distances))


def swd(a: NDArray[np.uint8], b: NDArray[np.uint8], draws: Draws) -> dict[int, float]:
    clouds: list[list[Floats]] = []
    for side, images in enumerate((a, b)):
        parts = []
        for start in range(0, len(images), 64):
            pyramid = laplacian_pyramid(images[start : start + 64].astype(np.float32))
            places = [draws.places(side, p.shape[-1], start, start + len(p)) for p in pyramid]
            parts.append([neighbourhoods(*level) for level in zip(pyramid, places, strict=True)])
        clouds.append([normalized(np.concatenate(level)) for level in zip(*parts, strict=True)])
    resolutions = [a.shape[-1] >> k for k in range(len(clouds[0]))]
    return {
        r: 1000 * sliced_wasserstein(first, second, draws.directions(r, a.shape[1]))
        for r, first, second in zip(resolutions, *clouds, strict=True)
    }
