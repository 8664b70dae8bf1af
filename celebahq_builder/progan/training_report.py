"""The report of a ProGAN training: the forecast of the time that is left, and the HTML page."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from celebahq_builder.config import flatten
from celebahq_builder.evaluation.protocol import METRICS
from celebahq_builder.evaluation.result import BASELINES
from celebahq_builder.html import duration, render_page, thumbnails
from celebahq_builder.html.charts import LineChart, line_chart
from celebahq_builder.models.progan import LEVEL_MIN
from celebahq_builder.progan.schedule import ProGANRecipe
from celebahq_builder.progress import rough_duration
from celebahq_builder.storage import write_atomic
from celebahq_builder.training.logger import LogLine, read_lines

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
        kimg: position of the training.
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
    """Return a list of one sentence if a training is too long for its device or recipe, else an empty list."""
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
        kimg: position of the training.
        images_per_s: speed by level; at least one.

    Returns:
        Seconds by level, of the levels that are not finished.
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


REPORT = "report/index.html"
"""The page in the folder of a run."""

GRIDS_MAX = 12
"""Image grids on the page: the first, the last, and others at equal distances."""

GRID_PX, EARLIER_PX = 960, 480
"""Largest side lengths of the newest grid and of the others."""

CHARTS = (
    ("Losses", {"generator": "generator_loss", "discriminator": "discriminator_loss"}),
    ("Scores of the discriminator", {"real images": "score_real", "generated images": "score_fake"}),
    ("Gradient of the discriminator", {"norm": "gradient_norm", "penalty": "penalty"}),
    ("Images per second", {"images per second": "images_per_s"}),
    ("log2 of the resolution", {"level": "level"}),
    ("Share of the new level (alpha)", {"alpha": "alpha"}),
)
"""Titles of the charts, and the values of a tick that each shows, by their name in the legend."""

REQUIRED = {
    "kimg",
    "resolution",
    "minibatch",
    "seconds",
    "memory_bytes",
    *(key for _, curves in CHARTS for key in curves.values()),
}
"""Values of every tick. Lines without them were written by another program."""


def write_training_report(run: Path, outlook: Sequence[str] = ()) -> Path:
    """Write ``report/index.html`` of a run; equal folders and an equal outlook give equal pages.

    Args:
        run: folder of the run.
        outlook: sentences about the position of the training and what to expect when.

    Raises:
        DiskFull: no space is left.
    """
    lines = [line for line in read_lines(run / "stats.jsonl") if line.keys() >= REQUIRED]
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    contents = {
        "name": run.resolve().name,
        "outlook": outlook,
        "figures": _figures(lines),
        "charts": [one for one in _charts(lines) if one],
        "levels": list(_resolution_rows(lines)),
        "grids": list(_grid_images(run)),
        "settings": [(key, json.dumps(value)) for key, value in flatten(recipe).items()],
    }
    path = run / REPORT
    write_atomic(path, render_page("training.html.j2", contents))
    return path


def _figures(lines: list[LogLine]) -> list[tuple[str, str]]:
    if not lines:
        return [("complete ticks", "0")]
    last = lines[-1]
    return [
        ("kimg at the last tick", f"{last['kimg']:g}"),
        ("resolution", f"{last['resolution']}x{last['resolution']} px"),
        ("alpha", f"{last['alpha']:.2f}"),
        ("training time", duration(last["seconds"])),
    ]


def _charts(lines: list[LogLine]) -> Iterator[LineChart | None]:
    """Yield the charts of each metric, one of its mean and one of each pyramid level; then those of the training."""
    found = list(dict.fromkeys(name for line in lines for name in line if name.startswith(tuple(METRICS))))
    for metric in (name for name in found if "_" not in name):
        for name in (name for name in found if name == metric or name.startswith(f"{metric}_")):
            measured = [line for line in lines if name in line]
            title = metric if name == metric else f"{metric}, {name.rsplit('_', 1)[1]} px"
            baselines = {kind: [line.get(f"{kind}_{name}", math.nan) for line in measured] for kind in BASELINES}
            known = {kind: values for kind, values in baselines.items() if any(map(math.isfinite, values))}
            kimg = [line["kimg"] for line in measured]
            yield line_chart(title, kimg, {title: [line[name] for line in measured]}, next(iter(known.items()), None))
    for title, curves in CHARTS:
        yield line_chart(
            title,
            [line["kimg"] for line in lines],
            {name: [line[key] for line in lines] for name, key in curves.items()},
        )


def _resolution_rows(lines: list[LogLine]) -> Iterator[dict[str, object]]:
    """Yield the rows of the table of resolutions, with the median of the speed and the peak of the memory."""
    for resolution in dict.fromkeys(line["resolution"] for line in lines):
        own = [line for line in lines if line["resolution"] == resolution]
        first = lines.index(own[0])
        speeds = sorted(line["images_per_s"] for line in own)
        yield {
            "resolution": int(resolution),
            "from_kimg": f"{lines[first - 1]['kimg'] if first else 0:g}",
            "minibatch": int(own[-1]["minibatch"]),
            "images_per_s": f"{speeds[len(speeds) // 2]:.3g}",
            "memory_bytes": int(max(line["memory_bytes"] for line in own)),
        }


def _grid_images(run: Path) -> Iterator[dict[str, object]]:
    """Yield thumbnails of the newest image grid, of real images, and of earlier grids, with links to their files."""
    paths = sorted(run.glob("fakes-*.png"), reverse=True)
    if len(paths) > GRIDS_MAX:
        paths = [paths[round(i * (len(paths) - 1) / (GRIDS_MAX - 1))] for i in range(GRIDS_MAX)]
    titles = {path: f"{int(path.stem.removeprefix('fakes-')):,} kimg" for path in paths}
    for path in (*paths[:1], run / "reals.png", *paths[1:]):
        thumbnail = thumbnails.of_image(path, GRID_PX if path in paths[:1] else EARLIER_PX)
        if thumbnail:
            yield {"title": titles.get(path, "Real images"), "thumbnail": thumbnail, "link": f"../{path.name}"}
