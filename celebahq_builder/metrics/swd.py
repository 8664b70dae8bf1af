"""Sliced Wasserstein distance between the local textures of two sets of pictures (Karras et al. 2018, section 5).

Each level of a Laplacian pyramid holds the detail of one scale. Small neighbourhoods drawn from it are points in a
space of 147 dimensions, of which each set's own mean and standard deviation are removed, channel by channel. The
distance between two clouds of them is the mean over 512 random directions of that between their projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from celebahq_builder.errors import RecipeError
from celebahq_builder.metrics.batches import Batches
from celebahq_builder.metrics.cloud import Cloud
from celebahq_builder.metrics.distribution import DistributionGap
from celebahq_builder.metrics.sampling import SMALLEST_PX, Sampler, levels, stored_values
from celebahq_builder.metrics.sliced import random_directions

MEMORY_BYTES = 8 << 30
CPU = torch.device("cpu")

DIRECTIONS_STREAM = 2
"""Sets the draw of directions apart from those of the neighbourhoods of sides 0 and 1."""


def swd(
    a: Batches,
    b: Batches,
    *,
    resolution: int,
    count: int,
    seed: int = 0,
    device: torch.device = CPU,
    float16: bool = False,
    memory_bytes: int = MEMORY_BYTES,
    names: tuple[str, str] = ("side a", "side b"),
    advance: Callable[[int], None] | None = None,
) -> dict[int, float]:
    """Return the sliced Wasserstein distance between two sets of pictures at each level, x 1000.

    Neighbourhoods are drawn for each picture and side anew, as in the paper's code: a picture that is on both sides is
    looked at in different places, so a set is not 0 away from itself, but as far as chance makes it. How the pictures
    come in batches changes nothing, nor do threads.

    Args:
        a: uint8 [n, C, R, R] batches, or float in [0, 255]; C is 3 or 1.
        b: likewise.
        resolution: R in pixels, a power of two, at least 16.
        count: pictures of each side that are used, its first ones; the paper takes 16,384.
        seed: of neighbourhoods and directions, at least 0.
        device: that computes and stores.
        float16: store in half the memory; distances change by less than 0.5 %.
        memory_bytes: what may be stored while pictures are read; about 1 GiB is needed besides. A set's deviation is
            known at its end, so what could not be stored is drawn again from pictures that are read again.
        names: what errors call the sides.
        advance: called with numbers of pictures done, that add up to `pictures_read`.

    Returns:
        The distance by resolution of the level: R, R/2, ..., 16.

    Raises:
        FormatError: fewer pictures than `count`, others than expected or than before, or pictures without any texture.
        RecipeError: a resolution, count or seed that makes no sense.
    """
    if seed < 0:
        raise RecipeError(f"the seed of the SWD is {seed}; expected 0 or more")
    dtype = torch.float16 if float16 else torch.float32
    once = passes(resolution, count, float16=float16, memory_bytes=memory_bytes) == 1
    clouds: list[Cloud] = []
    for number, pictures in enumerate((a, b)):
        sampler = Sampler(resolution, {level: (seed, number, level) for level in levels(resolution)}, device)
        channels = clouds[0].channels if clouds else None
        step = advance or (lambda _: None)
        clouds.append(Cloud(pictures, names[number], count, sampler, dtype if once else None, channels, step))
    return dict(_stored(clouds, resolution, seed, device) if once else _read_again(clouds, resolution, seed, device))


def _stored(clouds: list[Cloud], resolution: int, seed: int, device: torch.device) -> Iterator[tuple[int, float]]:
    for index, level in enumerate(levels(resolution)):
        gap = _gap(clouds, index, (seed, DIRECTIONS_STREAM, level), device)
        for side, cloud in enumerate(clouds):
            for descriptors in cloud.stored(index):
                gap.add(side, descriptors)
        yield level, 1000 * gap.distance()


def _read_again(clouds: list[Cloud], resolution: int, seed: int, device: torch.device) -> Iterator[tuple[int, float]]:
    resolutions = levels(resolution)
    gaps = [_gap(clouds, i, (seed, DIRECTIONS_STREAM, level), device) for i, level in enumerate(resolutions)]
    for side, cloud in enumerate(clouds):
        for block in cloud.read_again():
            for gap, descriptors in zip(gaps, block, strict=True):
                gap.add(side, descriptors)
    for level, gap in zip(resolutions, gaps, strict=True):
        yield level, 1000 * gap.distance()


def _gap(clouds: list[Cloud], index: int, stream: tuple[int, ...], device: torch.device) -> DistributionGap:
    first, second = (cloud.moments(index) for cloud in clouds)
    directions = random_directions(len(first[0]), np.random.default_rng(stream))
    return DistributionGap(directions, (first, second), device)


def passes(resolution: int, count: int, *, float16: bool = False, memory_bytes: int = MEMORY_BYTES) -> int:
    """Return how often `swd` reads all pictures: once if what it draws from them can be stored, else twice.

    Raises:
        RecipeError: a resolution or count that makes no sense.
    """
    if resolution < SMALLEST_PX or resolution & (resolution - 1):
        raise RecipeError(f"pictures of {resolution} px have no SWD; expected a power of two, at least {SMALLEST_PX}")
    if count < 1:
        raise RecipeError(f"{count} pictures have no SWD; expected at least 1, the paper takes 16384")
    values = 2 * count * 3 * sum(stored_values(level) for level in levels(resolution))
    return 1 if values * (2 if float16 else 4) <= memory_bytes else 2


def pictures_read(resolution: int, count: int, *, float16: bool = False, memory_bytes: int = MEMORY_BYTES) -> int:
    """Return how many pictures `swd` reads in all, of both sides and over all passes."""
    return 2 * count * passes(resolution, count, float16=float16, memory_bytes=memory_bytes)
