"""Forecast of a ProGAN training: the time that its levels still take, and what their images show."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from celebahq_builder.models.progan import LEVEL_MIN
from celebahq_builder.progan.schedule import ProGANRecipe
from celebahq_builder.progress import rough_duration

EXPECTATIONS = (
    "what to expect: images of 4x4 and 8x8 show colours, those of 16x16 the places of eyes and mouth, larger ones a "
    "face; after a change of level, the images become sharp while alpha rises from 0 to 1"
)

LONG_S, YEAR_S = 10 * 86_400.0, 365.25 * 86_400
"""Times after which a training on a CPU gets a hint, and any training a warning."""


def outlook(
    recipe: ProGANRecipe,
    kimg: float,
    total_kimg: float,
    images_per_s: Mapping[int, float],
    *,
    last_level: int = 0,
    on_cpu: bool = False,
) -> list[str]:
    """Return sentences about the position of a training and what to expect when; the first one is short.

    Args:
        recipe: networks and schedule.
        kimg: position of the training.
        total_kimg: length of the training.
        images_per_s: speed by level; empty if it is not known yet.
        last_level: level of the last step; 0 before the first step.
        on_cpu: a training of weeks gets a hint.
    """
    now_level, alpha = recipe.schedule.trained_level(kimg, last_level, recipe.net.level_max)
    side = 1 << now_level
    where = f"{kimg:g} of {total_kimg:g} kimg, {side}x{side}, alpha {alpha:.2f}"
    if kimg >= total_kimg:
        return [f"{where}; the training is complete"]
    if not images_per_s:
        return [where, EXPECTATIONS]
    arrivals, seconds = [], 0.0
    for level, level_s in remaining_s(recipe, kimg, total_kimg, images_per_s).items():
        if level > now_level:
            begins_kimg = recipe.schedule.begins(level, recipe.net.level_max)
            arrivals.append(f"{1 << level}x{1 << level} in {rough_duration(seconds)} (at {begins_kimg:g} kimg)")
        seconds += level_s
    end = f"the end in {rough_duration(seconds)} (at {total_kimg:g} kimg)"
    sentences = [f"{where}; estimated: {', '.join([*arrivals[:1], end])}"]
    if len(arrivals) > 1:
        sentences.append(f"new levels, estimated: {', '.join([*arrivals, end])}")
    sentences.append(EXPECTATIONS)
    return sentences + advice(seconds, on_cpu=on_cpu)


def advice(seconds: float, *, on_cpu: bool) -> list[str]:
    """Return a sentence about a training that takes so long that it needs another device or recipe, or none."""
    if seconds > YEAR_S:
        return [
            f"warning: the training is not feasible on this device: it takes about {rough_duration(seconds)}; use "
            "GPUs, or a smaller recipe such as quick"
        ]
    if on_cpu and seconds > LONG_S:
        return ["this recipe is for GPUs; on a CPU, the recipe quick shows faces in minutes"]
    return []


def remaining_s(
    recipe: ProGANRecipe, kimg: float, total_kimg: float, images_per_s: Mapping[int, float]
) -> dict[int, float]:
    """Estimate the time that each level still takes.

    The cost of a level that was not measured is extrapolated from the nearest one that was, by the multiplications of
    the convolutions. Small layers leave a device idle, and large images need more than multiplications, so that the
    estimate of a distant level can be wrong by a factor of three.

    Args:
        recipe: networks and schedule.
        kimg: position of the training.
        total_kimg: length of the training.
        images_per_s: speed by level; at least one.

    Returns:
        Seconds by level, of the levels that are not over.
    """
    net, schedule = recipe.net, recipe.schedule
    costs = [
        4**level * (net.channels(max(level - 1, LEVEL_MIN)) + c) * c
        for level in net.levels
        if (c := net.channels(level))
    ]
    cost = dict(zip(net.levels, itertools.accumulate(costs), strict=True))
    left = {}
    for level in net.levels:
        begins = schedule.begins(level, net.level_max)
        ends = schedule.begins(level + 1, net.level_max) if level < net.level_max else total_kimg
        left_kimg = min(ends, total_kimg) - max(begins, kimg)
        if left_kimg > 0 and schedule.at(max(begins, kimg), net.level_max).level == level:
            nearest = min(images_per_s, key=lambda known: abs(known - level))
            left[level] = left_kimg * 1000 / images_per_s[nearest] * cost[level] / cost[nearest]
    return left
