"""The HTML report of a ProGAN training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from celebahq_builder.config import flatten
from celebahq_builder.evaluation.protocol import METRICS
from celebahq_builder.evaluation.result import BASELINES
from celebahq_builder.html import duration, render_page, thumbnails
from celebahq_builder.html.charts import LineChart, line_chart
from celebahq_builder.storage import write_atomic
from celebahq_builder.training.logger import LogLine, read_lines

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
    path = run / "report" / "index.html"
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
