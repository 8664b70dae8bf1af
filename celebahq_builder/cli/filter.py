"""``filter``: keep the best images of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import CLUSTER, PATH, celebahq, print_path
from celebahq_builder.limits import MAX_IMAGE_PIXELS


@celebahq.command(
    "filter",
    interrupted="run the same command again to resume",
    examples={
        "Score all images, and show the best and the worst.": "celebahq filter photos",
        "Copy the best 30 percent to the folder best.": "celebahq filter photos --top 30 --out best",
    },
)
@click.argument("folder", type=PATH, metavar="DIR")
@click.option(
    "--keep", type=click.IntRange(1), metavar="N", show_default="all", help="Keep the N images of the highest scores."
)
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    metavar="S",
    show_default="all",
    help="Keep the images of score S or more. Sharp photos of a megapixel score 0.35 to 0.6, small ones 0 to 0.3.",
)
@click.option(
    "--top",
    "top_percent",
    type=click.FloatRange(0, 100, min_open=True),
    metavar="PERCENT",
    show_default="all",
    help="Keep the best PERCENT of the images that have a score, rounded down, but at least one.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="DIR2",
    show_default="none",
    help="Deliver the kept images to DIR2, in the same subfolders as in DIR.",
)
@click.option(
    "--list",
    "list_path",
    type=PATH,
    metavar="FILE.csv",
    show_default="none",
    help="Or write their names and scores to FILE.csv.",
)
@click.option(
    "--copy", "mode", flag_value="copy", help="With --out: copy them, with their time stamps. This is the default."
)
@click.option(
    "--link",
    "mode",
    flag_value="link",
    help="With --out: make hard links, which take no space; if one name is edited, the other one changes too. If DIR2 "
    "is on another disk, make symbolic links to absolute paths.",
)
@click.option(
    "--prune",
    is_flag=True,
    help="With --out: remove the files from DIR2 that an earlier command put there and that are not kept now. Files "
    "that you put there or changed stay. Do not use it if you deleted the originals.",
)
@click.option(
    "--scores",
    type=PATH,
    metavar="DIR3",
    help="Folder for scores.csv, index.html and the scores from which a killed command resumes; default DIR-scores in "
    "the current folder.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Processes; default one per core. Does not change the result.",
)
@CLUSTER
@click.option(
    "--pixels-max",
    type=click.IntRange(1),
    default=MAX_IMAGE_PIXELS,
    metavar="PX",
    help="Images of more pixels are not decoded: 6 bytes of memory per pixel and process.",
)
def filter_images(folder: Path, mode: str | None, **options: Any) -> None:
    """Score the images of the folder DIR, of any size, and keep the best.

    DIR is searched at any depth.

    The score measures the fine detail of an image, from 0 to 1; higher is better, and sharp photos have about 0.5. It
    is computed at 1024x1024 px from the centred square. A larger square is reduced by averaging areas. A smaller square
    is enlarged, which adds no detail.
    Images of equal scores are ordered by path. Without --keep, --min-score or --top all images are kept.

    Without --out or --list the command writes only the scores folder: scores.csv lists every image, and index.html
    shows the best and the worst. No file is ever overwritten or moved. Nothing is written into DIR unless you give a
    path in it.

    You can kill the command at any time: the same command resumes. A file that changed (size, time) is scored again.

    Image files end in .jpg, .jpeg, .jpe, .jfif, .png, .webp, .bmp, .tif, .tiff, .gif, .jp2, .ppm, .pgm, .tga, .avif,
    .heic or .heif, in any case. Image files that cannot be read are listed with the reason. Other files, hidden files
    and links to folders are counted. If a file has several names, the first one counts; of an animation, the first
    frame.
    """
    from celebahq_builder.filter.deliver import DeliveryMode
    from celebahq_builder.filter.run import filter_folder

    result = filter_folder(folder, mode=DeliveryMode(mode) if mode else None, **options)
    for line in result.lines():
        click.echo(line)
    delivered = result.delivery.out if result.delivery else None
    for kind, path in (
        ("images", delivered),
        ("list", result.list_path),
        ("table", result.table_path),
        ("page", result.page_path),
    ):
        if path:
            print_path(kind, path)
    if result.has_errors:
        raise click.exceptions.Exit(1)
