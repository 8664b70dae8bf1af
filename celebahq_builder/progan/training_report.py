"""The HTML report of a ProGAN training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celebahq_builder.config import flatten
from celebahq_builder.evaluation.protocol import METRICS
from celebahq_builder.html import charts, page, thumbnails
from celebahq_builder.html.page import render_page
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.progan.stats import read_lines
from celebahq_builder.storage import write_atomic

GRIDS = 12
"""Grids that are shown, at even distances, the first and the last among them."""

GRID_PX = 960

CHARTS = (
    ("Losses", ("generator_loss", "discriminator_loss")),
    ("Scores", ("score_real", "score_fake")),
    ("Gradient of the discriminator, and penalty", ("gradient_norm", "penalty")),
    ("Images per second", ("images_per_s",)),
    ("log2 of the resolution", ("level",)),
    ("Alpha", ("alpha",)),
)
"""Titles of the charts and what they show of a tick."""


@dataclass(frozen=True)
class GridImage:
    """A grid of images, as a thumbnail and a link to the whole of it."""

    title: str
    thumbnail: Thumbnail
    link: str


def write_training_report(run: Path) -> Path:
    """Write ``report/index.html`` of a run; equal folders make equal pages.

    Raises:
        DiskFull: no space left.
    """
    path = run / "report" / "index.html"
    write_atomic(path, render_page("training.html.j2", _contents(run)))
    return path


def _contents(run: Path) -> dict[str, Any]:
    lines = read_lines(run / "stats.jsonl")
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    x = [line["kimg"] for line in lines]
    drawn = [charts.line_chart(title, x, {n: [line[n] for line in lines] for n in names}) for title, names in CHARTS]
    drawn += list(_measured(lines))
    return {
        "name": run.resolve().name,
        "figures": list(_figures(lines)),
        "charts": [one for one in drawn if one],
        "levels": list(_levels(lines)),
        "grids": list(_grids(run)),
        "settings": [(key, json.dumps(value)) for key, value in flatten(recipe).items()],
    }


def _measured(lines: list[dict[str, Any]]) -> Iterator[Any]:
    """Yield a chart for each number that the generator was measured by: its mean, and its levels if it has any."""
    names = list(dict.fromkeys(name for line in lines for name in line if name.startswith(tuple(METRICS))))
    for title in (name for name in names if "_" not in name):
        for name in (name for name in names if name == title or name.startswith(f"{title}_")):
            told = [line for line in lines if name in line]
            what = title if name == title else f"{title}, {name.rsplit('_', 1)[1]} px"
            yield charts.line_chart(what, [line["kimg"] for line in told], {name: [line[name] for line in told]})


def _figures(lines: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    if not lines:
        yield "kimg", "0"
        return
    last = lines[-1]
    yield "kimg", f"{last['kimg']:g}"
    yield "resolution", f"{last['resolution']}"
    yield "alpha", f"{last['alpha']:.2f}"
    yield "time in training", page.duration(last["seconds"])


def _levels(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each resolution's beginning, minibatch, median speed and peak memory."""
    for resolution in dict.fromkeys(line["resolution"] for line in lines):
        own = [line for line in lines if line["resolution"] == resolution]
        first = lines.index(own[0])
        speeds = sorted(line["images_per_s"] for line in own)
        yield {
            "resolution": resolution,
            "from_kimg": f"{lines[first - 1]['kimg'] if first else 0:g}",
            "minibatch": own[-1]["minibatch"],
            "images_per_s": f"{speeds[len(speeds) // 2]:.3g}",
            "memory_bytes": max(line["memory_bytes"] for line in own),
        }


def _grids(run: Path) -> Iterator[GridImage]:
    paths = sorted(run.glob("fakes-*.png"))
    if len(paths) > GRIDS:
        paths = [paths[round(i * (len(paths) - 1) / (GRIDS - 1))] for i in range(GRIDS)]
    for path in paths:
        thumbnail = thumbnails.of_image(path, GRID_PX)
        if thumbnail:
            yield GridImage(f"{int(path.stem.removeprefix('fakes-')):,} kimg", thumbnail, f"../{path.name}")
    thumbnail = thumbnails.of_image(run / "reals.png", GRID_PX)
    if thumbnail:
        yield GridImage("Real images", thumbnail, "../reals.png")
