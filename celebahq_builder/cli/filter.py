"""``filter``: the best images of any folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import PATH, celebahq
from celebahq_builder.errors import RecipeError


@celebahq.command("filter", interrupted="the same command goes on from here")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Keep the N images of the highest scores.")
@click.option("--min-score", type=click.FloatRange(0, 1), metavar="S", help="Keep all of score S or more: 0 to 1.")
@click.option(
    "--top",
    "top_percent",
    type=click.FloatRange(0, 100, min_open=True),
    metavar="PERCENT",
    help="Keep the best PERCENT of a hundred of those that have a score, rounded down, but at least one.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="DIR2",
    help="Deliver the kept images there, with the folders they are in below DIR.",
)
@click.option("--list", "list_path", type=PATH, metavar="FILE.csv", help="Or write their names and scores there.")
@click.option("--copy", "mode", flag_value="copy", help="With --out: copy them, with their time stamps. The default.")
@click.option(
    "--link",
    "mode",
    flag_value="link",
    help="With --out: hard links, which take no space, but a change of one is a change of both; "
    "symbolic ones to absolute paths where DIR2 is on another disk.",
)
@click.option("--move", "mode", flag_value="move", help="With --out: take them out of DIR; asks first.")
@click.option("--yes", is_flag=True, help="Answer what --move asks with yes.")
@click.option(
    "--scores",
    type=PATH,
    metavar="DIR3",
    help="Folder of scores.csv, index.html and what goes on after a kill; default DIR-scores, beside DIR.",
)
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Processes; default one per core. Never changes the result."
)
@click.option(
    "--pixels-max",
    type=click.IntRange(1),
    default=100_000_000,
    show_default=True,
    metavar="PX",
    help="Images of more pixels are not decoded: 6 bytes of memory per pixel and process.",
)
def filter_images(folder: Path, yes: bool, mode: str | None, workers: int | None, **asked: Any) -> None:
    """Score the images below DIR, of any size, and keep the best.

    The score says how much fine detail the square in the middle of an image shows, judged as 1024x1024 px: a larger
    one is reduced by averaging areas, a smaller one is enlarged, which adds no detail. 0 to 1, higher is better;
    equal scores are ordered by path. Without --keep, --min-score or --top all are kept.

    Without --out or --list nothing is written but the scores folder: scores.csv with every image, and index.html
    to look at. Nothing is ever overwritten, and DIR is not written into unless a path in it is given.

    Kill it at any time: the same command goes on. A file that changed (size, time) is scored again.

    Images are files ending in .jpg, .jpeg, .jpe, .jfif, .png, .webp, .bmp, .tif, .tiff, .gif, .jp2, .ppm, .pgm, .tga,
    .avif, .heic, .heif, in any case. Those that cannot be read are listed with the reason; other files, hidden ones and
    links to folders are counted. Of several names of one file the first counts, of an animation the first image.
    """
    from celebahq_builder.filter import command
    from celebahq_builder.filter.delivery import Mode
    from celebahq_builder.filter.selection import Cut

    if mode == "move" and not yes and not sys.stdin.isatty():
        raise RecipeError("--move asks before it moves anything, and there is no terminal to answer on; add --yes")
    cut = Cut(asked.pop("keep"), asked.pop("min_score"), asked.pop("top_percent"))
    request = command.Request(
        folder, cut, mode=Mode(mode) if mode else None, workers=workers or os.cpu_count() or 1, **asked
    )
    summary = command.run(request, lambda question: yes or click.confirm(question))
    for line in summary.lines():
        click.echo(line)
    if summary.declined or (summary.delivered and summary.delivered.problems):
        raise click.exceptions.Exit(1)
