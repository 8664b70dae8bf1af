"""Speed of a ProGAN training: images per second at every resolution, and the time that growing saves.

``python benchmarks/train.py [--device cuda] [--precision bf16] [--resolution 1024] [--seconds 60] [--threads 2]`` runs
whole steps (both networks, the penalty, both Adams, the average) of full width on random images. From their seconds
follows how long the recipe's schedule takes, and how long the same number of images would take a network that has
its final size from the start.

On a CPU the figure for 32x32, minibatch 16, stands beside that of the fastest other PyTorch trainer known, 0.4
images per second on 2 cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from itertools import pairwise
from pathlib import Path

import torch
from table import Row, finish

from celebahq_builder.pipeline.recipe import bundled_recipe
from celebahq_builder.progan.launch import read_recipe
from celebahq_builder.progan.schedule import ProGANRecipe, SchedulePoint
from celebahq_builder.progan.step import ProGANStep, RealBatch
from celebahq_builder.training.distributed import DistributedContext

KNOWN = 0.4
"""Images per second at 32x32, minibatch 16, on 2 cores: the fastest other PyTorch trainer known."""
FASTER = 4 / 3

DAY_S = 86_400
PAPER_KIMG = 6400
"""Length of the trainings of which the paper gives the times: 96 hours growing; about 520 hours, 5.4 times as long, not
growing."""
DAYS_GOAL = 3.0
"""Goal for the time of the 1-GPU schedule on one H200."""


def main() -> None:
    """Measure every resolution and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--resolution", type=int, default=1024, help="the largest one that is measured")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each resolution, after a step to warm up")
    parser.add_argument("--threads", type=int, help="of torch, on a CPU")
    parser.add_argument("--recipe", default="celebahq-1024-1gpu")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    recipe = read_recipe(bundled_recipe(Path(asked.recipe), "train"))
    recipe = dataclasses.replace(recipe, precision=asked.precision)
    levels = [level for level in recipe.net.levels if 1 << level <= asked.resolution]
    world = DistributedContext(0, 1, torch.device(asked.device))
    if asked.device != "cpu":  # as the command sets them
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    print(f"{asked.device}, {torch.get_num_threads()} threads, {asked.precision}, {asked.recipe}", flush=True)
    rows: list[Row] = []
    rate: dict[int, float] = {}
    progan = ProGANStep(recipe, world)
    if asked.device == "cpu":
        point = dataclasses.replace(recipe.schedule.at(0, 5), level=5, alpha=1.0, minibatch=16, per_gpu=None)
        speed, _ = measured(progan, point, asked.seconds)
        report(rows, Row("32x32, minibatch 16: images/s", speed, "", at_least=KNOWN * FASTER))
    for level in levels:
        begins = recipe.schedule.begins(level, levels[-1])
        point = recipe.schedule.at(begins + recipe.schedule.fade_kimg if begins else 0.0, levels[-1])
        rate[level], peak = measured(progan, point, asked.seconds)
        side = point.resolution
        report(rows, Row(f"{side}x{side}, minibatch {point.minibatch}: images/s", rate[level], ""))
        if peak:
            report(rows, Row(f"{side}x{side}, minibatch {point.minibatch}: peak memory", peak / 2**30, "GiB"))
    for what, kimg in (("the recipe", recipe.schedule.total_kimg), ("the paper's comparison", PAPER_KIMG)):
        growing = projected(recipe, rate, kimg)
        fixed = kimg * 1000 / rate[levels[-1]]
        goal = DAYS_GOAL if "H200" in name(asked.device) and kimg == recipe.schedule.total_kimg else None
        report(rows, Row(f"{what}, {kimg:g} kimg, growing", growing / DAY_S, "days", at_most=goal))
        report(rows, Row(f"{what}, {kimg:g} kimg, not growing", fixed / DAY_S, "days"))
        report(rows, Row(f"{what}, {kimg:g} kimg, growing is faster by", fixed / growing, "x"))
    print("\nAll figures:")
    finish(rows)


def measured(progan: ProGANStep, point: SchedulePoint, seconds: float) -> tuple[float, int]:
    """Return the images per second of whole steps, and the peak memory on a GPU in bytes."""
    device, side, n = progan.context.device, point.resolution, point.minibatch
    passes = point.passes(1, progan.recipe.net.stddev_group)
    images = torch.rand((n, 3, side, side), generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1).to(device)
    reals = [RealBatch(images[i::passes]) for i in range(passes)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if device.type == "cuda":
        for _ in range(2):
            progan.step(0, point, reals)
    elif side <= 128:  # a larger step takes so long that a warm-up does not matter
        progan.step(0, dataclasses.replace(point, minibatch=4), [RealBatch(images[:4])])
    synchronise(device)
    began, steps = time.perf_counter(), 0
    while True:
        progan.step(steps, point, reals)
        steps += 1
        synchronise(device)
        took = time.perf_counter() - began
        if took >= seconds:
            break
    return steps * n / took, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def projected(recipe: ProGANRecipe, rate: dict[int, float], kimg: float) -> float:
    """Return the seconds that a growing network takes for `kimg` thousand images."""
    begins = [recipe.schedule.begins(level, max(rate)) for level in rate] + [kimg]
    return sum(
        max(0.0, min(end, kimg) - min(begin, kimg)) * 1000 / rate[level]
        for level, (begin, end) in zip(rate, pairwise(begins), strict=True)
    )


def report(rows: list[Row], row: Row) -> None:
    """Print a figure as soon as it is known."""
    print(row, flush=True)
    rows.append(row)


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name(device: str) -> str:
    """Return the name of a GPU, or an empty string for a CPU."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else ""


if __name__ == "__main__":
    main()
