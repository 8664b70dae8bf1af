"""Speed of a ProGAN training: images per second at every resolution, and the time that growing saves.

``python benchmarks/train.py [--device cuda] [--precision bf16] [--resolution 1024] [--seconds 60] [--threads 2]`` runs
whole steps (both networks, the penalty, both Adams, the average) of full width on random images, at each resolution
after its fade-in and in the middle of it. From their seconds follows how long the recipe's schedule takes, and how long
the same number of images would take a network that has its final size from the start. A resolution that does not fit
the memory is a missed row, and the others are measured. `--json FILE` writes the rows, after each resolution.

On a CPU the figure for 32x32, minibatch 16, stands beside that of the fastest other PyTorch trainer known, 0.4
images per second on 2 cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import time
from itertools import pairwise
from pathlib import Path

import torch
from table import Row, finish

from celebahq_builder.device_errors import is_out_of_memory
from celebahq_builder.pipeline.recipe import bundled_recipe
from celebahq_builder.progan.launch import read_recipe
from celebahq_builder.progan.schedule import ProGANRecipe, SchedulePoint
from celebahq_builder.progan.step import Microbatch, ProGANTrainer
from celebahq_builder.training.distributed import DistributedContext

KNOWN = 0.4
"""Images per second at 32x32, minibatch 16, on 2 cores: the fastest other PyTorch trainer known."""
FASTER = 4 / 3

DAY_S = 86_400
PAPER_KIMG = 6400
"""Length of the trainings of which the paper gives the times: 96 hours growing; about 520 hours, 5.4 times as long, not
growing."""
DAYS_GOAL = 3.0
"""Goal for the time of the 1-GPU schedule on one H100 or H200."""


class Rows(list[Row]):
    """The figures: printed as soon as they are known, and written to a JSON file."""

    def __init__(self, about: dict[str, object], path: Path | None) -> None:
        super().__init__()
        self.about, self.path = about, path

    def add(self, row: Row) -> None:
        """Print a figure, and write all figures so far."""
        print(row, flush=True)
        self.append(row)
        if self.path is not None:
            # JSON has no NaN: a figure that could not be measured is null.
            rows = [row.mapping() | {"value": row.value if math.isfinite(row.value) else None} for row in self]
            self.path.write_text(json.dumps({**self.about, "rows": rows}, indent=1) + "\n")


def main() -> None:
    """Measure every resolution and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--resolution", type=int, default=1024, help="the largest one that is measured")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each resolution, after two steps to warm up")
    parser.add_argument("--threads", type=int, help="of torch, on a CPU")
    parser.add_argument("--recipe", default="celebahq-1024-1gpu")
    parser.add_argument("--reuse-fakes", action="store_true", help="train the generator on the discriminator's images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    recipe = read_recipe(bundled_recipe(Path(asked.recipe), "train"))
    recipe = dataclasses.replace(recipe, precision=asked.precision, reuse_fakes=asked.reuse_fakes)
    levels = [level for level in recipe.net.levels if 1 << level <= asked.resolution]
    context = DistributedContext(0, 1, torch.device(asked.device))
    if asked.device != "cpu":  # as the command sets them
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    about = {
        "device": name(asked.device) or f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "precision": asked.precision,
        "recipe": asked.recipe,
        "reuse_fakes": asked.reuse_fakes,
        "seconds": asked.seconds,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    rows = Rows(about, asked.json)
    progan = ProGANTrainer(recipe, context)
    if asked.device == "cpu":
        point = dataclasses.replace(recipe.schedule.at(0, 5), level=5, alpha=1.0, minibatch=16, per_gpu=None)
        speed, _ = measured(progan, point, asked.seconds)
        rows.add(Row("32x32, minibatch 16: images/s", speed, "", at_least=KNOWN * FASTER))
    rate: dict[tuple[int, bool], float] = {}
    for level in levels:
        begins = recipe.schedule.begins(level, levels[-1])
        entered = recipe.schedule.at(begins + recipe.schedule.fade_kimg if begins else 0.0, levels[-1])
        for fading in (False, True) if begins else (False,):
            point = dataclasses.replace(entered, alpha=0.5 if fading else 1.0)
            rate[level, fading] = measure_level(progan, point, asked.seconds, rows)
    growing_days(recipe, levels, rate, asked.device, rows)
    print("\nAll figures:")
    finish(rows)


def measure_level(progan: ProGANTrainer, point: SchedulePoint, seconds: float, rows: Rows) -> float:
    """Add the rows of a resolution; return its images per second, NaN if it does not fit the memory."""
    title = f"{point.resolution}x{point.resolution}, minibatch {point.minibatch}"
    title += ", fading in" if point.alpha < 1 else ""
    try:
        speed, peak_bytes = measured(progan, point, seconds)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        speed = math.nan
    if math.isnan(speed):  # outside of `except`, where the error no longer holds references to tensors
        for net in (progan.generator, progan.discriminator):
            net.requires_grad_(True).zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        rows.add(Row(f"{title}: out of memory", math.nan, "images/s", at_least=0))
        return speed
    rows.add(Row(f"{title}: images/s", speed, ""))
    if peak_bytes:
        rows.add(Row(f"{title}: peak memory", peak_bytes / 2**30, "GiB"))
    return speed


def measured(progan: ProGANTrainer, point: SchedulePoint, seconds: float) -> tuple[float, int]:
    """Return the images per second of whole steps, and the peak memory on a GPU in bytes.

    A GPU is waited for at the end only, as in a training. The number of steps follows from two steps before.
    """
    device, side, n = progan.context.device, point.resolution, point.minibatch
    passes = point.passes(1, progan.recipe.net.stddev_group)
    images = torch.rand((n, 3, side, side), generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1).to(device)
    reals = [Microbatch(images[i::passes]) for i in range(passes)]
    progan.reset_optimizers()  # those of other resolutions are not part of the peak
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        progan.step(0, point, reals)  # cuDNN chooses its algorithms
        return _steps(progan, point, reals, seconds), torch.cuda.max_memory_allocated(device)
    if side <= 128:  # a larger step takes so long that a warm-up does not matter
        progan.step(0, dataclasses.replace(point, minibatch=4), [Microbatch(images[:4])])
    return _steps(progan, point, reals, seconds), 0


def _steps(progan: ProGANTrainer, point: SchedulePoint, reals: list[Microbatch], seconds: float) -> float:
    """Return the images per second of as many steps as fit the time, at least one."""
    device, steps, count = progan.context.device, 0, 1
    synchronize(device)
    began_s = time.perf_counter()
    while True:
        for _ in range(count):
            progan.step(steps, point, reals)
            steps += 1
        synchronize(device)
        took_s = time.perf_counter() - began_s
        if took_s >= seconds:
            return steps * point.minibatch / took_s
        count = max(1, min(steps, math.ceil((seconds - took_s) * steps / took_s)))


def growing_days(
    recipe: ProGANRecipe, levels: list[int], rate: dict[tuple[int, bool], float], device: str, rows: Rows
) -> None:
    """Add the days that the schedule takes; they are missing if a resolution does not fit the memory."""
    if not all(map(math.isfinite, rate.values())):
        print("no time is computed: a resolution does not fit the memory")
        return
    for what, kimg in (("the recipe", recipe.schedule.total_kimg), ("the paper's comparison", PAPER_KIMG)):
        growing_s = projected_s(recipe, levels, rate, kimg)
        fixed_s = kimg * 1000 / rate[levels[-1], False]
        has_goal = any(card in name(device) for card in ("H100", "H200")) and kimg == recipe.schedule.total_kimg
        goal = DAYS_GOAL if has_goal and levels[-1] == recipe.net.level_max else None
        rows.add(Row(f"{what}, {kimg:g} kimg, growing", growing_s / DAY_S, "days", at_most=goal))
        rows.add(Row(f"{what}, {kimg:g} kimg, not growing", fixed_s / DAY_S, "days"))
        rows.add(Row(f"{what}, {kimg:g} kimg, growing is faster by", fixed_s / growing_s, "x"))


def projected_s(recipe: ProGANRecipe, levels: list[int], rate: dict[tuple[int, bool], float], kimg: float) -> float:
    """Return the seconds that a growing network takes for `kimg` thousand images."""
    schedule = recipe.schedule
    begins = [schedule.begins(level, levels[-1]) for level in levels] + [math.inf]
    total_s = 0.0
    for level, (begin, end) in zip(levels, pairwise(begins), strict=True):
        faded = begin + schedule.fade_kimg if (level, True) in rate else begin
        for fading, start, stop in ((True, begin, faded), (False, faded, end)):
            if min(stop, kimg) > start:
                total_s += (min(stop, kimg) - start) * 1000 / rate[level, fading]
    return total_s


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name(device: str) -> str:
    """Return the name of a GPU, or an empty string for a CPU."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else ""


if __name__ == "__main__":
    main()
